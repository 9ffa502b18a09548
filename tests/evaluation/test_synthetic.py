"""Figures of generated examples: what they must say of copies, of imbalance, and of too few texts."""

from __future__ import annotations

import random

import pytest

from stillroom.evaluation.synthetic import agreement, balance, synthetic_measures

TOPICS = "card money account transfer rate euro dollar lost stolen blocked pin top up fee refund cash machine abroad payment failed"
WORDS = TOPICS.split()


def texts(number: int, seed: int, words: list[str] = WORDS) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(words, k=9)) for _ in range(number)]


def test_two_halves_of_one_source_are_not_told_apart_and_another_source_is() -> None:
    for words, apart in ((WORDS, False), ([f"{word}!" for word in WORDS], True)):
        found, remarks = synthetic_measures(texts(80, 1, words), texts(80, 2), resamples=100, seed=0)
        auc = next(m for m in found if m.measure == "two_sample_auc")
        assert remarks == []
        assert (auc.arm, auc.n) == ("generated", 160)
        assert auc.low is not None
        assert (auc.low > 0.9) == apart
        assert (auc.low <= 0.5) != apart
        p_value = next(m.value for m in found if m.measure == "two_sample_p_value")
        assert (p_value < 0.001) == apart


def test_texts_that_repeat_each_other_are_less_spread_and_more_alike() -> None:
    narrow = [f"{text} of my lost card please help" for text in texts(40, 1, WORDS[:4])]
    found, _ = synthetic_measures(narrow, texts(40, 2), resamples=100, seed=0)
    value = {(m.arm, m.measure): m.value for m in found}
    assert value["generated", "spread"] < value["real", "spread"]
    assert value["generated", "self_similarity"] > value["real", "self_similarity"]
    assert value["generated", "corpus_distinct_2"] < value["real", "corpus_distinct_2"]


def test_too_few_texts_are_said_and_not_tested() -> None:
    found, (remark,) = synthetic_measures(texts(19, 1), texts(80, 2), resamples=100)
    assert not any(m.measure.startswith("two_sample") for m in found)
    assert "generated has 19 texts; a test of two samples needs 20 on each side" in remark
    assert synthetic_measures([], ["a"]) == ([], ["There are no generated texts to measure."])
    assert synthetic_measures(["a"], []) == ([], ["There are no real texts to compare with."])


def test_balance_is_one_for_equal_shares_and_falls_with_every_label_that_is_missing() -> None:
    assert balance(["a", "b", "c"] * 5, 3) == pytest.approx(1)
    assert balance(["a", "b"] * 5, 4) == pytest.approx(0.5)
    assert balance(["a"] * 5, 2) == 0
    assert balance([], 2) is None
    assert balance(["a"], 1) is None


def test_agreement_has_wilsons_interval() -> None:
    found = agreement("label_agreement", [True] * 8 + [False] * 2)
    z = 1.959963985
    centre, half = (0.8 + z * z / 20) / (1 + z * z / 10), z * (0.16 / 10 + z * z / 400) ** 0.5 / (1 + z * z / 10)
    assert (found.value, found.n) == (0.8, 10)
    assert (found.low, found.high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    whole = agreement("label_agreement", [True] * 4)
    assert whole.low is not None
    assert 0.3 < whole.low < 1, "four of four prove little"


def test_texts_without_a_word_are_told_not_measured() -> None:
    assert synthetic_measures([""] * 20, [" "] * 20, seed=0) == ([], ["Neither the generated nor the real texts hold a word to compare."])


def test_paraphrases_of_the_real_texts_are_far_below_chance() -> None:
    real = texts(100, 1)
    copied = [" ".join([*text.split()[:-1], random.Random(text).choice(WORDS)]) for text in real]
    found = {each.measure: each for each in synthetic_measures(copied, real, seed=0)[0]}
    assert found["two_sample_auc"].high < 0.5
