"""Labels from a scripted server: one answer, several, log-probabilities, and everything that may be wrong with them."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from stillroom.core.chat import ChatParameters, Choice
from stillroom.core.errors import BadInput
from stillroom.core.specification import Specification, WorkedExample
from stillroom.teachers.endpoint.budget import Budget
from stillroom.teachers.tasks.classification import ClassificationQuestion, LabelReader, label_texts, shares
from stillroom.teachers.tasks.unusable import Unusable

Make = Callable[..., Any]
CLASSES = ("card_lost", "Card Arrived", "other")
SPECIFICATION = Specification(
    "Sort the customer's question.",
    {"Card Arrived": "it came", "card_lost": "it is gone", "other": ""},
    examples=(WorkedExample("Hi", "other"),),
)
PARAMETERS = ChatParameters(model="m", max_tokens=20)


def question(**fields: Any) -> ClassificationQuestion:
    return ClassificationQuestion(SPECIFICATION, CLASSES, PARAMETERS, **fields)


def text_of(body: dict[str, Any]) -> str:
    """The row: behind the system message and the worked example."""
    return str(body["messages"][3]["content"])


def label(name: str) -> str:
    return json.dumps({"label": name})


def test_one_answer_a_row_is_a_distribution_with_one_label(serve: Make, asker: Make, answer: Make) -> None:
    says = {
        "exact": answer(label("card_lost")),
        "case": answer(label("card  arrived.")),
        "quoted": answer(label('"other"')),
        "prose": answer(f"I think {label('other')}"),
        "off": answer(label("card stolen")),
        "plain": answer("card_lost"),
        "two": answer(label("other") + label("card_lost")),
        "empty": answer(""),
        "cut": answer('{"label": "car', "length"),
        "refused": answer("I'm sorry, I can't do that."),
        "filter": answer("", "content_filter"),
        "number": answer('{"label": 3}'),
        "bad": {"status": 400, "body": b'{"error": {"message": "no"}}'},
    }
    server = serve(lambda number, body: says[text_of(body)])
    found = label_texts(asker(server), question(), list(says), asked_again=1)
    np.testing.assert_array_equal(found.probabilities[:4], np.eye(3)[[0, 1, 2, 2]])
    assert np.isnan(found.probabilities[4:]).all()
    assert found.probabilities.dtype == np.float64
    why = ("off-label", "not-json", "not-json", "empty", "truncated", "refused", "content-filter", "invalid", "bad-request")
    assert found.reasons == (None,) * 4 + why
    assert found.given_up == Counter(why)
    assert found.answers.repaired == {"spelling": 2, "prose": 1}
    assert found.answers.asked_again == Counter(reason for reason in why if reason not in ("content-filter", "bad-request"))
    assert found.complete
    schema = server.bodies[0]["response_format"]["json_schema"]
    assert schema["schema"]["properties"]["label"]["enum"] == list(CLASSES)
    assert server.bodies[0]["messages"][2]["content"] == label("other")


def test_without_json_the_answer_is_the_label(serve: Make, asker: Make) -> None:
    says = {"a": "card_lost", "b": "**Card arrived**", "c": "It is other", "d": "<think>other</think>card_lost", "e": label("other")}
    server = serve(lambda number, body: {"content": says[text_of(body)]})
    found = label_texts(asker(server), question(structured="prompt"), list(says), asked_again=0)
    np.testing.assert_array_equal(found.probabilities[[0, 1, 3]], np.eye(3)[[0, 1, 0]])
    assert found.given_up == {"off-label": 2}
    assert "response_format" not in server.bodies[0]
    assert server.bodies[0]["messages"][2]["content"] == "other"


def test_labels_that_differ_in_case_alone_must_be_exact() -> None:
    read = LabelReader(("US", "us", "them")).read_text
    assert [read(Choice(name)).value for name in ("US", "us", "THEM")] == [0, 1, 2]
    with pytest.raises(Unusable, match="none of the labels"):
        read(Choice("Us"))


def test_samples_count_how_often_a_label_is_named(serve: Make, asker: Make) -> None:
    drawn: Counter[str] = Counter()
    says = {
        "sure": ["card_lost"] * 5,
        "torn": ["card_lost", "other", "other", "nonsense", "other"],
        "lost": ["nonsense", "nonsense", "", "nonsense", "other"],
    }

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        text = text_of(body)
        drawn[text] += 1
        name = says[text][drawn[text] - 1]
        return {"content": label(name) if name else ""}

    server = serve(script)
    found = label_texts(asker(server), question(kind="samples"), list(says))
    np.testing.assert_allclose(found.probabilities[:2], [[1, 0, 0], [0.25, 0, 0.75]])
    assert np.isnan(found.probabilities[2]).all()
    assert found.reasons == (None, None, "off-label")
    assert found.answers.given_up == {"off-label": 4, "empty": 1}
    assert (found.answers.asked_again, server.number) == ({}, 15)


def test_shares_are_unbiased_and_want_half_of_the_samples() -> None:
    p, rng = np.array([0.7, 0.25, 0.05]), np.random.default_rng(0)
    drawn = np.array([shares(list(rng.choice(3, size=5, p=p)), 3) for _ in range(4000)])
    error = np.sqrt(p * (1 - p) / 5 / 4000)
    assert (abs(drawn.mean(axis=0) - p) < 4 * error).all()
    np.testing.assert_array_equal(shares([1, None], 3), [0, 1, 0])
    assert np.isnan(shares([1, None, None], 3)).all()
    assert np.isnan(shares([None], 3)).all()


def test_a_row_whose_samples_still_wait_has_no_answer_yet(serve: Make, asker: Make) -> None:
    server = serve(lambda number, body: {"content": label("other")})
    short = label_texts(asker(server, budget=Budget(requests=7)), question(kind="samples"), ["a", "b"])
    assert (short.complete, short.answers.waiting, short.reasons) == (False, 3, (None, None))
    assert np.isnan(short.probabilities).any(axis=1).sum() >= 1
    whole = label_texts(asker(server), question(kind="samples"), ["a", "b"])
    assert (whole.complete, server.number) == (True, 10)
    np.testing.assert_array_equal(whole.probabilities, [[0, 0, 1]] * 2)


def places(*tokens: tuple[str, Mapping[str, float]]) -> dict[str, Any]:
    def named(p: Mapping[str, float]) -> list[dict[str, Any]]:
        return [{"token": token, "logprob": q if math.isnan(q) else math.log(q)} for token, q in p.items()]

    return {
        "content": [{"token": token, "logprob": named(p)[list(p).index(token)]["logprob"], "top_logprobs": named(p)} for token, p in tokens]
    }


def test_logprobs_of_codes_are_probabilities_of_labels(serve: Make, asker: Make, answer: Make) -> None:
    """The codes of three labels are B, C and D, in the order of the classes."""
    says = {
        "plain": answer("C", logprobs=places(("C", {"C": 0.7, "B": 0.2, " d": 0.1}))),
        "few": answer("B", logprobs=places(("B", {"B": 0.6, "no": 0.3}))),
        "none": answer("B"),
        "nan": answer("B", logprobs=places(("B", {"B": math.nan}))),
        "off": answer("card_lost", logprobs=places(("card", {"card": 0.9}))),
    }
    server = serve(lambda number, body: says[text_of(body)])
    found = label_texts(asker(server), question(kind="logprobs"), list(says), asked_again=1)
    np.testing.assert_allclose(found.probabilities[0], [0.2, 0.7, 0.1])
    assert found.missing is not None
    assert found.upper is not None
    np.testing.assert_allclose(found.missing[:2], [0, 0.4], atol=1e-12)
    np.testing.assert_allclose(found.upper[1], [0.7, 0.1, 0.1])  # what is unseen is less than five spellings of 0.3
    assert found.probabilities[1].sum() == pytest.approx(1)
    assert found.probabilities[1, 0] == pytest.approx((0.6 + 0.1 / 3) / 0.7)
    assert found.reasons[2:] == ("no-logprobs", "malformed", "off-label")  # NaN: the client asks again, and gives up
    assert np.isnan(found.missing[2:]).all()
    assert np.isnan(found.upper[2:]).all()
    body = server.bodies[0]
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    assert "- C = Card Arrived: it came\n- B = card_lost: it is gone\n- D = other\n" in body["messages"][0]["content"]
    assert body["messages"][2]["content"] == "D"
    assert "response_format" not in body


@pytest.mark.parametrize("logprobs", [None, {"content": [{"token": "B", "logprob": -0.1, "top_logprobs": []}]}])
def test_a_server_without_logprobs_is_told_from_its_first_rows(logprobs: Any, serve: Make, asker: Make, answer: Make) -> None:
    server = serve(lambda number, body: answer("B", logprobs=logprobs))
    with pytest.raises(BadInput, match=r"teacher\.answers: = 'logprobs'.*first 24 answers; use answers: samples"):
        label_texts(asker(server), question(kind="logprobs"), [f"row {i}" for i in range(100)])
    assert server.number == 24


def test_a_few_rows_without_logprobs_say_nothing_of_the_server(serve: Make, asker: Make, answer: Make) -> None:
    found = label_texts(asker(serve(lambda number, body: answer("B"))), question(kind="logprobs"), ["a"], asked_again=0)
    assert found.given_up == {"no-logprobs": 1}


def test_a_server_that_refuses_logprobs_is_quoted(serve: Make, asker: Make) -> None:
    words = b'{"error": {"message": "logprobs are not supported with this model"}}'
    with pytest.raises(BadInput, match=r"not supported with this model.*use answers: samples"):
        label_texts(asker(serve(lambda number, body: {"status": 400, "body": words})), question(kind="logprobs"), ["a", "b"])


def test_no_texts_ask_nothing(serve: Make, asker: Make) -> None:
    server = serve()
    for kind in ("text", "samples", "logprobs"):
        found = label_texts(asker(server), question(kind=kind), [])
        assert (found.probabilities.shape, found.reasons, found.complete, server.number) == ((0, 3), (), True, 0)


def test_what_does_not_fit_is_said_before_anything_is_asked() -> None:
    for classes, specification, words in (
        (("a", "b"), Specification("t", {"a": ""}), r"specification\.labels: 'b': not both"),
        (("a",), Specification("t", {"a": "", "b": ""}), r"specification\.labels: 'b': not both"),
        (("a",), Specification("t", {"a": ""}, examples=(WorkedExample("x", "aa"),)), r"examples\[0\]\.output: = 'aa' is no label; did"),
    ):
        with pytest.raises(BadInput, match=words):
            ClassificationQuestion(specification, classes, PARAMETERS)
    many = {f"label {i}": "" for i in range(700)}
    with pytest.raises(BadInput, match="not for 700"):
        ClassificationQuestion(Specification("t", many), tuple(many), PARAMETERS, kind="logprobs")
