"""The train stage: a student and a control for every seed, each saved whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from stillroom.core.files import whole_folder, write_json
from stillroom.core.protocols import Predictor
from stillroom.core.records import Batch, CurvePoint
from stillroom.pipeline.clock import counted
from stillroom.pipeline.folder import read_record
from stillroom.pipeline.label import TransferSet, label
from stillroom.pipeline.review import corrected
from stillroom.pipeline.work import Work
from stillroom.spec.student import EstimatorStudentSpec, HuggingFaceStudentSpec

TRAINING_RECORD = "training.json"


class Saved(Protocol):
    """A trained model, which knows how to write itself into an empty folder."""

    def save(self, folder: Path) -> None: ...


def arms(work: Work) -> tuple[str, ...]:
    """The trained arms, the student first."""
    main = ("student", "control") if work.job.evaluation.control else ("student",)
    return (*main, *(f"student@{name}" for name in work.job.other_teachers))


def train(work: Work) -> TransferSet:
    """Train every arm at every seed that is not trained yet; returns the transfer set, with the teacher's own answers."""
    transfer = label(work)
    taught = corrected(work, transfer)
    train_arms(work, lambda arm, seed: _train_arm(work, taught, arm, seed))
    return transfer


def train_arms(work: Work, train_one: Callable[[str, int], tuple[Saved, list[CurvePoint]]]) -> None:
    """Walk over the arms and seeds: train_one(arm, seed) -> a model and its learning curve, for those that are not trained yet."""
    each = [(arm, i) for i in range(len(work.seeds)) for arm in arms(work)]
    inputs = {arm: work.inputs("student", arm) for arm in arms(work)}
    untrained = [(arm, i) for arm, i in each if _training(work, arm, i).get("inputs") != inputs[arm]]
    resumed = not untrained and work.folder.done("train", work.inputs("train")) is not None
    work.listener.stage("train", resumed=resumed)
    if resumed:
        return
    told = work.listener.task("training")
    for num_done, (arm, i) in enumerate(untrained, start=len(each) - len(untrained)):
        told(num_done, len(each))
        if not work.folder.writes:
            train_one(arm, work.seeds[i])  # together with the process that saves it
            continue
        with counted(work.folder.count(f"{arm}-{i}"), inputs[arm]) as seconds:
            model, curve = train_one(arm, work.seeds[i])
            with whole_folder(work.folder.arm(arm, i)) as draft:
                model.save(draft)
                facts = {"inputs": inputs[arm], "seed": work.seeds[i], "seconds": seconds(), "curve": [asdict(point) for point in curve]}
                write_json(draft / TRAINING_RECORD, facts)
    told(len(each), len(each))
    if not work.folder.writes:
        return
    seconds_of_each = [_training(work, arm, i)["seconds"] for arm, i in each]
    work.folder.finish("train", work.inputs("train"), seeds=list(work.seeds), arms=list(arms(work)), seconds=sum(seconds_of_each))
    shutil.rmtree(work.folder.work, ignore_errors=True)


def curve_of(work: Work, arm: str) -> tuple[CurvePoint, ...]:
    """The learning curve of an arm's first seed."""
    return tuple(CurvePoint(**point) for point in _training(work, arm, 0)["curve"])


def _training(work: Work, arm: str, index: int) -> dict[str, Any]:
    """What was recorded beside a trained arm; {} where it is not trained."""
    return read_record(work.folder.arm(arm, index) / TRAINING_RECORD)


def _train_arm(work: Work, transfer: TransferSet, arm: str, seed: int) -> tuple[Predictor, list[CurvePoint]]:
    """The student learns from the whole transfer set; the control from its labelled rows alone, as hard labels."""
    if arm == "control":
        labelled = np.arange(transfer.num_labelled)
        batch, answers, weight = transfer.batch.take(labelled), None, 1.0
    else:
        batch, answers, weight = transfer.batch, transfer.answers, work.job.hard_label_weight
    student = work.job.student
    if isinstance(student, HuggingFaceStudentSpec):
        return _train_encoder(work, student, batch, answers, weight, arm, seed, steps_as=len(transfer.batch))
    return _train_estimator(work, student, batch, answers, weight, seed)


def _train_estimator(
    work: Work, student: EstimatorStudentSpec, batch: Batch, answers: Any, weight: float, seed: int
) -> tuple[Predictor, list[CurvePoint]]:
    from stillroom.objectives.soft_labels import SoftLabels
    from stillroom.students.estimators import build_student
    from stillroom.training.estimators import fit_classifier, fit_regressor

    data = work.dataset
    recipe = build_student(student, task=data.task, columns=data.columns, seed=seed)
    objective = SoftLabels(work.job.temperature, weight)
    if data.task == "regression":
        return fit_regressor(recipe, batch, answers, hard_label_weight=weight, seed=seed)
    return fit_classifier(recipe, batch, answers, objective, classes=data.classes, seed=seed)


def _train_encoder(
    work: Work, student: HuggingFaceStudentSpec, batch: Batch, answers: Any, weight: float, arm: str, seed: int, *, steps_as: int
) -> tuple[Predictor, list[CurvePoint]]:
    from stillroom.objectives.soft_labels_torch import soft_label_loss

    data, job = work.dataset, work.job
    column, settings = data.columns[0].name, job.training.model_dump()
    # The same budget for both arms: a control with fewer rows passes over them more often, and takes as many steps.
    settings["num_train_epochs"] *= steps_as / len(batch)
    asked: dict[str, Any] = {
        "column": column, "temperature": job.temperature, "hard_label_weight": weight, "loss_fn": soft_label_loss, "settings": settings,
        "seed": seed, "folder": work.scratch(f"{arm}-{seed}"), "validation": data.validation,
        "progress": work.listener.task(f"training the {arm}, seed {seed}"),
    }  # fmt: skip
    if data.task == "spans":
        from stillroom.models.spans import SpanPredictor
        from stillroom.students.encoders import build_tagger
        from stillroom.training.tagging import train_tagger

        model, tokenizer = build_tagger(student, labels=data.classes, seed=seed)
        curve = train_tagger(model, tokenizer, batch, labels=data.classes, answers=answers, **asked)
        return SpanPredictor(model, tokenizer, data.classes, column=column, max_length=settings["max_length"]), curve
    from stillroom.models.text import TextPredictor
    from stillroom.students.encoders import build_student
    from stillroom.training.encoder import train_encoder

    model, tokenizer = build_student(student, teacher=work.folder.teacher, classes=data.classes, seed=seed)
    curve = train_encoder(model, tokenizer, batch, classes=data.classes, probs=answers, **asked)
    return TextPredictor(model, tokenizer, data.classes, column=column, max_length=settings["max_length"]), curve
