from __future__ import annotations

import itertools

import numpy as np
import pytest

from stillroom.core.records import Measure
from stillroom.evaluation.generation import distinct, generation_measures, right_answers, self_similarity


def texts(num_words: int, seed: int, num: int = 40) -> list[str]:
    """Of 0 to 15 words out of so many different ones."""
    rng = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in rng.integers(num_words, size=rng.integers(16))) for _ in range(num)]


def by_name(measures: list[Measure], arm: str) -> dict[str, Measure]:
    return {m.measure: m for m in measures if m.arm == arm}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_distinct_is_the_mean_share_of_different_n_grams(size: int) -> None:
    given = texts(5, 0)
    shares = []
    for text in given:
        words = text.split()
        grams = [tuple(words[i : i + size]) for i in range(len(words) - size + 1)]
        if grams:
            shares.append(len(set(grams)) / len(grams))
    found = distinct(given, size)
    assert found is not None
    assert found.value == pytest.approx(np.mean(shares))
    by_hand = distinct(["a b a b", "", "c"], size)
    assert by_hand is not None
    assert by_hand.value == pytest.approx({1: (0.5 + 1) / 2, 2: 2 / 3, 3: 1.0}[size])
    assert distinct(["", ""], size) is None


def test_self_similarity_is_the_mean_over_all_pairs() -> None:
    given = texts(3, 1)

    def jaccard(a: str, b: str) -> float:
        x, y = ({(*pair,) for pair in itertools.pairwise(text.split())} for text in (a, b))
        return len(x & y) / len(x | y) if x | y else 1.0

    found = self_similarity(given)
    assert found is not None
    assert found.value == pytest.approx(np.mean([jaccard(a, b) for a, b in itertools.combinations(given, 2)]))
    for alike, want in ((["a b c"] * 4, 1.0), (["a b", "c d", "e f"], 0.0), (["a b c", "b c d"], 1 / 3), (["", "a"], 1.0)):
        found = self_similarity(alike)
        assert found is not None
        assert found.value == pytest.approx(want)
    assert self_similarity(["a b"]) is None


def test_the_interval_of_the_mean_over_pairs_covers_it() -> None:
    """Of 150 experiments with 25 texts each, at least 90 % of the intervals at 95 % hold the mean of 1500 other texts."""
    truth = self_similarity(texts(4, 999, num=1500))
    assert truth is not None
    hits = 0
    for trial in range(150):
        (found,) = [
            m for m in generation_measures(sampled={"student": [texts(4, trial, num=25)]}, resamples=200) if m.measure == "self_similarity"
        ]
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth.value <= found.high
    assert 0.9 * 150 <= hits < 150


def test_a_student_that_repeats_itself_is_narrower_than_its_teacher() -> None:
    arms = {"teacher": [texts(40, 0)], "student": [texts(4, 1), texts(4, 2)], "control": [texts(40, 3), texts(40, 4)]}
    found = generation_measures(sampled=arms, resamples=300)
    student, control = by_name(found, "student"), by_name(found, "control")
    assert list(student) == ["distinct_1", "distinct_2", "distinct_3", "self_similarity", "narrowing"]
    assert "narrowing" not in by_name(found, "teacher")
    similarities = [by_name(found, arm)["self_similarity"].value for arm in ("student", "teacher")]
    narrowing = student["narrowing"]
    assert narrowing.value == pytest.approx(similarities[0] - similarities[1])
    assert narrowing.low is not None
    assert narrowing.low > 0
    low, high = control["narrowing"].low, control["narrowing"].high
    assert low is not None
    assert high is not None
    assert low < 0.02
    assert high > -0.02
    assert (narrowing.n, narrowing.seeds) == (40, 2)
    for measure in found:
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low <= measure.value <= measure.high


def test_exact_match_is_the_share_of_right_answers_by_the_callers_rule() -> None:
    greedy = {"teacher": [["42", " 7 ", "8", "none"]], "student": [["42", "6", "9", "x"], ["42", "7", "9", "x"]]}
    found = generation_measures(greedy=greedy, references=["42", "7", "8", "9"], resamples=100)
    assert {m.arm: m.value for m in found} == {"teacher": 0.75, "student": 0.375}
    assert {m.measure for m in found} == {"exact_match"}
    lenient = generation_measures(greedy=greedy, references=["42", "7", "8", "9"], same=lambda text, _: True, resamples=100)
    perfect = lenient[0]
    assert perfect.value == 1.0
    assert perfect.low is not None
    assert perfect.low < 0.7, "four right answers of four prove little"
    assert generation_measures(greedy=greedy) == []


def test_right_answers_are_counted_with_what_is_kept_of_the_teachers_and_judged() -> None:
    """The student is right on 36 of 60, the control on 12 of them, the teacher on 48."""
    references = [str(n) for n in range(60)]

    def right_on(share: int) -> list[str]:
        return [text if n % 10 < share else f"{text}!" for n, text in enumerate(references)]

    greedy = {"teacher": [right_on(8)], "student": [right_on(6)] * 2, "control": [right_on(2)] * 2}
    found, verdict = right_answers(greedy, references, lambda text, reference: text == reference, measure="passed", resamples=500)
    values = {(m.arm, m.measure): m.value for m in found}
    assert values["student", "passed"] == pytest.approx(0.6)
    assert values["student", "retention"] == pytest.approx(0.75)
    assert values["student", "gap_closed"] == pytest.approx((0.6 - 0.2) / (0.8 - 0.2))
    assert verdict is not None
    assert (verdict.outcome, verdict.measure, verdict.difference) == ("helped", "passed", pytest.approx(0.4))
    _, without = right_answers({"student": greedy["student"]}, references, lambda text, reference: text == reference)
    assert without is None
