"""What is asked for a response, and what is read of one."""

from __future__ import annotations

import pytest

from stillroom.core.chat import ChatParameters, Choice, Reply
from stillroom.core.specification import Specification, WorkedExample
from stillroom.teachers.checkers import exact_match
from stillroom.teachers.final_answers import split_thinking
from stillroom.teachers.rejection import Sample
from stillroom.teachers.responses import Written, response_questions, verify_against_vote, with_rationale
from stillroom.teachers.tasks.unusable import Reading, Unusable, declined

USER = {"role": "user", "content": "Say {hi}."}


def read(reply: Reply) -> Reading[Written]:
    return response_questions(ChatParameters("m"), [(USER,)]).read(0, reply)


def test_a_prompt_alone_is_asked_as_it_stands_and_as_often_as_wanted() -> None:
    found = response_questions(ChatParameters("m"), [(USER,), (USER, USER)], samples=3).requests
    assert [each.sample for each in found] == [0, 1, 2, 0, 1, 2]
    assert found[0].messages == (USER,)
    assert len({each.key("h") for each in found}) == 6


def test_the_task_comes_first_and_one_message_of_the_system_stays_one() -> None:
    told = Specification("Be kind.", examples=(WorkedExample("a", "b"), WorkedExample("c", {"d": 1})))
    (found,) = response_questions(ChatParameters("m"), [({"role": "system", "content": "Short."}, USER)], told).requests
    assert [(m["role"], m["content"]) for m in found.messages] == [
        ("system", "Be kind.\n\nShort."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", '{"d": 1}'), ("user", "Say {hi}.")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (Choice("<think>hm</think> yes", "stop"), Written("yes", "hm", "big")),
        (Choice("yes", "stop", reasoning=" hm "), Written("yes", "hm", "big")),
        (Choice("yes", "stop"), Written("yes", "", "big")),
    ],
)
def test_the_chain_of_thought_is_read_apart(choice: Choice, written: Written) -> None:
    assert read(Reply((choice,), model="big")).value == written


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (Choice("a lo", "length"), "truncated"),
        (Choice("<think>hm", "stop"), "truncated"),
        (Choice("<think>hm</think>", "stop"), "empty"),
        (Choice("", "stop", refusal="no"), "refused"),
        (Choice("no", "content_filter"), "content-filter"),
        (Choice("I\u2019m sorry, but I can\u2019t assist with that.", "stop"), "refused"),
    ],
)
def test_what_is_no_response_is_told_apart(choice: Choice, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        read(Reply((choice,)))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "text",
    [
        "I am sorry to hear that your card was lost.",
        "I can't find it in the list, so the answer is 3.",
        "As an AI, I think that 3 is right.",
    ],
)
def test_an_apology_may_be_the_answer(text: str) -> None:
    assert not declined(text)


def test_a_rationale_is_written_as_it_is_split_off() -> None:
    found = split_thinking(with_rationale("yes", "I think.\n\nSo."))
    assert (found.thinking, found.answer, found.closed) == ("I think.\n\nSo.", "yes", True)
    assert with_rationale("yes", "") == "yes"


def test_without_a_majority_none_passes() -> None:
    samples = [Sample(example, text, "") for example, texts in {"a": "xxy", "b": "xyz"}.items() for text in texts]
    passed = [v.check.passed for v in verify_against_vote(samples, exact_match, by="text", agreement=0.5, asked=3)]
    assert passed == [True, True, False, False, False, False]
    assert not any(v.check.passed for v in verify_against_vote(samples, exact_match, by="text", agreement=0.7, asked=3))


def test_responses_that_cannot_be_used_agree_with_none() -> None:
    samples = [Sample("a", "x", "")]
    passed = [verify_against_vote(samples, exact_match, by="text", agreement=0.5, asked=asked)[0].check.passed for asked in (1, 2, 3, 5)]
    assert passed == [True, True, False, False]
