from __future__ import annotations

import pandas as pd
import pytest
from sklearn.pipeline import Pipeline

from stillroom.core.errors import BadInput
from stillroom.core.records import Column
from stillroom.models.tabular import TabularPredictor, prepare
from stillroom.spec.student import EstimatorStudentSpec
from stillroom.students.estimators import StudentRecipe, build_student

COLUMNS = (Column("size", "numeric"), Column("colour", "categorical"))
TABLE = pd.DataFrame({"size": [0.0, 1.0, 2.0, None] * 5, "colour": ["red", "blue", None, "red"] * 5})


def build(estimator: str, **params: object) -> StudentRecipe:
    spec = EstimatorStudentSpec(estimator=estimator, params=params)
    return build_student(spec, task="classification", columns=COLUMNS, seed=3)


def test_a_recipe_is_unfitted_and_carries_the_seed_and_params() -> None:
    recipe = build("decision-tree", max_leaf_nodes=4)
    assert recipe.estimator.get_params()["random_state"] == 3
    assert recipe.estimator.get_params()["max_leaf_nodes"] == 4
    assert not hasattr(recipe.estimator, "tree_")
    assert recipe.columns == COLUMNS


@pytest.mark.parametrize("name", ["decision-tree", "logistic-regression", "lightgbm", "gradient-boosting"])
def test_each_encoder_is_new_and_suits_the_estimator(name: str) -> None:
    recipe = build(name)
    first, second = recipe.encoder(), recipe.encoder()
    assert first is not second
    features = prepare(TABLE, COLUMNS)
    inputs = first.fit_transform(features)
    assert not hasattr(second, "transformers_")
    pipeline = Pipeline([("features", first), ("estimator", recipe.estimator.fit(inputs, [0, 1] * 10))])
    assert TabularPredictor(pipeline, ("no", "yes"), COLUMNS).predict_values(TABLE).shape == (20, 2)


def test_a_wrong_student_is_named_by_its_place_in_the_job() -> None:
    with pytest.raises(BadInput, match=r"student\.estimator.*did you mean 'decision-tree'"):
        build("desicion-tree")
    with pytest.raises(BadInput, match=r"student\.params\.max_leafs.*did you mean 'max_leaf_nodes'"):
        build("decision-tree", max_leafs=3)
