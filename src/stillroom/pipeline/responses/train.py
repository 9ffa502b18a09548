"""The train stage of a job on responses: plain cross-entropy on what the teacher wrote; for the control on the data's own answers."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.core.records import CurvePoint
from stillroom.core.token_records import Sequences
from stillroom.models.language import LanguagePredictor
from stillroom.objectives.tokens import TokenObjective
from stillroom.pipeline.responses.label import Learnt, label
from stillroom.pipeline.responses.work import ResponsesWork
from stillroom.pipeline.train import train_arms
from stillroom.spec.student import HuggingFaceStudentSpec
from stillroom.students.language import build_student_alone, merged
from stillroom.training.language import train_language_model


@dataclass(frozen=True, eq=False)
class Texts:
    """What the arms learn.

    Attributes:
        student: prompts with the responses that were chosen.
        control: the same prompts, each once, with the data's own answers; None where the data has none.
        notes: what did not make it into them, and what it means.
    """

    student: Sequences
    control: Sequences | None
    notes: tuple[str, ...]


def train(work: ResponsesWork) -> Texts:
    """Train every arm at every seed that is not trained yet; returns what they learnt from."""
    texts = texts_of(work, label(work))
    train_arms(work, lambda arm, seed: _train_arm(work, texts, arm, seed))
    return texts


def texts_of(work: ResponsesWork, learnt: list[Learnt]) -> Texts:
    """The token sequences of the arms."""
    student, notes = work.sequences([(each.exchange, each.text) for each in learnt], "responses")
    limit = work.job.evaluation.new_tokens
    if num_long := sum(int(example.asked.sum()) > limit for example in student.examples):
        notes.append(
            f"Of {len(student)} responses that are learnt {num_long} have more than {limit} tokens (evaluation.new_tokens), at which "
            "what the students write is cut when they are measured."
        )
    if not work.job.evaluation.control:
        return Texts(student, None, tuple(notes))
    once = {each.exchange.place: each.exchange for each in learnt}
    control, more = work.sequences([(exchange, exchange.gold) for exchange in once.values()], "answers of the data")
    return Texts(student, control, (*notes, *more))


def _train_arm(work: ResponsesWork, texts: Texts, arm: str, seed: int) -> tuple[LanguagePredictor, list[CurvePoint]]:
    job, settings = work.job, work.job.training.model_dump()
    sequences = texts.student if arm == "student" else texts.control
    assert sequences is not None, "a control is trained where the data has answers"
    assert isinstance(job.student, HuggingFaceStudentSpec), "checked by the job"
    # The same budget for both arms: a control with fewer texts passes over them more often, and takes as many steps.
    settings["num_train_epochs"] *= len(texts.student) / len(sequences)
    model, tokenizer, vocabulary_size = build_student_alone(job.student, seed=seed)
    validation = None
    if work.exchanges.validation:
        validation, _ = work.sequences([(each, each.gold) for each in work.exchanges.validation], "validation")
    curve = train_language_model(
        model, tokenizer, sequences, teacher=None, objective=TokenObjective(), settings=settings, seed=seed,
        folder=work.scratch(f"{arm}-{seed}"), vocabulary_size=vocabulary_size, validation=validation,
        progress=work.listener.task(f"training the {arm}, seed {seed}"),
    )  # fmt: skip
    return LanguagePredictor(merged(model), tokenizer), curve
