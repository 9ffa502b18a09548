from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import LinearSVC

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import row_fingerprints
from stillroom.core.protocols import Teacher, TeacherRecipe
from stillroom.core.records import Batch, Column
from stillroom.models.load import load_predictor
from stillroom.spec.teacher import EstimatorTeacherSpec
from stillroom.teachers.answers import ask, frozen
from stillroom.teachers.build import build_teacher
from stillroom.teachers.estimator import EstimatorRecipe
from stillroom.teachers.labelling import label_fixed, label_out_of_fold

from .conftest import MemoryStore, make_batch, make_fold_rows

COLUMNS = (Column("a", "numeric"), Column("b", "numeric"))
CLASSES = ("x", "y", "z")


def build(
    columns: Sequence[Column] = COLUMNS, classes: tuple[str, ...] = CLASSES, mode: str = "out-of-fold", **section: object
) -> Teacher | TeacherRecipe:
    spec = EstimatorTeacherSpec(**section)
    task = "classification" if classes else "regression"
    return build_teacher(spec, columns=tuple(columns), classes=classes, task=task, seed=0, mode=mode)


def saved(estimator: BaseEstimator, folder: Path) -> str:
    skops.io.dump(estimator, folder / "fitted.skops")
    return str(folder / "fitted.skops")


def predictable(num: int = 120, seed: int = 0) -> Batch:
    batch = make_batch(num, seed=seed)
    code = (batch.features["a"] > 0).astype(int) + (batch.features["b"] > 0).astype(int)
    return Batch(batch.features, batch.keys, code.to_numpy().astype(np.int64))


@pytest.mark.parametrize(
    "name",
    ["extra-trees", "lightgbm", "logistic-regression", "knn", "gradient-boosting", "svm", "naive-bayes", "xgboost", "catboost"],
)
def test_a_class_absent_from_a_fold_gets_a_column_of_zeros_in_its_place(name: str) -> None:
    """The rare class "y" sits between the others: columns taken by position would shift."""
    if name in ("xgboost", "catboost"):
        pytest.importorskip(name)
    batch = predictable()
    rare = np.flatnonzero(batch.target == 1)[0]
    target = np.where(batch.target == 1, 2, batch.target)
    target[rare] = 1
    batch = Batch(batch.features, batch.keys, target)
    fit_rows = np.setdiff1d(np.arange(120), [rare])
    recipe = build(estimator=name)
    knowledge = label_out_of_fold(
        recipe, batch, [(fit_rows[:100], np.append(fit_rows[100:], rare))], MemoryStore(), classes=CLASSES, seed=0, batch_size=64
    )
    answered = np.isfinite(knowledge.values[:, 0])
    values = knowledge.values[answered]
    assert (values[:, 1] == 0).all()
    np.testing.assert_allclose(values.sum(axis=1), 1.0)
    assert np.mean(values.argmax(axis=1) == target[answered]) > 0.75


def test_out_of_fold_is_as_good_as_sklearns_own_and_fits_no_row_it_answers() -> None:
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    batch = Batch(x, np.array(row_fingerprints(x)), y.to_numpy(dtype=np.float64))
    columns = [Column(name, "numeric") for name in x.columns]
    recipe = build(columns, (), estimator="ridge", params={"alpha": 1.0})
    folds = make_fold_rows(len(batch))
    knowledge = label_out_of_fold(recipe, batch, folds, MemoryStore(), classes=(), seed=0, batch_size=100)
    for fit_rows, answer_rows in folds:
        # By hand: standardise, then solve the normal equations.
        z = (x - x.iloc[fit_rows].mean()) / x.iloc[fit_rows].std(ddof=0)
        a, mean = z.iloc[fit_rows].to_numpy(), y.iloc[fit_rows].mean()
        weights = np.linalg.solve(a.T @ a + np.eye(a.shape[1]), a.T @ (y.iloc[fit_rows].to_numpy() - mean))
        np.testing.assert_allclose(knowledge.values[answer_rows], z.iloc[answer_rows].to_numpy() @ weights + mean, rtol=1e-4)


def test_the_recipes_fingerprint_covers_estimator_parameters_and_columns() -> None:
    recipes = [
        build(estimator="random-forest"),
        build(estimator="extra-trees"),
        build(estimator="random-forest", params={"max_depth": 3}),
        build([Column("a", "numeric"), Column("b", "categorical")], estimator="random-forest"),
        build([*COLUMNS, Column("c", "numeric")], estimator="random-forest"),
        build([Column("a", "numeric"), Column("c", "numeric")], estimator="random-forest"),
    ]
    assert len({recipe.fingerprint for recipe in recipes}) == len(recipes)
    assert build(estimator="random-forest").fingerprint == recipes[0].fingerprint
    assert build(estimator="random-forest", params={"n_jobs": 2}).fingerprint == recipes[0].fingerprint


def test_a_fit_leaves_the_recipe_as_it_was_and_depends_on_the_seed_alone() -> None:
    batch = predictable()
    recipe = EstimatorRecipe(ExtraTreesClassifier(5), COLUMNS)  # random_state=None, as a user hands it over
    before = recipe.fingerprint
    answers = [recipe.fit(batch, CLASSES, seed=seed).predict_values(batch.features + 0.1) for seed in (1, 1, 2)]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] != answers[2]).any()
    assert recipe.fingerprint == before
    assert not hasattr(recipe.estimator, "classes_")


def test_a_fitted_teachers_fingerprint_is_its_learnt_state_and_survives_answering_and_saving(tmp_path: Path) -> None:
    batch, recipe = predictable(), build(estimator="random-forest", params={"n_estimators": 5})
    teacher = recipe.fit(batch, CLASSES, seed=0)
    state = teacher.fingerprint
    with frozen(teacher):
        ask(teacher, batch.features, CLASSES)
    assert recipe.fit(batch, CLASSES, seed=0).fingerprint == state
    changed = Batch(batch.features, batch.keys, 2 - batch.target)
    assert recipe.fit(changed, CLASSES, seed=0).fingerprint != state
    teacher.save(tmp_path)
    assert (load_predictor(tmp_path).predict_values(batch.features) == teacher.predict_values(batch.features)).all()
    # One changed leaf of one tree is another teacher.
    teacher.predictor.estimator.estimators_[3].tree_.value[0, 0, 0] += 1e-9
    assert teacher.fingerprint != state


def test_an_estimator_that_refuses_the_rows_is_one_clear_error() -> None:
    batch = predictable()
    alone = Batch(batch.features, batch.keys, np.zeros(len(batch), dtype=np.int64))
    with pytest.raises(StageFailed, match=r"teacher: LogisticRegression could not be fitted on 120 rows: .*class"):
        build(estimator="logistic-regression").fit(alone, CLASSES, seed=0)


def test_a_classifier_without_predict_proba_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"teacher.*LinearSVC.*predict_proba"):
        build(estimator="sklearn.svm.LinearSVC")
    batch = predictable()
    with pytest.raises(BadInput, match=r"teacher\.fitted: holds a LinearSVC without predict_proba"):
        build(fitted=saved(LinearSVC().fit(batch.features, batch.target), tmp_path))


def test_a_fitted_estimator_is_read_by_column_and_class_name(tmp_path: Path) -> None:
    """Its classes are in another order, its columns too, and there is one more that it never saw."""
    batch = predictable()
    names = np.array(["z", "y", "x"])[batch.target]
    estimator = RandomForestClassifier(5, random_state=0).fit(batch.features[["b", "a"]], names)
    columns = [COLUMNS[0], Column("other", "text"), COLUMNS[1]]
    features = batch.features.assign(other=None)
    teacher = build(columns, ("z", "x", "y"), fitted=saved(estimator, tmp_path), trained_on="other-rows")
    values = ask(teacher, features, ("z", "x", "y"))
    rounded = batch.features[["b", "a"]].astype(np.float32)
    np.testing.assert_allclose(values, estimator.predict_proba(rounded)[:, [2, 0, 1]])
    teacher.save(tmp_path / "saved")
    again = load_predictor(tmp_path / "saved")
    assert (again.predict_values(features) == teacher.predict_values(features)).all()


@pytest.mark.parametrize("labels", [[0, 1, 2], [0.0, 1.0, 2.0], ["0", "1", "2"]], ids=["int", "float", "str"])
def test_labels_are_compared_as_names(labels: list[object], tmp_path: Path) -> None:
    batch = predictable()
    estimator = KNeighborsClassifier(3).fit(batch.features.to_numpy(), np.array(labels)[batch.target])
    teacher = build(classes=("2", "1", "0"), fitted=saved(estimator, tmp_path))
    values = ask(teacher, batch.features, ("2", "1", "0"))
    assert np.mean(values.argmax(axis=1) == 2 - batch.target) > 0.9


def test_a_fitted_pipeline_with_its_own_preprocessing_answers_mixed_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"size": [1.0, 2.0, 3.0, 4.0] * 10, "colour": ["red", "blue", "red", "green"] * 10})
    y = np.array(["x", "y", "x", "z"] * 10)
    encoder = ColumnTransformer([("size", "passthrough", ["size"]), ("colour", OneHotEncoder(), ["colour"])])
    estimator = make_pipeline(encoder, LogisticRegression(C=100)).fit(frame, y)
    teacher = build([Column("colour", "categorical"), Column("size", "numeric")], fitted=saved(estimator, tmp_path))
    assert [CLASSES[code] for code in ask(teacher, frame, CLASSES).argmax(axis=1)] == y.tolist()


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("x", "y"), r"the teacher's are \['x', 'y', 'z'\], the data's are \['x', 'y'\]"),
        (("x", "y", "z", "w"), r"the teacher's are \['x', 'y', 'z'\], the data's are \['x', 'y', 'z', 'w'\]"),
        ((), "classifier; the task is regression"),
    ],
)
def test_a_fitted_estimator_of_another_task_is_refused(classes: tuple[str, ...], message: str, tmp_path: Path) -> None:
    batch = predictable()
    path = saved(LogisticRegression().fit(batch.features, np.array(CLASSES)[batch.target]), tmp_path)
    with pytest.raises(BadInput, match=message):
        build(classes=classes, fitted=path)


def test_other_columns_than_the_datas_are_refused(tmp_path: Path) -> None:
    batch = predictable()
    unnamed = LogisticRegression().fit(np.ones((120, 3)) * batch.features[["a"]].to_numpy(), np.array(CLASSES)[batch.target])
    with pytest.raises(BadInput, match="3 unnamed columns, the data has 2: a, b"):
        build(fitted=saved(unnamed, tmp_path))
    named = LogisticRegression().fit(batch.features.rename(columns={"a": "age"}), np.array(CLASSES)[batch.target])
    with pytest.raises(BadInput, match="columns that the data has not: age"):
        build(fitted=saved(named, tmp_path))


def test_an_unfitted_estimator_a_pickle_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not fitted"):
        build(fitted=saved(LogisticRegression(), tmp_path))
    with pytest.raises(BadInput, match=r"teacher\.fitted.*no such file"):
        build(fitted=str(tmp_path / "none.skops"))
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(BadInput, match="pickle"):
        build(fitted=str(tmp_path / "model.pkl"))


def test_a_fitted_regressor_answers_values(tmp_path: Path) -> None:
    batch = make_batch(regression=True)
    ridge = Ridge().fit(batch.features, batch.target)
    teacher = build(classes=(), fitted=saved(ridge, tmp_path))
    knowledge = label_fixed(teacher, batch, MemoryStore(), classes=(), batch_size=16)
    np.testing.assert_allclose(knowledge.values, ridge.predict(batch.features), atol=1e-6)
    with pytest.raises(BadInput, match="regressor; the task is classification"):
        build(fitted=saved(ridge, tmp_path))


def test_a_teacher_of_these_rows_is_refused_unless_labels_are_in_sample_openly(tmp_path: Path) -> None:
    batch = predictable()
    path = saved(LogisticRegression().fit(batch.features, np.array(CLASSES)[batch.target]), tmp_path)
    with pytest.raises(BadInput, match=r"teacher\.trained_on: = 'these-rows'.*labelling\.mode to in-sample"):
        build(fitted=path, trained_on="these-rows")
    for trained_on, mode in [("these-rows", "in-sample"), ("other-rows", "out-of-fold"), ("unknown", "out-of-fold")]:
        assert build(fitted=path, trained_on=trained_on, mode=mode).classes == CLASSES
