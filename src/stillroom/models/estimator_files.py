"""Fitted estimators on disk: skops files, never pickles, and only types of known packages come back to life."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.tree._tree import Tree

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.files import write_bytes
from stillroom.models.estimators import ALLOWED_PACKAGES


@contextmanager
def _without_torch() -> Iterator[None]:
    # skops lists all estimators by importing every package of scikit-learn, among them its adapter to torch: seconds
    # and 200 MB in each process that loads a tree, wherever torch happens to be installed.
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


with _without_torch():
    import skops.io
    from skops.io.exceptions import UnsupportedTypeException

TRUSTED_PACKAGES = (*ALLOWED_PACKAGES, "stillroom")
_HARMLESS = frozenset({"collections.OrderedDict", "collections.defaultdict", "numpy.dtype", "stillroom.models.tabular.ColumnsWithMissing"})
_BOOSTING = frozenset({"Booster", "CatBoostClassifier", "CatBoostRegressor"})
_NEVER = ("tests", "_testing", "testing", "conftest", "datasets", "externals")
"""Parts of the trusted packages whose classes have no place in a model."""


def save_estimator(estimator: object, path: Path) -> None:
    """Write a fitted estimator as a skops file.

    Raises:
        StageFailed: it holds something that only pickle could store, or that `load_estimator` would refuse.
    """
    try:
        content = skops.io.dumps(estimator, compression=ZIP_DEFLATED)
        refused = [name for name in skops.io.get_untrusted_types(data=content) if not _is_trusted(name)]
        reason = f"it holds {', '.join(refused)}" if refused else ""
    except (UnsupportedTypeException, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error)
    if reason:
        remedy = "choose an estimator made of scikit-learn's or LightGBM's own parts."
        raise StageFailed(f"{path}: {type(estimator).__name__} cannot be saved without pickle: {reason}; {remedy}")
    write_bytes(path, content)


def load_estimator(path: Path, *, place: str | None = None) -> Any:
    """The fitted estimator in a skops file.

    Args:
        place: what an error names; default: the path.

    Raises:
        BadInput: no such file, a pickle, a damaged file, or one that holds a type outside `TRUSTED_PACKAGES`.
    """
    place = place or str(path)
    try:
        content = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise BadInput.at(place, f"no such file: {path}. Give a file written by skops.io.dump.") from None
    if not content.startswith(b"PK"):
        raise BadInput.at(place, "is no skops file; pickle and joblib files run code when loaded. Save it with skops.io.dump.")
    try:
        found = skops.io.get_untrusted_types(data=content)
        if refused := [name for name in found if not _is_trusted(name)]:
            packages = ", ".join(TRUSTED_PACKAGES)
            raise BadInput.at(place, f"holds {', '.join(refused)}, which is not trusted; only classes of {packages} are loaded.")
        estimator = skops.io.loads(content, trusted=found)
        _check_trees(estimator)
    except BadInput:
        raise
    # skops and the estimators' own __setstate__ fail in many ways on a damaged or crafted file.
    except (BadZipFile, ValueError, TypeError, KeyError, AttributeError, ImportError, IndexError, OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[:1]
        raise BadInput.at(place, f"is damaged, or of another version: {''.join(reason) or type(error).__name__}") from error
    return estimator


def _is_trusted(name: str) -> bool:
    """Is `name` a class defined in a trusted package? Functions never are: called with a file's arguments they can do anything."""
    if name in _HARMLESS:
        return True
    module, _, attribute = name.rpartition(".")
    parts = module.split(".")
    if parts[0] not in TRUSTED_PACKAGES or any(part in _NEVER for part in parts):
        return False
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return False
    if not isinstance(found, type) or found.__module__.split(".")[0] not in TRUSTED_PACKAGES:
        return False
    # Beside estimators, scikit-learn needs its losses, trees and kernels; the boosting packages what is no BaseEstimator.
    return issubclass(found, BaseEstimator) or parts[0] == "sklearn" or found.__name__ in _BOOSTING


def _check_trees(estimator: object) -> None:
    """Refuse trees whose child or feature numbers point outside: compiled code follows them without a check."""
    for part in _parts(estimator, set()):
        state = getattr(part, "__dict__", {})
        if isinstance(tree := state.get("tree_"), Tree):
            leaf = tree.children_left == -1
            _check_nodes(tree.children_left, tree.children_right, tree.feature, leaf, min(tree.n_features, state["n_features_in_"]))
        for tree in (tree for stage in state.get("_predictors", ()) for tree in stage):
            nodes = tree.nodes
            _check_nodes(nodes["left"], nodes["right"], nodes["feature_idx"], nodes["is_leaf"] == 1, state["n_features_in_"])


def _check_nodes(left: NDArray[Any], right: NDArray[Any], feature: NDArray[Any], leaf: NDArray[np.bool_], width: int) -> None:
    parents = np.flatnonzero(~leaf)
    # A child comes after its parent in every tree that scikit-learn grows; so no walk can loop.
    children = [side[parents].astype(np.int64) for side in (left, right)]
    inside = all(((parents < child) & (child < len(leaf))).all() for child in children)
    features = feature[parents].astype(np.int64)
    if not len(leaf) or not inside or (features < 0).any() or (features >= width).any():
        raise ValueError("a decision tree in it points outside itself.")


def _parts(value: object, seen: set[int]) -> Iterator[object]:
    """`value` and everything that it holds, each once."""
    if id(value) in seen:
        return
    seen.add(id(value))
    yield value
    if isinstance(value, dict):
        held: list[object] = list(value.values())
    elif isinstance(value, (list, tuple, set)) or (isinstance(value, np.ndarray) and value.dtype.hasobject):
        held = list(value)
    else:
        held = list(getattr(value, "__dict__", {}).values())
    for part in held:
        yield from _parts(part, seen)
