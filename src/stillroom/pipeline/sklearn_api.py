"""Distillation as two scikit-learn estimators: arrays in, a fitted student out; no job file, no store, no torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, RegressorMixin
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from stillroom.core.errors import BadInput
from stillroom.core.records import Calibration
from stillroom.models.calibrated import apply_calibration
from stillroom.models.tabular import scaled_probabilities
from stillroom.objectives.soft_labels import SoftLabels
from stillroom.teachers.calibration import calibrate
from stillroom.training.estimators import Learnt, learn_classes, learn_values, rows_used, seeded, value_targets

Floats = NDArray[np.float64]
FoldRows = tuple[NDArray[np.intp], NDArray[np.intp]]

_NUM_TREES = 200
_NUM_LEAVES = 32


class _Distilled(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """What both estimators share: checked rows, out-of-fold answers, and a student that may be a Pipeline."""

    teacher: Any
    student: Any
    hard_label_weight: float
    folds: int
    random_state: Any

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        parts = [get_tags(self._teacher()).input_tags, get_tags(self._student()).input_tags]
        tags.input_tags.allow_nan = all(part.allow_nan for part in parts)
        tags.input_tags.sparse = all(part.sparse for part in parts)
        return tags

    def _teacher(self) -> Any:
        raise NotImplementedError

    def _student(self) -> Any:
        raise NotImplementedError

    def _rows(self, X: Any, *, fitting: bool, least: int = 1) -> Any:
        """`X` checked against the fit. A DataFrame is left as it is: what its columns hold is for the estimators inside."""
        if hasattr(X, "iloc"):
            if fitting and len(X) < least:
                raise BadInput.at("X", f"has {len(X)} sample(s) (n_samples = {len(X)}), while a minimum of {least} is required.")
            return validate_data(self, X, reset=fitting, skip_check_array=True)
        tags = get_tags(self).input_tags
        kinds = {"accept_sparse": "csr" if tags.sparse else False, "ensure_all_finite": "allow-nan" if tags.allow_nan else True}
        return validate_data(self, X, reset=fitting, ensure_min_samples=least, **kinds)

    def _rows_and_target(self, X: Any, y: Any) -> tuple[Any, Any]:
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None.")
        X = self._rows(X, fitting=True, least=2)
        y = column_or_1d(y, warn=True)
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
        if not (isinstance(self.folds, (int, np.integer)) and self.folds >= 2):
            raise BadInput.at("folds", f"= {self.folds!r} must be a whole number, 2 or more.")
        return X, y

    def _with_pool(self, X: Any, X_unlabeled: Any) -> tuple[Any, Any, int]:
        """The rows of both, the pool alone (None without one), and its size."""
        if X_unlabeled is None:
            return X, None, 0
        if hasattr(X, "iloc") != hasattr(X_unlabeled, "iloc"):
            raise BadInput.at("X_unlabeled", "and X must be of one kind: two DataFrames, or two arrays.")
        pool = self._rows(X_unlabeled, fitting=False)
        if hasattr(X, "iloc"):
            return pd.concat([X, pool], ignore_index=True), pool, len(pool)
        return (sparse.vstack([X, pool], format="csr") if sparse.issparse(X) else np.vstack([X, pool])), pool, pool.shape[0]

    def _learn(self, X: Any, used: NDArray[np.intp], hints: NDArray[Any], learn: Any) -> Learnt:
        """Fit the student; of a Pipeline, the steps before the last one see the rows once, the last one the soft targets.

        Args:
            used: the rows that the objective looks at.
            hints: (n,) targets for steps that want some.
            learn: (estimator, inputs) -> Learnt.
        """
        student, rows = self._student(), _take(X, used)
        if not isinstance(student, Pipeline) or len(student.steps) == 1:
            return learn(student, rows)  # type: ignore[no-any-return]
        head = seeded(student[:-1], self._seed)
        learnt = learn(student[-1], head.fit_transform(rows, hints[used]))
        pipeline = Pipeline([*head.steps, (student.steps[-1][0], learnt.estimator)])
        return Learnt(pipeline, learnt.answers, learnt.logit_scale, learnt.curve)


class DistilledClassifier(ClassifierMixin, _Distilled):  # type: ignore[misc]
    """A small classifier taught by a big one.

    The teacher labels each training row out of fold, by a copy of it that was not fitted on that row, and the unlabeled
    rows by a copy fitted on all of them. The student is fitted to (1-w) * T**2 * KL(p_T || q_T) + w * cross-entropy.
    A row of a class that a fold's teacher has never seen counts as unanswered, and is learnt from its label.

    Args:
        teacher: an unfitted classifier with predict_proba, a Pipeline too; default ExtraTreesClassifier.
        student: the same; default a decision tree of 32 leaves. Fitted as `stillroom.training.estimators` says: a
            LightGBM classifier by its own gradient, others through weighted class copies.
        temperature: T > 0, divides the logits of both; 1 leaves the teacher's distribution as it is.
        hard_label_weight: w, from 0 (never look at the labels) to 1 (never look at the teacher).
        folds: how many copies of the teacher answer the training rows; fewer where there are fewer rows.
        calibrate: correct the teacher's probabilities where cross-validation over its answers shows a gain.
        random_state: seeds the folds, and teacher and student where they leave it open.

    Attributes:
        classes_: the labels, sorted.
        student_: the fitted student. Its own predict_proba is at the temperature of its training.
        calibration_: the correction of the teacher; None without one.
        n_features_in_, feature_names_in_: as scikit-learn defines them.
    """

    def __init__(
        self,
        teacher: Any = None,
        student: Any = None,
        *,
        temperature: float = 2.0,
        hard_label_weight: float = 0.1,
        folds: int = 5,
        calibrate: bool = True,
        random_state: Any = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.temperature = temperature
        self.hard_label_weight = hard_label_weight
        self.folds = folds
        self.calibrate = calibrate
        self.random_state = random_state

    def fit(self, X: Any, y: Any, X_unlabeled: Any = None) -> Self:
        """Label, calibrate, and fit the student.

        Args:
            X: (n, d) array, sparse matrix or DataFrame.
            y: (n,) labels.
            X_unlabeled: (m, d) more rows, of the kind of X.
        """
        X, y = self._rows_and_target(X, y)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        num_classes = len(self.classes_)
        if num_classes < 2:
            raise BadInput.at("y", f"has 1 class, {self.classes_[0]!r}; a classifier needs at least 2 classes.")
        objective = SoftLabels(self.temperature, self.hard_label_weight)
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rows, pool, pool_size = self._with_pool(X, X_unlabeled)
        self.calibration_: Calibration | None = None
        probs = self._answers(X, codes, pool, num_classes) if self.hard_label_weight < 1 else None
        codes = np.concatenate([codes, np.full(pool_size, -1)]).astype(np.int64)
        used = rows_used(codes, probs, objective)
        # Steps that want a target get the label, and the teacher's opinion where there is none.
        hints = codes if probs is None else np.where(codes >= 0, codes, np.nan_to_num(probs).argmax(axis=1))
        answers = None if probs is None else probs[used]

        def learn(student: Any, inputs: Any) -> Learnt:
            return learn_classes(
                student, inputs, codes[used], answers, objective, num_classes=num_classes, seed=self._seed, place="student"
            )

        self._learnt = self._learn(rows, used, hints, learn)
        self.student_ = self._learnt.estimator
        return self

    def predict_proba(self, X: Any) -> Floats:
        """(n, K) probabilities in the order of `classes_`."""
        check_is_fitted(self)
        X = self._rows(X, fitting=False)
        if self._learnt.answers == "logits":
            return np.asarray(np.exp(log_softmax(self.student_.predict(X), axis=1)))
        probs = _aligned(self.student_, X, len(self.classes_))
        return probs if self._learnt.logit_scale == 1 else scaled_probabilities(probs, self._learnt.logit_scale)

    def predict(self, X: Any) -> NDArray[Any]:
        """(n,) the most probable label."""
        check_is_fitted(self)
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def _teacher(self) -> Any:
        return ExtraTreesClassifier(_NUM_TREES) if self.teacher is None else self.teacher

    def _student(self) -> Any:
        return DecisionTreeClassifier(max_leaf_nodes=_NUM_LEAVES) if self.student is None else self.student

    def _answers(self, X: Any, codes: NDArray[np.intp], pool: Any, num_classes: int) -> Floats:
        """(n + m, K) the teacher's calibrated answers, out of fold for the n labelled rows; NaN where it has none."""
        if not hasattr(self._teacher(), "predict_proba"):
            raise BadInput.at("teacher", f"{type(self._teacher()).__name__} has no predict_proba; use a classifier that has.")
        probs = np.full((len(codes), num_classes), np.nan)
        for fit_rows, answer_rows in self._folds(X, codes):
            known = answer_rows[np.isin(codes[answer_rows], codes[fit_rows])]
            if len(known) and len(np.unique(codes[fit_rows])) > 1:
                teacher = seeded(self._teacher(), self._seed).fit(_take(X, fit_rows), codes[fit_rows])
                probs[known] = _aligned(teacher, _take(X, known), num_classes)
        if pool is not None:
            teacher = seeded(self._teacher(), self._seed).fit(X, codes)
        if self.calibrate:
            found = calibrate(probs, codes.astype(np.int64), seed=self._seed)
            self.calibration_ = found if found.kept else None
        if pool is not None:
            probs = np.vstack([probs, _aligned(teacher, pool, num_classes)])
        return probs if self.calibration_ is None else apply_calibration(probs, self.calibration_)

    def _folds(self, X: Any, codes: NDArray[np.intp]) -> Iterator[FoldRows]:
        groups = _groups(X)
        num_folds = min(int(self.folds), int(np.bincount(codes).max()), len(np.unique(groups)))
        if num_folds >= 2:
            folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=self._seed)
            with warnings.catch_warnings():
                # A class with fewer members than folds is all right: who has not seen it does not answer for it.
                warnings.filterwarnings("ignore", "The least populated class", UserWarning)
                yield from list(folds.split(np.zeros(len(codes)), codes, groups))


class DistilledRegressor(RegressorMixin, _Distilled):  # type: ignore[misc]
    """A small regressor taught by a big one.

    The teacher answers each training row out of fold, and the unlabeled rows after a fit on all of them. The student is
    fitted to (1-w) * (q - p)**2 + w * (q - y)**2, if its own loss is the square.

    Args:
        teacher: an unfitted regressor, a Pipeline too; default ExtraTreesRegressor.
        student: the same; default a decision tree of 32 leaves.
        hard_label_weight, folds, random_state: as in `DistilledClassifier`.

    Attributes:
        student_: the fitted student.
        n_features_in_, feature_names_in_: as scikit-learn defines them.
    """

    def __init__(
        self, teacher: Any = None, student: Any = None, *, hard_label_weight: float = 0.1, folds: int = 5, random_state: Any = None
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.hard_label_weight = hard_label_weight
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Any, y: Any, X_unlabeled: Any = None) -> Self:
        """Label, and fit the student; arguments as in `DistilledClassifier.fit`, with (n,) numbers for y."""
        X, y = self._rows_and_target(X, y)
        y = np.asarray(y, dtype=np.float64)
        objective = SoftLabels(1.0, self.hard_label_weight)  # checks the weight
        self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        rows, pool, pool_size = self._with_pool(X, X_unlabeled)
        values = self._answers(X, y, pool) if objective.hard_label_weight < 1 else None
        labels = np.concatenate([y, np.full(pool_size, np.nan)])
        targets, weights = value_targets(labels, values, objective.hard_label_weight)
        used = np.flatnonzero(weights > 0)

        def learn(student: Any, inputs: Any) -> Learnt:
            return learn_values(student, inputs, targets[used], weights[used], seed=self._seed)

        self.student_ = self._learn(rows, used, targets, learn).estimator
        return self

    def predict(self, X: Any) -> Floats:
        """(n,) values."""
        check_is_fitted(self)
        return np.asarray(self.student_.predict(self._rows(X, fitting=False)), dtype=np.float64).reshape(-1)

    def _teacher(self) -> Any:
        return ExtraTreesRegressor(_NUM_TREES) if self.teacher is None else self.teacher

    def _student(self) -> Any:
        return DecisionTreeRegressor(max_leaf_nodes=_NUM_LEAVES) if self.student is None else self.student

    def _answers(self, X: Any, y: Floats, pool: Any) -> Floats:
        """(n + m,) the teacher's answers, out of fold for the n labelled rows; NaN where it has none."""
        groups, values = _groups(X), np.full(len(y), np.nan)
        num_folds = min(int(self.folds), len(np.unique(groups)))
        if num_folds >= 2:
            folds = GroupKFold(num_folds, shuffle=True, random_state=self._seed)
            for fit_rows, answer_rows in folds.split(np.zeros(len(y)), groups=groups):
                teacher = seeded(self._teacher(), self._seed).fit(_take(X, fit_rows), y[fit_rows])
                values[answer_rows] = np.asarray(teacher.predict(_take(X, answer_rows))).reshape(-1)
        if pool is not None:
            teacher = seeded(self._teacher(), self._seed).fit(X, y)
            values = np.concatenate([values, np.asarray(teacher.predict(pool)).reshape(-1)])
        return values


def _take(X: Any, rows: NDArray[np.intp]) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _aligned(estimator: Any, X: Any, num_classes: int) -> Floats:
    """(n, K) probabilities, a column a code; zeros for a class that the estimator has never seen."""
    probs = np.zeros((X.shape[0], num_classes))
    probs[:, np.asarray(estimator.classes_, dtype=np.intp)] = estimator.predict_proba(X)
    return probs


def _groups(X: Any) -> NDArray[np.uint64]:
    """(n,) equal numbers for equal rows: copies of a row must share a fold, or the teacher has seen what it answers."""
    frame = X if hasattr(X, "iloc") else pd.DataFrame(X.toarray() if sparse.issparse(X) else X)
    return np.asarray(pd.util.hash_pandas_object(frame, index=False), dtype=np.uint64)
