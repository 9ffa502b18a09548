from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.linear_model import LogisticRegression

from stillroom.core.errors import BadInput
from stillroom.core.protocols import Predictor, Teacher, TeacherRecipe
from stillroom.core.records import Batch, Column
from stillroom.models.load import load_predictor
from stillroom.spec.teacher import EnsembleTeacherSpec
from stillroom.teachers.answers import ask, frozen
from stillroom.teachers.build import build_teacher, teacher_notes
from stillroom.teachers.ensemble import EnsembleRecipe, ensemble_teacher
from stillroom.teachers.labelling import label_out_of_fold

from .conftest import MemoryStore, NearestRecipe, TableTeacher, make_batch, make_fold_rows

CLASSES = ("x", "y", "z")
COLUMNS = (Column("a", "numeric"), Column("b", "numeric"))


def table(batch: Batch, classes: tuple[str, ...] = CLASSES, state: str = "fixed") -> TableTeacher:
    return TableTeacher(batch.keys, batch.target, batch.features.to_numpy(), classes, state=state)


def build(*members: dict, classes: tuple[str, ...] = CLASSES, mode: str = "out-of-fold") -> Teacher | TeacherRecipe:
    spec = EnsembleTeacherSpec(members=members)
    task = "classification" if classes else "regression"
    return build_teacher(spec, columns=COLUMNS, classes=classes, task=task, seed=0, mode=mode)


def test_is_the_weighted_arithmetic_mean_matched_by_class_name() -> None:
    one, other = make_batch(30), make_batch(30, seed=1)
    permuted = table(other, ("z", "x", "y"))
    features = make_batch(10, seed=2).features
    teacher = ensemble_teacher([table(one), permuted], [1.0, 3.0], CLASSES)
    first, second = table(one).predict_values(features), permuted.predict_values(features)
    for row, values in enumerate(ask(teacher, features, CLASSES)):
        by_name = dict(zip(("z", "x", "y"), second[row], strict=True))
        want = [(first[row, k] + 3 * by_name[name]) / 4 for k, name in enumerate(CLASSES)]
        assert values.tolist() == pytest.approx(want)


def test_regression_is_the_weighted_mean_of_values() -> None:
    one, other = make_batch(30, regression=True), make_batch(30, seed=1, regression=True)
    features = make_batch(10, seed=2).features
    teacher = ensemble_teacher([table(one, ()), table(other, ())], [3.0, 1.0], ())
    want = (3 * table(one, ()).predict_values(features) + table(other, ()).predict_values(features)) / 4
    np.testing.assert_allclose(ask(teacher, features, ()), want)


def test_members_with_recipes_are_fitted_out_of_fold_together_and_fixed_ones_stay() -> None:
    batch, recipe, fixed = make_batch(), NearestRecipe(), table(make_batch(30, seed=7))
    ensemble = EnsembleRecipe((recipe, fixed), (1.0, 1.0))
    folds = make_fold_rows(len(batch))
    knowledge = label_out_of_fold(ensemble, batch, folds, MemoryStore(), classes=CLASSES, seed=0, batch_size=16)
    alone = label_out_of_fold(NearestRecipe(), batch, folds, MemoryStore(), classes=CLASSES, seed=0, batch_size=16)
    assert len(recipe.fits) == 4
    assert not knowledge.seen.any()
    np.testing.assert_allclose(knowledge.values, (alone.values + fixed.predict_values(batch.features)) / 2)


def test_two_members_of_one_recipe_are_two_teachers() -> None:
    """Hinton et al. 2015, section 5.1: the members differ in their random start."""
    member = {"teacher": {"kind": "estimator", "estimator": "extra-trees", "params": {"n_estimators": 2, "max_depth": 3}}}
    batch = make_batch(60)
    teacher = build(member, member).fit(batch, CLASSES, seed=0)
    first, second = (part.teacher.predict_values(batch.features) for part in teacher.predictor.members)
    assert (first != second).any()


CHANGES: dict[str, Callable[[], Teacher]] = {
    "a weight": lambda: ensemble_teacher([table(make_batch()), table(make_batch())], [1.0, 2.0], CLASSES),
    "a member": lambda: ensemble_teacher([table(make_batch()), table(make_batch(), state="other")], [1.0, 1.0], CLASSES),
    "one more": lambda: ensemble_teacher([table(make_batch())] * 3, [1.0] * 3, CLASSES),
}


@pytest.mark.parametrize("name", CHANGES)
def test_fingerprint_covers_members_and_relative_weights(name: str) -> None:
    pair = [table(make_batch()), table(make_batch())]
    teacher = ensemble_teacher(pair, [1.0, 1.0], CLASSES)
    assert CHANGES[name]().fingerprint != teacher.fingerprint
    assert ensemble_teacher(pair, [2.0, 2.0], CLASSES).fingerprint == teacher.fingerprint


def test_a_member_that_changes_while_it_answers_is_caught() -> None:
    member = table(make_batch())
    teacher = ensemble_teacher([member, table(make_batch())], [1.0, 1.0], CLASSES)
    guard = frozen(teacher)
    guard.__enter__()
    member.state = "changed"
    with pytest.raises(BadInput, match="changed its own state"):
        guard.__exit__(None, None, None)


class Scores(TableTeacher):
    """Answers twice what it should: alone visible, in a mean with a half-hearted one not."""

    factor = 1.5

    def predict_values(self, features: pd.DataFrame) -> np.ndarray:
        return super().predict_values(features) * self.factor


class Halves(Scores):
    factor = 0.5


def test_a_faulty_member_is_named_even_where_the_mean_would_hide_it() -> None:
    batch = make_batch()
    members: list[Predictor] = [kind(batch.keys, batch.target, batch.features.to_numpy(), CLASSES) for kind in (Scores, Halves)]
    teacher = ensemble_teacher([table(batch), *members], [1.0, 1.0, 1.0], CLASSES)
    with pytest.raises(BadInput, match=r"teacher\.members\[1\]\.teacher: .*sum to 1"):
        ask(teacher, batch.features, CLASSES)


def test_a_member_of_other_classes_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"teacher\.members\[1\]\.teacher: the classes differ.*\['x', 'y', 'w'\].*\['x', 'y', 'z'\]"):
        ensemble_teacher([table(make_batch()), table(make_batch(), ("x", "y", "w"))], [1.0, 1.0], CLASSES)


def test_built_members_fixed_and_fitted_answer_alike_after_saving(tmp_path: Path) -> None:
    batch = make_batch(60)
    fixed = LogisticRegression().fit(batch.features, np.array(CLASSES)[batch.target])
    skops.io.dump(fixed, tmp_path / "fixed.skops")
    members = (
        {"weight": 2.0, "teacher": {"kind": "estimator", "estimator": "logistic-regression"}},
        {"teacher": {"kind": "estimator", "fitted": str(tmp_path / "fixed.skops")}},
    )
    teacher = build(*members).fit(batch, CLASSES, seed=0)
    teacher.save(tmp_path / "saved")
    again = load_predictor(tmp_path / "saved")
    np.testing.assert_array_equal(again.predict_values(batch.features), teacher.predict_values(batch.features))
    only_fixed = build(members[1], members[1])
    np.testing.assert_allclose(ask(only_fixed, batch.features, CLASSES), fixed.predict_proba(batch.features), rtol=1e-5)
    assert not hasattr(only_fixed, "fit")


def test_a_member_that_has_seen_the_rows_is_refused_and_unknown_ones_are_noted(tmp_path: Path) -> None:
    batch = make_batch(60)
    path = tmp_path / "fixed.skops"
    skops.io.dump(LogisticRegression().fit(batch.features, np.array(CLASSES)[batch.target]), path)
    seen = {"teacher": {"kind": "estimator", "fitted": str(path), "trained_on": "these-rows"}}
    unknown = {"teacher": {"kind": "estimator", "fitted": str(path), "name": "old model"}}
    with pytest.raises(BadInput, match=r"teacher\.members\[0\]\.teacher\.trained_on.*labelling\.mode"):
        build(seen, unknown)
    notes = teacher_notes(EnsembleTeacherSpec(members=(seen, unknown)))
    assert len(notes) == 2
    assert "was trained on this job's rows" in notes[0]
    assert "'old model'" in notes[1]
    assert "not known" in notes[1]
