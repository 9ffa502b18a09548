"""The export stage: ONNX, held against the student row by row, and its cost as one more arm."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stillroom.core.files import whole_folder
from stillroom.core.protocols import Predictor
from stillroom.core.records import Evidence, Measure, ParityCheck
from stillroom.export.parity import check_parity
from stillroom.models.load import load_predictor
from stillroom.pipeline.clock import counted
from stillroom.pipeline.evaluate import costs_of, evaluate, write_evidence
from stillroom.pipeline.label import TransferSet
from stillroom.pipeline.work import Work

ARM = "student-onnx"


@dataclass(frozen=True, eq=False)
class Exported:
    """The evaluation, with the exports' rows in the evidence and their parity checks by format."""

    transfer: TransferSet
    evidence: Evidence
    parity: dict[str, ParityCheck]


def export(work: Work) -> Exported:
    """Export the student that ships, in every format asked for.

    Raises:
        StageFailed: the export and the student differ by more than export.tolerance; nothing is left in exports/.
    """
    evaluated = evaluate(work)
    work.require_permission()  # the terms may have changed since
    inputs = work.inputs("export")
    record = work.folder.done("export", inputs, *map(work.folder.export, work.job.formats))
    work.listener.stage("export", resumed=record is not None)
    if record is None:
        work.folder.begin("export")
        with counted(work.folder.count("export"), inputs) as seconds:
            made = {kind: _export(work, kind) for kind in work.job.formats}
            parity = {kind: asdict(check) for kind, (check, _) in made.items()}
            measures = [asdict(measure) for _, rows in made.values() for measure in rows]
            record = work.folder.finish("export", inputs, parity=parity, measures=measures, seconds=seconds())
    evidence = write_evidence(work, evaluated.evidence, tuple(Measure(**m) for m in record["measures"]))
    return Exported(evaluated.transfer, evidence, {kind: ParityCheck(**check) for kind, check in record["parity"].items()})


def _export(work: Work, kind: str) -> tuple[ParityCheck, list[Measure]]:
    data, folder = work.dataset, work.folder.export(kind)
    student = load_predictor(work.folder.student)
    shutil.rmtree(folder, ignore_errors=True)
    with whole_folder(folder) as draft:
        _write_onnx(student, draft)
        # Before the draft takes its place: an export that disagrees never lies there to be shipped.
        check = check_parity(student, load_predictor(draft), data.test.features, tolerance=work.job.export.tolerance, scale=_scale(work))
    work.listener.say(f"{kind}: largest difference from the student over {check.n} test rows {check.largest_difference:.2g}")
    measures = [Measure(ARM, "parity_largest_difference", check.largest_difference, None, None, check.n, 1)]
    if check.label_agreement is not None:
        measures.append(Measure(ARM, "label_agreement_with_student", check.label_agreement, None, None, check.n, 1))
    if work.job.evaluation.cost:
        measures += costs_of(work, {ARM: folder})
    return check, measures


def _write_onnx(student: Predictor, folder: Path) -> None:
    if type(student).__module__ == "stillroom.models.text":
        from stillroom.export.onnx_text import export_text

        export_text(student, folder)  # type: ignore[arg-type]
    else:
        from stillroom.export.onnx_tabular import export_tabular

        export_tabular(student, folder)  # type: ignore[arg-type]


def _scale(work: Work) -> float:
    """Differences of probabilities are absolute; those of predicted values are in units of the target's spread."""
    target = work.dataset.train.target
    assert target is not None
    return 1.0 if work.dataset.classes else float(np.std(target))
