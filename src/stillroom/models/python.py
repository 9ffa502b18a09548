"""The user's own Python object as a predictor. It runs code, so it is loaded only where that is allowed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.core.errors import BadInput
from stillroom.models.labels import class_codes
from stillroom.models.manifest import read_manifest, write_manifest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


def import_callable(path: str, *, allow_code: bool, place: str) -> Callable[..., Any]:
    """The callable at "module:name", looked for in the working directory too.

    Raises:
        BadInput: code is not allowed, no such module or name, or not a callable.
    """
    if not allow_code:
        raise BadInput.at(place, f"= {path!r} is your own Python, which a file may not start by itself; add --allow-code to run it.")
    module_name, _, name = path.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise BadInput.at(place, f"= {path!r}: cannot import {module_name!r}: {error}. It must be installed or in this folder.") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise BadInput.at(place, f"= {path!r}: {module_name!r} has no {name!r}.")
        found = getattr(found, part)
    if not callable(found):
        raise BadInput.at(place, f"= {path!r} is a {type(found).__name__}; name a function or class that returns the fitted object.")
    return found  # type: ignore[no-any-return]


class PythonPredictor:
    """What the user's callable returned: an object with predict_proba and classes_ (names), or predict for regression.

    Args:
        path: "module:callable".
        params: its keyword arguments; plain data.
        classes: the task's classes in code order; () for regression. Columns are matched to the object's classes_ by name.

    Raises:
        BadInput: code is not allowed, the callable cannot be found, or its object lacks a method or knows other classes.
    """

    def __init__(self, path: str, params: Mapping[str, Any], classes: Sequence[str], *, allow_code: bool, place: str = "object") -> None:
        self.path, self.params = path, dict(params)
        self.classes: tuple[str, ...] = tuple(classes)
        self.object = import_callable(path, allow_code=allow_code, place=place)(**self.params)
        for name in ("predict_proba", "classes_") if self.classes else ("predict",):
            if not hasattr(self.object, name):
                raise BadInput.at(place, f"= {path!r} returned a {type(self.object).__name__} without {name}; see docs for what is needed.")
        if self.classes:
            self._codes = class_codes(self.object.classes_, self.classes, labels="names", place=place)
        for module in _torch_modules(self.object):
            module.eval()

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`, or (n,) values. The object is handed the features as they are.

        Torch modules that it holds answer in eval mode (set once, at the start) and without gradients.
        """
        with _no_gradients():
            return self._answers(features)

    def _answers(self, features: pd.DataFrame) -> NDArray[np.float64]:
        if not self.classes:
            return np.asarray(self.object.predict(features), dtype=np.float64).reshape(len(features))
        probs = np.zeros((len(features), len(self.classes)))
        answers = np.asarray(self.object.predict_proba(features), dtype=np.float64)
        # Compared here: NumPy would spread a single column over all classes without a word.
        if answers.shape != (len(features), len(self._codes)):
            needed = f"{(len(features), len(self._codes))} is needed: a row an example, a column for each of its classes_"
            raise BadInput.at(self.path, f"predict_proba answered with shape {answers.shape}, where {needed}.")
        probs[:, self._codes] = answers
        return probs

    def save(self, folder: Path) -> None:
        """Write predictor.json, which names the callable; the object itself stays the user's to keep."""
        write_manifest(folder, kind="python", classes=self.classes, object=self.path, params=self.params)


def load(folder: Path, *, allow_code: bool = False) -> PythonPredictor:
    """The predictor that `PythonPredictor.save` wrote."""
    facts = read_manifest(folder)
    return PythonPredictor(facts["object"], facts["params"], facts["classes"], allow_code=allow_code, place=f"{folder}: object")


def _no_gradients() -> AbstractContextManager[object]:
    # Imported by the user's code or not at all: such an object works without torch.
    torch: Any = sys.modules.get("torch")
    return torch.no_grad() if torch is not None else nullcontext()


def _torch_modules(value: Any, depth: int = 6) -> Iterator[Any]:
    """The torch modules that an object holds, in its attributes, lists and dicts."""
    torch: Any = sys.modules.get("torch")
    if torch is None or depth == 0 or isinstance(value, type):
        return
    if isinstance(value, torch.nn.Module):
        yield value
        return
    held = value if isinstance(value, (list, tuple)) else (value if isinstance(value, dict) else getattr(value, "__dict__", {})).values()
    for part in held:
        yield from _torch_modules(part, depth - 1)
