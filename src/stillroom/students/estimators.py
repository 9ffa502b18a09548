"""Estimator students: an unfitted scikit-learn-compatible estimator and the encoder that suits it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.core.records import Column, Task
from stillroom.models.estimators import resolve_estimator
from stillroom.models.tabular import feature_encoder
from stillroom.spec.student import EstimatorStudentSpec

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator
    from sklearn.compose import ColumnTransformer


@dataclass(frozen=True, eq=False)
class StudentRecipe:
    """What training fits: the estimator (unfitted; clone it before fitting) and the columns it reads."""

    estimator: BaseEstimator
    columns: tuple[Column, ...]

    def encoder(self) -> ColumnTransformer:
        """A new unfitted encoder of prepared features (see `stillroom.models.prepared.prepare`) for the estimator."""
        return feature_encoder(self.columns, self.estimator)


def build_student(spec: EstimatorStudentSpec, *, task: Task, columns: Sequence[Column], seed: int) -> StudentRecipe:
    """The student that the job names.

    Raises:
        BadInput: an unknown estimator or parameter, or one that does not fit the task.
    """
    estimator = resolve_estimator(spec.estimator, spec.params, task=task, seed=seed, place="student")
    return StudentRecipe(estimator, tuple(columns))
