"""Every measure is a smooth function of weighted means over test rows.

Written so, one matrix product gives a measure on all bootstrap resamples at once, and a leave-one-out pass costs as
much as one evaluation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Statistic:
    """A measure of one set of predictions.

    Attributes:
        rows: (n, c) float64, dense or SciPy sparse: what each test row contributes.
        of_means: (..., c) weighted means of `rows` -> (...) the measure; NaN where it is undefined.
        num_trials: how many rows it speaks of, if not of all: those that have a span at all, or are of the rarer class.
    """

    rows: Any
    of_means: Callable[[Floats], Floats]
    num_trials: int | None = None

    @property
    def value(self) -> float:
        """The measure with all rows weighted alike."""
        return float(self.of_means(np.asarray(self.rows.mean(axis=0)).ravel()))


def mean_of(contributions: NDArray[Any], num_trials: int | None = None) -> Statistic:
    """The plain mean of (n,) contributions."""
    return Statistic(contributions.astype(np.float64)[:, None], lambda means: means[..., 0], num_trials)


@dataclass(frozen=True)
class Metric:
    """A measure's name, direction and range.

    Attributes:
        statistic: (reference, predictions) -> `Statistic`, or None where the measure is undefined for them. The reference
            is the labels, (n,) codes or values, or the teacher's predictions, (n, K) or (n,). Of a language model: its
            `LanguageScores` -> `Statistic`.
        low, high: bounds of the measure; an interval is cut there.
        is_share: 0 or 1 only where all rows that count are wrong or right, so that 100 % of few still has an interval.
    """

    name: str
    higher_is_better: bool
    statistic: Callable[..., Statistic | None]
    low: float = -np.inf
    high: float = np.inf
    is_share: bool = False


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator, NaN where the denominator is 0 (or below it by rounding)."""
    defined = denominator > 0
    return np.where(defined, numerator / np.where(defined, denominator, 1.0), np.nan)
