"""Estimators of the scikit-learn kind as teachers: fitted on the job's rows, or brought along fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.pipeline import Pipeline

from stillroom.core.errors import BadInput, StageFailed, StillroomError
from stillroom.core.fingerprint import fingerprint
from stillroom.core.interrupts import heeding_interrupts
from stillroom.core.protocols import Teacher
from stillroom.core.records import Batch, Column
from stillroom.models.estimator_files import load_estimator
from stillroom.models.estimators import recipe_facts, resolve_estimator
from stillroom.models.fingerprints import estimator_fingerprint
from stillroom.models.labels import class_name
from stillroom.models.prepared import prepare
from stillroom.models.tabular import TabularPredictor, feature_encoder
from stillroom.spec.teacher import EstimatorTeacherSpec
from stillroom.teachers.answers import same_classes
from stillroom.teachers.teacher import PredictorTeacher, TeacherRequest, refuse_trained_on


def build_estimator_teacher(spec: EstimatorTeacherSpec, request: TeacherRequest) -> Teacher | EstimatorRecipe:
    """A recipe for `estimator`, a teacher for `fitted`."""
    if spec.estimator is not None:
        estimator = resolve_estimator(spec.estimator, spec.params, task=request.task, seed=request.seed, place=request.place)
        return EstimatorRecipe(estimator, request.columns, request.place)
    assert spec.fitted is not None
    refuse_trained_on(spec.trained_on, request)
    return fitted_teacher(Path(spec.fitted), columns=request.columns, classes=request.classes, place=f"{request.place}.fitted")


@dataclass(frozen=True, eq=False)
class EstimatorRecipe:
    """An unfitted estimator and the columns that it reads.

    Attributes:
        estimator: never fitted itself, each fit is of a clone. A random_state of None is set from the fit's seed.
    """

    estimator: BaseEstimator
    columns: tuple[Column, ...]
    place: str = "teacher"

    @property
    def fingerprint(self) -> str:
        encoder = feature_encoder(self.columns, self.estimator)  # names the columns and what is done to each
        return fingerprint("estimator-recipe", recipe_facts(self.estimator), recipe_facts(encoder))

    def fit(self, examples: Batch, classes: tuple[str, ...], *, seed: int) -> Teacher:
        """Fit on labelled examples.

        Raises:
            StageFailed: the estimator refuses the rows, with its own words.
        """
        assert examples.target is not None, "a teacher is fitted on labelled rows"
        estimator: Any = clone(self.estimator)
        if estimator.get_params(deep=False).get("random_state", seed) is None:
            estimator.set_params(random_state=seed)
        if type(estimator).__module__.startswith("xgboost") and len(classes) > len(np.unique(examples.target)):
            # XGBoost takes class numbers without a gap only, and here a class is absent. A vote, of one, numbers the others anew.
            estimator = VotingClassifier([("alone", estimator)], voting="soft")
        pipeline = Pipeline([("features", feature_encoder(self.columns, estimator)), ("estimator", estimator)])
        try:
            with heeding_interrupts():
                pipeline.fit(prepare(examples.features, self.columns), examples.target)
        except StillroomError:
            raise
        except Exception as error:  # every library has errors of its own; all of them are about these rows and parameters
            name = type(estimator).__name__
            raise StageFailed(f"{self.place}: {name} could not be fitted on {len(examples)} rows: {error}") from error
        predictor = TabularPredictor(pipeline, classes, self.columns, answers="probabilities" if classes else "values")
        return PredictorTeacher(predictor, lambda: _state(predictor))


def fitted_teacher(path: Path, *, columns: Sequence[Column], classes: tuple[str, ...], place: str = "teacher.fitted") -> Teacher:
    """The fitted estimator or pipeline in a skops file.

    It reads its columns by name where it was fitted on named ones, else all of the job's columns in their order.
    Categories and texts come to it as str, a missing one as "".

    Raises:
        BadInput: not a skops file of trusted types, the wrong task, no predict_proba, or other classes or columns than the data's.
    """
    estimator = load_estimator(path, place=place)
    _check_task(estimator, classes, place)
    if classes:
        same_classes(tuple(class_name(label) for label in estimator.classes_), classes, place=place)
    pipeline = Pipeline([("features", _selection(estimator, columns, place)), ("estimator", estimator)])
    answers = "probabilities" if classes else "values"
    predictor = TabularPredictor(pipeline, classes, columns, answers=answers, labels="names")  # type: ignore[arg-type]
    return PredictorTeacher(predictor, lambda: _state(predictor))


def _check_task(estimator: Any, classes: tuple[str, ...], place: str) -> None:
    name = type(estimator).__name__
    if not hasattr(estimator, "predict"):
        raise BadInput.at(place, f"holds a {name}, which does not predict; save a fitted estimator or pipeline.")
    if is_regressor(estimator) == bool(classes):
        kind, task = ("regressor", "classification") if classes else ("classifier", "regression")
        raise BadInput.at(place, f"holds a {name}, a {kind}; the task is {task}.")
    if classes and not hasattr(estimator, "predict_proba"):
        raise BadInput.at(place, f"holds a {name} without predict_proba; wrap it in CalibratedClassifierCV, or take one that has it.")
    if classes and not hasattr(estimator, "classes_"):
        raise BadInput.at(place, f"holds a {name} that is not fitted; fit it before you save it.")


def _selection(estimator: Any, columns: Sequence[Column], place: str) -> ColumnTransformer:
    """Hands the estimator the columns that it was fitted on, under their names if it knows names."""
    ours = [column.name for column in columns]
    names = [str(name) for name in getattr(estimator, "feature_names_in_", ours)]
    if missing := [name for name in names if name not in ours]:
        raise BadInput.at(place, f"was fitted on columns that the data has not: {', '.join(missing)}. The data's: {', '.join(ours)}.")
    width = getattr(estimator, "n_features_in_", len(names))
    if width != len(names):
        raise BadInput.at(place, f"was fitted on {width} unnamed columns, the data has {len(ours)}: {', '.join(ours)}.")
    selection = ColumnTransformer([("columns", "passthrough", names)], verbose_feature_names_out=False)
    if hasattr(estimator, "feature_names_in_"):
        selection.set_output(transform="pandas")
    kinds = {column.name: 0.0 if column.kind == "numeric" else "" for column in columns}
    return selection.fit(pd.DataFrame([kinds], columns=ours))


def _state(predictor: TabularPredictor) -> str:
    columns = [[column.name, column.kind] for column in predictor.columns]
    return fingerprint("tabular", estimator_fingerprint(predictor.pipeline), list(predictor.classes), columns, version("scikit-learn"))
