"""Quality: predictions against the labels. Values agree with scikit-learn's functions of the same name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stillroom.core.records import Task
from stillroom.evaluation.calibration import expected_calibration_error
from stillroom.evaluation.statistic import Floats, Metric, Statistic, mean_of, ratio

PROBABILITY_FLOOR = float(np.finfo(np.float64).eps)
"""Probabilities are raised to this (2.2e-16) before a logarithm, as scikit-learn's log_loss does: an event called
impossible costs 36 nats, not infinity."""


def accuracy(codes: NDArray[Any], probs: Floats) -> Statistic:
    """The share of rows whose most probable class is the label."""
    return mean_of(probs.argmax(axis=1) == codes)


def log_loss(codes: NDArray[Any], probs: Floats) -> Statistic:
    """The mean of -log q(label) in nats."""
    chosen = probs[np.arange(len(codes)), codes]
    return mean_of(-np.log(np.maximum(chosen, PROBABILITY_FLOOR)))


def macro_f1(codes: NDArray[Any], probs: Floats) -> Statistic:
    """The mean of F1 over the classes that occur among labels or predictions."""
    predicted, (n, num_classes) = probs.argmax(axis=1), probs.shape
    right = np.flatnonzero(predicted == codes)
    every = np.arange(n)
    # Columns: K times "rightly this class", K times "predicted this class", K times "labelled this class".
    row = np.concatenate([right, every, every])
    column = np.concatenate([codes[right], num_classes + predicted, 2 * num_classes + codes])
    rows = sparse.csr_array((np.ones(len(row)), (row, column)), shape=(n, 3 * num_classes))

    def of_means(means: Floats) -> Floats:
        hits, calls, labels = np.split(means, 3, axis=-1)
        size = calls + labels
        scores = 2 * hits / np.where(size > 0, size, 1.0)
        return ratio(scores.sum(axis=-1), (size > 0).sum(axis=-1).astype(np.float64))

    return Statistic(rows, of_means)


def roc_auc(codes: NDArray[Any], probs: Floats) -> Statistic | None:
    """Area under the ROC curve; for several classes the plain mean of one-vs-rest areas over the classes that occur.

    Rows carry their pseudo-values: the area plus the row's influence on it. Their mean is the exact area, and their
    resampled mean its linearisation, whose variance is DeLong's. None where only one class occurs.

    Source: DeLong et al. 1988, Biometrics 44:837; pseudo-values: Hanley & Hajian-Tilaki 1997, Acad. Radiol. 4:49.
    """
    n, num_classes = probs.shape
    counts = np.bincount(codes, minlength=num_classes)
    occurring = np.flatnonzero((counts > 0) & (counts < n))
    if len(occurring) == 0:
        return None
    total = np.zeros(n)
    for code in occurring[-1:] if num_classes == 2 else occurring:
        total += _auc_pseudo_values(codes == code, probs[:, code])
    rarest = int(np.minimum(counts, n - counts)[occurring].min())
    return mean_of(total / (1 if num_classes == 2 else len(occurring)), rarest)


def _auc_pseudo_values(positive: NDArray[np.bool_], scores: Floats) -> Floats:
    """(n,) pseudo-values of P(score of a positive > score of a negative) + P(equal) / 2."""
    n, num_positive = len(scores), int(positive.sum())
    num_negative = n - num_positive
    # Only the positives, the few of a one-vs-rest split, are sorted; ties count as halves.
    order = np.argsort(scores[positive], kind="stable")
    ascending = scores[positive][order]
    below = np.searchsorted(ascending, scores[~positive], side="left")
    up_to = np.searchsorted(ascending, scores[~positive], side="right")
    of_negative = 1 - (below + up_to) / (2 * num_positive)
    # How many negatives lie below each positive, counted twice: without ties and with them.
    passed = np.cumsum(np.bincount(below, minlength=num_positive + 1) + np.bincount(up_to, minlength=num_positive + 1))
    of_positive = np.empty(num_positive)
    of_positive[order] = passed[:num_positive] / (2 * num_negative)
    area = of_positive.mean()
    values = np.full(n, area)
    values[positive] += (of_positive - area) * n / num_positive
    values[~positive] += (of_negative - area) * n / num_negative
    return values


def r2(target: NDArray[Any], values: Floats) -> Statistic | None:
    """1 - squared error / variance of the target. None where the target is constant."""
    if np.ptp(target) == 0:
        return None
    centred = target - target.mean()
    rows = np.column_stack([(target - values) ** 2, centred, centred**2])

    def of_means(means: Floats) -> Floats:
        error, mean, square = np.moveaxis(means, -1, 0)
        return 1 - ratio(error, square - mean**2)

    return Statistic(rows, of_means)


def mae(target: NDArray[Any], values: Floats) -> Statistic:
    """The mean of |target - value|, in the target's unit."""
    return mean_of(np.abs(target - values))


def rmse(target: NDArray[Any], values: Floats) -> Statistic:
    """The root of the mean squared difference, in the target's unit."""
    return Statistic(((target - values) ** 2)[:, None], lambda means: np.sqrt(means[..., 0]))


_CLASSIFICATION = (
    Metric("accuracy", True, accuracy, 0.0, 1.0, is_share=True),
    Metric("macro_f1", True, macro_f1, 0.0, 1.0, is_share=True),
    Metric("roc_auc", True, roc_auc, 0.0, 1.0, is_share=True),
    Metric("log_loss", False, log_loss, 0.0),
    Metric("ece", False, expected_calibration_error, 0.0, 1.0),
)
_REGRESSION = (Metric("r2", True, r2, high=1.0), Metric("mae", False, mae, 0.0), Metric("rmse", False, rmse, 0.0))


def quality_metrics(task: Task) -> tuple[Metric, ...]:
    """The measures of a task, the order of evidence.json."""
    return _REGRESSION if task == "regression" else _CLASSIFICATION
