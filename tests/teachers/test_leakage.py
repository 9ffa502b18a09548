from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine, make_classification
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stillroom.core.records import LeakFinding
from stillroom.teachers.leakage import find_leak

LOADERS = {"breast_cancer": load_breast_cancer, "digits": load_digits, "iris": load_iris, "wine": load_wine}


def finding(estimator: BaseEstimator, x: NDArray[np.float64], y: NDArray[np.int64], seed: int = 0) -> LeakFinding:
    method = "predict_proba" if is_classifier(estimator) else "predict"
    folds = KFold(5, shuffle=True, random_state=seed)
    out_of_fold = cross_val_predict(estimator, x, y, cv=folds, method=method)
    in_sample = getattr(clone(estimator).fit(x, y), method)(x)
    classes = tuple(str(i) for i in range(y.max() + 1)) if is_classifier(estimator) else ()
    return find_leak(in_sample, out_of_fold, y, classes=classes)


@pytest.mark.parametrize("name", LOADERS)
def test_one_nearest_neighbour_is_flagged_on_every_real_table(name: str) -> None:
    x, y = LOADERS[name](return_X_y=True)
    for seed in range(5):
        rows = np.random.default_rng(seed).permutation(len(x))[:400]
        found = finding(KNeighborsClassifier(1), x[rows], y[rows], seed)
        assert found.leaks
        assert found.in_sample_entropy == 0.0
        assert found.message.startswith("The teacher knows its training rows by heart: accuracy 1.000 on them, ")
        assert found.message.endswith("in-sample labels would repeat the hard labels.")


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.5])
@pytest.mark.parametrize("num", [40, 300])
def test_one_nearest_neighbour_is_flagged_over_seeds_even_where_it_is_never_wrong(num: int, noise: float) -> None:
    for seed in range(20):
        x, y = make_classification(num, n_classes=3, n_informative=5, flip_y=noise, class_sep=3, random_state=seed)
        assert finding(KNeighborsClassifier(1), x, y, seed).leaks


def test_one_nearest_neighbour_that_met_contradicting_twins_is_flagged() -> None:
    """Equal rows with unequal labels keep its in-sample accuracy below one."""
    for seed in range(20):
        x, y = make_classification(200, n_informative=5, flip_y=0.2, random_state=seed)
        x, y = np.concatenate([x, x[:10]]), np.concatenate([y, 1 - y[:10]])
        found = finding(KNeighborsClassifier(1), x, y, seed)
        assert found.in_sample_fit < 1.0
        assert found.leaks


def test_interpolating_trees_are_flagged_and_regression_knows_it_too() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    assert finding(ExtraTreesClassifier(30, random_state=0), x, y).leaks
    x, y = load_diabetes(return_X_y=True)
    for estimator in (KNeighborsRegressor(1), ExtraTreesRegressor(30, random_state=0)):
        found = finding(estimator, x, y)
        assert found.leaks
        assert found.in_sample_entropy is None
        assert "R squared 1.000 on them" in found.message
    assert not finding(Ridge(), x, y).leaks


def test_an_honest_regularised_teacher_is_not_flagged() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    assert not finding(make_pipeline(StandardScaler(), LogisticRegression()), x, y).leaks
    for seed in range(20):
        x, y = make_classification(500, n_features=10, n_informative=5, flip_y=0.1, random_state=seed)
        found = finding(LogisticRegression(), x, y, seed)
        assert not found.leaks, (seed, found)
        assert found.message.startswith("The teacher answers its training rows much as it answers others")


def test_an_exact_law_is_not_taken_for_memory() -> None:
    x = np.random.default_rng(0).normal(size=(100, 4))
    assert not finding(LinearRegression(), x, x @ [1.0, 2.0, 3.0, 4.0]).leaks


def test_figures_are_those_of_the_rows_with_both_answers_and_a_label() -> None:
    target = np.array([0, 1, 0, 1, -1, 0])
    inside = np.eye(2)[[0, 1, 0, 1, 0, 0]]
    outside = np.array([[0.5, 0.5], [0.2, 0.8], [0.4, 0.6], [0.9, 0.1], [1.0, 0.0], [np.nan, np.nan]])
    found = find_leak(inside, outside, target, classes=("a", "b"))
    assert found.n == 4
    assert found.in_sample_fit == 1.0
    assert found.out_of_fold_fit == 0.5  # row 0 is a tie, which argmax gives to the first class
    entropies = [-sum(p * np.log(p) for p in row) for row in outside[:4].tolist()]
    assert found.out_of_fold_entropy == pytest.approx(np.mean(entropies))
    nobody = find_leak(inside, np.full((6, 2), np.nan), target, classes=("a", "b"))
    assert (nobody.leaks, nobody.n) == (False, 0)
    assert "Not checked" in nobody.message


def test_a_difference_of_one_unlucky_row_is_no_finding() -> None:
    """Doubt halves, but by one row of 200: that is chance, and harmless."""
    target = np.zeros(200, dtype=np.int64)
    inside, outside = np.tile([0.999, 0.001], (200, 1)), np.tile([0.999, 0.001], (200, 1))
    outside[0] = [0.5, 0.5]
    assert not find_leak(inside, outside, target, classes=("a", "b")).leaks
