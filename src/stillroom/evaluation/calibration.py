"""Is a confidence of 80 % right 80 % of the time? Expected calibration error and the bins of a reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.records import ReliabilityBin
from stillroom.evaluation.statistic import Floats, Statistic

NUM_BINS = 15
"""Bins of equal width over [0, 1]: [0, 1/15), ..., [14/15, 1]."""


def expected_calibration_error(codes: NDArray[Any], probs: Floats) -> Statistic:
    """Sum over bins of the share of rows times |accuracy - mean confidence|; confidence is the largest probability.

    A mean of absolute values is biased upwards on few rows: compare arms on the same rows, not with 0.

    Source: Guo et al. 2017, section 2, arXiv:1706.04599 (15 bins, section 4.2); the bias: Kumar et al. 2019, arXiv:1909.10155.
    """
    confidence, right, bins = _binned(codes, probs)
    rows = np.zeros((len(codes), NUM_BINS))
    rows[np.arange(len(codes)), bins] = right - confidence
    return Statistic(rows, lambda means: np.abs(means).sum(axis=-1))


def reliability_bins(codes: NDArray[Any], predictions: Sequence[Floats]) -> tuple[ReliabilityBin, ...]:
    """The same bins, the empty ones left out. The students of several seeds are counted together: `count` is rows times seeds."""
    parts = [_binned(codes, probs) for probs in predictions]
    confidence, right, bins = (np.concatenate(part) for part in zip(*parts, strict=True))
    found = []
    for i in np.unique(bins):
        inside = bins == i
        means = float(confidence[inside].mean()), float(right[inside].mean())
        found.append(ReliabilityBin(i / NUM_BINS, (i + 1) / NUM_BINS, *means, int(inside.sum())))
    return tuple(found)


def _binned(codes: NDArray[Any], probs: Floats) -> tuple[Floats, Floats, NDArray[np.intp]]:
    confidence = probs.max(axis=1)
    right = (probs.argmax(axis=1) == codes).astype(np.float64)
    bins = np.clip((confidence * NUM_BINS).astype(np.intp), 0, NUM_BINS - 1)
    return confidence, right, bins
