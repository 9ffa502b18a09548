"""The label stage: the teacher answers the transfer set, out of fold where it is fitted on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.files import whole_folder
from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import Teacher, TeacherRecipe
from stillroom.core.records import Batch, Calibration, Knowledge, LeakFinding
from stillroom.data.folds import make_folds
from stillroom.knowledge.store import KnowledgeStore
from stillroom.models.calibrated import apply_calibration
from stillroom.models.load import load_predictor
from stillroom.pipeline.clock import counted
from stillroom.pipeline.work import Work
from stillroom.spec.teacher import EndpointTeacherSpec
from stillroom.teachers.answers import ask
from stillroom.teachers.build import build_teacher
from stillroom.teachers.calibration import calibrate
from stillroom.teachers.labelling import fit_teacher, label_after_fit, label_fixed, label_in_sample, label_out_of_fold
from stillroom.teachers.leakage import find_leak, refuse_leakage
from stillroom.teachers.teacher import PredictorTeacher

LEAK_SAMPLE = 2000
"""Rows on which in-sample and out-of-fold answers are compared: enough for two digits, cheap for a slow teacher."""


@dataclass(frozen=True, eq=False)
class TransferSet:
    """What the students learn from: m training rows, then the pool.

    Attributes:
        batch: the examples; `target` holds the labels, for rows of the pool -1 (classification), NaN (regression) or None (spans).
        answers: (n, K) or (n,) the teacher's answers, calibrated where that was kept; NaN where there is none. Of spans (n,) object,
            tuples of `Span` or None.
        num_labelled: m.
        answer_keys: (n,) of each answer: the store's, or where an answer was made of several, one for the teacher and the example.
    """

    batch: Batch
    answers: NDArray[Any]
    num_labelled: int
    calibration: Calibration
    leak: LeakFinding | None
    answer_keys: NDArray[np.str_]


def label(work: Work) -> TransferSet:
    """Label what is not labelled yet, and return the transfer set. A second call asks the teacher nothing.

    Raises:
        PolicyRefused: the teacher's terms forbid it.
    """
    work.require_permission()  # before anything is spent
    if isinstance(work.job.teacher, EndpointTeacherSpec):
        from stillroom.pipeline.label_endpoint import label_endpoint

        return label_endpoint(work)
    job, data = work.job, work.dataset
    inputs = work.inputs("label")
    record = work.folder.done("label", inputs, work.folder.teacher)
    work.listener.stage("label", resumed=record is not None)
    source = build_teacher(
        job.teacher, columns=data.columns, classes=data.classes, task=data.task, seed=job.seed, allow_code=work.allow_code,
        fine_tune=fine_tuner(work), work=work.scratch("teacher"), mode=job.labelling.mode,
    )  # fmt: skip
    train, pool = data.train, pool_of(work)
    store = KnowledgeStore(job.labelling.store or work.folder.knowledge)
    with store:
        keeper = _Keeper(work, source, inputs)
        if record is None:
            work.folder.begin("label")
            with counted(work.folder.count("label"), inputs) as seconds:
                known, known_pool = keeper.answers(pool, store)
                record = work.folder.finish("label", inputs, **_conclude(work, keeper, known), seconds=seconds())
        else:
            known, known_pool = keeper.answers(pool, store)
        store.seal()
    refuse_leakage(known, mode=job.labelling.mode)
    calibration = Calibration(**{**record["calibration"], "prior": tuple(record["calibration"]["prior"])})
    leak = None if record["leak"] is None else LeakFinding(**record["leak"])
    answers = [known.values] if known_pool is None else [known.values, known_pool.values]
    corrected = apply_calibration(np.concatenate(answers), calibration) if calibration.kept else np.concatenate(answers)
    parts = [known] if known_pool is None else [known, known_pool]
    keys = np.concatenate([_answer_keys(part, record["teacher"]) for part in parts])
    return TransferSet(together(train, pool), corrected, len(train), calibration, leak, keys)


class _Keeper:
    """The job's teacher: fitted and saved at most once, and only if somebody has to answer."""

    def __init__(self, work: Work, source: Teacher | TeacherRecipe, inputs: str) -> None:
        self.work, self.source, self.inputs = work, source, inputs
        self.recipe: TeacherRecipe | None = None if hasattr(source, "predict_values") else source

    def teacher(self) -> Teacher:
        """The teacher that is one arm of the evaluation: as it is, or fitted on all training rows. Saved in the run."""
        work, folder = self.work, self.work.folder
        if folder.done("teacher", self.inputs, folder.teacher):
            predictor = load_predictor(folder.teacher, allow_code=work.allow_code)
            return PredictorTeacher(predictor, lambda: self.inputs)
        if self.recipe is None:
            teacher: Teacher = self.source  # type: ignore[assignment]
        else:
            work.listener.say("fitting the teacher on all training rows")
            teacher = fit_teacher(self.recipe, work.dataset.train, classes=work.dataset.classes, seed=work.job.seed)
        folder.begin("teacher")
        with whole_folder(folder.teacher) as draft:
            teacher.save(draft)
        folder.finish("teacher", self.inputs)
        return teacher

    def answers(self, pool: Batch | None, store: KnowledgeStore) -> tuple[Knowledge, Knowledge | None]:
        """The answers to the training rows and to the pool; what is not stored yet is asked."""
        return self._label_train(store), None if pool is None else self._label_pool(pool, store)

    def _label_train(self, store: KnowledgeStore) -> Knowledge:
        work, data = self.work, self.work.dataset
        seed, size = work.job.seed, work.job.labelling.batch_size
        if self.recipe is None:
            told = work.listener.task("asking the teacher")
            seen = getattr(work.job.teacher, "trained_on", "") == "these-rows"
            return label_fixed(self.source, data.train, store, classes=data.classes, batch_size=size, progress=told, seen=seen)  # type: ignore[arg-type]
        if work.job.labelling.mode == "in-sample":
            told = work.listener.task("asking the teacher about rows it has seen")
            return label_in_sample(
                self.recipe, data.train, store, classes=data.classes, seed=seed, batch_size=size, progress=told, fitted=self.teacher
            )
        folds = make_folds(
            data.train, task=data.task, num_folds=work.job.labelling.folds, kind=work.job.data.split.kind, seed=seed, classes=data.classes
        )
        told = work.listener.task(f"asking the teacher, {len(folds)} folds")
        rows = [(fold.fit_rows, fold.answer_rows) for fold in folds]
        return label_out_of_fold(self.recipe, data.train, rows, store, classes=data.classes, seed=seed, batch_size=size, progress=told)

    def _label_pool(self, pool: Batch, store: KnowledgeStore) -> Knowledge:
        work, data = self.work, self.work.dataset
        size, told = work.job.labelling.batch_size, work.listener.task("asking the teacher about the pool")
        if self.recipe is None:
            return label_fixed(self.source, pool, store, classes=data.classes, batch_size=size, progress=told)  # type: ignore[arg-type]
        return label_after_fit(
            self.recipe, data.train, pool, store, classes=data.classes, seed=work.job.seed, batch_size=size, progress=told,
            fitted=self.teacher,
        )  # fmt: skip


def _conclude(work: Work, keeper: _Keeper, known: Knowledge) -> dict[str, Any]:
    """What is learnt about the teacher from its answers: leakage and calibration."""
    job, data = work.job, work.dataset
    assert data.train.target is not None
    teacher, leak, calibration = keeper.teacher(), None, Calibration(kept=False)
    out_of_fold = keeper.recipe is not None and job.labelling.mode == "out-of-fold"
    if out_of_fold:
        rows = np.sort(np.random.default_rng(job.seed).permutation(len(data.train))[:LEAK_SAMPLE])
        inside = ask(teacher, data.train.take(rows).features, data.classes)
        leak = find_leak(inside, known.values[rows], data.train.target[rows], classes=data.classes)
        work.listener.say(leak.message)
    unseen = out_of_fold or (keeper.recipe is None and getattr(job.teacher, "trained_on", "") == "other-rows")
    if job.labelling.calibrate and data.task == "classification" and unseen:
        calibration = calibrate(known.values, data.train.target, seed=job.seed)
        work.listener.say(calibration.message)
    return {
        "leak": None if leak is None else asdict(leak),
        "calibration": asdict(calibration),
        "teacher": teacher.fingerprint,
        "answers": int(np.isfinite(known.values).reshape(len(known.keys), -1).all(axis=1).sum()),
    }


def _answer_keys(known: Knowledge, teacher: str) -> NDArray[np.str_]:
    return answer_keys_of(known.keys, teacher) if known.answers is None else known.answers


def answer_keys_of(examples: NDArray[np.str_], teacher: str) -> NDArray[np.str_]:
    """(n,) a key for each answer that was made of several stored ones."""
    return np.array([fingerprint("answer", {"example": example, "teacher": teacher}) for example in examples.tolist()], dtype=np.str_)


def pool_of(work: Work) -> Batch | None:
    """The pool without rows that are training rows too: the fitted teacher has seen those, with their labels."""
    pool = work.dataset.unlabeled
    if pool is None:
        return None
    fresh = np.flatnonzero(~np.isin(pool.keys, work.dataset.train.keys))
    return pool.take(fresh) if len(fresh) else None


def together(train: Batch, pool: Batch | None) -> Batch:
    """The training rows, then the pool's, without labels."""
    import pandas as pd

    if pool is None:
        return train
    assert train.target is not None
    none = np.full(len(pool), {"f": np.nan, "O": None}.get(train.target.dtype.kind, -1), dtype=train.target.dtype)
    features = pd.concat([train.features, pool.features], ignore_index=True)
    return Batch(features, np.concatenate([train.keys, pool.keys]), np.concatenate([train.target, none]))


def fine_tuner(work: Work) -> Callable[..., None]:
    """Fine-tuning on hard labels, handed to teachers that ask for it: areas do not know each other."""

    def fine_tune(
        model: Any,
        tokenizer: Any,
        batch: Batch,
        *,
        column: str,
        classes: tuple[str, ...],
        settings: dict[str, Any],
        seed: int,
        folder: Path,
    ) -> None:
        from stillroom.objectives.soft_labels_torch import soft_label_loss
        from stillroom.training.encoder import train_encoder

        train_encoder(
            model, tokenizer, batch, column=column, classes=classes, probs=None, temperature=1.0, hard_label_weight=1.0,
            loss_fn=soft_label_loss, settings=settings, seed=seed, folder=folder, progress=work.listener.task("fine-tuning the teacher"),
        )  # fmt: skip

    return fine_tune
