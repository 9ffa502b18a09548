from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier, StackingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from stillroom.core.records import Calibration, Column
from stillroom.models.calibrated import CalibratedPredictor
from stillroom.models.manifest import write_manifest
from stillroom.models.mean import MeanPredictor
from stillroom.models.sizes import count_parameters, size_on_disk
from stillroom.models.tabular import TabularPredictor

X, Y = load_iris(return_X_y=True)  # 4 features, 3 classes


def student(estimator: Any) -> TabularPredictor:
    return TabularPredictor(make_pipeline(estimator.fit(X, Y)), ("a", "b", "c"), [Column(f"f{i}", "numeric") for i in range(4)])


def stump() -> DecisionTreeClassifier:
    return DecisionTreeClassifier(max_depth=1, random_state=0)  # one split, two leaves


@pytest.mark.parametrize(
    ("estimator", "count"),
    [
        (LogisticRegression(max_iter=500), 4 * 3 + 3),
        (MLPClassifier((5, 6), max_iter=2000, learning_rate_init=0.02), 4 * 5 + 5 + 5 * 6 + 6 + 6 * 3 + 3),
        (stump(), 3),
        (RandomForestClassifier(7, max_depth=1, random_state=0), 7 * 3),
        (GradientBoostingClassifier(n_estimators=5, max_depth=1), 5 * 3 * 3),
        (HistGradientBoostingClassifier(max_iter=5, max_depth=1), 5 * 3 * 3),
        (lightgbm.LGBMClassifier(n_estimators=5, num_leaves=2, verbosity=-1), 5 * 3 * 3),
        (CalibratedClassifierCV(stump(), ensemble=True, cv=4), 4 * 3),
        (StackingClassifier([("tree", stump())], LogisticRegression()), 3 + 3 * 3 + 3),
        (KNeighborsClassifier(), None),
        (GaussianNB(), None),
        (SVC(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_counts_are_those_counted_by_hand(estimator: Any, count: int | None) -> None:
    assert count_parameters(student(estimator)) == count


def test_a_predictor_around_others_counts_them_all_or_not_at_all() -> None:
    tree, neighbours = student(stump()), student(KNeighborsClassifier())
    assert count_parameters(MeanPredictor([tree, CalibratedPredictor(tree, Calibration(kept=False))], [1, 1])) == 6
    assert count_parameters(MeanPredictor([tree, neighbours], [1, 1])) is None


def test_what_has_no_countable_parts_has_no_count() -> None:
    class Own:
        classes = ("a", "b")

        def predict_values(self, features: Any) -> Any:
            return np.full((len(features), 2), 0.5)

        save: Callable[..., None]

    assert count_parameters(Own()) is None


def test_a_torch_model_counts_its_tensors() -> None:
    class Tensor:
        def numel(self) -> int:
            return 12

    class Model:
        def parameters(self) -> list[Tensor]:
            return [Tensor(), Tensor()]

    class Text:
        classes, model = ("a", "b"), Model()

    assert count_parameters(Text()) == 24  # type: ignore[arg-type]


def test_a_model_that_lies_elsewhere_is_as_large_as_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "weights").write_bytes(bytes(1000))
    own, named, lost = (tmp_path / name for name in ("own", "named", "lost"))
    for folder in (own, named, lost):
        folder.mkdir()
    (own / "weights").write_bytes(bytes(10))
    write_manifest(named, kind="language", classes=(), model=str(tmp_path / "far"))
    write_manifest(lost, kind="language", classes=(), model="somebody/on-a-hub")
    assert (size_on_disk(own), size_on_disk(named), size_on_disk(lost)) == (10, 1000, None)
