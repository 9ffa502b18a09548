"""Span measures against cases by hand, seqeval's published example, and CoNLL's definition written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillroom.core.records import Batch
from stillroom.core.spans import Span, spans_of_tags
from stillroom.evaluation.evidence import build_evidence
from stillroom.evaluation.significance import estimate, interval_within
from stillroom.evaluation.spans import quality_of_spans, span_disagreements, span_f1, span_precision, span_recall
from stillroom.evaluation.statistic import Metric

A, B = Span(0, 3, "a"), Span(4, 7, "b")


def column(rows: list[Any]) -> NDArray[Any]:
    return np.fromiter(map(tuple, rows), dtype=object, count=len(rows))


def measured(gold: NDArray[Any], found: NDArray[Any]) -> tuple[float, float, float]:
    return span_precision(gold, found).value, span_recall(gold, found).value, span_f1(gold, found).value


@pytest.mark.parametrize(
    ("gold", "found", "values"),
    [
        ([[A, B]], [[A, B]], (1, 1, 1)),
        ([[A, B], []], [[A], [B]], (0.5, 0.5, 0.5)),  # the right span in the wrong text
        ([[A]], [[Span(0, 3, "b")]], (0, 0, 0)),  # the right place, another label
        ([[A]], [[Span(0, 2, "a")]], (0, 0, 0)),  # a part of it
        ([[A, B], [A]], [[A], [A, B]], (2 / 3, 2 / 3, 2 / 3)),
        ([[A, B]], [[A]], (1, 1 / 2, 2 / 3)),
        ([[A]], [[]], (np.nan, 0, 0)),
        ([[]], [[A]], (0, np.nan, 0)),
    ],
)
def test_cases_by_hand(gold: list[Any], found: list[Any], values: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(measured(column(gold), column(found)), values)


def of_tags(rows: list[str]) -> tuple[list[str], NDArray[Any]]:
    """Texts of one-letter words, and the spans of their tags."""
    texts = [" ".join("x" * len(tags.split())) for tags in rows]
    return texts, column([spans_of_tags([(2 * i, 2 * i + 1) for i in range(len(tags.split()))], tags.split()) for tags in rows])


def test_the_example_of_seqeval() -> None:
    """README of seqeval 1.2.2: f1_score 0.50, accuracy_score 0.80."""
    texts, gold = of_tags(["O O O B-MISC I-MISC I-MISC O", "B-PER I-PER O"])
    _, found = of_tags(["O O B-MISC I-MISC I-MISC I-MISC O", "B-PER I-PER O"])
    test = Batch(pd.DataFrame({"text": texts}), np.array(["0", "1"]), gold)
    values = {metric.name: metric.statistic(gold, found).value for metric in quality_of_spans(test)}  # type: ignore[union-attr]
    assert values == pytest.approx({"span_f1": 0.5, "span_precision": 0.5, "span_recall": 0.5, "token_accuracy": 0.8})


def chunks(tags: list[str]) -> set[tuple[str, int, int]]:
    """conlleval's own rules for BIO: where a chunk ends and begins, looking at two neighbouring tags."""
    found, begin = set(), 0
    for i, (before, tag) in enumerate(zip(["O", *tags], [*tags, "O"], strict=True)):
        changes = before[2:] != tag[2:]
        if before != "O" and (tag[0] in "BO" or changes):
            found.add((before[2:], begin, i))
        if tag != "O" and (tag[0] == "B" or before == "O" or changes):
            begin = i
    return found


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.tuples(*[st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])] * 2), max_size=8), min_size=1, max_size=4))
def test_any_tags_score_as_conlleval_would(rows: list[list[tuple[str, str]]]) -> None:
    sides = [[" ".join(pair[side] for pair in row) for row in rows] for side in (0, 1)]
    gold, found = (of_tags(side)[1] for side in sides)
    told = [{(i, *chunk) for i, tags in enumerate(side) for chunk in chunks(tags.split())} for side in sides]
    right = len(told[0] & told[1])
    expected = [right / n if n else np.nan for n in (len(told[1]), len(told[0]), (len(told[0]) + len(told[1])) / 2)]
    np.testing.assert_allclose(measured(gold, found), expected)


def arms(num_rows: int, student_errors: int, control_errors: int) -> tuple[Batch, dict[str, list[NDArray[Any]]]]:
    gold = column([[A, B]] * num_rows)
    test = Batch(pd.DataFrame({"text": ["Ann Bob met"] * num_rows}), np.array([str(i) for i in range(num_rows)]), gold)

    def wrong(rows: range) -> NDArray[Any]:
        return column([[A] if row in rows else [A, B] for row in range(num_rows)])

    students = [wrong(range(student_errors)), wrong(range(1, student_errors + 1))]
    controls = [wrong(range(control_errors)), wrong(range(1, control_errors + 1))]
    return test, {"teacher": [gold], "student": students, "control": controls}


def test_evidence_has_every_arm_its_intervals_and_a_paired_verdict() -> None:
    test, predictions = arms(200, 20, 90)
    evidence, details = build_evidence(
        task="spans", classes=("a", "b"), test=test, predictions=predictions, primary="span_f1", resamples=500
    )  # fmt: skip
    f1 = evidence.value("student", "span_f1")
    assert f1 is not None
    assert f1.low is not None
    assert f1.high is not None
    assert f1.value == pytest.approx(2 * 380 / (380 + 400))
    assert f1.low < f1.value < f1.high
    assert (f1.n, f1.seeds) == (200, 2)
    # The interval over texts, against the plain bootstrap written out.
    rng, hits = np.random.default_rng(1), np.array([1.0] * 20 + [2.0] * 180)
    drawn = [hits[rng.integers(200, size=200)].sum() for _ in range(2000)]
    low, high = np.quantile([2 * h / (h + 400) for h in drawn], [0.025, 0.975])
    assert (f1.low, f1.high) == pytest.approx((low, high), abs=0.006)
    assert evidence.verdict is not None
    assert (evidence.verdict.measure, evidence.verdict.outcome) == ("span_f1", "helped")
    for name in ("span_precision", "span_recall", "token_accuracy", "span_agreement", "retention", "gap_closed"):
        assert evidence.value("student", name) is not None or name == "gap_closed"
    agreement = evidence.value("student", "span_agreement")
    assert agreement is not None
    assert agreement.value == pytest.approx(f1.value), "the teacher says what the labels say"
    assert len(details.disagreements) == 20
    assert details.reliability == {}


def test_where_teacher_and_student_differ_is_shown_in_words() -> None:
    test, predictions = arms(5, 1, 1)
    (case,) = span_disagreements(test, predictions)
    assert (case.label, case.teacher, case.student) == ("Ann (a), Bob (b)", "Ann (a), Bob (b)", "Ann (a)")
    assert (case.size, case.example) == (1.0, {"text": "Ann Bob met"})


def test_texts_without_a_span_are_no_evidence_that_spans_are_right() -> None:
    gold = column([[A]] * 4 + [[]] * 96)
    found = column([[A]] * 2 + [[]] * 98)
    for statistic, trials in ((span_precision, 2), (span_recall, 4), (span_f1, 2)):
        measured = estimate({"m": [statistic(gold, found)]}, groups=None, num_rows=100, resamples=50, seed=0)["m"]
        assert measured.num_trials == trials
    measured = estimate({"m": [span_precision(gold, found)]}, groups=None, num_rows=100, resamples=50, seed=0)["m"]
    metric = Metric("span_precision", True, span_precision, 0.0, 1.0, is_share=True)
    assert interval_within(measured, metric, 0.95).low == pytest.approx(0.025 ** (1 / 2))
