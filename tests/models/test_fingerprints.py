from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier

from stillroom.models.estimator_files import load_estimator, save_estimator
from stillroom.models.fingerprints import estimator_fingerprint
from stillroom.models.tabular import TabularPredictor

Fit = Callable[..., TabularPredictor]
QUICK: dict[str, dict[str, Any]] = {
    "decision-tree": {},
    "extra-trees": {"n_estimators": 5},
    "gradient-boosting": {"max_iter": 5},
    "knn": {},
    "lightgbm": {"n_estimators": 5},
    "logistic-regression": {},
    "mlp": {"hidden_layer_sizes": [8], "learning_rate_init": 0.02, "tol": 1e-3},
    "naive-bayes": {},
    "svm": {},
    "xgboost": {"n_estimators": 5},
    "catboost": {"iterations": 5},
}
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(name in ("xgboost", "catboost") and find_spec(name) is None, reason="not installed"))
    for name in QUICK
]


@pytest.mark.parametrize("name", NAMES)
def test_equal_after_answering_after_refitting_and_after_a_file(
    name: str, fitted: Fit, table: pd.DataFrame, codes: np.ndarray[Any, Any], tmp_path: Path
) -> None:
    student = fitted(name, target=codes, **QUICK[name])
    before = estimator_fingerprint(student.pipeline)
    student.predict_values(table)
    assert estimator_fingerprint(student.pipeline) == before
    assert estimator_fingerprint(fitted(name, target=codes, **QUICK[name]).pipeline) == before
    save_estimator(student.pipeline, tmp_path / "model.skops")
    assert estimator_fingerprint(load_estimator(tmp_path / "model.skops")) == before


@pytest.mark.parametrize("name", NAMES)
def test_other_training_rows_give_another_fingerprint(name: str, fitted: Fit, codes: np.ndarray[Any, Any]) -> None:
    other = codes.copy()
    other[:20] = (other[:20] + 1) % 3
    fingerprints = {estimator_fingerprint(fitted(name, target=target, **QUICK[name]).pipeline) for target in (codes, other)}
    assert len(fingerprints) == 2


def test_one_changed_number_anywhere_changes_it() -> None:
    X, y = load_iris(return_X_y=True)
    model, tree = LogisticRegression(max_iter=500).fit(X, y), DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, y)
    before = estimator_fingerprint(model), estimator_fingerprint(tree)
    model.coef_[1, 2] = np.nextafter(model.coef_[1, 2], 9.0)
    assert estimator_fingerprint(model) != before[0]
    tree.tree_.threshold[0] += 1e-6
    assert estimator_fingerprint(tree) != before[1]


def test_threads_and_chattiness_do_not_change_it() -> None:
    X, y = load_iris(return_X_y=True)
    assert len({estimator_fingerprint(DecisionTreeClassifier(random_state=0, max_depth=depth).fit(X, y)) for depth in (2, 3)}) == 2
    quiet, loud = LogisticRegression(max_iter=500), LogisticRegression(max_iter=500, n_jobs=None, verbose=0)
    loud.fit(X, y).set_params(n_jobs=4, verbose=3)
    assert estimator_fingerprint(quiet.fit(X, y)) == estimator_fingerprint(loud)


def test_a_function_without_a_name_of_its_own_counts_with_its_code_and_what_it_captures() -> None:
    def times(factor: float) -> FunctionTransformer:
        return FunctionTransformer(lambda rows: rows * factor)

    assert estimator_fingerprint(times(2.0)) == estimator_fingerprint(times(2.0))
    assert estimator_fingerprint(times(2.0)) != estimator_fingerprint(times(3.0))
    first, second = FunctionTransformer(lambda rows: rows * 2), FunctionTransformer(lambda rows: rows * 3)
    assert estimator_fingerprint(first) != estimator_fingerprint(second)


def test_an_object_that_holds_itself_has_a_fingerprint_and_a_lock_has_none() -> None:
    model = LogisticRegression()
    model.self_ = model
    assert estimator_fingerprint(model).startswith("sr1-")
    model.self_ = Lock()
    with pytest.raises(TypeError):
        estimator_fingerprint(model)


def vectoriser() -> TfidfVectorizer:
    made = TfidfVectorizer().fit(["the red fox", "a blue whale", "green tea"])
    made.extra_ = {"names": frozenset(["x", "y", "z"])}
    return made


def test_equal_in_another_process() -> None:
    code = "\n".join(
        [
            "from sklearn.feature_extraction.text import TfidfVectorizer",
            "from stillroom.models.fingerprints import estimator_fingerprint",
            inspect.getsource(vectoriser).replace(" -> TfidfVectorizer", ""),
            "print(estimator_fingerprint(vectoriser()))",
        ]
    )
    # Another hash seed: another order of sets; another memory layout: other addresses.
    env = {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == estimator_fingerprint(vectoriser())
