"""A text student exported to ONNX, answered by ONNX Runtime: neither torch nor transformers is imported."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, needs_extra
from stillroom.core.files import writing
from stillroom.core.records import Column
from stillroom.models.batching import as_texts, by_length, softmax
from stillroom.models.manifest import read_manifest, write_manifest
from stillroom.models.runtime import open_session

with needs_extra("torch", "an exported text model"):
    from tokenizers import Tokenizer

if TYPE_CHECKING:
    import pandas as pd

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"


class OnnxTextPredictor:
    """An ONNX graph from token ids to logits, in the order of `classes`, and the tokenizer that makes the ids.

    The graph takes int64 inputs (batch, length), a subset of input_ids, attention_mask and token_type_ids.
    """

    def __init__(
        self, folder: Path, classes: Sequence[str], *, column: str, max_length: int, batch_size: int, pad_id: int, pad_type_id: int
    ) -> None:
        self.folder, self.classes, self.column = folder, tuple(classes), column
        self.max_length, self.batch_size, self.pad_id, self.pad_type_id = max_length, batch_size, pad_id, pad_type_id
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        self.tokenizer.enable_truncation(max_length)
        self.tokenizer.no_padding()
        self.session = open_session(folder / MODEL)
        self._inputs = [node.name for node in self.session.get_inputs()]

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.column, "text"),)

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`."""
        values = np.empty((len(features), len(self.classes)))
        rows = self.tokenizer.encode_batch(as_texts(features[self.column]))
        for batch in by_length([len(row) for row in rows], self.batch_size):
            picked = [rows[i] for i in batch]
            columns = {
                "input_ids": _padded([row.ids for row in picked], self.pad_id),
                "attention_mask": _padded([row.attention_mask for row in picked], 0),
                "token_type_ids": _padded([row.type_ids for row in picked], self.pad_type_id),
            }
            (logits,) = self.session.run(None, {name: columns[name] for name in self._inputs})
            values[batch] = softmax(logits)
        return values

    def save(self, folder: Path) -> None:
        """The same files in another folder."""
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name in (MODEL, TOKENIZER):
                shutil.copyfile(self.folder / name, folder / name)
        facts = {"max_length": self.max_length, "batch_size": self.batch_size, "pad_id": self.pad_id, "pad_type_id": self.pad_type_id}
        write_manifest(folder, kind="onnx-text", classes=self.classes, columns=self.columns, **facts)


def load(folder: Path) -> OnnxTextPredictor:
    """The predictor of a folder that `stillroom.export.onnx_text.export_text` wrote.

    Raises:
        BadInput: the folder is not whole.
    """
    facts = read_manifest(folder)
    if missing := [name for name in (MODEL, TOKENIZER) if not (folder / name).is_file()]:
        raise BadInput.at(str(folder), f"lacks {', '.join(missing)}; export the student again.")
    (column,) = facts["columns"]
    numbers = {name: int(facts[name]) for name in ("max_length", "batch_size", "pad_id", "pad_type_id")}
    return OnnxTextPredictor(folder, facts["classes"], column=column.name, **numbers)


def _padded(rows: Sequence[Sequence[int]], value: int) -> NDArray[np.int64]:
    """Rows of token ids as one (rows, longest) array, filled up with `value` on the right."""
    table = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(table, rows, strict=True):
        line[: len(row)] = row
    return table
