"""The train stage of a language model's job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from stillroom.core.arms import teacher_of
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import CurvePoint
from stillroom.knowledge.token_knowledge import TokenKnowledge
from stillroom.losses.closed_form import DIVERGENCES, Divergence
from stillroom.models import language as saved
from stillroom.models.language import LanguagePredictor
from stillroom.objectives.tokens import Schedule, TokenObjective
from stillroom.pipeline.language.label import Taught, label, open_store
from stillroom.pipeline.language.work import LanguageWork
from stillroom.pipeline.train import train_arms
from stillroom.spec.objective import ObjectiveSpec, TemperatureSchedule, WeightSchedule
from stillroom.students.language import build_student, merged
from stillroom.training.language import train_language_model
from stillroom.training.language_teachers import OfflineTeacher, OnlineTeacher, TokenTeacher, head_for_loss

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def train(work: LanguageWork) -> Taught:
    """Train every arm at every seed that is not trained yet; returns what they learnt from."""
    taught = label(work)
    train_arms(work, lambda arm, seed: _train_arm(work, taught, arm, seed))
    return taught


def token_objective(spec: ObjectiveSpec, temperature: float) -> TokenObjective:
    """The objective of the job's section; `temperature` where it gives none."""
    return TokenObjective(
        _divergence(spec),
        _schedule(temperature if spec.temperature is None else spec.temperature),
        _schedule(spec.hard_label_weight),
    )


def _divergence(spec: ObjectiveSpec) -> Divergence:
    parameter = {name: value for name in ("alpha", "beta") if (value := getattr(spec, name)) is not None}
    return DIVERGENCES[spec.divergence.replace("-", "_")](**parameter)


def _schedule(value: float | TemperatureSchedule | WeightSchedule) -> Schedule:
    return Schedule(value) if isinstance(value, float) else Schedule(value.start, value.end, value.shape)


def _train_arm(work: LanguageWork, taught: Taught, arm: str, seed: int) -> tuple[LanguagePredictor, list[CurvePoint]]:
    """The student learns from its teacher; the control, the same student, from the tokens alone."""
    job, corpus = work.job, work.corpus
    model, tokenizer, notes = _untrained(work, seed)
    if (arm, seed) == ("student", work.seeds[0]):  # what is said of one holds for all
        for note in notes:
            work.listener.say(note)
    with _teacher(work, taught, arm) as teacher:
        curve = train_language_model(
            model, tokenizer, corpus.train, teacher=teacher, objective=token_objective(job.objective, job.temperature),
            settings=job.training.model_dump(), seed=seed, folder=work.scratch(f"{arm}-{seed}"),
            vocabulary_size=taught.vocabulary_size, validation=corpus.validation,
            progress=work.listener.task(f"training the {arm}, seed {seed}"),
        )  # fmt: skip
    return LanguagePredictor(merged(model), tokenizer, column=job.data.text or "text"), curve


def _untrained(work: LanguageWork, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, tuple[str, ...]]:
    """The student of every arm, and what is to be said of it.

    It is made out of the main teacher, whoever teaches it, so that arms differ in nothing else.
    """
    source = saved.load(work.folder.teacher)
    model, notes = build_student(
        work.student_spec, teacher=source.model, tokenizer=source.tokenizer, examples=work.corpus.train.examples, seed=seed
    )
    return model, source.tokenizer, notes


@contextmanager
def _teacher(work: LanguageWork, taught: Taught, arm: str) -> Iterator[TokenTeacher | None]:
    """An arm's stored answers, or the model itself; None for the control."""
    if arm == "control":
        yield None
        return
    question, corpus, folder = taught.questions[teacher_of(arm)], work.corpus, work.folder.arm(teacher_of(arm), 0)
    if question is None:
        yield OnlineTeacher(saved.load(folder).model)
        return
    head = head_for_loss(saved.load(folder).model, taught.vocabulary_size) if question.scheme.kind == "hidden" else None
    with open_store(work, read_only=True) as store:
        knowledge = TokenKnowledge(store, question, corpus.train.examples)
        yield OfflineTeacher(
            knowledge.answers, len(knowledge), question.scheme, fingerprint(question.facts("")), question.temperature, head
        )
