from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.records import Batch, CurvePoint, Details, Evidence, Measure, SliceMeasure
from stillroom.evaluation.evidence import build_evidence
from stillroom.evaluation.slices import MAX_DISAGREEMENTS, MAX_GROUPS, slice_groups
from stillroom.evaluation.statistic import Floats

CLASSES = ("ham", "eggs", "spam")
QUALITY = ["accuracy", "macro_f1", "roc_auc", "log_loss", "ece"]


def examples(n: int = 300, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    features = pd.DataFrame(
        {"size": rng.normal(size=n), "shop": rng.choice(["north", "south"], size=n), "note": [f"row {i}" for i in range(n)]}
    )
    features.loc[:9, "size"] = np.nan
    return Batch(features, np.array([f"key-{i}" for i in range(n)]), rng.integers(3, size=n))


def answers(test: Batch, skill: float, seed: int) -> Floats:
    rng = np.random.default_rng(seed)
    assert test.target is not None
    logits = rng.normal(size=(len(test), 3))
    logits[np.arange(len(test)), test.target] += skill
    return np.asarray(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True))


def three_arms(test: Batch, student: float = 2.2, control: float = 1.0, teacher: float = 3.0) -> dict[str, list[Floats]]:
    return {
        "teacher": [answers(test, teacher, 0)],
        "student": [answers(test, student, seed) for seed in (1, 2, 3)],
        "control": [answers(test, control, seed) for seed in (4, 5, 6)],
    }


def build(test: Batch, predictions: Mapping[str, Sequence[Floats]], **changes: Any) -> tuple[Evidence, Details]:
    settings: dict[str, Any] = {"task": "classification", "classes": CLASSES, "primary": "accuracy", "resamples": 200}
    return build_evidence(test=test, predictions=predictions, **{**settings, **changes})


def values(evidence: Evidence, measure: str) -> dict[str, float]:
    return {m.arm: m.value for m in evidence.measures if m.measure == measure}


def test_every_arm_has_every_measure_with_an_interval_around_it() -> None:
    test = examples()
    evidence, details = build(test, three_arms(test))
    assert evidence.arms == ("teacher", "student", "control")
    names = {arm: [m.measure for m in evidence.measures if m.arm == arm] for arm in evidence.arms}
    assert names == {
        "teacher": QUALITY,
        "student": [*QUALITY, "agreement", "forward_kl", "retention", "gap_closed"],
        "control": [*QUALITY, "agreement", "forward_kl", "retention"],
    }
    for m in evidence.measures:
        assert m.low is not None
        assert m.high is not None
        assert m.low <= m.value <= m.high
        assert (m.n, m.seeds) == (300, 1 if m.arm == "teacher" else 3)
    assert evidence.verdict is not None
    assert evidence.verdict.outcome == "helped"
    assert Evidence.from_json(json.loads(json.dumps(evidence.to_json(), allow_nan=False))) == evidence
    assert Details.from_json(json.loads(json.dumps(details.to_json(), allow_nan=False))) == details


def test_values_are_means_over_seeds_and_ratios_are_ratios_of_these() -> None:
    test = examples()
    arms = three_arms(test)
    evidence, _ = build(test, arms)
    found = values(evidence, "accuracy")
    for arm, arrays in arms.items():
        assert found[arm] == pytest.approx(np.mean([(array.argmax(axis=1) == test.target).mean() for array in arrays]))
    assert values(evidence, "retention")["student"] == pytest.approx(found["student"] / found["teacher"])
    gap = (found["student"] - found["control"]) / (found["teacher"] - found["control"])
    assert values(evidence, "gap_closed") == {"student": pytest.approx(gap)}
    assert evidence.verdict is not None
    assert evidence.verdict.difference == pytest.approx(found["student"] - found["control"])


def test_for_a_loss_smaller_is_better_everywhere() -> None:
    test = examples()
    evidence, _ = build(test, three_arms(test), primary="log_loss")
    found = values(evidence, "log_loss")
    assert evidence.verdict is not None
    assert evidence.verdict.outcome == "helped"
    assert evidence.verdict.difference == pytest.approx(found["control"] - found["student"])
    assert values(evidence, "retention")["student"] == pytest.approx(found["teacher"] / found["student"])
    assert 0 < values(evidence, "gap_closed")["student"] < 1
    worse, _ = build(test, three_arms(test, student=1.0, control=2.2), primary="log_loss")
    assert worse.verdict is not None
    assert worse.verdict.outcome == "hurt"


def test_gap_closed_is_left_out_where_the_teacher_is_not_the_better_one() -> None:
    test = examples()
    for teacher in (1.0, 0.2):  # as good as the control, and worse
        evidence, _ = build(test, three_arms(test, teacher=teacher))
        assert values(evidence, "gap_closed") == {}
        assert "student" in values(evidence, "retention")


def test_a_student_that_is_the_control_differs_by_exactly_nothing() -> None:
    test = examples()
    arms = three_arms(test)
    for primary in QUALITY[:4]:
        evidence, _ = build(test, {**arms, "student": [array.copy() for array in arms["control"]]}, primary=primary)
        assert evidence.verdict is not None
        assert (evidence.verdict.outcome, evidence.verdict.difference) == ("no evidence", 0.0)
    evidence, _ = build(test, {**arms, "student": [arms["teacher"][0]] * 3})
    assert values(evidence, "retention")["student"] == 1.0
    assert values(evidence, "agreement")["student"] == 1.0
    assert values(evidence, "forward_kl")["student"] == 0.0


def test_the_test_features_influence_no_evidence() -> None:
    test = examples()
    evidence, _ = build(test, three_arms(test), slices=["shop"])
    other = replace(test, features=pd.DataFrame({"shop": ["x"] * 300}), keys=test.keys[::-1])
    assert build(other, three_arms(test), slices=["shop"])[0] == evidence


def test_equal_seeds_give_equal_evidence_and_inputs_stay_as_they_were() -> None:
    test = examples()
    arms = three_arms(test)
    before = {arm: [array.copy() for array in arrays] for arm, arrays in arms.items()}
    first, second, other = (build(test, arms, seed=seed, slices=["size", "shop"]) for seed in (1, 1, 2))
    assert first == second
    assert first != other
    for arm, arrays in arms.items():
        for array, copy in zip(arrays, before[arm], strict=True):
            np.testing.assert_array_equal(array, copy)


def test_arms_and_costs_from_elsewhere_join_in() -> None:
    test = examples()
    cost = Measure("student-onnx", "latency_p50_seconds", 1e-4, 9e-5, 2e-4, 200, 1)
    curves = {"student": [CurvePoint(1, "log_loss", 0.5)]}
    evidence, details = build(test, {**three_arms(test), "pruned": [answers(test, 2.0, 9)]}, costs=[cost], curves=curves)
    assert evidence.arms == ("teacher", "student", "control", "pruned", "student-onnx")
    assert evidence.measures[-1] is cost
    assert "gap_closed" in {m.measure for m in evidence.measures if m.arm == "pruned"}
    assert details.curves == {"student": (CurvePoint(1, "log_loss", 0.5),)}


def test_without_a_control_there_is_no_verdict() -> None:
    test = examples()
    arms = three_arms(test)
    del arms["control"]
    evidence, _ = build(test, arms)
    assert evidence.verdict is None
    assert "retention" in {m.measure for m in evidence.measures}


def test_regression_has_its_own_measures() -> None:
    rng = np.random.default_rng(1)
    target = rng.normal(size=200)
    test = replace(examples(200), target=target)

    def guesses(noise: float, seed: int) -> Floats:
        return np.asarray(target + noise * np.random.default_rng(seed).normal(size=200))

    arms = {"teacher": [guesses(0.2, 0)], "student": [guesses(0.5, s) for s in (1, 2)], "control": [guesses(0.9, s) for s in (3, 4)]}
    for primary in ("r2", "rmse", "mae"):
        evidence, details = build(test, arms, task="regression", classes=(), primary=primary)
        names = [m.measure for m in evidence.measures if m.arm == "student"]
        assert names == ["r2", "mae", "rmse", "correlation_to_teacher", "rmse_to_teacher", "retention", "gap_closed"]
        assert evidence.verdict is not None
        assert evidence.verdict.difference > 0
    assert details.reliability == {}
    sizes = [d.size for d in details.disagreements]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == pytest.approx(np.abs(arms["teacher"][0] - arms["student"][0]).max())
    # An R squared of about 0 below the line: what was retained is anybody's guess.
    evidence, _ = build(test, {**arms, "teacher": [guesses(1.0, 0) - target]}, task="regression", classes=(), primary="r2")
    assert "retention" not in {m.measure for m in evidence.measures}


def test_a_measure_that_a_constant_prediction_leaves_undefined_is_left_out() -> None:
    test = replace(examples(50), target=np.arange(50.0))
    arms = {"teacher": [np.arange(50.0) + 1], "student": [np.zeros(50)]}
    evidence, _ = build(test, arms, task="regression", classes=(), primary="r2")
    assert "correlation_to_teacher" not in {m.measure for m in evidence.measures}


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_a_prediction_that_is_not_finite_is_named(broken: float) -> None:
    test = examples()
    arms = three_arms(test)
    arms["control"][1][7, 2] = broken
    with pytest.raises(StageFailed, match=r"arm 'control' predicts .* for test row 7"):
        build(test, arms)


def test_a_primary_measure_without_meaning_is_refused_with_what_there_is() -> None:
    test = replace(examples(), target=np.zeros(300, dtype=np.int64))
    with pytest.raises(BadInput, match=r"evaluation.primary: = 'roc_auc' is undefined .* defined are: accuracy, macro_f1, log_loss, ece"):
        build(test, three_arms(test), primary="roc_auc")
    evidence, _ = build(test, three_arms(test), primary="accuracy")
    assert values(evidence, "roc_auc") == {}


def test_groups_widen_the_intervals() -> None:
    test = examples()
    grouped = replace(test, groups=np.array([f"g{i // 30}" for i in np.argsort(np.argsort(three_arms(test)["teacher"][0].max(axis=1)))]))
    apart, together = (build(t, three_arms(test))[0].value("teacher", "log_loss") for t in (test, grouped))
    assert apart is not None
    assert together is not None
    assert apart.value == together.value
    assert together.high - together.low > 1.5 * (apart.high - apart.low)  # type: ignore[operator]


def test_slices_partition_the_rows_and_their_values_are_those_of_the_part() -> None:
    test = examples()
    arms = three_arms(test)
    _, details = build(test, arms, slices=["size", "shop"])
    student = [s for s in details.slices if s.arm == "student"]
    assert [s.group for s in student if s.column == "size"][-1] == "missing"
    assert len([s for s in student if s.column == "size"]) == 5
    for column in ("size", "shop"):
        assert sum(s.n for s in student if s.column == column) == 300
    north = (test.features["shop"] == "north").to_numpy()
    want = np.mean([(array.argmax(axis=1) == test.target)[north].mean() for array in arms["student"]])
    found = next(s for s in student if s.group == "north")
    assert (found.value, found.n) == (pytest.approx(want), north.sum())
    assert isinstance(found, SliceMeasure)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_a_slice_too_small_for_the_measure_is_left_out_or_has_no_interval() -> None:
    test = examples()
    test.features["shop"] = ["lonely", "pair", "pair"] + ["many"] * 297
    test.features["size"] = 0.0
    _, details = build(test, three_arms(test), slices=["shop"])
    lonely = next(s for s in details.slices if s.group == "lonely")
    assert (lonely.n, lonely.arm) == (1, "teacher")
    _, details = build(test, three_arms(test), slices=["shop"], primary="roc_auc")
    assert "lonely" not in {s.group for s in details.slices}
    _, details = build(test, three_arms(test), slices=["shop"], primary="log_loss")
    assert next(s for s in details.slices if s.group == "lonely").low is None


def test_an_unknown_slice_column_is_named_with_the_nearest() -> None:
    test = examples()
    with pytest.raises(BadInput, match=r"evaluation.slices: names 'shp', .*did you mean 'shop'"):
        build(test, three_arms(test), slices=["shp"])


def test_groups_of_a_column() -> None:
    def names(cells: list[Any]) -> dict[str, int]:
        return {name: len(rows) for name, rows in slice_groups(pd.Series(cells))}

    assert names(["a", "b", "b", None]) == {"b": 2, "a": 1, "missing": 1}
    assert names([1, 0, 1, 1]) == {"1": 3, "0": 1}  # few numbers are groups, not quartiles
    assert list(names([float(i) for i in range(12)])) == ["[0, 2.75)", "[2.75, 5.5)", "[5.5, 8.25)", "[8.25, 11]"]
    assert list(names([float(i) for i in range(9)]).values()) == [2, 2, 2, 3]  # a value on an edge is in one quartile
    assert sum(names([0.0] * 90 + [float(i) for i in range(10)]).values()) == 100  # equal quartiles
    many = names([f"g{i}" for i in range(30)] + ["big"] * 5)
    assert len(many) == MAX_GROUPS + 1
    assert next(iter(many)) == "big"
    assert many["11 smaller groups"] == 11


def test_disagreements_show_the_largest_distances_with_short_cells() -> None:
    test = examples()
    test.features.loc[:, "note"] = ["long " * 100] * 300
    arms = three_arms(test)
    _, details = build(test, arms)
    distances = np.abs(arms["teacher"][0] - arms["student"][0]).sum(axis=1) / 2
    assert len(details.disagreements) == MAX_DISAGREEMENTS
    first, row = details.disagreements[0], int(distances.argmax())
    assert first.size == pytest.approx(distances[row])
    assert first.label == CLASSES[test.target[row]]  # type: ignore[index]
    assert first.teacher == CLASSES[arms["teacher"][0][row].argmax()]
    assert first.student == CLASSES[arms["student"][0][row].argmax()]
    assert first.control == CLASSES[arms["control"][0][row].argmax()]
    assert all(len(cell) <= 160 for d in details.disagreements for cell in d.example.values())
    assert set(first.example) == {"size", "shop", "note"}
    _, alike = build(test, {**arms, "student": arms["teacher"] * 3})
    assert alike.disagreements == ()
