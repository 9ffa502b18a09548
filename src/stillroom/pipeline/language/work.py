"""A language model's job at work: its tokenizer and its corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from stillroom.core.arms import other_teacher
from stillroom.core.errors import BadInput, Problem, collecting, for_each
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import Corpus, Sequences
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.progress import Listener
from stillroom.pipeline.work import Work
from stillroom.spec.job import Job
from stillroom.spec.student import HuggingFaceStudentSpec
from stillroom.spec.teacher import HuggingFaceTeacherSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class LanguageWork(Work):
    """`Work` on token sequences. The teacher's tokenizer makes them, for both models."""

    @property
    def teacher_spec(self) -> HuggingFaceTeacherSpec:
        assert isinstance(self.job.teacher, HuggingFaceTeacherSpec), "checked by the job"
        return self.job.teacher

    @property
    def teachers(self) -> dict[str, HuggingFaceTeacherSpec]:
        """By arm: the one whose student ships, then the others."""
        return {"teacher": self.teacher_spec, **{f"teacher@{name}": spec for name, spec in self.job.other_teachers.items()}}

    @property
    def student_spec(self) -> HuggingFaceStudentSpec:
        assert isinstance(self.job.student, HuggingFaceStudentSpec), "checked by the job"
        return self.job.student

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        from stillroom.models.causal import load_tokenizer

        return load_tokenizer(self.teacher_spec.model, place="teacher.model")

    @cached_property
    def corpus(self) -> Corpus:
        from stillroom.data.corpus import build_corpus

        corpus = build_corpus(self.job.data, self.tokenizer, max_length=self.job.training.max_length, seed=self.job.seed)
        for note in corpus.notes:
            self.listener.say(f"data: {note}")
        return corpus

    @cached_property
    def data_fingerprint(self) -> str:
        """Covers every token, which of them are learnt, and the split."""
        corpus = self.corpus
        parts = [corpus.train, corpus.test, corpus.validation, *(corpus.other_domains[name] for name in sorted(corpus.other_domains))]
        return fingerprint("corpus", sorted(corpus.other_domains), [None if part is None else _facts(part) for part in parts])


def open_work(job: Job, folder: RunFolder, listener: Listener, allow_code: bool = False) -> LanguageWork:
    """A job at work, its documents read and tokenised, its settings held against the teacher's config.

    Raises:
        BadInput: a student or another teacher of another tokenizer; what is wrong with the documents; as `check_against_teacher`.
    """
    work = LanguageWork(job, folder, listener, allow_code)
    for_each(lambda name: _require_same_tokens(work, name), job.other_teachers)
    if (student := work.student_spec.model) is not None:  # before the teacher is asked anything for it
        from stillroom.models.causal import load_tokenizer, require_same_tokens

        require_same_tokens(work.tokenizer, load_tokenizer(student, place="student.model"), place="student.model")
    check_against_teacher(work)
    return work


def check_against_teacher(work: LanguageWork) -> None:
    """What a job can get wrong about its models, found before any weight is loaded and any token asked for.

    Raises:
        BadInput: every problem: with the student, with the training's arguments, with the lengths of examples and continuations.
    """
    from stillroom.models.causal import sketch_causal
    from stillroom.models.token_batches import context_length
    from stillroom.students.language import check_student

    corpus = work.corpus
    readers = {"teacher": sketch_causal(work.teacher_spec.model, place="teacher.model")}
    problems: list[Problem] = []
    with collecting(problems):
        readers["student"] = check_student(work.student_spec, readers["teacher"])
    parts = [corpus.train, corpus.test, *corpus.other_domains.values(), *([corpus.validation] if corpus.validation else [])]
    longest = max(len(example) for part in parts for example in part.examples)
    reader = min(readers, key=lambda who: context_length(readers[who]) or math.inf)
    problems += training_problems(work.job, readers[reader], longest, reader=reader)
    if problems:
        raise BadInput(problems)


def training_problems(job: Job, model: PreTrainedModel, longest: int, *, reader: str) -> list[Problem]:
    """What is wrong with the training's arguments, and with the lengths of examples and continuations in the context of a model.

    Args:
        longest: tokens of the longest example.
        reader: whose context it is.
    """
    from stillroom.models.token_batches import context_length
    from stillroom.training.arguments import further_arguments
    from stillroom.training.sharding import read_sharding

    problems: list[Problem] = []
    with collecting(problems):
        _, further = read_sharding(job.training.arguments)
        further_arguments({**job.training.model_dump(), "arguments": further})
    context = context_length(model)
    if context is not None and longest > context:
        reason = f"the {reader} reads {context} tokens at once, and an example has {longest}; set it to {context} or less."
        problems.append(Problem("training.max_length", f"= {job.training.max_length}: {reason}"))
    writes = job.evaluation.prompts or job.evaluation.cost
    if context is not None and writes and job.evaluation.new_tokens >= context:
        reason = f"leaves no room for a prompt in the {context} tokens that the {reader} reads at once; take fewer."
        problems.append(Problem("evaluation.new_tokens", f"= {job.evaluation.new_tokens} {reason}"))
    return problems


def _require_same_tokens(work: LanguageWork, name: str) -> None:
    from stillroom.models.causal import load_tokenizer, require_same_tokens

    place = f"other_teachers.{name}.model"
    tokenizer = load_tokenizer(work.job.other_teachers[name].model, place=place)
    remedy = "Teachers are compared on the same tokens; take one of the main teacher's tokenizer."
    require_same_tokens(work.tokenizer, tokenizer, place=place, who=repr(name), remedy=remedy)


def place_of(arm: str) -> str:
    """The section of the job that a teacher's arm is described in."""
    return f"other_teachers.{name}" if (name := other_teacher(arm)) else "teacher"


def _facts(part: Sequences) -> list[object]:
    return [[example.fingerprint for example in part.examples], part.num_bytes, part.rows]
