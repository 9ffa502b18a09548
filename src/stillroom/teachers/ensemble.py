"""Several teachers as one: the weighted arithmetic mean of their probabilities.

Source: Hinton, Vinyals & Dean 2015, section 5.1, arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import Teacher, TeacherRecipe
from stillroom.core.records import Batch
from stillroom.models.mean import MeanPredictor
from stillroom.spec.teacher import EnsembleTeacherSpec
from stillroom.teachers.answers import ask, same_classes
from stillroom.teachers.teacher import PredictorTeacher, TeacherRequest

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def build_ensemble_teacher(spec: EnsembleTeacherSpec, request: TeacherRequest) -> Teacher | EnsembleRecipe:
    """Member i is built and fitted with seed + i: two members of one recipe are then two teachers."""
    from stillroom.teachers.build import build_from_request

    places = [f"{request.place}.members[{i}].teacher" for i in range(len(spec.members))]
    members = [
        build_from_request(member.teacher, replace(request, place=place, seed=request.seed + i, work=_below(request.work, i)))
        for i, (member, place) in enumerate(zip(spec.members, places, strict=True))
    ]
    weights = [member.weight for member in spec.members]
    if any(_is_recipe(member) for member in members):
        return EnsembleRecipe(tuple(members), tuple(weights), request.place)
    return ensemble_teacher(members, weights, request.classes, place=request.place)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class EnsembleRecipe:
    """An ensemble of which a member has to be fitted: all are fitted on the same rows, fixed members stay as they are."""

    members: tuple[Teacher | TeacherRecipe, ...]
    weights: tuple[float, ...]
    place: str = "teacher"

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.members, self.weights)

    def fit(self, examples: Batch, classes: tuple[str, ...], *, seed: int) -> Teacher:
        fitted = [
            member.fit(examples, classes, seed=seed + i) if _is_recipe(member) else member  # type: ignore[union-attr]
            for i, member in enumerate(self.members)
        ]
        return ensemble_teacher(fitted, self.weights, classes, place=self.place)  # type: ignore[arg-type]


def ensemble_teacher(members: Sequence[Teacher], weights: Sequence[float], classes: tuple[str, ...], *, place: str = "teacher") -> Teacher:
    """The weighted mean of fixed teachers, matched class for class by name.

    Raises:
        BadInput: a member's classes are not the task's.
    """
    checked = [_Member(member, classes, f"{place}.members[{i}].teacher") for i, member in enumerate(members)]
    for member in checked:
        same_classes(member.teacher.classes, classes, place=member.place)
    return PredictorTeacher(MeanPredictor(checked, weights), lambda: _fingerprint(members, weights))


@dataclass(frozen=True, eq=False)
class _Member:
    """A member whose answers are checked before they are averaged: the mean would hide whose mistake it was."""

    teacher: Teacher
    classes: tuple[str, ...]
    place: str

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        return ask(self.teacher, features, self.classes, place=self.place)

    def save(self, folder: Path) -> None:
        self.teacher.save(folder)


def _fingerprint(members: Sequence[Teacher | TeacherRecipe], weights: Sequence[float]) -> str:
    total = sum(weights)
    return fingerprint("ensemble", [[member.fingerprint, weight / total] for member, weight in zip(members, weights, strict=True)])


def _is_recipe(member: Teacher | TeacherRecipe) -> bool:
    return hasattr(member, "fit") and not hasattr(member, "predict_values")


def _below(work: Path | None, member: int) -> Path | None:
    return None if work is None else work / f"member-{member}"
