"""The fingerprint of a fitted estimator: over everything that it has learnt, by content."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
from sklearn.neighbors import BallTree, KDTree

from stillroom.core.fingerprint import fingerprint
from stillroom.models.estimators import NO_EFFECT

_ADDRESSES = frozenset({"_stop_words_id"})
"""Attributes in which scikit-learn's text vectorisers keep a memory address."""


def estimator_fingerprint(estimator: object) -> str:
    """Equal for equal learnt state, in any process, and for a copy that was saved and loaded.

    Walks the same state that pickle would store, but hashes it; nothing is executed. Parameters that cannot change an
    answer (threads, chattiness) are left out.

    Raises:
        TypeError: the estimator holds an object without readable state (a lock, an open file, a generator).
    """
    return fingerprint("estimator", _facts(estimator, ()))


def _facts(value: Any, above: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if isinstance(value, np.generic) and not isinstance(value, np.void):
        return _facts(value.item(), above)
    if isinstance(value, np.ndarray):
        return _array_facts(value, above)
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, np.ufunc)):
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
        return ["name", name, _code_facts(value, above) if "<" in name else None]
    if id(value) in above:
        return ["cycle", above[::-1].index(id(value))]
    above = (*above, id(value))
    if isinstance(value, MethodType):
        return ["method", value.__func__.__qualname__, _facts(value.__self__, above)]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return ["attributes", {key: _facts(item, above) for key, item in value.items()}]
        return ["mapping", sorted([fingerprint(_facts(key, above)), _facts(item, above)] for key, item in value.items())]
    if isinstance(value, (list, tuple)):
        return [_facts(item, above) for item in value]
    if isinstance(value, (set, frozenset)):
        return ["set", sorted(fingerprint(_facts(item, above)) for item in value)]
    return _object_facts(value, above)


def _array_facts(array: Any, above: tuple[int, ...]) -> Any:
    if array.dtype.hasobject:
        return ["objects", list(array.shape), [_facts(item, above) for item in array.ravel().tolist()]]
    if array.dtype.names:
        # Field by field: the bytes between the fields of a tree's nodes are whatever was in memory.
        return ["fields", {name: np.ascontiguousarray(array[name]) for name in array.dtype.names}]
    return array


def _code_facts(function: Any, above: tuple[int, ...]) -> Any:
    """A lambda or inner function has no name of its own: its code and what it closes over."""
    code = function.__code__
    constants = [constant for constant in code.co_consts if constant is None or isinstance(constant, (bool, int, float, str, bytes))]
    captured = [_facts(cell.cell_contents, above) for cell in function.__closure__ or ()]
    return [code.co_code, list(code.co_names), constants, captured, _facts(function.__defaults__, above)]


def _object_facts(value: Any, above: tuple[int, ...]) -> Any:
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if name == "lightgbm.basic.Booster":
        return ["object", name, value.model_to_string(num_iteration=-1)]
    if name.startswith("catboost.") and hasattr(value, "get_metadata"):
        value = _without_date(value)
    if isinstance(value, (np.random.RandomState, np.random.Generator)):
        # The seed sequence behind it does not survive a file, and shapes nothing that the state does not.
        generator = value._bit_generator if isinstance(value, np.random.RandomState) else value.bit_generator
        return ["object", name, _facts(generator.state, above)]
    if name.startswith("torch.") and hasattr(value, "untyped_storage"):
        # A tensor's pickled state names its address in memory; its bytes are what it holds, whatever the dtype.
        flat = value.detach().cpu().contiguous().reshape(-1).view(sys.modules["torch"].uint8)
        return ["tensor", str(value.dtype), list(value.shape), flat.numpy()]
    if isinstance(value, (KDTree, BallTree)):
        # The rest of its state counts the questions that it was asked.
        return ["object", name, [_facts(np.asarray(array), above) for array in value.get_arrays()]]
    reduced = value.__reduce_ex__(2)
    if isinstance(reduced, str):
        return ["object", name, reduced]
    build, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    if isinstance(state, Mapping) and hasattr(value, "get_params"):
        state = {key: part for key, part in state.items() if key not in NO_EFFECT | _ADDRESSES}
    held = (arguments, state, None if items is None else list(items), None if pairs is None else dict(pairs))
    return ["object", name, _facts(build, above), *(_facts(part, above) for part in held)]


def _without_date(model: Any) -> Any:
    """A copy of a CatBoost model without the moment of its training and the random number that it was given."""
    copy = model.copy()
    if copy.is_fitted():
        notes = copy.get_metadata()
        for key in ("model_guid", "train_finish_time"):
            notes[key] = ""
    return copy
