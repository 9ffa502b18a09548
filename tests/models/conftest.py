"""A small table with every kind of column, missing values in each, and students fitted on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from stillroom.core.records import Column
from stillroom.models.estimators import resolve_estimator
from stillroom.models.tabular import TabularPredictor, feature_encoder, prepare

COLUMNS = (Column("size", "numeric"), Column("age", "numeric"), Column("colour", "categorical"), Column("note", "text"))
CLASSES = ("low", "middle", "high")


@pytest.fixture(scope="session")
def table() -> pd.DataFrame:
    """200 rows; `size` and `colour` decide the class, see `codes`."""
    source = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": source.normal(size=200),
            "age": np.where(source.random(200) < 0.2, np.nan, source.normal(50, 10, size=200)),
            "colour": source.choice(["red", "green", "blue"], size=200),
            "note": source.choice(["all is well", "nothing is well", "well well"], size=200),
        }
    )
    frame.loc[::17, "colour"] = None
    frame.loc[::19, "note"] = None
    return frame


@pytest.fixture(scope="session")
def codes(table: pd.DataFrame) -> np.ndarray[Any, Any]:
    return (table["size"] > 0).to_numpy().astype(np.int64) + (table["colour"] == "red").to_numpy()


@pytest.fixture(scope="session")
def fitted(table: pd.DataFrame, codes: np.ndarray[Any, Any]) -> Callable[..., TabularPredictor]:
    """fitted(name, **params): a student of that short name, fitted on the table; `target` replaces the codes.

    Students of the codes are shared between tests: leave them as they are.
    """

    kept: dict[str, TabularPredictor] = {}

    def fit(name: str, *, target: Any = None, seed: int = 0, classes: tuple[str, ...] = CLASSES, **params: Any) -> TabularPredictor:
        if target is not None:
            return fit_anew(name, target, seed, classes, params)
        key = repr((name, seed, classes, params))
        return kept.setdefault(key, kept.get(key) or fit_anew(name, codes, seed, classes, params))

    def fit_anew(name: str, target: Any, seed: int, classes: tuple[str, ...], params: dict[str, Any]) -> TabularPredictor:
        task: Any = "classification" if classes else "regression"
        estimator = resolve_estimator(name, params, task=task, seed=seed, place="student")
        pipeline = Pipeline([("features", feature_encoder(COLUMNS, estimator)), ("estimator", estimator)])
        pipeline.fit(prepare(table, COLUMNS), target)
        return TabularPredictor(pipeline, classes, COLUMNS, answers="probabilities" if classes else "values")

    return fit
