"""The report stage: report.html, model-card.md and lineage.json, from what the other stages recorded."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stillroom.core.asking import Asked
from stillroom.core.files import write_json, write_text
from stillroom.core.fingerprint import folder_fingerprint
from stillroom.core.records import Calibration, Details, Evidence, LeakFinding, ParityCheck
from stillroom.core.responses import Accepted
from stillroom.core.review import ReviewFinding
from stillroom.lineage.record import lineage_record, package_versions
from stillroom.pipeline.evaluate import test_reads
from stillroom.pipeline.export import export
from stillroom.pipeline.folder import STAGES, read_record
from stillroom.pipeline.generate import GENERATE
from stillroom.pipeline.generated import QUALITY, read_generated
from stillroom.pipeline.review import corrected_rows, review_finding
from stillroom.pipeline.spans import span_notes
from stillroom.pipeline.terms import Terms, check_terms
from stillroom.pipeline.work import Work
from stillroom.report.asking import TEST_ROWS, TRANSFER_SET
from stillroom.report.card import render_card
from stillroom.report.data import ReportData
from stillroom.report.page import render_report
from stillroom.teachers.build import teacher_notes


def report(work: Work) -> None:
    """Write the report, the card and the lineage. Always written anew: they only show what is recorded."""
    exported = export(work)
    transfer = exported.transfer
    review = review_finding(work, transfer) if work.dataset.task == "classification" else None
    num_corrected = len(corrected_rows(work, transfer))
    notes = _notes(work, transfer.num_labelled, len(transfer.batch), num_corrected)
    asking = read_asking(work, TRANSFER_SET, TEST_ROWS)
    found = Found(exported.evidence, notes, transfer.leak, transfer.calibration, exported.parity, asking, review, num_corrected)
    write_report(work, found)


@dataclass(frozen=True)
class Found:
    """What the stages before have found, as the report shows it; see `ReportData`."""

    evidence: Evidence
    notes: tuple[str, ...]
    leak: LeakFinding | None = None
    calibration: Calibration | None = None
    parity: Mapping[str, ParityCheck] = field(default_factory=dict)
    asking: Mapping[str, Asked] = field(default_factory=dict)
    review: ReviewFinding | None = None
    corrected_rows: int = 0
    responses: Accepted | None = None


def write_report(work: Work, found: Found) -> None:
    """Write report.html, model-card.md and lineage.json."""
    work.listener.stage("report", resumed=False)
    folder = work.folder
    labelled = folder.done("label", work.inputs("label")) or {}
    others = {name: f"label@{name}" for name in work.job.other_teachers}
    terms = check_terms(
        work.job, teacher=str(labelled.get("teacher", "")), data=work.data_fingerprint, student=folder_fingerprint(folder.student),
        served=labelled.get("asked", {}).get("served", ()),
        other_teachers={name: str(read_record(folder.record(record)).get("teacher", "")) for name, record in others.items()},
    )  # fmt: skip
    write_json(folder.lineage, _lineage(work, terms, found.corrected_rows))
    data = ReportData(
        title=work.job.name or "job",
        job=work.job.model_dump(mode="json"),
        evidence=found.evidence,
        details=Details.from_json(json.loads(folder.details.read_text(encoding="utf-8"))),
        provenance=terms.lines,
        leak=found.leak,
        calibration=found.calibration,
        parity=found.parity,
        asking=found.asking,
        review=found.review,
        responses=found.responses,
        notes=found.notes,
        seconds={
            stage: record["seconds"]
            for stage in (GENERATE, STAGES[0], *others.values(), *STAGES[1:])
            if "seconds" in (record := read_record(folder.record(stage)))
        },
        environment=environment(),
        generated=read_generated(folder) if work.job.generation is not None and (folder.generated / QUALITY).is_file() else None,
        waiver=None if terms.waiver is None else str(terms.waiver),
    )
    write_text(folder.report, render_report(data))
    write_text(folder.card, render_card(data))


def read_asking(work: Work, training: str, test: str) -> dict[str, Asked]:
    """How a teacher behind an endpoint answered, as the stages recorded it, by what it was asked for: `training`, `test`."""
    records = {
        training: work.folder.done("label", work.inputs("label")),
        test: work.folder.done("asked-test", work.inputs("evaluate")),
    }
    return {what: Asked.from_json(record["asked"]) for what, record in records.items() if record and "asked" in record}


def environment() -> dict[str, str]:
    """The machine and the versions behind the figures."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        **package_versions(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:  # noqa: PTH123 - no file of ours
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _lineage(work: Work, terms: Terms, corrected_rows: int) -> dict[str, Any]:
    return lineage_record(
        job=work.job.model_dump(mode="json"), teachers=terms.teachers, data=terms.data, student=terms.student, waiver=terms.waiver,
        seeds=work.seeds, packages=package_versions(), corrected_rows=corrected_rows,
    )  # fmt: skip


def _notes(work: Work, num_labelled: int, num_transfer: int, num_corrected: int) -> tuple[str, ...]:
    data = work.dataset
    notes = [
        f"{num_labelled} labelled training rows, {num_transfer - num_labelled} rows of the pool, {len(data.test)} test rows.",
        *data.notes,
        *(span_notes(work) if data.task == "spans" else ()),
        *teacher_notes(work.job.teacher),
    ]
    if work.job.labelling.mode == "in-sample":
        notes.append("The job asked for in-sample labels: the teacher answered rows that it had been fitted on.")
    if num_corrected:
        notes.append(f"People corrected {num_corrected} rows: the student learnt their labels there, instead of the teacher's answers.")
    return (*notes, *read_notes(work))


def read_notes(work: Work) -> list[str]:
    """What to say where the test split was read more than once."""
    reads = test_reads(work)
    return [f"This run has read its test split {reads} times. Choosing settings by it makes the figures too good."] if reads > 1 else []
