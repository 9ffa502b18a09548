"""An export is shipped only if it answers like the student it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stillroom.core.errors import StageFailed
from stillroom.core.records import ParityCheck

if TYPE_CHECKING:
    import pandas as pd

    from stillroom.core.protocols import Predictor


def check_parity(student: Predictor, exported: Predictor, features: pd.DataFrame, *, tolerance: float, scale: float = 1.0) -> ParityCheck:
    """Compare two predictors on every row of `features`.

    Args:
        tolerance: the largest difference permitted, in units of `scale`.
        scale: 1 for probabilities; the target's standard deviation for values.

    Returns:
        The largest difference in units of `scale`, and for classes how often the top class agrees.

    Raises:
        StageFailed: the answers differ by more than `tolerance`, or are not comparable (classes, shape, NaN); it names
            the row with the largest difference.
    """
    if student.classes != exported.classes:
        raise StageFailed(f"export: its classes are {', '.join(exported.classes)}; the student's are {', '.join(student.classes)}.")
    ours, theirs = student.predict_values(features), exported.predict_values(features)
    if ours.shape != theirs.shape:
        raise StageFailed(f"export: it answers with shape {theirs.shape}, the student with {ours.shape}.")
    if not len(ours):
        raise StageFailed("export: there is no row to compare it on.")
    unit = scale if scale > 0 else 1.0  # a constant target has no spread to measure by
    differences = np.abs(theirs - ours).reshape(len(ours), -1).max(axis=1) / unit
    # A NaN in the export is never "within": argmax picks it, and no comparison with it is true.
    within, worst = differences <= tolerance, int(np.argmax(differences))
    agreement = float(np.mean(ours.argmax(axis=1) == theirs.argmax(axis=1))) if student.classes else None
    if not within.all():
        raise StageFailed(
            f"export: {int((~within).sum())} of {len(ours)} rows differ from the student by more than {tolerance:g}. "
            f"Worst is row {worst} by {differences[worst]:.3g}: student {_shown(ours[worst])}, export {_shown(theirs[worst])}; "
            f"its features: {_row(features, worst)}. Choose another student, or set export.tolerance if that is acceptable."
        )
    return ParityCheck(float(differences[worst]), tolerance, agreement, len(ours))


def _shown(answer: object) -> str:
    return np.array2string(np.asarray(answer), precision=6, threshold=6)


def _row(features: pd.DataFrame, row: int, most: int = 6) -> str:
    cells = [f"{name}={str(value)[:40]!r}" for name, value in features.iloc[row].items()]
    return ", ".join(cells[:most]) + (", ..." if len(cells) > most else "")
