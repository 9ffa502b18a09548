"""What must hold between the sections of a sequence-labelling job, and which key goes with no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stillroom.core.errors import Problem
from stillroom.spec.teacher import EndpointTeacherSpec

if TYPE_CHECKING:
    from stillroom.spec.job import Job

_HERE = "has no use with task: sequence-labelling; remove it."


def span_problems(job: Job) -> Iterator[Problem]:
    """The problems of a job with task: sequence-labelling."""
    data, teacher = job.data, job.teacher
    if (data.text is None) == (data.tokens is None):
        yield Problem("data.text", "or data.tokens names the column to read, of texts or of lists of words; give one of them.")
    if data.source.kind == "sklearn":
        yield Problem("data.source.kind", "= 'sklearn' has no texts; use file.")
    for name in ("categorical", "numeric", "ignore"):
        if getattr(data, name):
            yield Problem(f"data.{name}", _HERE)
    if not isinstance(teacher, EndpointTeacherSpec):
        yield Problem("teacher.kind", f"= {teacher.kind!r} finds no spans yet; use endpoint.")
    elif teacher.answers != "text" or teacher.samples is not None:
        where = "samples" if teacher.answers == "text" else "answers"
        yield Problem(f"teacher.{where}", f"= {getattr(teacher, where)!r}: a list of mentions has no probabilities; remove it.")
    if job.student.kind != "huggingface":
        yield Problem("student.kind", f"= {job.student.kind!r} tags no words; use huggingface.")
    if job.specification is not None and job.specification.output_schema is not None:
        yield Problem("specification.output_schema", "is made of specification.labels; remove it.")
    if job.generation is not None:
        yield Problem("generation", _HERE)
    if job.evaluation.slices:
        yield Problem("evaluation.slices", _HERE)
    if job.export.formats:
        yield Problem("export.formats", "a token classifier is saved as transformers loads it, and has no other export yet; remove it.")
