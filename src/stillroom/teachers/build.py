"""From the job's `teacher` section to a teacher, or to the recipe of one that is fitted on the job's rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast

from stillroom.core.protocols import Teacher, TeacherRecipe
from stillroom.core.records import Column, Task
from stillroom.core.registry import resolve
from stillroom.spec.teacher import (
    AnyTeacherSpec,
    EndpointTeacherSpec,
    EnsembleTeacherSpec,
    EstimatorTeacherSpec,
    HuggingFaceTeacherSpec,
    PythonTeacherSpec,
)
from stillroom.teachers.teacher import TeacherRequest

BUILTIN = {
    "estimator": "stillroom.teachers.estimator:build_estimator_teacher",
    "huggingface": "stillroom.teachers.huggingface:build_huggingface_teacher",
    "ensemble": "stillroom.teachers.ensemble:build_ensemble_teacher",
    "python": "stillroom.teachers.python:build_python_teacher",
}


def build_teacher(
    spec: AnyTeacherSpec,
    *,
    columns: tuple[Column, ...],
    classes: tuple[str, ...],
    task: Task,
    seed: int,
    allow_code: bool = False,
    fine_tune: Callable[..., object] | None = None,
    work: Path | None = None,
    mode: Literal["out-of-fold", "in-sample"] = "out-of-fold",
) -> Teacher | TeacherRecipe:
    """The job's teacher; arguments as in `TeacherRequest`.

    Raises:
        BadInput: an unknown kind, a faulty section, code that is not allowed, classes that are not the data's.
        MissingExtra: the kind needs a package that is not installed.
    """
    return build_from_request(spec, TeacherRequest(columns, classes, task, seed, allow_code, fine_tune, work, mode))


def build_from_request(spec: AnyTeacherSpec, request: TeacherRequest) -> Teacher | TeacherRecipe:
    """`build_teacher` for a teacher that is a member of another."""
    builder = cast(Callable[[AnyTeacherSpec, TeacherRequest], Teacher | TeacherRecipe], resolve("teachers", spec.kind, BUILTIN))
    return builder(spec, request)


def teacher_notes(spec: AnyTeacherSpec) -> tuple[str, ...]:
    """What a reader of the report must know about the teacher's training, one sentence each."""
    if isinstance(spec, EnsembleTeacherSpec):
        return tuple(note for member in spec.members for note in teacher_notes(member.teacher))
    fixed = (
        (isinstance(spec, EstimatorTeacherSpec) and spec.fitted is not None)
        or (isinstance(spec, HuggingFaceTeacherSpec) and spec.fine_tune is None)
        or isinstance(spec, PythonTeacherSpec | EndpointTeacherSpec)
    )
    if not fixed:
        return ()
    name = spec.name or next(str(value) for field in ("fitted", "model", "object") if (value := getattr(spec, field, None)))
    notes = {
        "unknown": f"Whether the teacher {name!r} was trained on this job's rows is not known; if it was, its answers are leakage.",
        "these-rows": f"The teacher {name!r} was trained on this job's rows; its answers to them are in-sample.",
    }
    note = notes.get(getattr(spec, "trained_on", ""))
    return (note,) if note else ()
