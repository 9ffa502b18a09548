"""Every measure against scikit-learn or the textbook, on the rows as they are and on resamples of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from stillroom.evaluation.calibration import NUM_BINS, reliability_bins
from stillroom.evaluation.metrics import quality_metrics
from stillroom.evaluation.statistic import Floats, Metric, Statistic

CLASSIFICATION = {metric.name: metric for metric in quality_metrics("classification")}
REGRESSION = {metric.name: metric for metric in quality_metrics("regression")}


def table(n: int, num_classes: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """Labels and probabilities with ties and zeros; every class occurs."""
    rng = np.random.default_rng(seed)
    codes = np.concatenate([np.arange(num_classes), rng.integers(num_classes, size=n - num_classes)])
    votes = rng.integers(0, 4, size=(n, num_classes)).astype(float)
    votes[np.arange(n), codes] += rng.integers(0, 3, size=n)
    votes[votes.sum(axis=1) == 0] = 1.0
    return codes, votes / votes.sum(axis=1, keepdims=True)


def textbook_ece(codes: NDArray[Any], probs: Floats) -> float:
    bins: dict[int, list[tuple[float, bool]]] = {}
    for code, row in zip(codes, probs, strict=True):
        top = max(row)
        bins.setdefault(min(int(top * NUM_BINS), NUM_BINS - 1), []).append((top, list(row).index(top) == code))
    gaps = [abs(sum(right - top for top, right in members)) for members in bins.values()]
    return float(sum(gaps)) / len(codes)


def reference(name: str, codes: NDArray[Any], probs: Floats) -> float:
    labels = np.arange(probs.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may lack a class
        if name == "accuracy":
            return float(sk.accuracy_score(codes, probs.argmax(axis=1)))
        if name == "macro_f1":
            return float(sk.f1_score(codes, probs.argmax(axis=1), average="macro"))
        if name == "log_loss":
            return float(sk.log_loss(codes, probs, labels=labels))
        if name == "roc_auc":
            return float(sk.roc_auc_score(codes, probs[:, 1]) if len(labels) == 2 else sk.roc_auc_score(codes, probs, multi_class="ovr"))
    return textbook_ece(codes, probs)


@pytest.mark.parametrize("name", CLASSIFICATION)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_classification_agrees_with_the_reference(name: str, num_classes: int) -> None:
    for seed in range(20):
        codes, probs = table(40, num_classes, seed)
        assert measured(CLASSIFICATION[name], codes, probs).value == pytest.approx(reference(name, codes, probs), rel=1e-12, abs=1e-14)


def measured(metric: Metric, target: NDArray[Any], predictions: Floats) -> Statistic:
    statistic = metric.statistic(target, predictions)
    assert statistic is not None
    return statistic


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "log_loss", "ece"])
def test_weighted_means_are_the_measure_of_the_resampled_rows(name: str) -> None:
    codes, probs = table(30, 4, seed=1)
    rng = np.random.default_rng(0)
    statistic = measured(CLASSIFICATION[name], codes, probs)
    for _ in range(20):
        rows = rng.integers(30, size=30)
        means = np.bincount(rows, minlength=30) @ statistic.rows / 30
        assert float(statistic.of_means(means)) == pytest.approx(reference(name, codes[rows], probs[rows]), rel=1e-12)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_the_linearised_auc_varies_as_the_exact_one(num_classes: int) -> None:
    rng = np.random.default_rng(3)
    codes, probs = table(150, num_classes, seed=2)
    statistic = measured(CLASSIFICATION["roc_auc"], codes, probs)
    resamples = [rng.integers(150, size=150) for _ in range(100)]
    exact = np.array([reference("roc_auc", codes[rows], probs[rows]) for rows in resamples])
    linear = np.array([statistic.rows[rows].mean() for rows in resamples])
    assert np.corrcoef(exact, linear)[0, 1] > 0.97
    assert linear.std() == pytest.approx(exact.std(), rel=0.1)


REFERENCES: dict[str, Callable[..., float]] = {
    "r2": sk.r2_score,
    "mae": sk.mean_absolute_error,
    "rmse": sk.root_mean_squared_error,
}


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_agrees_with_the_reference_on_rows_and_resamples(name: str) -> None:
    rng = np.random.default_rng(4)
    target = 1e3 + rng.normal(size=50)  # far from 0: variances must not cancel
    values = target + rng.normal(size=50)
    statistic = measured(REGRESSION[name], target, values)
    assert statistic.value == pytest.approx(REFERENCES[name](target, values), rel=1e-10)
    rows = rng.integers(50, size=50)
    again = float(statistic.of_means(np.bincount(rows, minlength=50) @ statistic.rows / 50))
    assert again == pytest.approx(REFERENCES[name](target[rows], values[rows]), rel=1e-10)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_order_of_rows_and_the_names_of_classes_do_not_matter(name: str) -> None:
    codes, probs = table(60, 4, seed=5)
    probs = probs + np.random.default_rng(0).random(probs.shape) * 1e-3  # the first of tied classes wins: no ties here
    renamed = np.array([2, 0, 3, 1])
    shuffled = np.random.default_rng(1).permutation(60)
    value = measured(CLASSIFICATION[name], codes, probs).value
    assert measured(CLASSIFICATION[name], codes[shuffled], probs[shuffled]).value == pytest.approx(value, rel=1e-12)
    assert measured(CLASSIFICATION[name], np.argsort(renamed)[codes], probs[:, renamed]).value == pytest.approx(value, rel=1e-12)


def test_edges() -> None:
    codes = np.array([0, 1, 0, 1])
    sure = np.array([[1.0, 0.0]] * 4)
    assert measured(CLASSIFICATION["log_loss"], codes, sure).value == pytest.approx(0.5 * 36.04, rel=1e-3)
    assert measured(CLASSIFICATION["roc_auc"], codes, sure).value == 0.5
    assert measured(CLASSIFICATION["macro_f1"], codes, sure).value == pytest.approx((2 / 3) / 2)
    assert CLASSIFICATION["roc_auc"].statistic(np.zeros(4, dtype=int), sure) is None
    assert REGRESSION["r2"].statistic(np.ones(4), np.arange(4.0)) is None
    # A class that the test split lacks does not count; one that is predicted there does.
    absent = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0]])
    assert measured(CLASSIFICATION["macro_f1"], np.array([0, 1]), absent).value == 1.0
    assert measured(CLASSIFICATION["macro_f1"], np.array([0, 1]), absent[:, [0, 2, 1]]).value == pytest.approx(1 / 3)
    assert measured(CLASSIFICATION["roc_auc"], np.array([0, 1]), absent).value == 1.0


def test_reliability_bins_hold_every_prediction_and_give_the_calibration_error() -> None:
    codes, probs = table(200, 3, seed=6)
    bins = reliability_bins(codes, [probs, probs])
    assert sum(b.count for b in bins) == 400
    assert all(b.low <= b.confidence <= b.high and b.count > 0 for b in bins)
    ece = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / 400
    assert ece == pytest.approx(measured(CLASSIFICATION["ece"], codes, probs).value)


def test_calibration_error_is_small_where_confidence_is_honest_and_shows_overconfidence() -> None:
    rng = np.random.default_rng(7)
    honest = rng.uniform(0.5, 1, size=20_000)
    right = rng.random(20_000) < honest
    ece = CLASSIFICATION["ece"]
    assert measured(ece, (~right).astype(int), np.column_stack([honest, 1 - honest])).value < 0.015
    vain = np.full(20_000, 0.95)
    assert measured(ece, (rng.random(20_000) < 0.3).astype(int), np.column_stack([vain, 1 - vain])).value == pytest.approx(0.25, abs=0.01)
