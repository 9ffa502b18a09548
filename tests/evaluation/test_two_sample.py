"""The two-sample test keeps its level on halves of real corpora, and finds planted artefacts."""

from __future__ import annotations

import csv
import gzip
import json
import random
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import TruncatedSVD

from stillroom.core.errors import BadInput
from stillroom.evaluation.two_sample import _auc, features, told_apart, two_sample_test


@pytest.fixture(scope="module")
def banking(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "banking77" / "test.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        return [row["text"] for row in csv.DictReader(lines)]


@pytest.fixture(scope="module")
def dolly(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "dolly_3k" / "dolly_3k.json.gz", "rt", encoding="utf-8") as file:
        return [row["instruction"] for row in json.load(file)]


def test_halves_of_one_corpus_are_told_apart_no_more_often_than_stated(banking: list[str]) -> None:
    """200 splits at the level 5 %. The binomial chance of over 20 rejections is 0.1 % at a true rate of 5 %.

    The features are the library's, their 30 strongest directions only, for time; `told_apart` gives the figures with all of them.
    """
    rows = TruncatedSVD(30, random_state=0).fit_transform(features(banking[::3]))
    rng = np.random.default_rng(0)
    found = []
    for split in range(200):
        chosen = rng.permutation(len(rows))[:120]
        found.append(told_apart(rows[chosen], np.arange(120) < 60, seed=split))
    assert sum(test.p_value < 0.05 for test in found) <= 20
    assert sum(test.low <= 0.5 <= test.high for test in found) >= 180
    assert np.mean([test.auc for test in found]) == pytest.approx(0.5, abs=0.02)
    assert np.quantile([test.p_value for test in found], 0.2) < 0.4, "p-values are not stuck near one"


def test_planted_artefacts_are_found(banking: list[str]) -> None:
    """A phrase in two of five texts, and one in each: on five splits, of which without a phrase one at most is called different."""
    clean, opened, marked = [], [], []
    for seed in range(5):
        texts = random.Random(seed).sample(banking, 200)
        generated, real = texts[:100], texts[100:]
        clean.append(two_sample_test(generated, real, seed=seed))
        opened.append(two_sample_test([f"Certainly! {t}" if i % 5 < 2 else t for i, t in enumerate(generated)], real, seed=seed))
        marked.append(two_sample_test([f"{t} Thanks!" for t in generated], real, seed=seed))
    assert sum(test.p_value < 0.05 for test in clean) <= 1
    for test in opened:
        assert test.p_value < 0.01
        assert 0.5 < test.low < test.auc < test.high < 1
    for test in marked:
        assert test.p_value < 1e-6
        assert test.low > 0.9
        assert (test.num_generated, test.num_real) == (100, 100)


def test_two_real_corpora_are_told_apart_and_sides_can_be_exchanged(banking: list[str], dolly: list[str]) -> None:
    there = two_sample_test(banking[:60], dolly[:40], seed=1)
    back = two_sample_test(dolly[:40], banking[:60], seed=1)
    assert there.auc > 0.9
    assert back.auc > 0.9
    assert there.p_value < 1e-4
    assert there == two_sample_test(banking[:60], dolly[:40], seed=1), "the seed is all the chance there is"


def test_auc_and_variance_are_the_textbooks() -> None:
    rng = np.random.default_rng(3)
    scores, positive = rng.integers(6, size=25).astype(float), rng.random(25) < 0.4
    x, y = scores[positive], scores[~positive]
    wins = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    auc, variance, null = _auc(scores, positive)
    assert auc == pytest.approx(wins.mean())
    assert variance == pytest.approx(wins.mean(axis=1).var(ddof=1) / len(x) + wins.mean(axis=0).var(ddof=1) / len(y))
    exact = stats.mannwhitneyu(np.arange(4.0), np.arange(4.0, 9.0), method="asymptotic", use_continuity=False)
    z = stats.norm.isf(exact.pvalue / 2)
    auc, _, null = _auc(np.arange(9.0), np.arange(9) >= 4)
    assert (auc - 0.5) / null**0.5 == pytest.approx(z)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(BadInput, match="real: has 19 texts; a test of two samples needs 20"):
        two_sample_test(["a"] * 20, ["b"] * 19, seed=0)
