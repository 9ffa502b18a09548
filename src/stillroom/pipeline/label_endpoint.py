"""The label stage of a job whose teacher is behind an endpoint: nothing is fitted, and some rows may stay without an answer."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from stillroom.core.asking import Asked
from stillroom.core.files import whole_folder
from stillroom.core.records import Batch, Calibration
from stillroom.models.calibrated import apply_calibration
from stillroom.models.endpoint import write_reference
from stillroom.pipeline.asking import Answers, ask_rows, endpoint_of
from stillroom.pipeline.clock import counted
from stillroom.pipeline.generated import record_agreement
from stillroom.pipeline.label import TransferSet, answer_keys_of, pool_of, together
from stillroom.pipeline.work import Work
from stillroom.report.asking import TRANSFER_SET, asking_words
from stillroom.teachers.calibration import calibrate
from stillroom.teachers.teacher import TeacherRequest, refuse_trained_on


def label_endpoint(work: Work) -> TransferSet:
    """Ask about the training rows and the pool, in one stream. A second call asks nothing.

    Raises:
        BadInput: an endpoint that has been trained on the rows, without labelling.mode: in-sample.
        BadInput, EndpointStopped, StageFailed: as `ask_rows`.
    """
    job, data, folder = work.job, work.dataset, work.folder
    inputs = work.inputs("label")
    record = folder.done("label", inputs, folder.teacher)
    work.listener.stage("label", resumed=record is not None)
    request = TeacherRequest(data.columns, data.classes, data.task, job.seed, mode=job.labelling.mode)
    refuse_trained_on(getattr(job.teacher, "trained_on", ""), request)
    batch = together(data.train, pool_of(work))
    if record is None:
        folder.begin("label")
        with counted(folder.count("label"), inputs) as seconds:
            answers = ask_rows(work, batch, TRANSFER_SET)
            record = folder.finish("label", inputs, **_conclude(work, answers, batch), seconds=seconds())
    else:
        answers = ask_rows(work, batch, TRANSFER_SET, done=True)
    calibration = Calibration(**{**record["calibration"], "prior": tuple(record["calibration"]["prior"])})
    values = apply_calibration(answers.values, calibration) if calibration.kept else answers.values
    if job.generation is not None:
        record_agreement(folder, data, dict(zip(batch.keys.tolist(), values, strict=True)), job.evaluation.confidence)
    return TransferSet(batch, values, len(data.train), calibration, None, answer_keys_of(batch.keys, record["teacher"]))


def _conclude(work: Work, answers: Answers, batch: Batch) -> dict[str, Any]:
    """What the stage records: how the rows were answered, and what their labels say of the answers."""
    job = work.job
    assert batch.target is not None
    for sentence in asking_words({TRANSFER_SET: answers.asked}):
        work.listener.say(sentence)
    calibration = Calibration(kept=False)
    has_probs = work.dataset.task == "classification"
    if has_probs and job.labelling.calibrate and getattr(job.teacher, "trained_on", "") == "other-rows":
        calibration = calibrate(answers.values, batch.target, seed=job.seed)
        work.listener.say(calibration.message)
    _save_reference(work, answers.asked)
    return {
        "leak": None,
        "calibration": asdict(calibration),
        "teacher": endpoint_of(work).fingerprint,
        "answers": answers.asked.answered,
        "asked": answers.asked.to_json(),
    }


def _save_reference(work: Work, asked: Asked) -> None:
    """The teacher's folder says who it was."""
    teacher, data = endpoint_of(work), work.dataset
    with whole_folder(work.folder.teacher) as draft:
        write_reference(
            draft, endpoint=teacher.endpoint.name, model=teacher.parameters.model, served=asked.served, classes=data.classes,
            columns=data.columns,
        )  # fmt: skip
