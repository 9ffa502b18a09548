"""Leakage: answers of a teacher to the rows it was fitted on. They look like knowledge and repeat the hard labels."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput
from stillroom.core.records import Knowledge, LeakFinding

_BY_HEART = 1e-6
_SURVIVING_SHARE = 0.5
_STANDARD_ERRORS = 2.0


def refuse_leakage(knowledge: Knowledge, *, mode: Literal["out-of-fold", "in-sample"]) -> None:
    """Refuse answers to seen rows for training, unless the job asks for them openly.

    Raises:
        BadInput: there are such answers and `mode` is not in-sample.
    """
    if mode != "in-sample" and (num_seen := int(knowledge.seen.sum())):
        count = f"{num_seen} of {len(knowledge.keys)} answers are by a teacher that was fitted on the very row"
        raise BadInput.at("labelling.mode", f"= {mode!r}, but {count}: leakage. Set it to in-sample to train on them all the same.")


def find_leak(
    in_sample: NDArray[np.float64], out_of_fold: NDArray[np.float64], target: NDArray[Any], *, classes: tuple[str, ...]
) -> LeakFinding:
    """Does the teacher know its training rows by heart?

    Its doubt about a row is 1 - p(label), or the squared error in regression. A teacher that generalises is about as
    doubtful on rows that it was fitted on as on others; one that interpolates has no doubt left on them, and its labels there
    are the hard labels once more. It leaks if in-sample doubt is zero, or less than half of the out-of-fold doubt
    by more than chance (two standard errors of the paired difference).

    Args:
        in_sample: (n, K) probabilities or (n,) values by the teacher fitted on all n rows.
        out_of_fold: the same rows, by teachers that had not seen them; rows of NaN (no answer) are left out.
        target: (n,) class codes, -1 where there is no label, or float values.
        classes: the K names; () for regression.
    """
    keep = np.isfinite(in_sample).reshape(len(target), -1).all(axis=1) & np.isfinite(out_of_fold).reshape(len(target), -1).all(axis=1)
    if classes:
        keep &= target >= 0
    inside, outside, labels = in_sample[keep], out_of_fold[keep], target[keep]
    if not len(labels):
        return LeakFinding(False, 0.0, 0.0, None, None, 0, "Not checked for leakage: no labelled row was answered both ways.")
    doubt_in, doubt_out = _doubt(inside, labels, classes), _doubt(outside, labels, classes)
    by_heart, remembers = _compare(doubt_in, doubt_out, classes)
    fit_in, fit_out = _fit(inside, labels, classes), _fit(outside, labels, classes)
    entropy_in, entropy_out = (_entropy(inside), _entropy(outside)) if classes else (None, None)
    message = _message(by_heart, remembers, (fit_in, fit_out), (entropy_in, entropy_out))
    return LeakFinding(bool(by_heart or remembers), fit_in, fit_out, entropy_in, entropy_out, len(labels), message)


def _compare(doubt_in: NDArray[np.float64], doubt_out: NDArray[np.float64], classes: tuple[str, ...]) -> tuple[bool, bool]:
    inside, outside = float(doubt_in.mean()), float(doubt_out.mean())
    # A linear law without noise is fitted exactly in and out of fold; nobody has learnt it by heart.
    by_heart = inside <= _BY_HEART and (bool(classes) or outside > _BY_HEART)
    fall = doubt_out - doubt_in
    error = float(fall.std(ddof=1)) / np.sqrt(len(fall)) if len(fall) > 1 else np.inf
    remembers = inside < _SURVIVING_SHARE * outside and float(fall.mean()) > _STANDARD_ERRORS * error
    return by_heart, remembers


def _doubt(values: NDArray[np.float64], labels: NDArray[Any], classes: tuple[str, ...]) -> NDArray[np.float64]:
    if classes:
        return np.asarray(1.0 - values[np.arange(len(labels)), labels])
    variance = float(np.var(labels)) or 1.0
    return np.asarray((values - labels) ** 2 / variance)


def _fit(values: NDArray[np.float64], labels: NDArray[Any], classes: tuple[str, ...]) -> float:
    if classes:
        return float(np.mean(values.argmax(axis=1) == labels))
    return 1.0 - float(_doubt(values, labels, ()).mean())


def _entropy(probs: NDArray[np.float64]) -> float:
    safe = np.where(probs > 0, probs, 1.0)  # lim p log p = 0
    return abs(float(-(safe * np.log(safe)).sum(axis=1).mean()))


def _message(by_heart: bool, remembers: bool, fits: tuple[float, float], entropies: tuple[float | None, float | None]) -> str:
    measure = "R squared" if entropies[0] is None else "accuracy"
    found = f"{measure} {fits[0]:.3f} on them, {fits[1]:.3f} out of fold"
    if entropies[0] is not None:
        found += f"; entropy {entropies[0]:.3f} against {entropies[1]:.3f} nats"
    if by_heart:
        return f"The teacher knows its training rows by heart: {found}; in-sample labels would repeat the hard labels."
    if remembers:
        return f"The teacher remembers its training rows: {found}; in-sample labels would hide most of what it is unsure of."
    return f"The teacher answers its training rows much as it answers others: {found}."
