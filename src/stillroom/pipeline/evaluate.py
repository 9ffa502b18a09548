"""The evaluate stage: every arm on the test split, once, with intervals and costs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.files import write_bytes, write_json
from stillroom.core.records import Details, Evidence, Measure
from stillroom.evaluation.cost import measure_cost
from stillroom.evaluation.evidence import build_evidence
from stillroom.models.calibrated import apply_calibration
from stillroom.models.load import load_predictor
from stillroom.pipeline.clock import counted
from stillroom.pipeline.folder import read_record
from stillroom.pipeline.label import TransferSet
from stillroom.pipeline.train import arms, curve_of, train
from stillroom.pipeline.work import Work
from stillroom.spec.teacher import EndpointTeacherSpec
from stillroom.teachers.answers import ask


@dataclass(frozen=True, eq=False)
class Evaluated:
    """What the students learnt from, and how they came out."""

    transfer: TransferSet
    evidence: Evidence


def evaluate(work: Work) -> Evaluated:
    """Measure the teacher, the students and the controls on the test split; write evidence.json and details.json."""
    transfer = train(work)
    return Evaluated(transfer, evaluate_arms(work, lambda: _measure(work, transfer)))


def evaluate_arms(work: Work, measure: Callable[[], tuple[Evidence, Details]]) -> Evidence:
    """What `measure` finds, once: it is what reads the test split."""
    inputs = work.inputs("evaluate")
    record = work.folder.done("evaluate", inputs, work.folder.details, work.folder.predictions)
    work.listener.stage("evaluate", resumed=record is not None)
    if record is not None:
        return Evidence.from_json(record["evidence"])
    work.folder.begin("evaluate")
    with counted(work.folder.count("evaluate"), inputs) as seconds:
        evidence, details = measure()
        write_json(work.folder.details, details.to_json())
        reads = test_reads(work) + 1
        work.folder.finish("evaluate", inputs, evidence=evidence.to_json(), test_reads=reads, seconds=seconds())
    return write_evidence(work, evidence)


def _measure(work: Work, transfer: TransferSet) -> tuple[Evidence, Details]:
    job, data = work.job, work.dataset
    teacher, costs = _teacher_arm(work, transfer)
    predictions = _predict(work, teacher)
    if job.evaluation.cost:
        here = () if isinstance(job.teacher, EndpointTeacherSpec) else ("teacher",)
        costs += costs_of(work, {arm: work.folder.arm(arm, 0) for arm in (*here, *arms(work))})
    curves = {arm: curve_of(work, arm) for arm in arms(work)}
    return build_evidence(
        task=data.task, classes=data.classes, test=data.test, predictions=predictions, costs=costs, primary=job.primary,
        confidence=job.evaluation.confidence, resamples=job.evaluation.resamples,
        seed=job.seed, slices=job.evaluation.slices, curves=curves,
    )  # fmt: skip


def test_reads(work: Work) -> int:
    """How many times this run has evaluated on its test split."""
    return int(read_record(work.folder.record("evaluate")).get("test_reads", 0))


def costs_of(work: Work, folders: Mapping[str, Path]) -> list[Measure]:
    """Latency, throughput, memory and size of saved arms, on the test rows."""
    settings = work.job.evaluation
    return measure_cost(
        folders, work.dataset.test.features, calls=settings.latency_calls, seed=work.job.seed, allow_code=work.allow_code,
        confidence=settings.confidence, progress=work.listener.task("measuring latency, throughput, memory and size"),
    )  # fmt: skip


def write_evidence(work: Work, evidence: Evidence, more: tuple[Measure, ...] = ()) -> Evidence:
    """Write evidence.json: what the evaluation found, and the rows of the exports."""
    names = (*evidence.arms, *(m.arm for m in more))
    whole = replace(evidence, arms=tuple(dict.fromkeys(names)), measures=(*evidence.measures, *more))
    write_json(work.folder.evidence, whole.to_json())
    return whole


def _teacher_arm(work: Work, transfer: TransferSet) -> tuple[NDArray[Any], list[Measure]]:
    """The teacher's answers to the test rows; and what it costs, where that is no matter of this machine."""
    data = work.dataset
    work.listener.say(f"asking every arm about {len(data.test)} test rows")
    costs: list[Measure] = []
    if isinstance(work.job.teacher, EndpointTeacherSpec):
        from stillroom.pipeline.evaluate_endpoint import ask_test_rows

        teacher, costs = ask_test_rows(work)
    else:
        teacher = ask(load_predictor(work.folder.teacher, allow_code=work.allow_code), data.test.features, data.classes)
    return apply_calibration(teacher, transfer.calibration) if transfer.calibration.kept else teacher, costs


def _predict(work: Work, teacher: NDArray[Any]) -> dict[str, list[NDArray[Any]]]:
    """Every arm's answers to the test rows; also kept in predictions.npz, for whoever wants to check the figures."""
    data = work.dataset
    features = data.test.features
    predictions = {"teacher": [teacher]}
    for arm in arms(work):
        folders: list[Path] = [work.folder.arm(arm, i) for i in range(len(work.seeds))]
        predictions[arm] = [load_predictor(folder).predict_values(features) for folder in folders]
    arrays: dict[str, Any] = {f"{arm}-{i}": _plain(values) for arm, found in predictions.items() for i, values in enumerate(found)}
    content = io.BytesIO()
    np.savez_compressed(content, keys=data.test.keys, target=_plain(np.asarray(data.test.target)), **arrays)
    write_bytes(work.folder.predictions, content.getvalue())
    return predictions


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Spans as JSON, so that whoever reads the file need not trust it."""
    return np.array([json.dumps(row) for row in values]) if values.dtype.hasobject else values
