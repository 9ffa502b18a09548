"""The one shape that every teacher of this area has, and what its builder is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stillroom.core.errors import BadInput
from stillroom.core.protocols import Predictor
from stillroom.core.records import Column, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PredictorTeacher:
    """A predictor with a fingerprint: fulfils `core.protocols.Teacher`.

    Attributes:
        predictor: who answers.
        state: computes the fingerprint of everything that shapes its answers, anew at each call.
    """

    predictor: Predictor
    state: Callable[[], str]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.predictor.classes

    @property
    def fingerprint(self) -> str:
        return self.state()

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        return self.predictor.predict_values(features)

    def save(self, folder: Path) -> None:
        self.predictor.save(folder)


@dataclass(frozen=True)
class TeacherRequest:
    """What a builder is told beside the spec. A plugin's builder takes (spec, request) as the built-in ones do.

    Attributes:
        columns: the features, in order.
        classes: the task's classes; () for regression.
        seed: for everything random in building and fitting.
        allow_code: whether the job may name Python of the user's.
        fine_tune: fine_tune(model, tokenizer, batch, *, column, classes, settings, seed, folder); None where nothing can be trained.
        work: a folder for checkpoints of fine-tuning, kept until the run is done; None: a temporary one.
        mode: the job's labelling.mode.
        place: the teacher's section of the job, for messages.
    """

    columns: tuple[Column, ...]
    classes: tuple[str, ...]
    task: Task
    seed: int
    allow_code: bool = False
    fine_tune: Callable[..., object] | None = None
    work: Path | None = None
    mode: Literal["out-of-fold", "in-sample"] = "out-of-fold"
    place: str = "teacher"


def refuse_trained_on(trained_on: str, request: TeacherRequest) -> None:
    """Refuse a fixed teacher that has seen the job's training rows, unless the job asks for in-sample labels openly.

    Raises:
        BadInput: naming labelling.mode.
    """
    if trained_on == "these-rows" and request.mode != "in-sample":
        remedy = "take a teacher trained on other rows, or set labelling.mode to in-sample to use its answers all the same."
        raise BadInput.at(f"{request.place}.trained_on", f"= 'these-rows': its answers to rows that it has seen are leakage; {remedy}")
