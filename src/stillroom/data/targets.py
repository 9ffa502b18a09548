"""The column to predict: class names, or finite values."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.core.errors import BadInput
from stillroom.data.columns import cells, nested, numbers, rows_named

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_FRACTION = re.compile(r"-?[0-9]*\.[0-9]+(e-?[0-9]+)?")
_REMEDY = "fill them in, remove the rows, or move training rows to a file of their own for data.source.unlabeled."


def read_labels(column: pd.Series[Any], *, place: str) -> NDArray[Any]:
    """(n,) object array of class names.

    Raises:
        BadInput: a row without a label, or with several.
    """
    if found := nested(column):
        raise BadInput.at(place, f"target {column.name!r}, {found}; a row has one class.")
    labels = cells(column)
    missing = np.array([label is None for label in labels], dtype=np.bool_)
    if missing.any():
        raise BadInput.at(place, f"{_without(missing, column.name)}; {_REMEDY}")
    return labels


def read_values(column: pd.Series[Any], *, place: str) -> NDArray[np.float64]:
    """(n,) finite float64.

    Raises:
        BadInput: a cell that is missing, infinite or no number.
    """
    values, bad = numbers(column)
    if bad.any():
        cell = cells(column)[int(bad.argmax())]
        raise BadInput.at(place, f"target {column.name!r}, {rows_named(bad)}: {cell!r} is not a number, which a regression needs.")
    if np.isnan(values).any():
        raise BadInput.at(place, f"{_without(np.isnan(values), column.name)}; {_REMEDY}")
    if np.isinf(values).any():
        raise BadInput.at(place, f"target {column.name!r}, {rows_named(np.isinf(values))}: infinite; correct or remove these rows.")
    return values


def class_names(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels in code order: by number where all are whole numbers, else by the alphabet."""
    names = set(labels)
    try:
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    except ValueError:
        return tuple(sorted(names))


def encode(labels: NDArray[Any], classes: tuple[str, ...], *, part: str) -> NDArray[np.int64]:
    """(n,) codes of `labels` in `classes`, the training rows' classes.

    Raises:
        BadInput: a label that no training row has; it could be neither learnt nor measured.
    """
    code = {name: i for i, name in enumerate(classes)}
    if unknown := class_names(label for label in set(labels) if label not in code):
        known = ", ".join(classes[:10]) + (", ..." if len(classes) > 10 else "")
        found = f"the {part} rows have class {', '.join(map(repr, unknown[:10]))}, which no training row has (training: {known})"
        # Measurements taken for classes: nearly every one is a class of its own.
        other = " Fractions are predicted as numbers by task: tabular-regression." if all(map(_FRACTION.fullmatch, unknown)) else ""
        raise BadInput.at("data.target", f"{found}; add training rows of it, change data.split, or remove the {part} rows.{other}")
    return np.array([code[label] for label in labels], dtype=np.int64)


def _without(missing: NDArray[np.bool_], name: object) -> str:
    return f"{int(missing.sum())} of {len(missing)} rows have no target {name!r} ({rows_named(missing)})"
