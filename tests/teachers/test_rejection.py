"""What is kept, at which rate, and what a vote says."""

from __future__ import annotations

import random
from typing import Any

import pytest

from stillroom.core.responses import AcceptRate
from stillroom.teachers.checkers import numeric_match
from stillroom.teachers.rejection import Sample, Vote, accept_rates, kept, majority_vote, verify

SAMPLES = [
    Sample("a", "#### 1", "1", model="big", difficulty="easy"),
    Sample("a", "so #### 1", "1", model="small", difficulty="easy"),
    Sample("a", "#### 1", "1", model="small", difficulty="easy"),
    Sample("b", "<think>2</think>3", "2", model="big", difficulty="hard"),
    Sample("b", "<think>3</think>2", "2", model="small", difficulty="hard"),
    Sample("b", "<think>so 2", "2", model="small", difficulty="hard"),
]


def test_what_passes_is_kept_once() -> None:
    found = verify(SAMPLES, numeric_match)
    assert [v.check.passed for v in found] == [True, True, True, False, True, False]
    assert found[5].check.reason == "the response ends within its thinking"
    assert kept(found) == [SAMPLES[0], SAMPLES[1], SAMPLES[4]]
    assert kept([]) == []


def test_accept_rates_by_model_and_by_difficulty() -> None:
    found = verify(SAMPLES, numeric_match)
    by_model = accept_rates(found, lambda s: s.model)
    assert by_model == {"big": AcceptRate(1, 2, 1, 2), "small": AcceptRate(3, 4, 2, 2)}
    assert by_model["small"].share == 0.75
    assert accept_rates(found, lambda s: s.difficulty) == {"easy": AcceptRate(3, 3, 1, 1), "hard": AcceptRate(1, 3, 1, 1)}
    assert accept_rates([], lambda s: s.model) == {}


@pytest.mark.parametrize(
    ("responses", "by", "vote"),
    [
        (["$5", "so 5.00", "6", "none"], "number", Vote("$5", 0.5)),
        (["5", "6"], "number", Vote(None, 0.5)),
        (["<think>6", "<think>6", "5"], "number", Vote("5", 1 / 3)),
        (["none"], "number", Vote(None, 0.0)),
        (["The answer is Paris.", "paris", "London"], "text", Vote("Paris", 2 / 3)),
        (["in 2020", "in 2021", "In 2020."], "text", Vote("in 2020", 2 / 3)),
        (["", ""], "text", Vote(None, 0.0)),
        (['{"a": 1, "b": 2}', '{"b": 2, "a": 1}', '{"a": 2, "b": 2}', ""], "record", Vote('{"a": 1, "b": 2}', 0.5)),
    ],
)
def test_a_vote(responses: list[str], by: Any, vote: Vote) -> None:
    assert majority_vote(responses, by=by) == vote
    for seed in range(5):
        mixed = random.Random(seed).sample(responses, len(responses))
        again = majority_vote(mixed, by=by)
        assert (again.share, again.answer is None) == (vote.share, vote.answer is None)


def test_a_vote_of_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        majority_vote([], by="number")


def test_of_one_examples_samples_the_first_or_the_shortest_is_kept() -> None:
    def sample(example: str, response: str, rationale: str = "") -> Sample:
        return Sample(example, response, "7", rationale=rationale)

    samples = [sample("a", "it is 7"), sample("b", "8"), sample("a", "7", "because"), sample("b", "so 7"), sample("a", "= 7")]
    found = verify(samples, numeric_match)
    assert kept(found) == [samples[0], samples[2], samples[4], samples[3]]
    assert kept(found, "first") == [samples[0], samples[3]]
    assert kept(found, "shortest") == [samples[4], samples[3]], "what is thought counts too"


def test_records_that_match_vote_alike() -> None:
    assert majority_vote(['{"a": 1}', '{"a": 1.0}', '{"a": 2}'], by="record") == Vote('{"a": 1}', 2 / 3)
    assert majority_vote(['{"a": true}', '{"a": 1}'], by="record").answer is None
