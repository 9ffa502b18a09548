"""Rounds of asking: what cannot be used is asked again in the right way, counted, and nothing is asked twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from stillroom.core.chat import ChatParameters, ChatRequest, Reply, Usage
from stillroom.teachers.endpoint.breaker import EndpointStopped, Unanswered
from stillroom.teachers.endpoint.budget import Budget
from stillroom.teachers.tasks.rounds import Questions, ask_until_usable
from stillroom.teachers.tasks.unusable import Reading, Unusable, said

Make = Callable[..., Any]
PARAMETERS = ChatParameters(model="m", max_tokens=8)


def requests(*texts: str, seed: int | None = None) -> list[ChatRequest]:
    return [ChatRequest(({"role": "user", "content": text},), PARAMETERS, seed) for text in texts]


def number(row: int, reply: Reply) -> Reading[int]:
    text = said(reply.choices[0])
    if not text.strip("# ").isdecimal():
        raise Unusable("off-label", f"{text!r} is no number; answer with digits.")
    return Reading(int(text.strip("# ")), ("spelling",) if "#" in text else ())


def turns(body: dict[str, Any]) -> list[str]:
    return [message["content"] for message in body["messages"]]


def test_a_bad_answer_is_shown_to_the_model_with_what_was_wrong(serve: Make, asker: Make) -> None:
    def script(count: int, body: dict[str, Any]) -> dict[str, Any]:
        first, *more = turns(body)
        if first == "good":
            return {"content": "# 1"}
        return {"content": {0: "<think>hm</think>one", 2: "two", 4: "3"}[len(more)] if first == "learns" else "never"}

    server = serve(script)
    answers = ask_until_usable(asker(server), Questions(requests("good", "learns", "stubborn"), number))
    assert answers.values == (1, 3, None)
    assert answers.reasons == (None, None, "off-label")
    assert answers.complete
    assert answers.repaired == {"spelling": 1}
    assert answers.asked_again == {"off-label": 4}
    assert answers.given_up == {"off-label": 1}
    last = max((turns(body) for body in server.bodies if turns(body)[0] == "learns"), key=len)
    assert last[1::2] == ["one", "two"]  # its thinking is not sent back
    assert last[2] == "This answer cannot be used: 'one' is no number; answer with digits."
    assert server.number == 3 + 2 + 2
    again = ask_until_usable(asker(server), Questions(requests("good", "learns", "stubborn"), number))
    assert (again.values, again.asked_again, server.number) == (answers.values, answers.asked_again, 7)


def test_an_empty_or_refused_answer_is_drawn_afresh_and_a_filtered_one_is_final(serve: Make, asker: Make, answer: Make) -> None:
    seen: Counter[str] = Counter()
    firsts = {"empty": answer(""), "refused": answer(None, refusal="no"), "half": answer("I", refusal="I will not")}
    always = {"filter": answer("4", "content_filter"), "bad": {"status": 400, "body": b"{}"}, "cut": answer("", "length")}

    def script(count: int, body: dict[str, Any]) -> dict[str, Any]:
        (text,) = turns(body)  # never with a correction
        seen[text] += 1
        return always.get(text) or (firsts[text] if seen[text] == 1 else {"content": "5"})

    texts = [*firsts, *always]
    answers = ask_until_usable(asker(serve(script)), Questions(requests(*texts, seed=7), number))
    assert answers.values == (5, 5, 5, None, None, None)
    assert answers.reasons[3:] == ("content-filter", "bad-request", "truncated")
    assert answers.asked_again == {"empty": 1, "refused": 2}
    assert seen == {**dict.fromkeys(firsts, 2), **dict.fromkeys(always, 1)}


def test_another_draw_has_another_seed(serve: Make, asker: Make, answer: Make) -> None:
    server = serve(lambda count, body: answer("" if body["seed"] == 7 else "5"))
    assert ask_until_usable(asker(server), Questions(requests("a", seed=7), number)).values == (5,)


def test_a_cut_answer_is_asked_for_more_briefly_and_only_its_beginning_is_sent(serve: Make, asker: Make, answer: Make) -> None:
    server = serve(lambda count, body: answer("x" * 9000, "length") if len(body["messages"]) == 1 else {"content": "5"})
    answers = ask_until_usable(asker(server), Questions(requests("a"), number))
    assert (answers.values, answers.asked_again) == ((5,), {"truncated": 1})
    assert [len(text) for text in turns(server.bodies[-1])][1] == 4000


def test_equal_rows_are_asked_once_and_none_again_if_so_told(serve: Make, asker: Make) -> None:
    server = serve(lambda count, body: {"content": "no" if turns(body)[0] == "a" else "2"})
    answers = ask_until_usable(asker(server), Questions(requests("a", "b", "a", "b"), number, asked_again=0))
    assert (answers.values, answers.given_up) == ((None, 2, None, 2), {"off-label": 2})
    assert (server.number, answers.asked_again) == (2, {})
    more = ask_until_usable(asker(server), Questions(requests("a", "b", "a", "b"), number, asked_again=1))
    assert (server.number, more.asked_again) == (3, {"off-label": 2})


def test_the_budget_leaves_rows_waiting_and_a_later_call_goes_on(serve: Make, asker: Make) -> None:
    server = serve(lambda count, body: {"content": "no" if len(turns(body)) == 1 else "7"})
    rows = requests(*"abcdef")
    short = ask_until_usable(asker(server, budget=Budget(requests=4)), Questions(rows, number))
    assert (short.complete, short.waiting, server.number) == (False, 6, 4)
    assert set(short.values) == set(short.reasons) == {None}
    assert short.standings[-1].budget_reached
    half = ask_until_usable(asker(server, budget=Budget(requests=8)), Questions(rows, number))
    assert (half.waiting, server.number, half.values.count(7), half.asked_again) == (4, 8, 2, {"off-label": 2})
    whole = ask_until_usable(asker(server, budget=Budget(requests=100)), Questions(rows, number))
    assert (whole.complete, whole.values, server.number) == (True, (7,) * 6, 12)
    assert whole.asked_again == {"off-label": 6}


def test_stopped_in_the_second_round_it_repeats_nothing(serve: Make, asker: Make) -> None:
    state = {"up": False}

    def script(count: int, body: dict[str, Any]) -> dict[str, Any]:
        if len(turns(body)) == 1:
            return {"content": "no"}
        return {"content": "7"} if state["up"] or turns(body)[0] == "a" else {"status": 401}

    server = serve(script)
    rows = requests(*"abcd")
    with pytest.raises(EndpointStopped):
        ask_until_usable(asker(server), Questions(rows, number))
    assert server.answered.total() == 4 + 1
    state["up"] = True
    assert ask_until_usable(asker(server), Questions(rows, number)).values == (7,) * 4
    assert server.answered.total() == 8
    assert max(server.answered.values()) == 4  # the correction's text, which is the same in four conversations


def test_where_a_trial_comes_to_nothing_the_other_rows_are_not_paid_for(serve: Make, asker: Make) -> None:
    server = serve(lambda count, body: {"content": "The answer is: seven"})
    rows = requests(*(f"row {i}" for i in range(500)))
    words = (
        r"none of 24 random requests of 500 has .*, and the others were not sent: 24 off-label; for one: "
        r"'The answer is: seven' is no number; answer with digits\. For off-label: say in specification\.task"
    )
    with pytest.raises(Unanswered, match=words):
        ask_until_usable(asker(server), Questions(rows, number))
    assert server.number == 24 * 3
    with pytest.raises(Unanswered, match=words):
        ask_until_usable(asker(server), Questions(rows, number))  # killed or not: the same rows again, which are in the store
    assert server.number == 24 * 3


def test_one_usable_answer_of_a_trial_is_enough_and_its_rows_are_not_asked_twice(serve: Make, asker: Make) -> None:
    rows = requests(*(f"row {i}" for i in range(60)))
    server = serve(lambda count, body: {"content": "7" if count == 20 else "no"})
    answers = ask_until_usable(asker(server), Questions(rows, number, asked_again=0))
    assert (answers.given_up, server.number, max(server.answered.values())) == ({"off-label": 59}, 60, 1)


def test_the_effort_for_a_row_counts_all_that_was_asked_about_it(serve: Make, asker: Make) -> None:
    def script(count: int, body: dict[str, Any]) -> dict[str, Any]:
        first, *more = turns(body)
        if first == "bad":
            return {"status": 400, "body": b"{}"}
        return {"content": "7" if first == "good" or more else "no"}

    server = serve(script)
    good, learns, bad = ask_until_usable(asker(server), Questions(requests("good", "learns", "bad"), number)).efforts
    assert [(each.questions, each.attempts) for each in (good, learns, bad)] == [(1, 1), (2, 2), (1, 1)]
    assert good.usage is not None
    assert learns.usage is not None
    assert learns.usage.prompt_tokens > 2 * good.usage.prompt_tokens  # the correction holds the first question as well
    assert learns.seconds > 0
    assert (bad.usage, bad.seconds) == (Usage(), 0.0)


def test_once_the_cause_may_be_mended_what_could_not_be_used_is_drawn_anew(serve: Make, asker: Make) -> None:
    state = {"says": "garbage"}
    server = serve(lambda count, body: {"content": "4" if turns(body)[0] == "good" else state["says"]})
    asked = Questions(requests("good", "bad", seed=7), number, asked_again=1)
    assert ask_until_usable(asker(server), asked).given_up == {"off-label": 1}
    state["says"] = "5"
    assert (ask_until_usable(asker(server), asked).given_up, server.number) == ({"off-label": 1}, 3)
    for _ in range(2):  # whoever looks again finds the same
        assert (ask_until_usable(asker(server, draws=1), asked).values, server.number) == ((4, 5), 4)
    assert server.bodies[-1]["seed"] == 1_000_007
    assert ask_until_usable(asker(server), asked).values == (4, None)
    state["says"] = "garbage"
    worse = ask_until_usable(asker(server, draws=2), Questions(requests("worse"), number, asked_again=1))
    assert (worse.given_up, worse.asked_again, server.number) == ({"off-label": 1}, {"off-label": 5}, 4 + 3 * 2)


@pytest.mark.parametrize("num", [12, 100])
def test_the_check_sees_the_first_round_alone(num: int, serve: Make, asker: Make) -> None:
    seen: list[int] = []
    server = serve(lambda count, body: {"content": "no" if len(turns(body)) == 1 and count % 2 else "7"})
    checked = Questions(requests(*(f"row {i}" for i in range(num))), number, check=lambda outcomes: seen.append(len(outcomes)))
    assert set(ask_until_usable(asker(server), checked).values) == {7}
    assert seen == [min(num, 24)]


def test_rows_without_a_trial_are_asked_to_their_end(serve: Make, asker: Make) -> None:
    server = serve(lambda count, body: {"content": "no"})
    rows = requests(*(f"row {i}" for i in range(40)))
    assert ask_until_usable(asker(server), Questions(rows, number, 0, trial=False)).given_up == {"off-label": 40}
