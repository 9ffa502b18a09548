"""The test rows put to a teacher behind an endpoint: its arm of the evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.records import Measure
from stillroom.evaluation.endpoint_cost import endpoint_cost
from stillroom.pipeline.asking import Tally, ask_rows, endpoint_of
from stillroom.pipeline.work import Work
from stillroom.report.asking import TEST_ROWS, asking_words

RECORD = "asked-test"


def ask_test_rows(work: Work) -> tuple[NDArray[Any], list[Measure]]:
    """The teacher's answers to the test rows, asked through the same store; and what they cost.

    Where a row has no answer that can be used, the class shares of the training rows stand in, or that it has no span: whoever used the
    teacher instead of a student would know no more about it. Every arm is then measured on the same rows.

    Raises:
        As `ask_rows`.
    """
    answers = ask_rows(work, work.dataset.test, TEST_ROWS)
    if answers.asked.answered < answers.asked.rows:
        work.listener.say(asking_words({TEST_ROWS: answers.asked}, work.job.task)[0])
    work.folder.finish(RECORD, work.inputs("evaluate"), asked=answers.asked.to_json())
    return _with_stand_ins(work, answers.values), teacher_costs(work, answers.tally, answers.asked.rows) if work.job.evaluation.cost else []


def _with_stand_ins(work: Work, values: NDArray[Any]) -> NDArray[Any]:
    if work.dataset.task == "spans":
        return np.fromiter((() if spans is None else spans for spans in values), dtype=object, count=len(values))
    return np.where(np.isnan(values).any(axis=1, keepdims=True), _class_shares(work), values)


def _class_shares(work: Work) -> NDArray[np.float64]:
    """(K,) among the labelled training rows, one more of each, so that none is impossible."""
    target = work.dataset.train.target
    assert target is not None, "a text job's training rows are labelled"
    counts = np.bincount(target[target >= 0], minlength=len(work.dataset.classes)) + 1.0
    return np.asarray(counts / counts.sum())


def teacher_costs(work: Work, tally: Tally, num_rows: int) -> list[Measure]:
    """What the requests behind `num_rows` rows took: tokens, latency, and money as it is paid."""
    teacher, usage = endpoint_of(work), tally.usage
    prices = None if teacher.prices is None else teacher.prices.times(teacher.price_factor)
    return endpoint_cost(
        "teacher",
        seconds=tally.seconds,
        tokens=[each.tokens for each in usage],
        usd=None if prices is None else [prices.of(each).usd for each in usage],
        num_rows=num_rows,
        confidence=work.job.evaluation.confidence,
    )
