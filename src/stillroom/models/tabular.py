"""Tables in, predictions out: the feature encoder and the predictor that every estimator shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils import get_tags

from stillroom.core.records import Column
from stillroom.models.estimator_files import load_estimator, save_estimator
from stillroom.models.labels import Labels, class_codes
from stillroom.models.manifest import read_manifest, write_manifest
from stillroom.models.prepared import prepare

Answers = Literal["probabilities", "logits", "values"]

MODEL_FILE = "model.skops"
MAX_CATEGORIES = 256
"""Categories a column keeps apart; rarer ones beyond share one."""
MAX_WORDS, MAX_WORDS_DENSE = 20_000, 1_000
"""Words a text column keeps, by frequency, for estimators that take sparse matrices and for those that do not."""

_TREE_MODULES = ("sklearn.tree", "sklearn.ensemble")
_TAKES_NAN = ("lightgbm", "xgboost", "catboost", "tabpfn", "tabicl", "sklearn.ensemble._hist_gradient_boosting")
"""Modules whose estimators handle NaN, and unscaled numbers. scikit-learn's other trees take NaN too, but ONNX exports lose it."""


@dataclass(frozen=True)
class ColumnsWithMissing:
    """A column selection of scikit-learn's ColumnTransformer: those of `names` that have a missing value in training."""

    names: tuple[str, ...]

    def __call__(self, features: pd.DataFrame) -> list[str]:
        return [name for name in self.names if features[name].isna().any()]


def feature_encoder(columns: Sequence[Column], estimator: BaseEstimator) -> ColumnTransformer:
    """An unfitted encoder of prepared features (see `prepare`) into the numbers that `estimator` takes.

    numeric: as they are, NaN included, where the estimator copes; else the median and a column that says "was missing"
    (scikit-learn's MissingIndicator, only for columns with missing values in training), scaled unless it is a tree.
    categorical: one-hot; missing is a category; one unseen in training is all zeros, or joins the rare ones.
    text: tf-idf of words.
    """
    imputes, scales = _needs(estimator)
    sparse = bool(get_tags(estimator).input_tags.sparse)
    names = {kind: [column.name for column in columns if column.kind == kind] for kind in ("numeric", "categorical", "text")}
    steps: list[tuple[str, Any, Any]] = []
    if names["numeric"]:
        steps.append(("numeric", _numeric_encoder(imputes=imputes, scales=scales), names["numeric"]))
        if imputes:
            steps.append(("missing", MissingIndicator(features="all"), ColumnsWithMissing(tuple(names["numeric"]))))
    if names["categorical"]:
        one_hot = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=MAX_CATEGORIES)
        steps.append(("categorical", one_hot, names["categorical"]))
    words = MAX_WORDS if sparse else MAX_WORDS_DENSE
    # A single name, not a list: the vectoriser takes one column of strings.
    steps += [(f"text_{i}", TfidfVectorizer(max_features=words, sublinear_tf=True), name) for i, name in enumerate(names["text"])]
    return ColumnTransformer(steps, sparse_threshold=0.3 if sparse else 0.0)


class TabularPredictor:
    """A fitted pipeline of encoder and estimator, with its classes in the task's order.

    Args:
        pipeline: two steps, "features" and "estimator", fitted on prepared features (see `prepare`).
        classes: the task's class names in code order; () for regression.
        columns: the features, in the encoder's order.
        logit_scale: s > 0; probabilities become p**s, renormalised. Undoes the temperature of a student that was fitted
            to tempered targets.
        answers: "probabilities": the pipeline has predict_proba. "logits": its predict gives (n, K) logits. "values":
            its predict gives (n,) values.
        labels: what the estimator's classes_ are: codes into `classes`, or names (a classifier fitted elsewhere).

    Raises:
        BadInput: labels are names, and the estimator knows a class that `classes` lacks.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        classes: Sequence[str],
        columns: Sequence[Column],
        *,
        logit_scale: float = 1.0,
        answers: Answers = "probabilities",
        labels: Labels = "codes",
    ) -> None:
        assert (answers == "values") == (not classes), "values for regression, probabilities or logits for classes"
        assert logit_scale > 0, logit_scale
        self.pipeline, self.logit_scale, self.answers, self.labels = pipeline, logit_scale, answers, labels
        self.classes: tuple[str, ...] = tuple(classes)
        self.columns: tuple[Column, ...] = tuple(columns)
        if answers == "probabilities":
            self._codes = class_codes(pipeline.classes_, self.classes, labels=labels)

    @property
    def estimator(self) -> Any:
        """The last step of the pipeline."""
        return self.pipeline.steps[-1][1]

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`, or (n,) values. A class absent from the fit has probability 0."""
        prepared = prepare(features, self.columns)
        if not len(prepared):
            return np.zeros((0, len(self.classes)) if self.classes else 0)
        if self.answers == "values":
            return np.asarray(self.pipeline.predict(prepared), dtype=np.float64).reshape(len(prepared))
        if self.answers == "logits":
            logits = np.asarray(self.pipeline.predict(prepared), dtype=np.float64)
            return _softmax(self.logit_scale * logits)
        probs = np.zeros((len(prepared), len(self.classes)))
        probs[:, self._codes] = self.pipeline.predict_proba(prepared)
        return scaled_probabilities(probs, self.logit_scale)

    def save(self, folder: Path) -> None:
        """Write model.skops and predictor.json into `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        save_estimator(self.pipeline, folder / MODEL_FILE)
        write_manifest(
            folder,
            kind="tabular",
            classes=self.classes,
            columns=self.columns,
            logit_scale=float(self.logit_scale),
            answers=self.answers,
            labels=self.labels,
        )


def load(folder: Path) -> TabularPredictor:
    """The predictor that `TabularPredictor.save` wrote."""
    facts = read_manifest(folder)
    return TabularPredictor(
        load_estimator(folder / MODEL_FILE),
        facts["classes"],
        facts["columns"],
        logit_scale=facts["logit_scale"],
        answers=facts["answers"],
        labels=facts["labels"],
    )


def scaled_probabilities(probs: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """(n, K) probs**scale, rows summing to 1. Computed in log space: no power underflows a whole row; a zero stays zero."""
    with np.errstate(divide="ignore"):
        log_probs = np.log(probs)
    return _softmax(scale * log_probs)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(softmax(logits, axis=1), dtype=np.float64)


def _numeric_encoder(*, imputes: bool, scales: bool) -> Any:
    # A column without any value in training is kept, as zeros: dropping it would shift the columns behind it.
    imputer = SimpleImputer(strategy="median", keep_empty_features=True)
    if imputes and scales:
        return make_pipeline(imputer, StandardScaler())
    return imputer if imputes else "passthrough"


def _needs(estimator: BaseEstimator) -> tuple[bool, bool]:
    """(imputes, scales): what the numeric columns need. An estimator around others needs what any of them needs."""
    if inner := list(_inner_estimators(estimator)):
        needs = [_needs(part) for part in inner]
        return any(imputes for imputes, _ in needs), any(scales for _, scales in needs)
    module = type(estimator).__module__
    takes_nan = module.startswith(_TAKES_NAN)
    return not takes_nan, not takes_nan and not module.startswith(_TREE_MODULES)


def _inner_estimators(estimator: BaseEstimator) -> Iterator[BaseEstimator]:
    for value in estimator.get_params(deep=False).values():
        parts = [part[-1] if isinstance(part, tuple) else part for part in value] if isinstance(value, list) else [value]
        yield from (part for part in parts if hasattr(part, "get_params") and hasattr(part, "fit") and not isinstance(part, type))
