"""The user's own Python object as a teacher. It runs code, so only where the job's runner allows it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.core.errors import BadInput, StageFailed, StillroomError
from stillroom.core.fingerprint import file_fingerprint, fingerprint
from stillroom.core.protocols import Teacher
from stillroom.models.fingerprints import estimator_fingerprint
from stillroom.models.labels import class_name
from stillroom.models.python import PythonPredictor, import_callable
from stillroom.spec.teacher import PythonTeacherSpec
from stillroom.teachers.answers import same_classes
from stillroom.teachers.teacher import PredictorTeacher, TeacherRequest, refuse_trained_on

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def build_python_teacher(spec: PythonTeacherSpec, request: TeacherRequest) -> Teacher:
    """The object that the user's callable returns, in evaluation mode.

    Raises:
        BadInput: code is not allowed (names --allow-code); the callable is not there or fails; its object lacks
            predict_proba, classes_ or predict, or knows other classes than the data.
    """
    place = f"{request.place}.object"
    import_callable(spec.object, allow_code=request.allow_code, place=place)
    refuse_trained_on(spec.trained_on, request)
    try:
        predictor = PythonPredictor(spec.object, spec.params, request.classes, allow_code=True, place=place)
    except StillroomError:
        raise
    except Exception as error:
        raise BadInput.at(place, f"= {spec.object!r} failed with {spec.params}: {type(error).__name__}: {error}") from error
    if request.classes:
        same_classes(tuple(class_name(label) for label in predictor.object.classes_), request.classes, place=place)
    return PredictorTeacher(_Guarded(predictor, place), lambda: _state(predictor))


@dataclass(frozen=True, eq=False)
class _Guarded:
    """Runs the user's object, and says whose code it was if that fails."""

    predictor: PythonPredictor
    place: str

    @property
    def classes(self) -> tuple[str, ...]:
        return self.predictor.classes

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        try:
            return self.predictor.predict_values(features)
        except StillroomError:
            raise
        except Exception as error:
            called = f"{self.predictor.path!r} failed on {len(features)} rows"
            raise StageFailed(f"{self.place}: {called}: {type(error).__name__}: {error}") from error

    def save(self, folder: Path) -> None:
        self.predictor.save(folder)


def _state(predictor: PythonPredictor) -> str:
    """Covers the callable, its arguments, its source file and what its object holds, as far as that can be read."""
    made = predictor.object
    try:
        held: str | None = estimator_fingerprint(made)
    except (TypeError, AttributeError, RecursionError):
        held = None  # a lock, an open file, a C object: `check_steady` still asks twice
    sources = {_source(predictor.path.partition(":")[0]), _source(type(made).__module__)}
    return fingerprint("python", predictor.path, predictor.params, list(predictor.classes), sorted(sources), held)


def _source(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return file_fingerprint(Path(file)) if file and Path(file).is_file() else module
