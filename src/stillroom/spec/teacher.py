"""`teacher`: who answers. Always frozen; a kind that has to be fitted first is labelled out of fold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from stillroom.spec.base import PLUGIN, FilePath, ModelName, Params, Spec, by_kind, described
from stillroom.spec.endpoint import EndpointFields
from stillroom.spec.training import TrainingSpec

BUILTIN_TEACHERS = ("estimator", "huggingface", "endpoint", "ensemble", "python")


class NamedTeacher(Spec):
    name: str | None = described("How the report and the card call this teacher.", default=None)


class TeacherBase(NamedTeacher):
    licence: str | None = described(
        "Its licence or terms, by a name of the licence table, or 'unknown' to declare that nobody knows.", default=None
    )


class EstimatorTeacherSpec(TeacherBase):
    """A scikit-learn-compatible estimator: fitted on the labelled rows, or loaded already fitted."""

    kind: Literal["estimator"] = "estimator"
    estimator: str | None = described(
        "A short name (random-forest, extra-trees, lightgbm, ...) or an import path such as sklearn.svm.SVC; fitted on the labelled rows.",
        default=None,
    )
    params: Params = described("Keyword arguments of the estimator.", default={})
    fitted: FilePath | None = described("Instead of `estimator`: a fitted one in a skops file.", default=None)
    trained_on: Literal["other-rows", "these-rows", "unknown"] = described(
        "For `fitted`: whether it has seen the job's training rows; its answers to seen rows are leakage.", default="unknown"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> EstimatorTeacherSpec:
        if (self.estimator is None) == (self.fitted is None):
            raise ValueError("give either 'estimator' (fitted on the spot) or 'fitted' (a skops file), one of them.")
        if self.fitted is not None and self.params:
            raise ValueError("'params' has no use with 'fitted'; a fitted estimator keeps its own.")
        return self


class HuggingFaceTeacherSpec(TeacherBase):
    """A model of the transformers library: a local folder, a hub id, or a folder inside an installed package."""

    kind: Literal["huggingface"] = "huggingface"
    model: ModelName = described("A folder, a hub id, or 'package:NAME/FOLDER' for weights that an installed package carries.")
    fine_tune: TrainingSpec | None = described(
        "Fine-tune it on the labelled rows first, with these settings; absent: it answers as it is.", default=None
    )
    trained_on: Literal["other-rows", "these-rows", "unknown"] = described(
        "Without fine_tune: whether it has seen the job's training rows.", default="unknown"
    )


class EndpointTeacherSpec(EndpointFields, TeacherBase):
    """A model behind an OpenAI-compatible server: a vendor's, vLLM's, llama.cpp's, Ollama's. A vendor that the licence table knows by its
    host comes with its terms; of any other server's model, `licence` names them."""

    kind: Literal["endpoint"] = "endpoint"
    trained_on: Literal["other-rows", "these-rows", "unknown"] = described(
        "Whether the model has seen the job's training rows. The default is for rows of your own; say unknown of a public data set.",
        default="other-rows",
    )


class PythonTeacherSpec(TeacherBase):
    """The user's own object. Only with --allow-code, since a job file is data."""

    kind: Literal["python"] = "python"
    object: Annotated[str, Field(pattern=r"^[\w.]+:[\w.]+$")] = described(
        "'module:callable'; called with params, it returns a fitted estimator-like object with predict_proba and classes_, or predict."
    )
    params: Params = described("Keyword arguments of the callable.", default={})
    trained_on: Literal["other-rows", "these-rows", "unknown"] = described(
        "Whether it has seen the job's training rows.", default="unknown"
    )


class PluginTeacherSpec(TeacherBase):
    """A kind that an installed package adds under the entry-point group 'stillroom.teachers'."""

    kind: str
    params: Params = described("Whatever the plugin takes.", default={})


class MemberSpec(Spec):
    weight: Annotated[float, Field(gt=0)] = described("Relative weight of this member's probabilities.", default=1.0)
    teacher: AnyTeacherSpec


class EnsembleTeacherSpec(NamedTeacher):
    """The weighted arithmetic mean of several teachers' probabilities (Hinton et al. 2015, section 5.1). Licences are its members'."""

    kind: Literal["ensemble"] = "ensemble"
    members: Annotated[tuple[MemberSpec, ...], Field(strict=False, min_length=2)]


AnyTeacherSpec = Annotated[
    Annotated[EstimatorTeacherSpec, Tag("estimator")]
    | Annotated[HuggingFaceTeacherSpec, Tag("huggingface")]
    | Annotated[EndpointTeacherSpec, Tag("endpoint")]
    | Annotated[EnsembleTeacherSpec, Tag("ensemble")]
    | Annotated[PythonTeacherSpec, Tag("python")]
    | Annotated[PluginTeacherSpec, Tag(PLUGIN)],
    by_kind("teachers", BUILTIN_TEACHERS),
]

MemberSpec.model_rebuild()
EnsembleTeacherSpec.model_rebuild()


class LabellingSpec(Spec):
    """How the transfer set is answered."""

    mode: Literal["out-of-fold", "in-sample"] = described(
        "out-of-fold: no row is answered by a teacher fitted on it. in-sample says openly that seen rows are answered: leakage.",
        default="out-of-fold",
    )
    folds: Annotated[int, Field(ge=2)] = described("How many folds; each costs one more fit of the teacher.", default=5)
    calibrate: bool = described("Correct the teacher's probabilities where cross-validation shows a gain.", default=True)
    batch_size: Annotated[int, Field(ge=1)] = described("Rows asked at once; each batch of answers is durable.", default=256)
    tokens: Literal["threshold", "sampled", "top-k", "hidden", "online"] = described(
        "language-model: how the teacher's next-token distributions are kept. threshold, sampled: an unbiased sample in a few bytes. "
        "top-k: the likeliest tokens and the mass of the rest. hidden: hidden states, for the whole distribution. online: not at all; the "
        "teacher stays in memory while the student learns.",
        default="threshold",
    )
    tokens_number: Annotated[int, Field(ge=1, le=65536)] | None = described(
        "threshold: probabilities from 1/number on are kept exactly (default 64). sampled: draws (50). top-k: k (50). hidden: bits (16).",
        default=None,
    )
    corrections: Literal["ignore", "use"] = described(
        "Classification: whether students learn what people said in `stillroom review` where it differs from the teacher's answer.",
        default="ignore",
    )
    batch_tokens: Annotated[int, Field(ge=1)] = described("language-model: tokens that the teacher reads at once.", default=4096)
    store: FilePath | None = described("The knowledge store's folder or URL, shared between runs; absent: inside the run.", default=None)
