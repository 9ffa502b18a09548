"""The student of a run at work: on frames, lists of texts, and files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stillroom.core.records import Column
from stillroom.data.columns import coerce
from stillroom.data.sources import read_table
from stillroom.models.load import load_predictor
from stillroom.models.manifest import read_manifest
from stillroom.pipeline.folder import open_run, require
from stillroom.spec.data import FileSourceSpec
from stillroom.spec.load import load_job

if TYPE_CHECKING:
    from stillroom.core.protocols import Predictor


class StudentPredictor:
    """A trained student. Takes what the job's data looked like: columns by name, in any order."""

    def __init__(self, predictor: Predictor, columns: tuple[Column, ...]) -> None:
        self._predictor, self.columns = predictor, columns

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of `predict_proba`'s columns; () for regression."""
        return self._predictor.classes

    def predict(self, rows: Any) -> NDArray[Any]:
        """(n,) class names, or (n,) values.

        Args:
            rows: a DataFrame with the feature columns, a list of dicts, or for a text student a list of strings.

        Raises:
            BadInput: a column is missing, or a cell is not of its kind.
        """
        values = self.predict_values(rows)
        return np.asarray(self.classes, dtype=object)[values.argmax(axis=1)] if self.classes else values

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`.

        Raises:
            AttributeError: the student predicts values, not classes.
        """
        if not self.classes:
            raise AttributeError("predict_proba: this student is a regression; use predict.")
        return self.predict_values(rows)

    def predict_values(self, rows: Any) -> NDArray[np.float64]:
        """(n, K) probabilities, or (n,) values where the student is a regression."""
        frame = rows if isinstance(rows, pd.DataFrame) else _frame(rows, self.columns)
        return self._predictor.predict_values(coerce(frame, self.columns, place="rows"))


def load(run_dir: Path | str) -> StudentPredictor:
    """The student of a run.

    Raises:
        BadInput: no run there.
        StageFailed: its student is not trained yet.
    """
    student = require(open_run(Path(run_dir)).student, "train")
    return StudentPredictor(load_predictor(student), read_manifest(student)["columns"])


def predict_file(run_dir: Path, file: Path) -> str:
    """CSV text: a row a row of the file, with the prediction and, for a classification, every class's probability."""
    student = load(run_dir)
    source = load_job(open_run(run_dir).job).data.source
    blanks = source.missing_values if isinstance(source, FileSourceSpec) else ()
    values = student.predict_values(read_table(file, place="FILE", missing_values=blanks))
    if not student.classes:
        return str(pd.DataFrame({"prediction": values}).to_csv(index=False))
    table = pd.DataFrame(values, columns=[f"p_{name}" for name in student.classes])
    table.insert(0, "prediction", np.asarray(student.classes, dtype=object)[values.argmax(axis=1)])
    return str(table.to_csv(index=False))


def _frame(rows: Any, columns: tuple[Column, ...]) -> pd.DataFrame:
    rows = list(rows)
    if rows and isinstance(rows[0], str):
        return pd.DataFrame({columns[0].name: rows})
    return pd.DataFrame(rows)
