"""`student`: an architecture and how it starts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from stillroom.spec.base import PLUGIN, Params, Spec, by_kind, described

BUILTIN_STUDENTS = ("estimator", "huggingface")


class EstimatorStudentSpec(Spec):
    """A scikit-learn-compatible estimator."""

    kind: Literal["estimator"] = "estimator"
    estimator: str = described(
        "A short name (lightgbm, gradient-boosting, decision-tree, logistic-regression, ridge, mlp) or an import path."
    )
    params: Params = described("Keyword arguments of the estimator.", default={})


class HuggingFaceStudentSpec(Spec):
    """An encoder of the transformers library with a classification head."""

    kind: Literal["huggingface"] = "huggingface"
    init: Literal["teacher-layers", "pretrained", "fresh"] = described(
        "teacher-layers: chosen layers of the teacher, copied. pretrained: a folder or hub id. fresh: a config, untrained.",
        default="teacher-layers",
    )
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] | None = described(
        "teacher-layers: which layers to copy, from 0; absent: every other one.", default=None
    )
    model: str | None = described("pretrained: a folder, a hub id or 'package:NAME/FOLDER'.", default=None)
    config: Params = described("fresh: fields of the config; the teacher's config fills the rest.", default={})

    @model_validator(mode="after")
    def _fits_init(self) -> HuggingFaceStudentSpec:
        if (self.init == "pretrained") != (self.model is not None):
            raise ValueError("'model' goes with init: pretrained, and only with it.")
        if self.layers is not None and self.init != "teacher-layers":
            raise ValueError("'layers' goes with init: teacher-layers, and only with it.")
        if self.config and self.init != "fresh":
            raise ValueError("'config' goes with init: fresh, and only with it.")
        if self.layers is not None and (not self.layers or list(self.layers) != sorted(set(self.layers))):
            raise ValueError("layers must be given in ascending order, each once, at least one.")
        return self


class PluginStudentSpec(Spec):
    """A kind that an installed package adds under the entry-point group 'stillroom.students'."""

    kind: str
    params: Params = described("Whatever the plugin takes.", default={})


AnyStudentSpec = Annotated[
    Annotated[EstimatorStudentSpec, Tag("estimator")]
    | Annotated[HuggingFaceStudentSpec, Tag("huggingface")]
    | Annotated[PluginStudentSpec, Tag(PLUGIN)],
    by_kind("students", BUILTIN_STUDENTS),
]
