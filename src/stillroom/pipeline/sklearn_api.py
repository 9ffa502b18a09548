"""Distillation as two scikit-learn estimators: arrays in, a fitted student out; no job file, no store, no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from numbers import Real
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, RegressorMixin, is_classifier, is_regressor
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils import assert_all_finite, check_consistent_length, check_random_state, column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from stillroom.core.errors import BadInput
from stillroom.core.interrupts import heeding_interrupts
from stillroom.core.records import Calibration
from stillroom.data.folds import deal
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

    def _check_settings(self) -> None:
        """Refuse settings of the wrong kind; above all a teacher or a student that is no unfitted estimator of the task."""
        if not (isinstance(self.folds, (int, np.integer)) and self.folds >= 2):
            raise BadInput.at("folds", f"= {self.folds!r} must be a whole number, 2 or more.")
        for name in ("temperature", "hard_label_weight"):
            if not isinstance(getattr(self, name, 1.0), Real):
                raise BadInput.at(name, f"= {getattr(self, name)!r} must be a number.")
        fits, kind = (is_classifier, "classifier") if isinstance(self, ClassifierMixin) else (is_regressor, "regressor")
        for place, part in (("teacher", self._teacher()), ("student", self._student())):
            if isinstance(part, type) or not hasattr(part, "__sklearn_tags__"):
                raise BadInput.at(place, f"= {part!r} is no estimator; give an unfitted one, such as {type(self)()._teacher()!r}.")
            if isinstance(part, FrozenEstimator):
                remedy = f"give the {type(part.estimator).__name__} inside it; copies of that are fitted."
                raise BadInput.at(place, f"is frozen, so it cannot be fitted without the rows that it answers; {remedy}")
            if not fits(part):
                raise BadInput.at(place, f"= {part!r} is no {kind}, which a {type(self).__name__} needs.")

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
        self._check_settings()
        X = self._rows(X, fitting=True, least=2)
        y = column_or_1d(y, warn=True)
        if num_missing := int(pd.isna(y).sum()):
            raise BadInput.at("y", f"holds NaN: {num_missing} of {len(y)} labels are missing. Give such rows as X_unlabeled, not in X.")
        assert_all_finite(y, input_name="y")
        check_consistent_length(X, y)
        return X, y

    def _with_pool(self, X: Any, X_unlabeled: Any) -> tuple[Any, Any]:
        """The rows of both, and the pool alone: None without one.

        Copies of a labelled row leave the pool: who answers it has seen them, with their labels.
        """
        if X_unlabeled is None:
            return X, None
        if hasattr(X, "iloc") != hasattr(X_unlabeled, "iloc"):
            raise BadInput.at("X_unlabeled", "and X must be of one kind: two DataFrames, or two arrays.")
        pool = self._rows(X_unlabeled, fitting=False, least=0)
        both, n = _stacked(X, pool), X.shape[0]
        groups = _groups(both)
        fresh = np.flatnonzero(~np.isin(groups[n:], groups[:n]))
        if not len(fresh):
            return X, None
        return _take(both, np.concatenate([np.arange(n), n + fresh])), _take(pool, fresh)

    def _folds(self, X: Any, codes: NDArray[np.int64]) -> Iterator[FoldRows]:
        """(rows to fit a teacher on, rows to ask it about): none if there are too few. Copies of a row share a fold."""
        groups = _groups(X)
        num_folds = min(int(self.folds), int(np.bincount(codes).max()), len(np.unique(groups)))
        if num_folds >= 2:
            fold_of = deal(groups, codes, num_folds, self._seed)
            yield from ((np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(num_folds))

    def _learn(self, student: Any, X: Any, hints: NDArray[Any], learn: Any) -> Learnt:
        """Fit the student; of a Pipeline, the steps before the last one see the rows once, the last one the soft targets.

        Args:
            X: the rows that the objective looks at.
            hints: (n,) targets for steps that want some.
            learn: (estimator, inputs) -> Learnt.
        """
        if not len(hints):
            found = "= 0, and no row has an answer: a teacher has to be fitted without the rows that it answers, and their copies"
            raise BadInput.at("hard_label_weight", f"{found}. Give more different rows of each class, or set it above 0.")
        if not isinstance(student, Pipeline):
            return learn(student, X)  # type: ignore[no-any-return]
        *before, (name, last) = student.steps
        if before:
            head = seeded(Pipeline(before), self._seed)
            X, before = head.fit_transform(X, hints), head.steps
        learnt = self._learn(last, X, hints, learn)
        return replace(learnt, estimator=Pipeline([*before, (name, learnt.estimator)]))


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
        rows, pool = self._with_pool(X, X_unlabeled)
        self.calibration_: Calibration | None = None
        probs = self._answers(X, codes, pool, num_classes) if self.hard_label_weight < 1 else None
        codes = np.concatenate([codes, np.full(rows.shape[0] - len(codes), -1)]).astype(np.int64)
        used = rows_used(codes, probs, objective)
        # Steps that want a target get the label, and the teacher's opinion where there is none.
        hints = codes if probs is None else np.where(codes >= 0, codes, np.nan_to_num(probs).argmax(axis=1))
        answers = None if probs is None else probs[used]

        def learn(student: Any, inputs: Any) -> Learnt:
            return learn_classes(
                student, inputs, codes[used], answers, objective, num_classes=num_classes, seed=self._seed, place="student"
            )

        self._learnt = self._learn(self._student(), _take(rows, used), hints[used], learn)
        self.student_ = self._learnt.estimator
        return self

    def predict_proba(self, X: Any) -> Floats:
        """(n, K) probabilities in the order of `classes_`."""
        check_is_fitted(self)
        X = self._rows(X, fitting=False)
        if self._learnt.answers == "logits":
            return np.asarray(np.exp(log_softmax(self.student_.predict(X), axis=1)))
        probs = np.zeros((X.shape[0], len(self.classes_)))
        probs[:, np.asarray(self.student_.classes_, dtype=np.intp)] = self.student_.predict_proba(X)
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
            remedy = "take a classifier that has one, or wrap it: CalibratedClassifierCV(..., ensemble=False)"
            raise BadInput.at("teacher", f"{type(self._teacher()).__name__} has no predict_proba; {remedy}.")
        probs = np.full((len(codes), num_classes), np.nan)
        for fit_rows, answer_rows in self._folds(X, codes):
            known = answer_rows[np.isin(codes[answer_rows], codes[fit_rows])]
            if len(known) and len(np.unique(codes[fit_rows])) > 1:
                probs[known] = self._ask(_take(X, fit_rows), codes[fit_rows], _take(X, known), num_classes)
        if self.calibrate:
            found = calibrate(probs, codes.astype(np.int64), seed=self._seed)
            self.calibration_ = found if found.kept else None
        if pool is not None:
            probs = np.vstack([probs, self._ask(X, codes, pool, num_classes)])
        return probs if self.calibration_ is None else apply_calibration(probs, self.calibration_)

    def _ask(self, X: Any, codes: NDArray[np.int64], asked: Any, num_classes: int) -> Floats:
        """(m, K) what the teacher fitted on `X` answers to the rows `asked`; zeros for a class that it has not seen."""
        # Numbered from 0 without a gap: XGBoost takes no other classes.
        present, numbers = np.unique(codes, return_inverse=True)
        with heeding_interrupts():
            teacher = seeded(self._teacher(), self._seed).fit(X, numbers)
        probs = np.zeros((asked.shape[0], num_classes))
        probs[:, present] = _finite(teacher.predict_proba(asked))
        return probs


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
        rows, pool = self._with_pool(X, X_unlabeled)
        values = self._answers(X, y, pool) if objective.hard_label_weight < 1 else None
        labels = np.concatenate([y, np.full(rows.shape[0] - len(y), np.nan)])
        targets, weights = value_targets(labels, values, objective.hard_label_weight)
        used = np.flatnonzero(weights > 0)

        def learn(student: Any, inputs: Any) -> Learnt:
            return learn_values(student, inputs, targets[used], weights[used], seed=self._seed)

        self.student_ = self._learn(self._student(), _take(rows, used), targets[used], learn).estimator
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
        values = np.full(len(y), np.nan)
        for fit_rows, answer_rows in self._folds(X, np.zeros(len(y), dtype=np.int64)):
            values[answer_rows] = self._ask(_take(X, fit_rows), y[fit_rows], _take(X, answer_rows))
        return values if pool is None else np.concatenate([values, self._ask(X, y, pool)])

    def _ask(self, X: Any, y: Floats, asked: Any) -> Floats:
        """(m,) what the teacher fitted on `X` answers to the rows `asked`."""
        with heeding_interrupts():
            teacher = seeded(self._teacher(), self._seed).fit(X, y)
        return np.ravel(_finite(teacher.predict(asked)))


def _take(X: Any, rows: NDArray[np.intp]) -> Any:
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def _finite(answers: Any) -> Floats:
    """A teacher's answers. One that is NaN would pass for a row that nobody was asked about."""
    values: Floats = np.asarray(answers, dtype=np.float64)
    if num_bad := int((~np.isfinite(values).reshape(len(values), -1).all(axis=1)).sum()):
        reason = "an answer has to be finite. Does it cope with missing or extreme values?"
        raise BadInput.at("teacher", f"answers {num_bad} of {len(values)} rows with NaN or infinity; {reason}")
    return values


def _stacked(X: Any, pool: Any) -> Any:
    """The rows of both."""
    if not hasattr(X, "iloc"):
        return sparse.vstack([X, pool], format="csr") if sparse.issparse(X) else np.vstack([X, pool])
    # Categories that differ would make it a column of strings, which LightGBM refuses.
    for name in X.columns[[isinstance(dtype, pd.CategoricalDtype) for dtype in X.dtypes]]:
        if isinstance(pool[name].dtype, pd.CategoricalDtype):
            categories = X[name].cat.categories.append(pool[name].cat.categories).unique()
            X, pool = (frame.assign(**{name: frame[name].cat.set_categories(categories)}) for frame in (X, pool))
    return pd.concat([X, pool], ignore_index=True)


def _groups(X: Any) -> NDArray[np.intp]:
    """(n,) equal numbers for equal rows: copies of a row must share a fold, or the teacher has seen what it answers."""
    if not sparse.issparse(X):
        rows = pd.util.hash_pandas_object(X if hasattr(X, "iloc") else pd.DataFrame(X), index=False).to_numpy()
    else:
        table = sparse.csr_array(X, copy=True)
        table.sum_duplicates()
        table.eliminate_zeros()
        cells = [table.indices[a:b].tobytes() + table.data[a:b].tobytes() for a, b in pairwise(table.indptr)]
        rows = np.array(cells, dtype=object)
    return np.asarray(pd.factorize(rows)[0])
