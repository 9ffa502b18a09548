"""Features as estimators and exports alike take them. Light, so that an export runs without scikit-learn.

How missing values and categories travel: a number that is missing is NaN; a missing category or text is the empty
string, a category of its own. Numbers are rounded to float32 before an estimator sees them, in training as in
prediction, so that an export that computes in float32 takes the same branches.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from stillroom.core.errors import BadInput
from stillroom.core.records import Column


def prepare(features: pd.DataFrame, columns: Sequence[Column]) -> pd.DataFrame:
    """The columns in order, as estimators and exports take them: float32-exact float64 with NaN, or str with "" for missing.

    Raises:
        BadInput: a number that float32 cannot hold (infinity included), with its column.
    """
    numeric = [column.name for column in columns if column.kind == "numeric"]
    numbers = features[numeric].to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        rounded = numbers.astype(np.float32).astype(np.float64)
    if np.isinf(rounded).any():
        row, i = np.argwhere(np.isinf(rounded))[0]
        remedy = "beyond the range of float32 (3.4e38); clean it, or leave it blank."
        raise BadInput.at(f"column {numeric[i]!r}", f"holds {numbers[row, i]}, {remedy}")
    prepared = pd.DataFrame(rounded, columns=numeric, index=features.index)
    if len(numeric) == len(columns):
        return prepared
    for column in columns:
        if column.kind != "numeric":
            cells = features[column.name]
            prepared[column.name] = cells.astype(object).where(cells.notna(), "")
    return prepared[[column.name for column in columns]]
