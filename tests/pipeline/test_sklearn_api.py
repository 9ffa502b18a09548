"""DistilledClassifier and DistilledRegressor: scikit-learn's own checks, out-of-fold answers, pools, pipelines."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor, RandomForestClassifier
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

import stillroom
from stillroom.core.errors import BadInput
from stillroom.pipeline.sklearn_api import DistilledClassifier, DistilledRegressor

Floats = NDArray[np.float64]
LIGHTGBM = LGBMClassifier(n_estimators=5, n_jobs=1, verbosity=-1)


@parametrize_with_checks(
    [
        DistilledClassifier(ExtraTreesClassifier(5), folds=3, random_state=0),
        DistilledClassifier(ExtraTreesClassifier(5), make_pipeline(StandardScaler(), LogisticRegression()), folds=3, random_state=0),
        DistilledRegressor(ExtraTreesRegressor(5), folds=3, random_state=0),
    ]
)
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


class Recording(ClassifierMixin, BaseEstimator):
    """A teacher that says `share` for the last class it knows, and writes down what it was fitted on and asked."""

    log: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, share: float = 0.3) -> None:
        self.share = share

    def fit(self, X: Any, y: Any) -> Recording:
        self.classes_ = np.unique(y)
        self.log.append(("fit", np.asarray(X).copy()))
        return self

    def predict_proba(self, X: Any) -> Floats:
        self.log.append(("ask", np.asarray(X).copy()))
        rest = (1 - self.share) / (len(self.classes_) - 1)
        return np.tile([rest] * (len(self.classes_) - 1) + [self.share], (len(X), 1))


@pytest.fixture
def log() -> list[tuple[str, Any]]:
    Recording.log.clear()
    return Recording.log


def numbered(n: int = 60, num_classes: int = 2) -> tuple[Floats, NDArray[np.int64]]:
    random = np.random.default_rng(0)
    return np.column_stack([np.arange(n), random.normal(size=n)]).astype(float), np.arange(n) % num_classes


def test_no_row_is_answered_by_a_teacher_that_has_seen_it(log: list[tuple[str, Any]]) -> None:
    X, y = numbered()
    X[30:40] = X[:10]  # copies: seen if they land in another fold
    DistilledClassifier(Recording(), LogisticRegression(), folds=5, random_state=0).fit(X, y)
    answered = []
    for (kind, seen), (asked_kind, asked) in zip(log[::2], log[1::2], strict=True):
        assert (kind, asked_kind) == ("fit", "ask")
        assert not {tuple(row) for row in seen} & {tuple(row) for row in asked}
        answered += [row[0] for row in asked]
    assert len(log) == 10
    assert sorted(answered) == sorted(X[:, 0])


@pytest.mark.parametrize("student", [DecisionTreeClassifier(), LIGHTGBM, LogisticRegression(C=1e6)])
@pytest.mark.parametrize("t", [0.5, 2.0])
def test_the_student_answers_what_the_teacher_answers(student: Any, t: float, log: list[tuple[str, Any]]) -> None:
    X, y = numbered()
    model = DistilledClassifier(Recording(0.3), student, temperature=t, hard_label_weight=0.0, random_state=0).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), np.tile([0.7, 0.3], (60, 1)), atol=1e-4)
    assert len(log) == 10


def test_the_pool_is_answered_by_a_teacher_of_all_rows_and_taught(log: list[tuple[str, Any]]) -> None:
    X, y = numbered()
    pool = X[:25] + np.array([1000.0, 0.0])
    model = DistilledClassifier(Recording(0.2), DecisionTreeClassifier(min_samples_leaf=20), hard_label_weight=0.0, random_state=0)
    assert model.fit(X, y, X_unlabeled=pool) is model
    kinds = [(kind, len(rows)) for kind, rows in log]
    assert sum(size for kind, size in kinds if kind == "ask") == 60 + 25
    assert ("fit", 60) in kinds
    assert model.student_.tree_.weighted_n_node_samples[0] == pytest.approx(85)
    mixed = clone(model).set_params(hard_label_weight=0.5, temperature=1.0, calibrate=False, student__min_samples_leaf=1)
    mixed.fit(X, y, X_unlabeled=pool)
    np.testing.assert_allclose(mixed.predict_proba(pool), np.tile([0.8, 0.2], (25, 1)))  # no label: the teacher alone


@pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, sparse.csr_array])
def test_labelled_rows_in_the_pool_are_not_asked_again(kind: Any) -> None:
    # The whole table as the pool: the teacher fitted on all rows would answer them in sample, and undo the folds.
    X, _ = numbered()
    y = np.random.default_rng(0).integers(0, 2, 60)
    nearest, student = KNeighborsClassifier(1), DecisionTreeClassifier(random_state=0)
    model = DistilledClassifier(nearest, student, hard_label_weight=0.0, calibrate=False, random_state=0)
    alone = model.fit(kind(X), y).predict_proba(kind(X))
    np.testing.assert_array_equal(model.fit(kind(X), y, X_unlabeled=kind(X)).predict_proba(kind(X)), alone)
    assert np.mean(alone.argmax(axis=1) == y) < 0.7  # random labels: nobody knows them who has not seen them
    both = kind(np.vstack([X[:30], X[:7] + 1000]))
    assert clone(model).fit(kind(X), y, X_unlabeled=both).student_.tree_.weighted_n_node_samples[0] == pytest.approx(67)
    regressor = DistilledRegressor(KNeighborsRegressor(1), DecisionTreeRegressor(random_state=0), hard_label_weight=0.0, random_state=0)
    assert clone(regressor).fit(kind(X), y, X_unlabeled=both).student_.tree_.n_node_samples[0] == 67


def test_a_pool_without_rows_is_none() -> None:
    X, y = numbered()
    model = DistilledClassifier(LogisticRegression(), random_state=0)
    np.testing.assert_array_equal(model.fit(X, y, X_unlabeled=X[:0]).predict_proba(X), clone(model).fit(X, y).predict_proba(X))


def test_categories_that_only_the_pool_knows_keep_the_column_categorical() -> None:
    frame, y = people()
    labelled = frame[:80].assign(town=pd.Categorical(frame["town"][:80]))
    pool = frame[80:].assign(town=pd.Categorical(["Ulm", "Trier"] * 20))
    teacher = LGBMClassifier(n_estimators=20, min_child_samples=5, n_jobs=1, verbosity=-1)
    model = DistilledClassifier(teacher, clone(teacher), random_state=0).fit(labelled, y[:80], X_unlabeled=pool)
    assert model.score(labelled, y[:80]) > 0.9


class Gapless(Recording):
    """Like XGBoost's: takes no classes but 0, 1, 2 ... without a gap."""

    def fit(self, X: Any, y: Any) -> Recording:
        assert np.unique(y).tolist() == list(range(len(np.unique(y))))
        return super().fit(X, y)


def test_a_teacher_that_takes_no_gap_meets_none_where_a_class_is_absent(log: list[tuple[str, Any]]) -> None:
    X, y = numbered(60, 3)
    y = np.where(y == 1, np.arange(60) % 5 == 4, y + 1)  # classes 0, 1 and 3
    y[7] = 2
    model = DistilledClassifier(Gapless(0.3), DecisionTreeClassifier(), hard_label_weight=0.0, calibrate=False, random_state=0).fit(X, y)
    assert model.classes_.tolist() == [0, 1, 2, 3]
    answers = model.predict_proba(X)
    assert (answers[:, 3] > 0).all()  # the last class that each teacher knew, not the third


def test_labels_alone_are_the_plain_student_and_the_teacher_is_never_asked(log: list[tuple[str, Any]]) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    names = np.array(["bad", "good"])[y]
    student = make_pipeline(StandardScaler(), LogisticRegression())
    model = DistilledClassifier(Recording(), student, temperature=4.0, hard_label_weight=1.0, random_state=0)
    model.fit(X, names, X_unlabeled=X[:50] + 1)
    np.testing.assert_array_equal(model.predict_proba(X), clone(student).fit(X, names).predict_proba(X))
    assert model.classes_.tolist() == ["bad", "good"]
    assert set(model.predict(X)) == {"bad", "good"}
    assert not log
    values = X[:, 0]
    plain = DecisionTreeRegressor(max_leaf_nodes=5, random_state=0)
    regressor = DistilledRegressor(Ridge(), plain, hard_label_weight=1.0).fit(X[:, 1:], values, X_unlabeled=X[:9, 1:] + 1)
    np.testing.assert_array_equal(regressor.predict(X[:, 1:]), clone(plain).fit(X[:, 1:], values).predict(X[:, 1:]))


def test_a_rare_class_keeps_its_column_and_its_label(log: list[tuple[str, Any]]) -> None:
    X, y = numbered(60, 2)
    y[7] = 5  # one member: the teacher that answers it has never seen its class
    model = DistilledClassifier(Recording(0.3), DecisionTreeClassifier(), hard_label_weight=0.5, temperature=1.0, random_state=0).fit(X, y)
    assert model.classes_.tolist() == [0, 1, 5]
    assert model.predict_proba(X).shape == (60, 3)
    assert model.predict_proba(X)[7, 2] == pytest.approx(1.0)
    assert sum(len(rows) for kind, rows in log if kind == "ask") == 59


def test_calibration_is_kept_where_it_helps_only() -> None:
    X, y = numbered(400)
    y = np.where(np.random.default_rng(1).random(400) < 0.5, 0, 1)
    teacher = Recording(0.95)  # sure of one class, and wrong half of the time
    student = DecisionTreeClassifier(max_leaf_nodes=2)
    calibrated = DistilledClassifier(teacher, student, hard_label_weight=0.0, random_state=0).fit(X, y, X_unlabeled=X[:5] + 0.5)
    assert calibrated.calibration_ is not None
    np.testing.assert_allclose(calibrated.predict_proba(X)[:, 1], 0.5, atol=0.1)
    as_it_is = DistilledClassifier(teacher, student, hard_label_weight=0.0, calibrate=False, random_state=0).fit(X, y)
    assert as_it_is.calibration_ is None
    np.testing.assert_allclose(as_it_is.predict_proba(X)[:, 1], 0.95, atol=1e-6)


def people(n: int = 120) -> tuple[pd.DataFrame, NDArray[np.str_]]:
    random = np.random.default_rng(0)
    age, town = random.normal(40, 10, n), random.choice(["Ulm", "Bonn", "Kiel"], n)
    frame = pd.DataFrame({"age": age, "town": town, "height": random.normal(170, 9, n)})
    return frame, np.where(frame["age"] + 10 * (frame["town"] == "Ulm") > 43, "yes", "no")


def columns() -> ColumnTransformer:
    return ColumnTransformer([("numbers", StandardScaler(), ["age", "height"]), ("town", OneHotEncoder(handle_unknown="ignore"), ["town"])])


def test_behind_a_column_transformer() -> None:
    frame, y = people()
    pipe = make_pipeline(columns(), DistilledClassifier(RandomForestClassifier(8), LogisticRegression(), random_state=0))
    assert pipe.fit(frame, y).score(frame, y) > 0.9
    assert cross_val_score(pipe, frame, y, cv=3).mean() > 0.8
    with config_context(enable_metadata_routing=True):
        inner = DistilledClassifier(RandomForestClassifier(8), LogisticRegression(), random_state=0).set_fit_request(X_unlabeled=True)
        routed = Pipeline([("columns", columns()), ("distilled", inner)], transform_input=["X_unlabeled"])
        routed.fit(frame[:80], y[:80], X_unlabeled=frame[80:])
        assert routed.score(frame, y) > 0.85


@pytest.mark.parametrize("tail", [LogisticRegression(), LGBMClassifier(n_estimators=20, n_jobs=1, verbosity=-1), KNeighborsClassifier(5)])
def test_on_a_data_frame_with_pipelines_inside(tail: Any) -> None:
    frame, y = people()
    weight = 0.0 if isinstance(tail, KNeighborsClassifier) else 0.1
    encoder = columns().set_output(transform="default")
    teacher, student = make_pipeline(columns(), RandomForestClassifier(8)), make_pipeline(encoder, SelectKBest(k=3), tail)
    model = DistilledClassifier(teacher, student, hard_label_weight=weight, random_state=0).fit(frame[:90], y[:90], X_unlabeled=frame[90:])
    assert model.feature_names_in_.tolist() == ["age", "town", "height"]
    assert model.n_features_in_ == 3
    assert model.score(frame, y) > 0.8
    np.testing.assert_allclose(model.predict_proba(frame).sum(axis=1), 1.0)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(frame), model.predict_proba(frame))
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame.rename(columns={"age": "years"}))


def test_a_pipeline_of_one_step_and_one_inside_another_learn_as_their_last_step() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    model = DistilledClassifier(Recording(0.3), random_state=0)

    def answers(student: Any) -> Floats:
        return clone(model).set_params(student=student).fit(X, y).predict_proba(X)

    tree = DecisionTreeClassifier(max_depth=3)
    np.testing.assert_array_equal(answers(make_pipeline(tree)), answers(tree))
    inner = make_pipeline(StandardScaler(), LogisticRegression())
    np.testing.assert_array_equal(answers(make_pipeline(SelectKBest(k=5), inner)), answers(make_pipeline(SelectKBest(k=5), *inner)))


def test_a_students_own_scaling_sees_each_row_once() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    model = DistilledClassifier(Recording(0.3), make_pipeline(StandardScaler(), LogisticRegression()), random_state=0).fit(X, y)
    scaler = model.student_[0]
    assert scaler.n_samples_seen_ == len(X)
    np.testing.assert_allclose(scaler.mean_, X.mean(axis=0))


def test_sparse_rows() -> None:
    X, y = numbered(80)
    y = (X[:, 1] > 0).astype(int)
    dense = DistilledClassifier(LogisticRegression(), LogisticRegression(), random_state=0).fit(X, y, X_unlabeled=X[:5] + 1)
    thin = DistilledClassifier(LogisticRegression(), LogisticRegression(), random_state=0).fit(
        sparse.csr_array(X), y, X_unlabeled=sparse.csr_array(X[:5] + 1)
    )
    np.testing.assert_allclose(thin.predict_proba(sparse.csr_array(X)), dense.predict_proba(X), atol=1e-3)


def test_missing_values_pass_where_both_estimators_take_them() -> None:
    X, y = numbered(80)
    X[::7, 1] = np.nan
    model = DistilledClassifier(ExtraTreesClassifier(10), LIGHTGBM, random_state=0).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()
    with pytest.raises(ValueError, match="NaN"):
        DistilledClassifier(ExtraTreesClassifier(10), LogisticRegression()).fit(X, y)


def test_nested_parameters_are_searched_and_cloned() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    model = DistilledClassifier(RandomForestClassifier(5), DecisionTreeClassifier(), random_state=0)
    search = GridSearchCV(model, {"temperature": [1.0, 4.0], "student__max_depth": [1, 3]}, cv=2).fit(X[:200], y[:200])
    assert search.best_params_["student__max_depth"] in (1, 3)
    assert clone(model).get_params()["student__max_depth"] is None
    assert not hasattr(model.teacher, "classes_")


def test_one_seed_one_student() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    X, y = X[:150], y[:150]

    def answers(seed: Any) -> Floats:
        return (
            DistilledClassifier(ExtraTreesClassifier(5), DecisionTreeClassifier(max_depth=3), random_state=seed).fit(X, y).predict_proba(X)
        )

    np.testing.assert_array_equal(answers(1), answers(1))
    np.testing.assert_array_equal(answers(np.random.RandomState(1)), answers(1))
    assert (answers(1) != answers(2)).any()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"hard_label_weight": 1.5}, "hard_label_weight"),
        ({"folds": 1}, "folds: = 1"),
        ({"teacher": RidgeClassifier()}, "RidgeClassifier has no predict_proba"),
        ({"teacher": SVC()}, r"teacher: SVC has no predict_proba; .*CalibratedClassifierCV"),
        ({"teacher": "extra-trees"}, "teacher: = 'extra-trees' is no estimator"),
        ({"teacher": LogisticRegression}, "teacher: .* is no estimator; give an unfitted one"),
        ({"teacher": Ridge()}, r"teacher: = Ridge\(\) is no classifier"),
        ({"student": Ridge(), "hard_label_weight": 1.0}, r"student: = Ridge\(\) is no classifier"),
        ({"teacher": FrozenEstimator(LogisticRegression())}, "teacher: is frozen, .*give the LogisticRegression inside"),
        ({"temperature": "2"}, "temperature: = '2' must be a number"),
        ({"hard_label_weight": None}, "hard_label_weight: = None must be a number"),
        ({"student": RidgeClassifier()}, "RidgeClassifier cannot learn soft labels"),
        ({"student": DecisionTreeClassifier(class_weight="balanced")}, "student.class_weight"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], named: str) -> None:
    X, y = numbered()
    with pytest.raises(ValueError, match=named):
        DistilledClassifier(**{"teacher": LogisticRegression(), **settings}).fit(X, y)


def test_bad_rows_are_refused() -> None:
    X, y = numbered()
    model = DistilledClassifier(LogisticRegression(), random_state=0)
    with pytest.raises(BadInput, match="has 1 class"):
        model.fit(X, np.zeros(60))
    with pytest.raises(BadInput, match="of one kind"):
        model.fit(X, y, X_unlabeled=pd.DataFrame(X))
    with pytest.raises(ValueError, match="3 features, but DistilledClassifier is expecting 2"):
        model.fit(X, y, X_unlabeled=np.ones((4, 3)))
    for missing in (np.nan, None, pd.NA):
        with pytest.raises(BadInput, match="y: holds NaN: 2 of 60 labels are missing"):
            model.fit(X, pd.Series([missing, missing, *y[2:]], dtype=object))


@pytest.mark.parametrize("make", [DistilledClassifier, DistilledRegressor])
def test_where_nobody_can_answer_there_is_nothing_to_learn_without_labels(make: Any) -> None:
    X, y = np.ones((20, 2)), np.arange(20) % 2
    with pytest.raises(BadInput, match="hard_label_weight: = 0, and no row has an answer"):
        make(hard_label_weight=0.0, random_state=0).fit(X, y)
    labelled = make(hard_label_weight=0.5, random_state=0).fit(X, y)
    np.testing.assert_allclose(labelled.predict_proba(X) if make is DistilledClassifier else labelled.predict(X), 0.5)


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_not_taken_for_no_answer(fault: float) -> None:
    X, y = numbered()
    with pytest.raises(BadInput, match="teacher: answers 12 of 12 rows with NaN or infinity"):
        DistilledClassifier(Recording(fault), random_state=0).fit(X, y)
    with pytest.raises(BadInput, match="teacher: answers 12 of 12 rows"):
        DistilledRegressor(Remembering(fault), random_state=0).fit(X, y)


# Regression


class Remembering(RegressorMixin, BaseEstimator):
    """The 1-nearest-neighbour teacher: in sample it only repeats the labels; elsewhere it says `otherwise`."""

    def __init__(self, otherwise: float = -1.0) -> None:
        self.otherwise = otherwise

    def fit(self, X: Any, y: Any) -> Remembering:
        self.known_ = {tuple(row): value for row, value in zip(X, y, strict=True)}
        return self

    def predict(self, X: Any) -> Floats:
        return np.array([self.known_.get(tuple(row), self.otherwise) for row in X])


def test_the_regressors_answers_are_out_of_fold_and_mixed_exactly() -> None:
    X, _ = numbered()
    y = np.arange(60.0)
    seen = DistilledRegressor(Remembering(), DecisionTreeRegressor(), hard_label_weight=0.25, random_state=0)
    np.testing.assert_allclose(seen.fit(X, y).predict(X), 0.75 * -1.0 + 0.25 * y)
    X[30:40], y[30:40] = X[:10], y[:10]  # copies
    np.testing.assert_allclose(seen.fit(X, y).predict(X), 0.75 * -1.0 + 0.25 * y)
    pooled = seen.fit(X, y, X_unlabeled=X[:3] + 1000)
    np.testing.assert_allclose(pooled.predict(X[:3] + 1000), -1.0)


def test_a_classifier_is_no_regressor() -> None:
    X, y = numbered()
    for place in ("teacher", "student"):
        with pytest.raises(BadInput, match=rf"{place}: = DecisionTreeClassifier\(\) is no regressor"):
            DistilledRegressor(**{place: DecisionTreeClassifier()}).fit(X, y)


def test_diabetes_gains_from_answers_out_of_fold() -> None:
    X, y = load_diabetes(return_X_y=True)
    gains = []
    for seed in range(3):
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed)
        student = DecisionTreeRegressor(max_leaf_nodes=12, random_state=0)
        model = DistilledRegressor(ExtraTreesRegressor(30, random_state=0), student, hard_label_weight=0.0, random_state=0)
        gains.append(model.fit(X_train, y_train).score(X_test, y_test) - student.fit(X_train, y_train).score(X_test, y_test))
    assert np.mean(gains) > 0.05


def test_it_is_exported_and_needs_no_torch() -> None:
    assert stillroom.DistilledClassifier is DistilledClassifier
    assert stillroom.DistilledRegressor is DistilledRegressor
    code = "import sys, stillroom.pipeline.sklearn_api; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
