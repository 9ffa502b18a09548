"""How often is the teacher wrong? A sample of its answers for people to judge, and what their judgement says about all of them.

The strata are made of doubt: rows are sorted by the error that the teacher itself expects, e = 1 - its highest probability, and cut so that
each stratum has the same sum of sqrt(e (1 - e)), the deviation of an error of that probability. The same number of rows from each stratum
is then Neyman's allocation (Dalenius & Hodges 1959, J. Am. Stat. Assoc. 54:88; Cochran 1977, section 5A.7). e counts as at least 0.05: a
teacher that is too sure of itself is not taken at its word, and no row's inclusion probability falls below 0.4 of the highest.

Within a stratum the rows lie in the order of their labels, equal labels in random order, and a circular systematic sample is taken (Murthy
& Rao 1988, Handbook of Statistics 6:147), so that every label has its share. Its steps are those of the golden ratio instead of equal
ones: every beginning of the sample is spread as evenly, hence a sample too, and a longer sample begins with the shorter one. A person
may stop anywhere.

The estimate is the stratified (here also the Horvitz-Thompson) one, unbiased. Its interval is Wilson's with the effective sample size
(Wilson 1927, J. Am. Stat. Assoc. 22:209; Kish 1965; Franco et al. 2019, J. Surv. Stat. Methodol. 7:334). In the variance each stratum's
share of errors is drawn to the common one by two rows: a stratum without an error seen has no variance else. Simulated with 50 to 200
reviewed of 600 and 5000 rows, teachers that are honest, too sure or too modest, and errors from 0.7 to 24 %, the 95 % interval held the
truth in 93 to 97 %; smaller versions run in `tests/evaluation/test_review.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stillroom.evaluation.significance import Interval

NUM_STRATA = 4
"""More than that gain little (Cochran 1977, section 5A.8), and leave few rows for each."""
_LEAST_DOUBT = 0.05
_DRAWN_TOGETHER = 2.0
"""Rows: about z**2 / 2 at 95 %, as in the interval of Agresti & Coull 1998."""
_GOLDEN = (math.sqrt(5) - 1) / 2


def stratify(probs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Each row's stratum, 0 the surest.

    Args:
        probs: (N, K) the teacher's probabilities; no NaN.

    Returns:
        (N,) numbers below `NUM_STRATA`.
    """
    doubt = np.clip(np.round(1 - probs.max(axis=1), 9), _LEAST_DOUBT, 0.5)  # rounded: machines differ in the last digits
    order = np.argsort(np.round(1 - probs.max(axis=1), 9), kind="stable")
    deviation = np.sqrt(doubt * (1 - doubt))[order]
    middle = (np.cumsum(deviation) - deviation / 2) / deviation.sum()
    strata = np.empty(len(probs), dtype=np.intp)
    strata[order] = (middle * NUM_STRATA).astype(np.intp)
    return strata


def draw_sample(probs: NDArray[np.float64], *, size: int, seed: int) -> NDArray[np.intp]:
    """The rows to look at, in this order; every beginning of it is a sample by itself.

    A row of stratum h has the inclusion probability n_h / N_h, where n_h rows of the sample are of that stratum.

    Args:
        probs: (N, K) the teacher's probabilities; no NaN.
        size: how many rows; all N at most.

    Returns:
        (size,) positions in `probs`, no position twice.
    """
    source = np.random.default_rng(seed)
    labels, strata = probs.argmax(axis=1), stratify(probs)
    walks = [_spread(np.flatnonzero(strata == h), labels, source) for h in range(NUM_STRATA)]
    rows: list[int] = []
    while len(rows) < min(size, len(probs)):
        rows += [row for walk in walks for row in [next(walk, None)] if row is not None]
    return np.array(rows[:size], dtype=np.intp)


def _spread(members: NDArray[np.intp], labels: NDArray[np.intp], source: np.random.Generator) -> Iterator[int]:
    """`members` one by one, spread over their labels.

    The steps are the same whatever the start, so that by turning the circle each member is as likely as any other to be among
    the first n: n / N_h, exactly.
    """
    size = len(members)
    shuffled = source.permutation(members)
    ordered = shuffled[np.argsort(labels[shuffled], kind="stable")]
    start = int(source.integers(size)) if size else 0
    seen: set[int] = set()
    steps = count()
    while len(seen) < size:
        place = (start + int(size * (next(steps) * _GOLDEN % 1.0))) % size
        if place not in seen:
            seen.add(place)
            yield int(ordered[place])


def estimate_error(wrong: NDArray[np.bool_], strata: NDArray[np.intp], sizes: NDArray[np.intp], *, confidence: float) -> Interval:
    """The share of wrong answers among all rows, from the reviewed ones.

    Args:
        wrong: (n,) of each reviewed row; n > 0.
        strata: (n,) its stratum.
        sizes: (H,) how many rows each stratum has. One of which nothing is reviewed yet is counted with its neighbour.
        confidence: of the interval, such as 0.95.
    """
    strata, sizes = _merged(strata, sizes)
    reviewed = np.bincount(strata, minlength=len(sizes)).astype(np.float64)
    errors = np.bincount(strata, weights=wrong, minlength=len(sizes))
    weights = sizes / sizes.sum()
    value = float(sizes @ (errors / reviewed) / sizes.sum())
    # Without what is known for sure: of a stratum that is reviewed whole, nothing is left to chance.
    unknown = (sizes - reviewed) / np.maximum(sizes - 1, 1) / reviewed
    shares = (errors + _DRAWN_TOGETHER * value) / (reviewed + _DRAWN_TOGETHER)
    variance, even = float(weights**2 @ (shares * (1 - shares) * unknown)), float(weights**2 @ unknown)
    if even == 0:
        return Interval(value, value, value)
    # One over the effective sample size. All right or all wrong: as if every stratum had the same share.
    return _wilson(value, variance / (value * (1 - value)) if 0 < value < 1 else even, confidence)


def _wilson(value: float, spread: float, confidence: float) -> Interval:
    """Wilson's interval of a share, for 1 / `spread` rows."""
    z2 = float(stats.norm.isf((1 - confidence) / 2)) ** 2 * spread
    middle, half = (value + z2 / 2) / (1 + z2), math.sqrt(z2 * value * (1 - value) + z2 * z2 / 4) / (1 + z2)
    return Interval(value, max(middle - half, 0.0), min(middle + half, 1.0))


def _merged(strata: NDArray[np.intp], sizes: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Strata without a reviewed row joined to the next one below that has some, or else above."""
    present = np.unique(strata)
    assert len(present), "nothing is reviewed"
    joined = np.maximum(np.searchsorted(present, np.arange(len(sizes)), side="right") - 1, 0)
    return joined[strata], np.bincount(joined, weights=sizes, minlength=len(present)).astype(np.intp)


def agreement(first: Sequence[str], second: Sequence[str]) -> tuple[float, float | None]:
    """(share of equal labels, Cohen's kappa) of two people on the same rows; kappa is None where chance alone gives full agreement.

    Source: Cohen 1960, Educ. Psychol. Meas. 20:37.
    """
    names = sorted({*first, *second})
    table = np.zeros((len(names), len(names)))
    for a, b in zip(first, second, strict=True):
        table[names.index(a), names.index(b)] += 1
    table /= table.sum()
    observed, expected = float(np.trace(table)), float(table.sum(axis=0) @ table.sum(axis=1))
    return observed, None if expected >= 1 - 1e-12 else (observed - expected) / (1 - expected)
