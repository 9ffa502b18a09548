"""A tabular predictor exported to ONNX, run by ONNX Runtime.

The graph's convention: one input a column, named like it, of shape (n, 1): float32 for numeric columns, NaN where missing;
strings for categorical and text columns, "" where missing. Its output "probabilities" is (n, K), "values" (n,) or (n, 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stillroom.core.errors import BadInput
from stillroom.core.files import write_bytes
from stillroom.core.records import Column
from stillroom.models.manifest import read_manifest, write_manifest
from stillroom.models.prepared import prepare
from stillroom.models.runtime import open_session

MODEL_FILE = "model.onnx"


class OnnxPredictor:
    """An ONNX graph as a predictor.

    Args:
        path: the .onnx file.
        classes: the names of the output's K columns; () for regression.
        columns: the inputs.

    Raises:
        BadInput: no such file, no valid graph, or one whose inputs or outputs are not `columns` and the convention's.
    """

    def __init__(self, path: Path, classes: Sequence[str], columns: Sequence[Column]) -> None:
        self.path = Path(path)
        self.classes: tuple[str, ...] = tuple(classes)
        self.columns: tuple[Column, ...] = tuple(columns)
        self._session = open_session(self.path)
        self._output = "probabilities" if self.classes else "values"
        inputs, outputs = ({node.name for node in nodes} for nodes in (self._session.get_inputs(), self._session.get_outputs()))
        if strangers := sorted(inputs - {column.name for column in columns}):
            raise BadInput.at(str(path), f"has inputs that are no columns: {', '.join(strangers)}. One input a column is expected.")
        if self._output not in outputs:
            raise BadInput.at(str(path), f"has outputs {', '.join(sorted(outputs))}; one called {self._output!r} is expected.")
        width = next(node.shape[-1] for node in self._session.get_outputs() if node.name == self._output)
        if classes and isinstance(width, int) and width != len(classes):
            raise BadInput.at(str(path), f"answers {width} classes; predictor.json names {len(classes)} classes.")
        # An encoder may ignore a column (one that was empty in training); its graph then has no such input.
        self._inputs = tuple(column for column in self.columns if column.name in inputs)

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`, or (n,) values."""
        prepared = prepare(features, self.columns)
        if not len(prepared):
            return np.zeros((0, len(self.classes)) if self.classes else 0)
        feeds = {column.name: _feed(prepared[column.name], column) for column in self._inputs}
        (output,) = self._session.run([self._output], feeds)
        values = np.asarray(output, dtype=np.float64)
        if not self.classes:
            return values.reshape(len(prepared))
        assert values.shape == (len(prepared), len(self.classes)), values.shape
        return values

    def save(self, folder: Path) -> None:
        """Write model.onnx and predictor.json into `folder`."""
        write_bytes(folder / MODEL_FILE, self.path.read_bytes())
        write_manifest(folder, kind="onnx", classes=self.classes, columns=self.columns)


def load(folder: Path) -> OnnxPredictor:
    """The predictor that `OnnxPredictor.save` or an export wrote."""
    facts = read_manifest(folder)
    return OnnxPredictor(folder / MODEL_FILE, facts["classes"], facts["columns"])


def _feed(cells: pd.Series[Any], column: Column) -> NDArray[Any]:
    if column.kind == "numeric":
        return np.asarray(cells, dtype=np.float32).reshape(-1, 1)
    return np.asarray(cells, dtype=object).reshape(-1, 1)
