"""`student`: an architecture and how it starts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillroom.spec.base import Count, ModelName, Params, Spec, described

BUILTIN_STUDENTS = ("estimator", "huggingface")
WIDTHS = ("hidden_size", "intermediate_size", "num_heads", "num_key_value_heads")


class EstimatorStudentSpec(Spec):
    """A scikit-learn-compatible estimator."""

    kind: Literal["estimator"] = "estimator"
    estimator: str = described(
        "A short name (lightgbm, gradient-boosting, decision-tree, logistic-regression, ridge, mlp) or an import path."
    )
    params: Params = described("Keyword arguments of the estimator.", default={})


class LoraSpec(Spec):
    """Low-rank adapters beside frozen weights (arXiv:2106.09685), by peft."""

    r: Annotated[int, Field(ge=1)] = described("Rank.", default=16)
    alpha: Count = described("Adapters are multiplied by alpha / r.", default=32)
    dropout: Annotated[float, Field(ge=0, lt=1)] = described("Of the adapters' inputs.", default=0.0)


class HuggingFaceStudentSpec(Spec):
    """A model of the transformers library: an encoder with a classification head, or a causal language model."""

    kind: Literal["huggingface"] = "huggingface"
    init: Literal["teacher-layers", "pretrained", "fresh"] = described(
        "teacher-layers: chosen layers of the teacher, copied. pretrained: a folder or hub id. fresh: a config, untrained.",
        default="teacher-layers",
    )
    layers: Annotated[int, Field(ge=1)] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] | None = described(
        "teacher-layers: which layers to copy, from 0; absent: every other one. Of a language model also how many; absent: all.",
        default=None,
    )
    layer_choice: Literal["spaced", "block-influence"] = described(
        "language-model, where `layers` is a number: evenly spaced, or those that change the hidden states most.", default="spaced"
    )
    hidden_size: Count | None = described("language-model, teacher-layers: channels to keep; absent: all.", default=None)
    intermediate_size: Count | None = described("language-model, teacher-layers: neurons of each feed-forward to keep.", default=None)
    num_heads: Count | None = described("language-model, teacher-layers: query heads to keep.", default=None)
    num_key_value_heads: Count | None = described("language-model, teacher-layers: key and value heads to keep.", default=None)
    lora: LoraSpec | None = described("language-model: train low-rank adapters and merge them; absent: train all weights.", default=None)
    model: ModelName | None = described("pretrained: a folder, a hub id or 'package:NAME/FOLDER'.", default=None)
    config: Params = described("fresh: fields of the config; the teacher's config fills the rest.", default={})

    @model_validator(mode="after")
    def _fits_init(self) -> HuggingFaceStudentSpec:
        if (self.init == "pretrained") != (self.model is not None):
            raise ValueError("'model' goes with init: pretrained, and only with it.")
        if self.layers is not None and self.init != "teacher-layers":
            raise ValueError("'layers' goes with init: teacher-layers, and only with it.")
        if self.config and self.init != "fresh":
            raise ValueError("'config' goes with init: fresh, and only with it.")
        if isinstance(self.layers, tuple) and (not self.layers or list(self.layers) != sorted(set(self.layers))):
            raise ValueError("layers must be given in ascending order, each once, at least one.")
        if self.init != "teacher-layers" and (narrower := [name for name in WIDTHS if getattr(self, name) is not None]):
            raise ValueError(f"{', '.join(map(repr, narrower))} go with init: teacher-layers, and only with it.")
        return self


AnyStudentSpec = Annotated[EstimatorStudentSpec | HuggingFaceStudentSpec, Field(discriminator="kind")]
