"""One way in for every saved predictor: its predictor.json names the kind, and only that kind's module is imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from stillroom.core.protocols import Predictor
from stillroom.core.registry import resolve
from stillroom.models.manifest import read_manifest

_KINDS = {
    "tabular": "stillroom.models.tabular:load",
    "text": "stillroom.models.text:load",
    "spans": "stillroom.models.spans:load",
    "language": "stillroom.models.language:load",
    "endpoint": "stillroom.models.endpoint:load",
    "mean": "stillroom.models.mean:load",
    "calibrated": "stillroom.models.calibrated:load",
    "python": "stillroom.models.python:load",
    "onnx": "stillroom.models.onnx:load",
    "onnx-text": "stillroom.models.onnx_text:load",
}
_MAY_RUN_CODE = ("mean", "calibrated", "python")
"""Kinds that name Python of the user's, or hold predictors that do. Their loaders take `allow_code`."""


def load_predictor(folder: Path, *, allow_code: bool = False) -> Predictor:
    """The predictor saved in `folder`.

    Args:
        allow_code: permit a predictor that is the user's own Python object; without it such a folder is refused.

    Raises:
        BadInput: no predictor there, an unknown kind, a type that is not trusted, or code that is not allowed.
        MissingExtra: the kind needs a package that is not installed.
    """
    folder = Path(folder)
    kind = read_manifest(folder)["kind"]
    loader = cast(Callable[..., Predictor], resolve("predictors", kind, _KINDS))
    return loader(folder, allow_code=allow_code) if kind in _MAY_RUN_CODE else loader(folder)
