"""Estimator students: every family learns the teacher's distribution, and hard labels alone are the control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier

from stillroom.core.errors import BadInput
from stillroom.core.records import Batch, Column
from stillroom.models.load import load_predictor
from stillroom.models.tabular import TabularPredictor, feature_encoder
from stillroom.objectives.soft_labels import SoftLabels
from stillroom.training.copies import fit_copies
from stillroom.training.estimators import fit_classifier, fit_regressor, learn_classes, value_targets

Floats = NDArray[np.float64]
TEMPERATURES = [0.5, 1.0, 2.0, 4.0]
NAN = np.nan

STUDENTS: dict[str, Any] = {
    "lightgbm": LGBMClassifier(n_estimators=40, learning_rate=0.3, min_child_samples=5, n_jobs=1, verbosity=-1),
    "gradient-boosting": HistGradientBoostingClassifier(max_iter=40, learning_rate=0.3, random_state=0),
    "classic-boosting": GradientBoostingClassifier(n_estimators=30, learning_rate=0.3, random_state=0),
    "decision-tree": DecisionTreeClassifier(min_samples_leaf=10),
    "entropy-tree": ExtraTreeClassifier(criterion="entropy"),
    "random-forest": RandomForestClassifier(10, bootstrap=False, random_state=0),
    "extra-trees": ExtraTreesClassifier(10, random_state=0),
    "logistic-regression": LogisticRegression(C=1e5),
    "mlp": MLPClassifier((8,), learning_rate_init=0.01, max_iter=2000, tol=1e-6, n_iter_no_change=50, random_state=0),
    "knn": KNeighborsClassifier(50),
    "gaussian-process": GaussianProcessClassifier(random_state=0),
}
TEACHERS = {2: np.array([[0.7, 0.3], [0.2, 0.8]]), 3: np.array([[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]])}


@dataclass
class SomeRecipe:
    estimator: Any
    columns: Sequence[Column]

    def encoder(self) -> Any:
        return feature_encoder(self.columns, self.estimator)


def batch_of(x: Floats, target: NDArray[Any] | None = None) -> Batch:
    frame = pd.DataFrame({f"x{i}": x[:, i] for i in range(x.shape[1])})
    return Batch(frame, np.array([str(i) for i in range(len(x))]), target)


def recipe_for(estimator: Any, num_features: int = 1) -> SomeRecipe:
    return SomeRecipe(estimator, [Column(f"x{i}", "numeric") for i in range(num_features)])


def fitted(estimator: Any, batch: Batch, probs: Floats | None, objective: SoftLabels, num_classes: int) -> TabularPredictor:
    classes = [f"class {k}" for k in range(num_classes)]
    return fit_classifier(recipe_for(estimator, batch.features.shape[1]), batch, probs, objective, classes=classes, seed=0)[0]


def two_groups(num_classes: int, rows: int = 50) -> tuple[Batch, Floats, Floats]:
    """Two groups of identical rows, whose labels come up exactly as often as the teacher says."""
    teacher = TEACHERS[num_classes]
    random = np.random.default_rng(0)
    codes = [random.permutation(np.repeat(np.arange(num_classes), np.round(p * rows).astype(int))) for p in teacher]
    x = np.repeat([[0.0], [1.0]], rows, axis=0)
    return batch_of(x, np.concatenate(codes)), np.repeat(teacher, rows, axis=0), teacher


def a_table(n: int = 300, num_classes: int = 3, seed: int = 0) -> tuple[Batch, Floats]:
    """Rows with a smooth teacher and labels drawn from it."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(n, 3)).astype(np.float32).astype(np.float64)
    logits = x @ random.normal(size=(3, num_classes)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    codes = np.array([random.choice(num_classes, p=row) for row in p])
    return batch_of(x, codes), p


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("name", STUDENTS)
def test_a_70_30_label_is_learnt_as_70_30(name: str, t: float, num_classes: int) -> None:
    batch, p, teacher = two_groups(num_classes)
    for w, tolerance in ((0.0, 0.004), (0.1, 0.012)):
        student = fitted(STUDENTS[name], batch, p, SoftLabels(t, w), num_classes)
        answers = student.predict_values(batch.features.iloc[[0, -1]].reset_index(drop=True))
        np.testing.assert_allclose(answers, teacher, atol=tolerance)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_xgboost_learns_a_70_30_label_as_70_30(num_classes: int) -> None:
    xgboost = pytest.importorskip("xgboost")
    batch, p, teacher = two_groups(num_classes)
    student = xgboost.XGBClassifier(n_estimators=60, min_child_weight=0, n_jobs=1)
    for t in TEMPERATURES:
        answers = fitted(student, batch, p, SoftLabels(t, 0.0), num_classes).predict_values(batch.features.iloc[[0, -1]])
        np.testing.assert_allclose(answers, teacher, atol=0.004)


@pytest.mark.parametrize("name", ["random-forest", "extra-trees"])
def test_a_bootstrap_draws_rows_not_classes(name: str) -> None:
    # A forest's own bootstrap over class copies would draw 70 without 30 and pull a deep leaf towards the even split.
    x = np.arange(40, dtype=np.float64)[:, None]
    p = np.tile([0.7, 0.3], (40, 1))
    forest = clone(STUDENTS[name]).set_params(bootstrap=True, n_estimators=20)
    student = fitted(forest, batch_of(x), p, SoftLabels(2.0, 0.0), 2)
    np.testing.assert_allclose(student.predict_values(batch_of(x).features), p, atol=1e-9)
    trees = student.estimator.estimators_
    assert len(trees) == 20
    assert len({tree.tree_.weighted_n_node_samples[0].round(6) for tree in trees}) == 1  # as many draws each
    assert any((tree.tree_.n_node_samples[0] < 80) for tree in trees)  # and not all rows in each
    assert student.estimator.get_params() == forest.get_params()


@pytest.mark.parametrize("name", [*STUDENTS, "svm"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_labels_alone_are_the_control_prediction_for_prediction(name: str, num_classes: int) -> None:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    estimator = CalibratedClassifierCV(SVC(random_state=0), cv=3, ensemble=False) if name == "svm" else STUDENTS[name]
    if name == "mlp":
        estimator = clone(estimator).set_params(tol=0.01, n_iter_no_change=5)
    batch, p = a_table(120, num_classes)
    codes = np.asarray(batch.target).copy()
    codes[60:] = -1  # a pool, whose answers must not even shape the encoder
    student = fitted(estimator, batch_of(batch.features.to_numpy(), codes), p, SoftLabels(3.0, 1.0), num_classes)
    control = fitted(estimator, batch.take(np.arange(60)), None, SoftLabels(1.0, 1.0), num_classes)
    np.testing.assert_array_equal(student.predict_values(batch.features), control.predict_values(batch.features))


@pytest.mark.parametrize("t", [1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_lightgbm_comes_to_its_own_objective_as_labels_take_over(num_classes: int, t: float) -> None:
    batch, p = a_table(200, num_classes)
    near = fitted(STUDENTS["lightgbm"], batch, p, SoftLabels(t, 1 - 1e-9), num_classes)
    limit = fitted(STUDENTS["lightgbm"], batch, p, SoftLabels(t, 1.0), num_classes)
    np.testing.assert_allclose(near.predict_values(batch.features), limit.predict_values(batch.features), atol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_lightgbms_penalties_keep_their_strength_beside_a_pool(num_classes: int) -> None:
    batch, p, _ = two_groups(num_classes)
    codes, labelled = np.asarray(batch.target).copy(), np.arange(100) % 2 == 0
    codes[~labelled] = -1
    estimator = LGBMClassifier(n_estimators=5, reg_lambda=30.0, min_child_samples=1, n_jobs=1, verbosity=-1)
    near = fitted(estimator, batch_of(batch.features.to_numpy(), codes), p, SoftLabels(2.0, 1 - 1e-9), num_classes)
    control = fitted(estimator, batch.take(np.flatnonzero(labelled)), None, SoftLabels(2.0, 1.0), num_classes)
    np.testing.assert_allclose(near.predict_values(batch.features), control.predict_values(batch.features), atol=1e-6)


@pytest.mark.parametrize("t", [0.5, 3.0])
def test_a_linear_student_goes_evenly_to_its_control_while_the_pool_fades(t: float) -> None:
    batch, p = a_table(200)
    codes, x = np.asarray(batch.target).copy(), batch.features.to_numpy()
    codes[150:] = -1
    estimator, objective = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000), SoftLabels(t, 1 - 1e-7)
    near = learn_classes(estimator, x, codes, p, objective, num_classes=3, seed=0)
    limit = learn_classes(estimator, x[:150], codes[:150], None, objective, num_classes=3, seed=0)
    assert near.logit_scale == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(near.estimator.predict_proba(x), limit.estimator.predict_proba(x), atol=1e-4)


COUNTING = {
    "tree": DecisionTreeClassifier(min_samples_leaf=7, min_samples_split=25, random_state=0),
    "shares": DecisionTreeClassifier(min_samples_leaf=0.06, min_samples_split=0.2, criterion="log_loss", random_state=0),
    "bare tree": ExtraTreeClassifier(random_state=0),
    "coarse tree": DecisionTreeClassifier(min_samples_leaf=120),
    "forest": RandomForestClassifier(5, bootstrap=False, min_samples_leaf=3, random_state=0),
    "classic boosting": GradientBoostingClassifier(n_estimators=5, min_samples_leaf=9, random_state=0),
    "boosting": HistGradientBoostingClassifier(max_iter=5, min_samples_leaf=30, random_state=0),
    "regression": LogisticRegression(C=0.3, tol=1e-10),
    "naive bayes": GaussianNB(),
}


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_copies_of_hard_labels_give_the_very_estimator_of_the_hard_labels(name: str, num_classes: int) -> None:
    # min_samples_leaf and its like, penalties and learning rates all keep their meaning.
    batch, _ = a_table(200, num_classes)
    x, codes = batch.features.to_numpy(), np.asarray(batch.target)
    copies = fit_copies(clone(COUNTING[name]), x, np.eye(num_classes)[codes], place="student.params")
    plain = clone(COUNTING[name]).fit(x, codes)
    np.testing.assert_allclose(copies.predict_proba(x), plain.predict_proba(x), atol=1e-7)


@pytest.mark.parametrize("name", ["decision-tree", "logistic-regression", "gradient-boosting"])
def test_at_temperature_1_it_is_the_plain_mix(name: str) -> None:
    # Sixty-fourths and a quarter, so that both mixes are the same floats: of two equal splits a tree takes either for a rounding's sake.
    batch, p = a_table()
    p = np.floor(64 * p) / 64
    p[np.arange(len(p)), p.argmax(axis=1)] += 1 - p.sum(axis=1)
    one_hot = np.eye(3)[np.asarray(batch.target)]
    mixed = fitted(STUDENTS[name], batch, p, SoftLabels(1.0, 0.25), 3)
    plain = fitted(STUDENTS[name], batch, 0.75 * p + 0.25 * one_hot, SoftLabels(1.0, 0.0), 3)
    np.testing.assert_allclose(mixed.predict_values(batch.features), plain.predict_values(batch.features), atol=1e-9)
    assert mixed.logit_scale == 1.0


@pytest.mark.parametrize("name", ["lightgbm", "decision-tree", "gradient-boosting", "random-forest", "logistic-regression"])
def test_temperature_and_weight_act(name: str) -> None:
    # TabTune's trees ignore both.
    batch, p = a_table()
    estimator = clone(STUDENTS[name])
    if name == "logistic-regression":
        estimator.set_params(C=0.1)
    if name in ("decision-tree", "random-forest"):
        estimator.set_params(max_depth=3)

    def answers(t: float, w: float) -> Floats:
        return fitted(estimator, batch, p, SoftLabels(t, w), 3).predict_values(batch.features)

    base = answers(1.0, 0.2)
    assert np.abs(answers(4.0, 0.2) - base).max() > 0.01
    assert np.abs(answers(1.0, 0.9) - base).max() > 0.01


def test_logistic_regression_is_the_least_point_of_the_penalised_objective() -> None:
    # C * n * T**2 * KL(p_T || q_T) + |beta|**2 / 2, minimised here by a general optimiser: T**2 and C keep their meaning.
    from scipy.optimize import minimize
    from scipy.special import softmax

    batch, p = a_table(80, 3)
    x = batch.features.to_numpy()
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    t, c = 3.0, 0.2
    p_t = p ** (1 / t) / (p ** (1 / t)).sum(axis=1, keepdims=True)

    def loss(flat: Floats) -> float:
        beta = flat.reshape(4, 3)
        q_t = softmax((x @ beta[1:] + beta[0]) / t, axis=1)
        return float(c * t * t * (p_t * np.log(p_t / q_t)).sum() + 0.5 * (beta[1:] ** 2).sum())

    beta = minimize(loss, np.zeros(12), tol=1e-12, options={"maxiter": 5000}).x.reshape(4, 3)
    student = fitted(LogisticRegression(C=c, tol=1e-10, max_iter=5000), batch, p, SoftLabels(t, 0.0), 3)
    np.testing.assert_allclose(student.predict_values(batch.features), softmax(x @ beta[1:] + beta[0], axis=1), atol=2e-4)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_lightgbm_descends_the_objective_and_starts_from_the_prior(num_classes: int) -> None:
    batch, p = a_table(300, num_classes)
    objective = SoftLabels(2.0, 0.2)
    recipe = recipe_for(LGBMClassifier(n_estimators=30, n_jobs=1, verbosity=-1), 3)
    student, curve = fit_classifier(recipe, batch, p, objective, classes=[str(k) for k in range(num_classes)], seed=0)
    losses = [point.value for point in curve]
    assert [point.step for point in curve] == list(range(31))
    assert losses == sorted(losses, reverse=True)
    codes = np.asarray(batch.target)
    constant = np.tile(objective.prior_logits(p, codes), (300, 1))
    assert losses[0] == pytest.approx(objective.loss(constant, p, codes).mean(), rel=1e-9)
    logits = np.log(student.predict_values(batch.features))
    assert losses[-1] == pytest.approx(objective.loss(logits, p, codes).mean(), rel=1e-6)


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("t", [1.0, 4.0])
def test_lightgbm_that_cannot_split_answers_the_teachers_mean(num_classes: int, t: float) -> None:
    batch, _, teacher = two_groups(num_classes, 10)
    objective = SoftLabels(t, 0.0)
    same = np.tile(teacher[0], (20, 1))
    constant = batch_of(np.zeros((20, 1)), np.asarray(batch.target))
    for rows in (batch, constant):  # too few rows for a leaf; and nothing to split on at all
        student = fitted(LGBMClassifier(n_estimators=1, n_jobs=1, verbosity=-1), rows, same, objective, num_classes)
        np.testing.assert_allclose(student.predict_values(rows.features), same, atol=1e-6)


def test_the_lightgbm_student_is_an_ordinary_classifier() -> None:
    batch, p = a_table()
    given = LGBMClassifier(n_estimators=7, num_leaves=5, min_split_gain=0.01, n_jobs=1, verbosity=-1, random_state=3)
    student = fitted(given, batch, p, SoftLabels(2.0, 0.1), 3).estimator
    assert type(student) is LGBMClassifier
    assert student.get_params() == given.get_params()
    assert student.booster_.num_trees() == 21
    assert student.classes_.tolist() == [0, 1, 2]
    assert "objective=multiclass" in student.booster_.model_to_string()
    np.testing.assert_allclose(student.predict_proba(batch.features.to_numpy()).sum(axis=1), 1.0)


def test_a_leaf_holds_as_many_rows_as_it_must() -> None:
    batch, p = a_table(100)
    for w in (0.0, 0.1):
        tree = fitted(DecisionTreeClassifier(min_samples_leaf=12), batch, p, SoftLabels(2.0, w), 3).estimator.tree_
        leaves = tree.children_left == -1
        assert tree.n_leaves > 3
        assert tree.n_node_samples[leaves].min() >= 12 * 3
    bagged = RandomForestClassifier(5, min_samples_leaf=12, max_samples=0.5, random_state=0)
    for member in fitted(bagged, batch, p, SoftLabels(2.0, 0.0), 3).estimator.estimators_:
        weights = member.tree_.weighted_n_node_samples
        assert weights[0] == pytest.approx(50)
        assert weights[member.tree_.children_left == -1].min() >= 12 - 1e-4
        assert member.tree_.n_leaves > 1


def test_numbers_of_numpy_are_counted_as_pythons() -> None:
    # As a search over np.arange hands them in.
    batch, p = a_table(200, 2)
    x, masses = batch.features.to_numpy(), SoftLabels(2.0, 0.0).targets(p, np.full(200, -1))
    settings: dict[Any, list[dict[str, int]]] = {
        DecisionTreeClassifier(random_state=0): [{"min_samples_leaf": 1, "min_samples_split": 40}, {"min_samples_leaf": 20}],
        RandomForestClassifier(3, random_state=0): [{"max_samples": 10}],
    }
    for estimator, each in settings.items():
        for numbers in each:
            plain = fit_copies(clone(estimator).set_params(**numbers), x, masses, place="")
            arrays = {key: np.int64(value) for key, value in numbers.items()}
            same = fit_copies(clone(estimator).set_params(**arrays), x, masses, place="")
            np.testing.assert_array_equal(same.predict_proba(x), plain.predict_proba(x))


@pytest.mark.filterwarnings("ignore:.*Maximum iterations")
def test_nothing_stops_early_on_copies_and_the_parameters_come_back() -> None:
    batch, p = a_table(100)
    students = [
        MLPClassifier((4,), early_stopping=True, max_iter=3, tol=0, n_iter_no_change=10, batch_size=10, random_state=0),
        HistGradientBoostingClassifier(early_stopping=True, max_iter=12, n_iter_no_change=1, tol=1.0),
        GradientBoostingClassifier(n_iter_no_change=1, n_estimators=12, tol=1.0),
        RandomForestClassifier(5, oob_score=True, max_samples=0.5),
    ]
    rounds = []
    for estimator in students:
        student = fitted(estimator, batch, p, SoftLabels(2.0, 0.1), 3).estimator
        assert {**student.get_params(), "random_state": None} == {**estimator.get_params(), "random_state": None}
        rounds.append(getattr(student, "n_iter_", None) or len(student.estimators_))
    assert rounds == [3, 12, 12, 5]


@pytest.mark.filterwarnings("ignore:.*Maximum iterations")
def test_an_mlp_takes_as_many_steps_as_on_hard_labels() -> None:
    batch, p = a_table(100)
    mlp = MLPClassifier((4,), max_iter=3, batch_size=10, random_state=0)
    student = fitted(mlp, batch, p, SoftLabels(2.0, 0.1), 3).estimator
    control = fitted(mlp, batch, None, SoftLabels(2.0, 0.1), 3).estimator
    assert student._optimizer.t == control._optimizer.t == 30


@pytest.mark.parametrize("name", ["lightgbm", "decision-tree", "logistic-regression", "gradient-boosting", "random-forest"])
def test_a_class_that_only_the_teacher_knows_is_learnt(name: str) -> None:
    batch, p, teacher = two_groups(3)
    codes = np.asarray(batch.target).copy()
    codes[codes == 2] = -1  # absent from the labelled rows
    student = fitted(STUDENTS[name], batch_of(batch.features.to_numpy(), codes), p, SoftLabels(2.0, 0.0), 3)
    np.testing.assert_allclose(student.predict_values(batch.features.iloc[[0, 60]]), teacher, atol=0.004)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_class_that_nobody_knows_has_no_share(name: str) -> None:
    batch, p, _ = two_groups(2)
    wide = np.column_stack([p[:, 0], np.zeros(len(p)), p[:, 1]])
    codes = np.where(np.asarray(batch.target) == 1, 2, 0)
    for probs, w in ((wide, 0.1), (None, 1.0)):
        answers = fitted(STUDENTS[name], batch_of(batch.features.to_numpy(), codes), probs, SoftLabels(2.0, w), 3)
        if name != "lightgbm" and hasattr(answers.estimator, "classes_"):
            assert answers.estimator.classes_.tolist() == [0, 2]
        shares = answers.predict_values(batch.features.iloc[[0]])
        assert shares.shape == (1, 3)
        assert shares[0, 1] < 1e-3
        assert shares[0, 0] == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("name", ["lightgbm", "decision-tree", "logistic-regression", "gradient-boosting"])
def test_rows_without_an_answer_are_trained_on_their_labels(name: str) -> None:
    batch, p, teacher = two_groups(2)
    p = p.copy()
    p[50:] = NAN  # the second group was never answered, but its labels say 20/80
    estimator = clone(STUDENTS[name])
    if name == "decision-tree":
        estimator.set_params(min_samples_leaf=5)  # counted by weight, and these rows carry the labels' share alone
    student = fitted(estimator, batch, p, SoftLabels(1.0, 0.3), 2)
    np.testing.assert_allclose(student.predict_values(batch.features.iloc[[0, 60]]), teacher, atol=0.01)
    without = fitted(STUDENTS[name], batch, p, SoftLabels(1.0, 0.0), 2)  # w = 0 never looks at the labels
    alone = fitted(STUDENTS[name], batch.take(np.arange(50)), p[:50], SoftLabels(1.0, 0.0), 2)
    np.testing.assert_array_equal(without.predict_values(batch.features), alone.predict_values(batch.features))


@pytest.mark.parametrize("name", ["lightgbm", "decision-tree", "knn"])
def test_the_pool_is_learnt_from(name: str) -> None:
    batch, p, teacher = two_groups(2)
    codes = np.asarray(batch.target).copy()
    codes[50:] = -1
    student = fitted(STUDENTS[name], batch_of(batch.features.to_numpy(), codes), p, SoftLabels(2.0, 0.0), 2)
    np.testing.assert_allclose(student.predict_values(batch.features.iloc[[0, 60]]), teacher, atol=0.004)
    unlabeled = fitted(STUDENTS[name], batch.without_target(), p, SoftLabels(2.0, 0.0), 2)
    np.testing.assert_array_equal(student.predict_values(batch.features), unlabeled.predict_values(batch.features))


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (AdaBoostClassifier(), "AdaBoostClassifier cannot learn soft labels"),
        (BaggingClassifier(), "BaggingClassifier cannot learn soft labels"),
        (LGBMClassifier(class_weight="balanced"), "student.params.class_weight"),
        (LGBMClassifier(objective="multiclassova"), "student.params.objective"),
        (LGBMClassifier(is_unbalance=True), "student.params.is_unbalance"),
        (LGBMClassifier(boosting_type="rf", subsample=0.5, subsample_freq=1, verbosity=-1), "cannot be fitted"),
        (LGBMClassifier(linear_tree=True, n_estimators=3, n_jobs=1, verbosity=-1), "linear_tree"),
        (DecisionTreeClassifier(class_weight="balanced"), "student.params.class_weight"),
        (GradientBoostingClassifier(subsample=0.5), "student.params.subsample"),
        (DecisionTreeClassifier(max_depth=-1), "cannot be fitted"),
    ],
)
def test_what_cannot_learn_soft_labels_says_so(estimator: Any, named: str) -> None:
    batch, p = a_table(100)
    with pytest.raises(BadInput, match=named):
        fitted(estimator, batch, p, SoftLabels(2.0, 0.1), 3)


@pytest.mark.parametrize("name", ["knn", "gaussian-process"])
def test_students_without_row_weights_refuse_a_partly_labelled_mix(name: str) -> None:
    batch, p, _ = two_groups(2)
    codes = np.asarray(batch.target).copy()
    codes[50:] = -1
    with pytest.raises(BadInput, match="takes no row weights"):
        fitted(STUDENTS[name], batch_of(batch.features.to_numpy(), codes), p, SoftLabels(2.0, 0.1), 2)


@pytest.mark.parametrize("name", STUDENTS)
def test_a_student_survives_its_folder(name: str, tmp_path: Path) -> None:
    batch, p = a_table(60)
    estimator = clone(STUDENTS[name])
    if name == "knn":
        estimator.set_params(n_neighbors=5)
    student = fitted(estimator, batch, p, SoftLabels(2.0, 0.1), 3)
    student.save(tmp_path / "student")
    again = load_predictor(tmp_path / "student")
    np.testing.assert_array_equal(again.predict_values(batch.features), student.predict_values(batch.features))


def test_the_seed_fills_what_the_recipe_leaves_open() -> None:
    batch, p = a_table(100)

    def answers(estimator: Any, seed: int) -> Floats:
        recipe = recipe_for(estimator, 3)
        return fit_classifier(recipe, batch, p, SoftLabels(2.0, 0.1), classes=["a", "b", "c"], seed=seed)[0].predict_values(batch.features)

    open_one, fixed = RandomForestClassifier(5), RandomForestClassifier(5, random_state=7)
    np.testing.assert_array_equal(answers(open_one, 1), answers(open_one, 1))
    assert (answers(open_one, 1) != answers(open_one, 2)).any()
    np.testing.assert_array_equal(answers(fixed, 1), answers(fixed, 2))
    assert open_one.random_state is None


def test_naive_bayes_learns_the_teachers_shares() -> None:
    batch, p = a_table(400, 2)
    student = fitted(GaussianNB(), batch, p, SoftLabels(1.0, 0.0), 2)
    np.testing.assert_allclose(student.estimator.class_prior_, p.mean(axis=0), rtol=1e-9)


# Regression


def test_values_are_mixed_exactly() -> None:
    labels = np.array([1.0, NAN, 3.0, NAN])
    values = np.array([2.0, 5.0, NAN, NAN])
    targets, weights = value_targets(labels, values, 0.25)
    np.testing.assert_allclose(targets, [0.75 * 2 + 0.25 * 1, 5.0, 3.0, 0.0])
    np.testing.assert_allclose(weights, [1.0, 0.75, 0.25, 0.0])
    targets, weights = value_targets(labels, None, 0.25)
    np.testing.assert_allclose(targets[weights > 0], [1.0, 3.0])


def values_table(n: int = 120) -> tuple[Batch, Floats]:
    random = np.random.default_rng(0)
    x = random.normal(size=(n, 2)).astype(np.float32).astype(np.float64)
    return batch_of(x, x[:, 0] + random.normal(size=n)), x[:, 0] * 0.9


def predictions(estimator: Any, batch: Batch, values: Floats | None, w: float) -> Floats:
    student, _ = fit_regressor(recipe_for(estimator, 2), batch, values, hard_label_weight=w, seed=0)
    return student.predict_values(batch.features)


REGRESSORS = [
    LinearRegression(),
    DecisionTreeRegressor(max_leaf_nodes=8, random_state=0),
    LGBMRegressor(n_estimators=20, n_jobs=1, verbosity=-1),
    KNeighborsRegressor(),
    GaussianProcessRegressor(alpha=0.1, random_state=0),
]


@pytest.mark.parametrize("estimator", REGRESSORS, ids=lambda e: type(e).__name__)
def test_a_regressor_learns_the_mix_and_its_limits(estimator: Any) -> None:
    batch, values = values_table()
    labels = np.asarray(batch.target)
    for w in (0.0, 0.3):
        plain = batch_of(batch.features.to_numpy(), (1 - w) * values + w * labels)
        np.testing.assert_allclose(predictions(estimator, batch, values, w), predictions(estimator, plain, None, 1.0), rtol=1e-7, atol=1e-9)
    part = labels.copy()
    part[60:] = NAN
    pooled = batch_of(batch.features.to_numpy(), part)
    control = fit_regressor(recipe_for(estimator, 2), batch.take(np.arange(60)), None, hard_label_weight=0.5, seed=0)[0]
    np.testing.assert_array_equal(predictions(estimator, pooled, values, 1.0), control.predict_values(batch.features))


def test_the_pool_of_a_regression_weighs_less_as_labels_count_more() -> None:
    batch, values = values_table()
    labels = np.asarray(batch.target).copy()
    labels[60:] = NAN
    pooled = batch_of(batch.features.to_numpy(), labels)
    x, w = batch.features.to_numpy(), 0.4
    design = np.column_stack([np.ones(len(x)), x])
    targets = np.where(np.isnan(labels), values, 0.6 * values + 0.4 * labels)
    weights = np.where(np.isnan(labels), 0.6, 1.0)
    root = np.sqrt(weights)
    want = design @ np.linalg.lstsq(design * root[:, None], targets * root, rcond=None)[0]
    np.testing.assert_allclose(predictions(LinearRegression(), pooled, values, w), want, rtol=1e-6)
    near, limit = (predictions(LinearRegression(), pooled, values, w) for w in (1 - 1e-9, 1.0))
    np.testing.assert_allclose(near, limit, atol=1e-5)
    with pytest.raises(BadInput, match="takes no row weights"):
        predictions(KNeighborsRegressor(), pooled, values, w)
