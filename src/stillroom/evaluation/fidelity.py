"""Fidelity: predictions against the teacher's, whatever the labels say (Stanton et al. 2021, arXiv:2106.05945)."""

from __future__ import annotations

import numpy as np

from stillroom.core.records import Task
from stillroom.evaluation.metrics import PROBABILITY_FLOOR, rmse
from stillroom.evaluation.statistic import Floats, Metric, Statistic, mean_of, ratio


def agreement(p: Floats, q: Floats) -> Statistic:
    """The share of rows on which the teacher p and the student q choose the same class."""
    return mean_of(p.argmax(axis=1) == q.argmax(axis=1))


def forward_kl(p: Floats, q: Floats) -> Statistic:
    """The mean of KL(teacher || student) in nats.

    Where p is 0 its term is 0. q is raised to `PROBABILITY_FLOOR`: a class that the student calls impossible and the
    teacher does not costs at most 36 nats.
    """
    safe_p = np.where(p > 0, p, 1.0)
    terms = np.where(p > 0, p * (np.log(safe_p) - np.log(np.maximum(q, PROBABILITY_FLOOR))), 0.0)
    # Rounding alone can take an exact 0 below it.
    return mean_of(np.maximum(terms.sum(axis=1), 0.0))


def correlation(p: Floats, q: Floats) -> Statistic | None:
    """Pearson's correlation of predicted values. None where either side is constant."""
    if np.ptp(p) == 0 or np.ptp(q) == 0:
        return None
    a, b = (p - p.mean()) / p.std(), (q - q.mean()) / q.std()

    def of_means(means: Floats) -> Floats:
        mean_a, mean_b, aa, bb, ab = np.moveaxis(means, -1, 0)
        return ratio(ab - mean_a * mean_b, np.sqrt(np.maximum((aa - mean_a**2) * (bb - mean_b**2), 0.0)))

    return Statistic(np.column_stack([a, b, a * a, b * b, a * b]), of_means)


_CLASSIFICATION = (Metric("agreement", True, agreement, 0.0, 1.0, is_share=True), Metric("forward_kl", False, forward_kl, 0.0))
_REGRESSION = (Metric("correlation_to_teacher", True, correlation, -1.0, 1.0), Metric("rmse_to_teacher", False, rmse, 0.0))


def fidelity_metrics(task: Task) -> tuple[Metric, ...]:
    """The measures of a task, the order of evidence.json."""
    return _REGRESSION if task == "regression" else _CLASSIFICATION
