from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris
from sklearn.model_selection import train_test_split

from stillroom.core.errors import BadInput
from stillroom.core.records import Task
from stillroom.models.estimators import ALLOWED_PACKAGES, SHORT_NAMES, recipe_facts, resolve_estimator

INSTALLED = [
    (task, name) for task, names in SHORT_NAMES.items() for name, path in names.items() if path.startswith(("sklearn.", "lightgbm."))
]


def resolve(name: str, params: dict[str, Any] | None = None, task: Task = "classification", seed: int = 0) -> Any:
    return resolve_estimator(name, params or {}, task=task, seed=seed, place="student")


def refusal(name: str, params: dict[str, Any] | None = None, task: Task = "classification") -> str:
    with pytest.raises(BadInput) as caught:
        resolve(name, params, task)
    return str(caught.value)


@pytest.mark.parametrize(("task", "name"), INSTALLED)
def test_every_short_name_is_an_estimator_of_its_task_with_the_seed(task: Task, name: str) -> None:
    estimator = resolve(name, task=task, seed=7)
    params = estimator.get_params()
    assert all(value == 7 for key, value in params.items() if key.split("__")[-1] == "random_state")
    assert type(estimator).__module__.split(".")[0] in ALLOWED_PACKAGES
    assert hasattr(estimator, "predict_proba") == (task == "classification")


@pytest.mark.parametrize("name", sorted({name for task, name in INSTALLED if task == "classification"} - {"gaussian-process"}))
def test_every_classifier_fits_without_a_warning(name: str) -> None:
    X, y = load_iris(return_X_y=True)
    rows, held_out, labels, truth = train_test_split(X, y, stratify=y, random_state=0)
    probs = resolve(name).fit(rows, labels).predict_proba(held_out)
    np.testing.assert_allclose(probs.sum(axis=1), 1.0, atol=1e-6)
    assert (probs.argmax(axis=1) == truth).mean() > 0.85


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_catboost_prints_nothing_and_leaves_no_folder(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("catboost")
    X, y = load_iris(return_X_y=True)
    monkeypatch.chdir(tmp_path)
    estimator = resolve("catboost", {"iterations": 5}, task, seed=7).fit(X, y)
    assert estimator.get_params()["random_state"] == 7
    assert resolve("catboost", {"iterations": 2, "random_seed": 3}, task).fit(X, y).get_params().get("random_state") is None
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_the_gaussian_process_does_not_repeat_its_noisy_targets() -> None:
    X, y = load_diabetes(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    rows, held_out, targets, truth = train_test_split(X, y, train_size=200, random_state=0)
    process = resolve("gaussian-process", task="regression").fit(rows, targets)
    assert process.score(rows, targets) < 0.9
    assert process.score(held_out, truth) > 0.35


def test_params_reach_the_estimator_and_win_over_seed_and_defaults() -> None:
    forest = resolve("random-forest", {"n_estimators": 3, "random_state": 5}, seed=1)
    assert (forest.n_estimators, forest.random_state) == (3, 5)
    assert resolve("logistic-regression", {"max_iter": 7}).max_iter == 7
    assert resolve("logistic-regression").max_iter == 1000
    assert resolve("sklearn.svm.SVR", {"C": 2.0}, task="regression").C == 2.0


def test_a_lightgbm_alias_is_a_parameter() -> None:
    assert resolve("lightgbm", {"bagging_fraction": 0.5, "num_leaves": 4}).get_params()["bagging_fraction"] == 0.5


@pytest.mark.parametrize("params", [{}, {"probability": True}])
@pytest.mark.parametrize("path", ["svm", "sklearn.svm.SVC", "sklearn.svm.NuSVC"])
def test_a_support_vector_classifier_has_probabilities(path: str, params: dict[str, Any]) -> None:
    X, y = load_iris(return_X_y=True)
    machine = resolve(path, params).fit(X, y)
    assert (machine.predict_proba(X).argmax(axis=1) == y).mean() > 0.9


@pytest.mark.parametrize(
    ("name", "task", "says"),
    [
        ("randomforest", "classification", ["student.estimator", "'randomforest'", "did you mean 'random-forest'?"]),
        ("ridge", "classification", ["student.estimator", "'ridge'", "classification"]),
        ("sklearn.svm.SVCC", "classification", ["sklearn.svm has no estimator 'SVCC'", "did you mean 'SVC'?"]),
        ("sklearn.swm.SVC", "classification", ["no module 'sklearn.swm'", "did you mean 'svm'?"]),
        ("pandas.DataFrame", "classification", ["outside the allowed packages", "sklearn, lightgbm"]),
        ("subprocess.Popen", "classification", ["outside the allowed packages"]),
        ("sklearn.base.clone", "classification", ["has no estimator 'clone'"]),
        ("sklearn.utils.Bunch", "classification", ["has no estimator 'Bunch'"]),
        ("sklearn.linear_model.Ridge", "classification", ["Ridge is no classifier", "such as random-forest"]),
        ("sklearn.linear_model.LogisticRegression", "regression", ["LogisticRegression is no regressor", "ridge"]),
        ("sklearn.preprocessing.StandardScaler", "classification", ["StandardScaler is no classifier"]),
        ("sklearn.svm.LinearSVC", "classification", ["LinearSVC has no predict_proba"]),
    ],
)
def test_a_wrong_name_is_refused_with_what_is_meant_or_allowed(name: str, task: Task, says: list[str]) -> None:
    message = refusal(name, task=task)
    assert all(part in message for part in says), message


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("decision-tree", {"max_dept": 3}, ["student.params.max_dept", "did you mean 'max_depth'?"]),
        ("lightgbm", {"num_leafs": 3}, ["student.params.num_leafs", "did you mean 'num_leaf"]),
        ("decision-tree", {"max_depth": "deep"}, ["student.params", "max_depth", "'deep'"]),
        ("sklearn.linear_model.SGDClassifier", {"loss": "hinge"}, ["has no predict_proba with these params"]),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_is_fitted(name: str, params: dict[str, Any], says: list[str]) -> None:
    message = refusal(name, params)
    assert all(part in message for part in says), message


def test_all_wrong_parameters_are_named_at_once() -> None:
    message = refusal("decision-tree", {"max_dept": 3, "criterium": "gini"})
    assert "max_dept:" in message
    assert "did you mean 'criterion'?" in message


def test_a_package_outside_the_list_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_package.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    refusal("trap_package.Estimator")
    assert "trap_package" not in sys.modules


def test_a_package_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    assert "pip install xgboost" in refusal("xgboost")


def test_recipe_facts_change_with_all_that_shapes_the_answers_and_with_nothing_else() -> None:
    base = recipe_facts(resolve("random-forest", {"max_depth": 3}))
    assert base == recipe_facts(resolve("random-forest", {"max_depth": 3, "n_jobs": 2, "verbose": 1}))
    others = [
        resolve("random-forest", {"max_depth": 4}),
        resolve("random-forest", {"max_depth": 3}, seed=1),
        resolve("extra-trees", {"max_depth": 3}),
    ]
    assert all(recipe_facts(other) != base for other in others)
    # A parameter of an estimator inside another counts too.
    assert recipe_facts(resolve("svm", {"C": 1.0})) != recipe_facts(resolve("svm", {"C": 2.0}))
