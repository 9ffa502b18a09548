"""A text student as an ONNX graph with a dynamic batch and length, and its tokenizer beside it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillroom.core.errors import BadInput, needs_extra
from stillroom.core.files import write_text
from stillroom.models.manifest import write_manifest
from stillroom.models.onnx_text import MODEL, TOKENIZER
from stillroom.models.pretrained import answering, saving
from stillroom.models.text import TextPredictor, forward_names

with needs_extra("torch", "the export of a text student"):
    import onnxscript  # noqa: F401  (torch.onnx needs it, and would say so halfway through)
    import torch
    from torch import Tensor, nn

_EXAMPLE = ["a text", "another and longer text"]
"""Two rows of different lengths, so that neither size is taken for a constant and padding is seen."""


def export_text(predictor: TextPredictor, folder: Path) -> None:
    """Write model.onnx, tokenizer.json and predictor.json (kind "onnx-text") into `folder`.

    The graph takes int64 (batch, length) arrays named as the tokenizer names them and gives float32 (batch, K)
    logits in the order of `predictor.classes`.

    Raises:
        BadInput: the student's tokenizer has no tokenizer.json form, or pads on the left.
        StageFailed: the folder cannot be written.
    """
    model, tokenizer = predictor.model, predictor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.padding_side != "right":
        raise BadInput.at("export.formats", "the student's tokenizer has no tokenizer.json, or pads on the left; leave 'onnx' out.")
    rows = tokenizer(_EXAMPLE, padding=True, return_tensors="pt").to(model.device)
    names = forward_names(model, rows)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    with answering(model), _exporting():
        program = torch.onnx.export(
            _Logits(model, names, predictor.label_order).to(model.device).eval(),
            tuple(rows[name] for name in names),
            input_names=names,
            output_names=["logits"],
            dynamic_shapes=(tuple({0: batch, 1: length} for _ in names),),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    with saving(folder):
        folder.mkdir(parents=True, exist_ok=True)
        program.save(folder / MODEL)
    write_text(folder / TOKENIZER, backend.to_str())
    facts = {"pad_id": tokenizer.pad_token_id, "pad_type_id": tokenizer.pad_token_type_id}
    sizes = {"max_length": predictor.max_length, "batch_size": predictor.batch_size}
    write_manifest(folder, kind="onnx-text", classes=predictor.classes, columns=predictor.columns, **sizes, **facts)


class _Logits(nn.Module):
    """From inputs by position to logits in class order, and nothing else."""

    order: Tensor

    def __init__(self, model: nn.Module, names: list[str], order: list[int]) -> None:
        super().__init__()
        self.model, self.names = model, names
        self.register_buffer("order", torch.tensor(order))

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits.index_select(1, self.order)


@contextmanager
def _exporting() -> Iterator[None]:
    """The exporter warns about its own deprecated calls and absent torchvision; parity is what tells, and is checked."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
