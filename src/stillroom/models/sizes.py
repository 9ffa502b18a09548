"""How large a predictor is, in numbers that it has learnt."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.core.protocols import Predictor
from stillroom.models.locate import locate_model
from stillroom.models.manifest import MANIFEST, read_manifest


def count_parameters(predictor: Predictor) -> int | None:
    """The learnt numbers of a predictor; None where they cannot be counted (an ONNX graph, nearest neighbours, a user's object).

    Linear models and multi-layer perceptrons: weights and intercepts. Trees: nodes, leaves included, a different unit, so
    compare trees with trees. torch models: parameters. Ensembles and calibrated predictors: the sum over their parts.
    """
    if hasattr(predictor, "members"):
        return _sum([count_parameters(member) for member in predictor.members])
    if hasattr(predictor, "base"):
        return count_parameters(predictor.base)
    if hasattr(predictor, "estimator"):
        return _estimator_count(predictor.estimator)
    parameters = getattr(getattr(predictor, "model", None), "parameters", None)
    return sum(int(tensor.numel()) for tensor in parameters()) if callable(parameters) else None


def _estimator_count(estimator: Any) -> int | None:
    if hasattr(estimator, "coefs_"):
        return int(sum(array.size for array in (*estimator.coefs_, *estimator.intercepts_)))
    if hasattr(estimator, "tree_"):
        return int(estimator.tree_.node_count)
    if hasattr(estimator, "booster_"):
        return _booster_count(estimator.booster_)
    if hasattr(estimator, "_predictors"):
        return sum(len(tree.nodes) for stage in estimator._predictors for tree in stage)
    if hasattr(estimator, "coef_"):
        return int(np.size(estimator.coef_) + np.size(estimator.intercept_))
    parts = [_estimator_count(part) for part in _parts(estimator)]
    return _sum(parts) if parts else None


def _sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _booster_count(booster: Any) -> int:
    """A tree of L leaves has L - 1 splits."""
    return sum(2 * int(line.partition("=")[2]) - 1 for line in booster.model_to_string().splitlines() if line.startswith("num_leaves="))


def _parts(estimator: Any) -> Iterator[Any]:
    """The fitted estimators that an estimator is made of."""
    members = [*getattr(estimator, "estimators_", ()), *getattr(estimator, "calibrated_classifiers_", ())]
    # Gradient boosting keeps an array of trees, a row a round; `estimator_` beside members is their unfitted template.
    yield from np.ravel(np.array(members, dtype=object))
    names = ("final_estimator_", "regressor_", "best_estimator_") if members else ("estimator_", "regressor_", "best_estimator_")
    yield from (getattr(estimator, name) for name in names if hasattr(estimator, name))
    if type(estimator).__name__ == "_CalibratedClassifier":
        yield estimator.estimator


def size_on_disk(folder: Path) -> int | None:
    """Bytes of a saved predictor's files; of one that only says where it lies, of the files there. None where these are out of reach."""
    named = read_manifest(folder).get("model") if (folder / MANIFEST).is_file() else None
    place = folder if named is None else Path(locate_model(named))
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) if place.is_dir() else None
