"""Asking a teacher: frozen, checked, and with its columns in the order of the task's classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.protocols import Predictor

_SUM_TOLERANCE = 1e-3
"""float32 softmax over many classes is off by 1e-6; scores that are no probabilities are off by far more."""
_ROUNDING = 1e-12
_STEADY_TOLERANCE = 1e-3
"""Padding and blocked arithmetic move an answer by about 1e-6, dropout and batch statistics by 1e-2 and more."""
_NUM_REPEATED = 8


class _Fingerprinted(Protocol):
    @property
    def fingerprint(self) -> str: ...


@contextmanager
def frozen(teacher: _Fingerprinted, *, place: str = "teacher") -> Iterator[Callable[[], None]]:
    """Hold a teacher to its word that answering does not change it: its fingerprint is compared at the end.

    Yields:
        A function that compares it in between.

    Raises:
        BadInput: the fingerprint (parameters, buffers, fitted state) has become another one.
    """
    before = teacher.fingerprint

    def check() -> None:
        if teacher.fingerprint != before:
            changed = "changed its own state while it was answering, so its answers depend on what was asked before"
            remedy = (
                "put it in evaluation mode (batch normalisation keeps running statistics otherwise) and keep no counts or caches in it."
            )
            raise BadInput.at(place, f"{changed}; {remedy}")

    yield check
    check()


def ask(teacher: Predictor, features: pd.DataFrame, classes: tuple[str, ...], *, place: str = "teacher") -> NDArray[np.float64]:
    """The teacher's answers, checked and aligned.

    Args:
        teacher: anything that predicts; its own `classes` may be in another order.
        features: n rows.
        classes: the task's K classes; () for regression.
        place: the teacher's place in the job, for messages.

    Returns:
        (n, K) probabilities in the order of `classes`, rows summing to 1; or (n,) values.

    Raises:
        BadInput: the classes differ, the shape is wrong, or rows are no distributions.
        StageFailed: an answer is NaN or infinite; names the example.
    """
    same_classes(teacher.classes, classes, place=place)
    values = np.asarray(teacher.predict_values(features), dtype=np.float64)
    expected = (len(features), len(classes)) if classes else (len(features),)
    if values.shape != expected:
        what = f"one column for each of the {len(classes)} classes" if classes else "one value for each example"
        raise BadInput.at(place, f"answers with shape {values.shape}, where {expected} is needed: {what}.")
    _refuse_not_finite(values, features, place)
    if not classes:
        return values
    return _distributions(values, place)[:, [teacher.classes.index(name) for name in classes]]


def same_classes(teacher: tuple[str, ...], data: tuple[str, ...], *, place: str) -> None:
    """Refuse a teacher whose classes are not the data's; their order is free, the names must match.

    Raises:
        BadInput: listing both.
    """
    if len(set(teacher)) != len(teacher):
        raise BadInput.at(place, f"names a class twice: {_listed(teacher)}.")
    if set(teacher) != set(data):
        both = f"the teacher's are {_listed(teacher)}, the data's are {_listed(data)}"
        raise BadInput.at(place, f"the classes differ: {both}. Rename the labels in the data, or take a teacher of these classes.")


def check_steady(
    teacher: Predictor, features: pd.DataFrame, values: NDArray[np.float64], classes: tuple[str, ...], *, place: str = "teacher"
) -> None:
    """Ask the first rows once more, on their own: the answers must not depend on chance or on the rest of the batch.

    Args:
        values: what `ask` gave for `features`.

    Raises:
        BadInput: they do.
    """
    num = min(_NUM_REPEATED, (len(features) + 1) // 2)
    again = ask(teacher, features.iloc[:num].reset_index(drop=True), classes, place=place)
    difference = float(np.abs(again - values[:num]).max())
    # Values are compared with their own spread; the second term is float32's rounding of values far from zero.
    scale = 1.0 if classes else max(float(np.std(values)), 1e-3 * float(np.abs(values).max()))
    if difference > _STEADY_TOLERANCE * scale:
        reasons = "dropout or batch normalisation in training mode, or random numbers drawn in its predict"
        message = f"answers the same examples differently when asked twice (by up to {difference:.3g}); likely {reasons}."
        raise BadInput.at(place, f"{message} A teacher has to be frozen and in evaluation mode.")


def _refuse_not_finite(values: NDArray[np.float64], features: pd.DataFrame, place: str) -> None:
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        cells = ", ".join(f"{name}={str(cell)[:40]}" for name, cell in list(features.iloc[row].items())[:5])
        more = f" and {int(bad.sum()) - 1} more of this batch" if bad.sum() > 1 else ""
        reason = "an answer has to be finite. Does the teacher cope with missing or extreme values?"
        raise StageFailed(f"{place}: answers {values[row].tolist()} to the example ({cells}){more}; {reason}")


def _distributions(values: NDArray[np.float64], place: str) -> NDArray[np.float64]:
    sums = values.sum(axis=1)
    off = np.abs(sums - 1)
    if values.size and (values.min() < -_SUM_TOLERANCE or off.max() > _SUM_TOLERANCE):
        row = int(np.argmax(np.maximum(off, -values.min(axis=1))))
        found = f"a row that sums to {sums[row]:.6g} with smallest entry {values[row].min():.6g}"
        raise BadInput.at(place, f"answers {found}; probabilities are at least 0 and sum to 1. Are these scores or logits?")
    positive = np.maximum(values, 0.0)
    # Exact answers keep every bit: an ensemble's stored answers are then its predictor's.
    exact = (np.abs(positive.sum(axis=1, keepdims=True) - 1) < _ROUNDING) & (values >= 0).all(axis=1, keepdims=True)
    return np.where(exact, values, positive / positive.sum(axis=1, keepdims=True))


def _listed(names: tuple[str, ...], limit: int = 12) -> str:
    shown = ", ".join(repr(name) for name in names[:limit]) or "none (it predicts values)"
    return f"[{shown}{f', and {len(names) - limit} more' if len(names) > limit else ''}]"
