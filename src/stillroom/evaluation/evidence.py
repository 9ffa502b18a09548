"""From predictions on the test split to evidence: every measure of every arm, and the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import Batch, CurvePoint, Details, Evidence, Measure, Task
from stillroom.evaluation.calibration import reliability_bins
from stillroom.evaluation.fidelity import fidelity_metrics
from stillroom.evaluation.metrics import quality_metrics
from stillroom.evaluation.significance import Estimate, Interval, estimate, interval_within, judge
from stillroom.evaluation.slices import largest_disagreements, slice_measures
from stillroom.evaluation.spans import FIDELITY_OF_SPANS, quality_of_spans, span_disagreements
from stillroom.evaluation.statistic import Floats, Metric, Statistic
from stillroom.evaluation.worth import worth

Predictions = Mapping[str, Sequence[NDArray[Any]]]


def build_evidence(
    *,
    task: Task,
    classes: tuple[str, ...],
    test: Batch,
    predictions: Mapping[str, Sequence[NDArray[Any]]],
    costs: Sequence[Measure] = (),
    primary: str,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    slices: Sequence[str] = (),
    curves: Mapping[str, Sequence[CurvePoint]] | None = None,
) -> tuple[Evidence, Details]:
    """Measure every arm on the test split, and judge the student against the control.

    Measures of every arm: quality. Of every arm but the teacher: fidelity, and what `worth` says of `primary`.

    Args:
        test: n labelled rows. Its features serve `slices` and the examples of disagreement, nothing else.
        predictions: arm -> one array a training seed, (n, K) probabilities, (n,) values, or (n,) spans (`evaluation.spans`). "teacher" has
            one array; "student" and "control" have the same number; other arms may have any.
        costs: measures taken elsewhere, added as they are.
        slices: feature columns whose groups are measured apart.

    Returns:
        The evidence, with a verdict if both student and control are there; and the details for the report.

    Raises:
        StageFailed: a prediction that is not finite.
        BadInput: a slice column that is not there; a primary measure that these labels leave undefined.
    """
    width = len(classes) if task == "classification" else 0
    arrays = {arm: list(values) if task == "spans" else _checked(arm, values, len(test), width) for arm, values in predictions.items()}
    quality, fidelity = _metrics(task, test)
    metrics = {metric.name: metric for metric in quality}
    assert primary in metrics, (primary, task)
    estimates = _estimates(quality, fidelity, test, arrays, resamples, seed)
    if missing := [arm for arm in arrays if (arm, primary) not in estimates]:
        known = ", ".join(name for name in metrics if (missing[0], name) in estimates)
        raise BadInput.at("evaluation.primary", f"= {primary!r} is undefined on the labels of the test split; defined are: {known}.")
    of_primary = {arm: estimates[arm, primary] for arm in arrays}
    measures = [
        Measure(arm, name, found.value, found.low, found.high, len(test), len(arrays[arm]))
        for arm in arrays
        for name, found in _of_arm((*quality, *fidelity), arm, estimates, of_primary, metrics[primary], confidence)
    ]
    verdict = None
    if "student" in arrays and "control" in arrays:
        num_seeds = min(len(arrays["student"]), len(arrays["control"]))
        verdict = judge(of_primary["student"], of_primary["control"], metrics[primary], num_seeds=num_seeds, confidence=confidence)
    sliced = slice_measures(test, arrays, metric=metrics[primary], columns=slices, confidence=confidence, resamples=resamples, seed=seed)
    details = Details(
        reliability={arm: reliability_bins(_labels(test), values) for arm, values in arrays.items()} if width else {},
        disagreements=span_disagreements(test, arrays) if task == "spans" else largest_disagreements(test, classes, arrays),
        slices=sliced,
        curves={arm: tuple(points) for arm, points in (curves or {}).items()},
    )
    arms = tuple(dict.fromkeys([*arrays, *(cost.arm for cost in costs)]))
    return Evidence(arms, (*measures, *costs), verdict), details


def _metrics(task: Task, test: Batch) -> tuple[tuple[Metric, ...], tuple[Metric, ...]]:
    """Against the labels, and against the teacher."""
    return (quality_of_spans(test), FIDELITY_OF_SPANS) if task == "spans" else (quality_metrics(task), fidelity_metrics(task))


def _checked(arm: str, predictions: Sequence[NDArray[Any]], num_rows: int, num_classes: int) -> list[Floats]:
    assert len(predictions) > 0, arm
    checked = [np.asarray(values, dtype=np.float64) for values in predictions]
    for values in checked:
        assert values.shape == ((num_rows, num_classes) if num_classes else (num_rows,)), (arm, values.shape)
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise StageFailed(f"arm {arm!r} predicts {values[row]} for test row {row}; a finite prediction is needed for every row.")
    return checked


def _labels(test: Batch) -> NDArray[Any]:
    assert test.target is not None, "the test split has labels"
    return test.target


def _estimates(
    quality: Sequence[Metric], fidelity: Sequence[Metric], test: Batch, arrays: Predictions, resamples: int, seed: int
) -> dict[tuple[str, str], Estimate]:
    """(arm, measure) -> estimate, where defined."""
    # Once for equal predictions: students trained without randomness, or an arm that is another's twin, which then
    # differs from it by exactly 0.
    made: dict[tuple[str, str], Statistic | None] = {}

    def statistic(metric: Metric, reference: NDArray[Any], content: str, values: Floats) -> Statistic | None:
        key = metric.name, content
        if key not in made:
            made[key] = metric.statistic(reference, values)
        return made[key]

    statistics: dict[tuple[str, str], list[Statistic]] = {}
    for arm, predictions in arrays.items():
        contents = [fingerprint(values.tolist() if values.dtype.hasobject else values) for values in predictions]
        compared = [(metric, _labels(test)) for metric in quality]
        if "teacher" in arrays and arm != "teacher":
            compared += [(metric, arrays["teacher"][0]) for metric in fidelity]
        for metric, reference in compared:
            seeds = [statistic(metric, reference, *pair) for pair in zip(contents, predictions, strict=True)]
            defined = [s for s in seeds if s is not None and np.isfinite(s.value)]
            if len(defined) == len(seeds):
                statistics[arm, metric.name] = defined
    return estimate(statistics, groups=test.groups, num_rows=len(test), resamples=resamples, seed=seed)


def _of_arm(
    metrics: Sequence[Metric],
    arm: str,
    estimates: Mapping[tuple[str, str], Estimate],
    of_primary: Mapping[str, Estimate],
    primary: Metric,
    confidence: float,
) -> Iterator[tuple[str, Interval]]:
    """(measure, value with bounds) of one arm, in the order of evidence.json."""
    for metric in metrics:
        if (arm, metric.name) in estimates:
            yield metric.name, interval_within(estimates[arm, metric.name], metric, confidence)
    yield from worth(arm, of_primary, primary, confidence)
