"""Sequence classifiers of the transformers library as teachers: as they are, or fine-tuned on the job's rows first."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stillroom.core.errors import BadInput
from stillroom.core.files import whole_folder
from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import Teacher
from stillroom.core.records import Batch
from stillroom.models.pretrained import parameters_fingerprint, tokenizer_fingerprint
from stillroom.models.text import TextPredictor, load, load_classifier
from stillroom.spec.teacher import HuggingFaceTeacherSpec
from stillroom.teachers.labelling import context_fingerprint
from stillroom.teachers.teacher import PredictorTeacher, TeacherRequest, refuse_trained_on

_MAX_LENGTH = 512
"""Tokens that a teacher reads which is taken as it is; less where the model has fewer positions."""


def build_huggingface_teacher(spec: HuggingFaceTeacherSpec, request: TeacherRequest) -> Teacher | HuggingFaceRecipe:
    """A recipe where the model is to be fine-tuned, else a teacher."""
    place = f"{request.place}.model"
    texts = [column.name for column in request.columns if column.kind == "text"]
    if len(texts) != 1:
        raise BadInput.at(place, f"= {spec.model!r} reads one text column; the data has {len(texts)} of them: name it in data.text.")
    if spec.fine_tune is None:
        refuse_trained_on(spec.trained_on, request)
        model, tokenizer = load_classifier(spec.model, request.classes, place=place)
        return _teacher(TextPredictor(model, tokenizer, request.classes, column=texts[0], max_length=_MAX_LENGTH))
    assert request.fine_tune is not None, "fine-tuning needs somebody who trains"
    settings = spec.fine_tune.model_dump()
    return HuggingFaceRecipe(spec.model, texts[0], request.classes, settings, request.fine_tune, request.work, place)


@dataclass(frozen=True, eq=False)
class HuggingFaceRecipe:
    """A pretrained model that is fine-tuned on labelled rows before it answers.

    Attributes:
        model: a folder, a hub id or "package:NAME/FOLDER".
        settings: the fields of `TrainingSpec`.
        fine_tune: fine_tune(model, tokenizer, batch, *, column, classes, settings, seed, folder) trains in place, and
            goes on from what an earlier call left in `folder`.
        work: where checkpoints and tuned models are kept, one folder for each set of training rows; None: nowhere.
    """

    model: str
    column: str
    classes: tuple[str, ...]
    settings: Mapping[str, Any]
    fine_tune: Callable[..., object]
    work: Path | None = None
    place: str = "teacher.model"

    @cached_property
    def fingerprint(self) -> str:
        """Covers base weights, tokenizer, settings and the libraries that train."""
        model, tokenizer = load_classifier(self.model, self.classes, new_head_seed=0, place=self.place)
        weights = [type(model).__name__, parameters_fingerprint(model), tokenizer_fingerprint(tokenizer)]
        libraries = [version("torch"), version("transformers")]
        return fingerprint("huggingface-recipe", weights, self.column, dict(self.settings), libraries)

    def fit(self, examples: Batch, classes: tuple[str, ...], *, seed: int) -> Teacher:
        """Fine-tune on labelled examples; what was tuned on the same rows before is loaded, not tuned again."""
        if self.work is None:
            with tempfile.TemporaryDirectory() as passing:
                return _teacher(self._tune(examples, classes, seed, Path(passing)))
        folder = self.work / fingerprint(self.fingerprint, context_fingerprint(examples, classes=classes, seed=seed))
        tuned = folder / "tuned"
        if not tuned.is_dir():
            predictor = self._tune(examples, classes, seed, folder / "checkpoints")
            with whole_folder(tuned) as draft:
                predictor.save(draft)
        # Checkpoints with their optimiser states are three times the model, and of no use any more.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        # Loaded in any case: a run that was stopped here answers with the same bits as one that was not.
        return _teacher(load(tuned))

    def _tune(self, examples: Batch, classes: tuple[str, ...], seed: int, folder: Path) -> TextPredictor:
        model, tokenizer = load_classifier(self.model, classes, new_head_seed=seed, place=self.place)
        self.fine_tune(
            model, tokenizer, examples, column=self.column, classes=classes, settings=dict(self.settings), seed=seed, folder=folder
        )
        return TextPredictor(model, tokenizer, classes, column=self.column, max_length=self.settings["max_length"])


def _teacher(predictor: TextPredictor) -> Teacher:
    return PredictorTeacher(predictor, lambda: predictor.fingerprint)
