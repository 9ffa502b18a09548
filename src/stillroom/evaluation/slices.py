"""The primary measure on parts of the test split, and the rows where student and teacher differ most."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, nearest
from stillroom.core.records import Batch, Disagreement, SliceMeasure
from stillroom.evaluation.significance import estimate, interval_within
from stillroom.evaluation.statistic import Floats, Metric

MAX_GROUPS = 20
"""Groups of one column that are measured apart; the smaller ones beyond share one."""
MAX_DISAGREEMENTS = 20
_FEW_VALUES = 8
"""A numeric column with at most so many values is sliced by value, not by quartile."""
_CELL_LENGTH = 160


def slice_measures(
    test: Batch,
    predictions: Mapping[str, Sequence[Floats]],
    *,
    metric: Metric,
    columns: Sequence[str],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[SliceMeasure, ...]:
    """`metric` of every arm in every group of `columns`, the large groups first; a group where it is undefined is left out.

    Groups of a categorical column are its values; of a numeric one its quartiles; missing values are a group.

    Raises:
        BadInput: a column that the features lack.
    """
    target = test.target
    assert target is not None, "the test split has labels"
    if unknown := [name for name in columns if name not in test.features.columns]:
        hint = nearest(unknown[0], [str(name) for name in test.features.columns])
        raise BadInput.at("evaluation.slices", f"names {unknown[0]!r}, which is no feature column; {hint}")
    found = []
    for column in columns:
        for group, rows in slice_groups(test.features[column]):
            groups = None if test.groups is None else test.groups[rows]
            statistics = {arm: [metric.statistic(target[rows], array[rows]) for array in arrays] for arm, arrays in predictions.items()}
            defined = {arm: [s for s in seeds if s is not None] for arm, seeds in statistics.items() if None not in seeds}
            estimates = estimate(defined, groups=groups, num_rows=len(rows), resamples=resamples, seed=seed)
            for arm, measured in estimates.items():
                bounds = interval_within(measured, metric, confidence)
                if np.isfinite(bounds.value):
                    found.append(SliceMeasure(column, group, arm, bounds.value, bounds.low, bounds.high, len(rows)))
    return tuple(found)


def slice_groups(column: pd.Series[Any]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """(name, positions) of the groups of a column."""
    missing = column.isna().to_numpy()
    numeric = pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
    if numeric and column.nunique() > _FEW_VALUES:
        yield from _quartiles(column.to_numpy(dtype=np.float64, na_value=np.nan), missing)
    else:
        names = np.array(["" if gone else short_cell(cell) for cell, gone in zip(column.tolist(), missing, strict=True)], dtype=object)
        values, counts = np.unique(names[~missing], return_counts=True)
        order = np.argsort(-counts, kind="stable")
        kept, rare = values[order[:MAX_GROUPS]], values[order[MAX_GROUPS:]]
        for value in kept:
            yield str(value), np.flatnonzero(~missing & (names == value))
        if len(rare):
            yield f"{len(rare)} smaller groups", np.flatnonzero(~missing & np.isin(names, rare))
    if missing.any():
        yield "missing", np.flatnonzero(missing)


def _quartiles(values: Floats, missing: NDArray[np.bool_]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    edges = np.unique(np.quantile(values[~missing], [0, 0.25, 0.5, 0.75, 1]))
    for i, (low, high) in enumerate(pairwise(edges)):
        last = i == len(edges) - 2
        inside = (values >= low) & ((values <= high) if last else (values < high))
        yield f"[{low:.4g}, {high:.4g}{']' if last else ')'}", np.flatnonzero(inside)


def largest_disagreements(test: Batch, classes: Sequence[str], predictions: Mapping[str, Sequence[Floats]]) -> tuple[Disagreement, ...]:
    """Up to 20 rows by total variation distance (regression: absolute difference) of the first seed's student and the
    teacher, the largest first; rows on which they agree entirely are left out."""
    assert test.target is not None, "the test split has labels"
    if "teacher" not in predictions or "student" not in predictions:
        return ()
    teacher, student = predictions["teacher"][0], predictions["student"][0]
    control = predictions["control"][0] if "control" in predictions else None
    distances = np.abs(teacher - student) if not classes else np.abs(teacher - student).sum(axis=1) / 2

    def name(values: NDArray[Any]) -> str:
        return classes[int(values.argmax())] if classes else short_cell(float(values))

    rows = [int(row) for row in np.argsort(-distances, kind="stable")[:MAX_DISAGREEMENTS] if distances[row] > 0]
    examples = test.features.iloc[rows]
    return tuple(
        Disagreement(
            example={str(column): short_cell(examples[column].iloc[i]) for column in examples.columns},
            label=classes[int(test.target[row])] if classes else short_cell(float(test.target[row])),
            teacher=name(teacher[row]),
            student=name(student[row]),
            control=None if control is None else name(control[row]),
            size=float(distances[row]),
        )
        for i, row in enumerate(rows)
    )


def short_cell(value: object) -> str:
    """A value as a string of at most 160 characters."""
    if value is None or value != value:  # NaN and NaT are unequal to themselves
        return ""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _CELL_LENGTH else text[: _CELL_LENGTH - 1] + "…"
