"""Diversity of two sides of texts, against plain Python."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest
from scipy import sparse

from stillroom.evaluation import diversity
from stillroom.evaluation.diversity import corpus_distinct, diversity_measures, spread


def texts(num_words: int, seed: int, num: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(num_words)}" for _ in range(rng.randrange(1, 12))) for _ in range(num)]


def test_the_spread_is_the_mean_cosine_distance_of_all_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 5))
    pairs = [1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in itertools.combinations(vectors, 2)]
    for given in (vectors, sparse.csr_array(vectors), vectors * np.arange(1, 21)[:, None]):
        found = spread(given)
        assert found is not None
        assert found.value == pytest.approx(np.mean(pairs))
    with_zero = spread(np.array([[1.0, 0], [0, 0], [2, 0]]))
    assert with_zero is not None
    assert with_zero.value == pytest.approx(2 / 3)
    assert spread(vectors[:1]) is None


@pytest.mark.parametrize("size", [1, 2])
def test_corpus_distinct_is_the_mean_over_draws_of_the_smaller_sides_size(size: int) -> None:
    small, large = texts(30, 0, 12), texts(30, 1, 60)

    def grams(side: list[str]) -> list[tuple[str, ...]]:
        return [gram for text in side for gram in zip(*(text.split()[i:] for i in range(size)), strict=False)]

    found = corpus_distinct(small, large, size)
    assert found is not None
    drawn = len(grams(small))
    assert found[0] == pytest.approx(len(set(grams(small))) / drawn)
    rng = random.Random(2)
    draws = [len(set(rng.sample(grams(large), drawn))) / drawn for _ in range(2000)]
    assert found[1] == pytest.approx(np.mean(draws), abs=4 * np.std(draws) / 2000**0.5)
    assert corpus_distinct(large, small, size) == found[::-1]
    assert corpus_distinct(small, ["", ""], size) is None


def test_two_halves_are_alike_and_a_narrow_side_shows() -> None:
    wide, narrow, other = texts(200, 0, 80), texts(8, 1, 80), texts(200, 2, 300)
    found = {(m.arm, m.measure): m for m in diversity_measures(narrow, wide, resamples=200)}
    assert Counter(arm for arm, _ in found) == {"generated": 8, "real": 8}
    for name in ("distinct_1", "distinct_2", "spread"):
        generated, real = found["generated", name], found["real", name]
        assert generated.high is not None
        assert real.low is not None
        assert generated.low is not None
        assert generated.low < generated.value < generated.high < real.low, name
    assert found["generated", "corpus_distinct_2"].value < 0.5 < found["real", "corpus_distinct_2"].value
    alike = {(m.arm, m.measure): m for m in diversity_measures(other, wide, resamples=200)}
    for (arm, name), measure in alike.items():
        assert measure.value == pytest.approx(alike["real", name].value, abs=0.03), (arm, name)
    assert alike["generated", "distinct_1"].n == 300


def test_given_vectors_make_the_spread_and_many_texts_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diversity, "MOST_COMPARED", 10)
    side = texts(50, 0, 40)
    same = np.ones((40, 3))
    found = {(m.arm, m.measure): m for m in diversity_measures(side, side, vectors=(same, np.eye(40)), resamples=50)}
    assert found["generated", "spread"].value == pytest.approx(0)
    assert found["real", "spread"].value == pytest.approx(1)
    assert (found["real", "spread"].n, found["real", "self_similarity"].n) == (40, 10)
