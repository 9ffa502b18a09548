"""The whole job: every section, and what must hold between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, get_args

from pydantic import Field, model_validator

from stillroom.core.errors import Problem
from stillroom.core.provenance import Task
from stillroom.spec.base import Spec, described
from stillroom.spec.data import DataSpec
from stillroom.spec.endpoint import BudgetSpec
from stillroom.spec.evaluation import ClassMeasure, EvaluationSpec, SpanMeasure, ValueMeasure
from stillroom.spec.export import ExportSpec
from stillroom.spec.generation import GenerationSpec
from stillroom.spec.language import language_problems, only_for_language_models, written_measure
from stillroom.spec.objective import ObjectiveSpec
from stillroom.spec.policy import PolicySpec
from stillroom.spec.responses import ResponsesSpec
from stillroom.spec.spans import span_problems
from stillroom.spec.specification import SpecificationSpec
from stillroom.spec.student import AnyStudentSpec, HuggingFaceStudentSpec
from stillroom.spec.teacher import AnyTeacherSpec, EndpointTeacherSpec, EnsembleTeacherSpec, HuggingFaceTeacherSpec, LabellingSpec
from stillroom.spec.training import TrainingSpec

JobTask = Literal["tabular-classification", "tabular-regression", "text-classification", "sequence-labelling", "language-model"]
_LABELS_TEXTS = ("text-classification", "sequence-labelling")
_MEASURES: dict[Task, tuple[str, ...]] = {
    "classification": get_args(ClassMeasure),
    "regression": get_args(ValueMeasure),
    "spans": get_args(SpanMeasure),
}


class Job(Spec):
    """One distillation, from data to report."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] | None = described(
        "Names the run's folder; default: the file's name.", default=None
    )
    task: JobTask = described("What is predicted from what.")
    seed: Annotated[int, Field(ge=0, lt=2**31)] = described("Everything random in the job is drawn from it.", default=0)
    data: DataSpec
    teacher: AnyTeacherSpec
    other_teachers: dict[Annotated[str, Field(pattern=r"^[\w-]{1,20}$")], HuggingFaceTeacherSpec] = described(
        "language-model: further teachers, by name. The same student learns from each of them as well, for comparison; `teacher` remains "
        "the one whose student ships.",
        default={},
    )
    specification: SpecificationSpec | None = described("With teacher.kind: endpoint, what it is asked to do.", default=None)
    generation: GenerationSpec | None = described(
        "With teacher.kind: endpoint, examples that it writes; they join the pool of a text-classification job.", default=None
    )
    responses: ResponsesSpec | None = described(
        "language-model with teacher.kind: endpoint: how responses are checked, and which are learnt.", default=None
    )
    budget: BudgetSpec | None = described("With teacher.kind: endpoint, what may be spent.", default=None)
    student: AnyStudentSpec
    labelling: LabellingSpec = LabellingSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    export: ExportSpec = ExportSpec()
    policy: PolicySpec = PolicySpec()

    @property
    def kind_of_task(self) -> Task:
        kinds: dict[str, Task] = {"tabular-regression": "regression", "sequence-labelling": "spans"}
        return kinds.get(self.task, "classification")

    @property
    def primary(self) -> str:
        """The measure that the verdict is about."""
        if self.evaluation.primary is not None:
            return self.evaluation.primary
        if self.task == "language-model":
            return (written_measure(self) if self.learns_responses else None) or "log_loss"
        return _MEASURES[self.kind_of_task][0]

    @property
    def learns_responses(self) -> bool:
        """Whether a language model learns what a teacher behind an endpoint writes (Kim & Rush 2016), not its next-token distributions."""
        return self.task == "language-model" and isinstance(self.teacher, EndpointTeacherSpec)

    @property
    def temperature(self) -> float:
        """T; 1 for regression, where it has no meaning. Of a language model's schedule, where it starts."""
        given = self.objective.temperature
        if given is None:
            return 2.0 if self.task in ("tabular-classification", "text-classification") else 1.0
        return given if isinstance(given, float) else given.start

    @property
    def hard_label_weight(self) -> float:
        """w; of a language model's schedule, where it starts."""
        given = self.objective.hard_label_weight
        return given if isinstance(given, float) else given.start

    @property
    def formats(self) -> tuple[str, ...]:
        """What the student is exported to."""
        none = self.task in ("sequence-labelling", "language-model")
        return (() if none else ("onnx",)) if self.export.formats is None else self.export.formats

    @model_validator(mode="after")
    def _sections_agree(self) -> Job:
        if problems := list(self._disagreements()):
            raise ValueError("\n".join(str(problem) for problem in problems))
        return self

    def _disagreements(self) -> Iterator[Problem]:
        if not self.evaluation.control and self.objective.hard_label_weight == 1:
            yield Problem("objective.hard_label_weight", "= 1 never looks at the teacher; that is the control itself.")
        if self.labelling.corrections == "use" and (self.kind_of_task != "classification" or self.task == "language-model"):
            yield Problem("labelling.corrections", f"= 'use' goes with labels, which people review; task is {self.task!r}. Remove it.")
        if self.data.tokens is not None and self.task != "sequence-labelling":
            yield Problem("data.tokens", f"goes with task: sequence-labelling; task is {self.task!r}. Remove it.")
        yield from self._endpoint_problems()
        if self.responses is not None and not self.learns_responses:
            here = f"they are {self.task!r} and {self.teacher.kind!r}"
            yield Problem("responses", f"goes with task: language-model and teacher.kind: endpoint; {here}. Remove it.")
        yield from language_problems(self) if self.task == "language-model" else self._row_problems()

    def _endpoint_problems(self) -> Iterator[Problem]:
        """What goes wrong between a teacher behind an endpoint, what it is asked and what it may cost."""
        if self.specification is not None:
            yield from self.specification.problems(has_mentions=self.task == "sequence-labelling")
        if self.generation is not None and self.task != "sequence-labelling":  # which says itself that it has no use
            yield from self._generation_problems(self.generation)
        if not isinstance(self.teacher, EndpointTeacherSpec):
            yield from _endpoints_among_members(self.teacher, "teacher")
            for name in ("specification", "generation", "budget"):
                if getattr(self, name) is not None:
                    yield Problem(name, f"goes with teacher.kind: endpoint; teacher.kind is {self.teacher.kind!r}. Remove it.")
            return
        if self.task in ("tabular-classification", "tabular-regression"):
            yield Problem("teacher.kind", f"= 'endpoint' reads text; task is {self.task!r}. Use estimator, ensemble or python.")
        elif self.specification is None and self.task in _LABELS_TEXTS:
            yield Problem("specification", "is missing: a teacher behind an endpoint has to be told what to do; give specification.task.")
        if self.task == "text-classification" and self.teacher.samples is not None and self.teacher.answers != "samples":
            yield Problem("teacher.samples", f"goes with teacher.answers: samples; it is {self.teacher.answers!r}. Remove one of them.")
        student = self.student
        if isinstance(student, HuggingFaceStudentSpec) and student.init != "pretrained":
            yield Problem(
                "student.init", f"= {student.init!r} is made of the teacher's weights, which stay with its server; use pretrained."
            )
        if self.budget is not None and self.budget.usd is not None and self.teacher.prices is None:
            yield Problem("budget.usd", "cannot be kept without teacher.prices, in US dollars per million tokens; give them.")
        bounded = self.teacher.max_tokens is not None or "max_completion_tokens" in self.teacher.extra
        if self.budget is not None and (self.budget.usd or self.budget.tokens) and not bounded:
            yield Problem("budget", "in usd or tokens can only be kept if teacher.max_tokens bounds each answer; set it.")

    def _generation_problems(self, generation: GenerationSpec) -> Iterator[Problem]:
        told = self.specification
        if told is None and self.task != "text-classification":  # where it is missed in any case
            yield Problem("specification", "is missing: generation writes examples of the job that it describes; give specification.task.")
        has_labels = self.task == "text-classification" and (told is None or told.output_schema is None)
        yield from generation.problems(told, has_labels=has_labels)

    def _row_problems(self) -> Iterator[Problem]:
        """What goes wrong in jobs on rows of a table."""
        yield from only_for_language_models(self)
        data, split = self.data, self.data.split
        regression = self.kind_of_task == "regression"
        if self.task == "sequence-labelling":
            yield from span_problems(self)
        elif (self.task == "text-classification") != (data.text is not None):
            yield Problem(
                "data.text", "names the text column of task: text-classification or sequence-labelling, and goes only with these."
            )
        if data.source.kind == "file" and data.target is None:
            yield Problem("data.target", "is missing; name the column to predict.")
        if data.source.kind == "sklearn" and data.target is not None:
            yield Problem("data.target", f"= {data.target!r}, but bundled sets know their own target; remove it.")
        if (split.kind == "random") != (split.column is None):
            yield Problem("data.split.column", "goes with split.kind group or time, and each of these needs it.")
        if data.source.kind == "file" and data.source.unlabeled is not None and data.unlabeled_share > 0:
            yield Problem("data.unlabeled_share", "and source.unlabeled both make the pool; give one of them.")
        if both := sorted(set(data.categorical) & set(data.numeric)):
            yield Problem("data.categorical", f"and data.numeric both name {', '.join(both)}; keep one.")
        if regression and self.objective.temperature is not None:
            yield Problem("objective.temperature", "has no meaning for regression; remove it.")
        if self.evaluation.primary and self.evaluation.primary not in (allowed := _MEASURES[self.kind_of_task]):
            found = f"= {self.evaluation.primary!r} does not fit task {self.task!r}"
            yield Problem("evaluation.primary", f"{found}; allowed: {', '.join(allowed)}.")
        if self.task not in _LABELS_TEXTS:
            if self.teacher.kind == "huggingface":
                yield Problem("teacher.kind", f"= 'huggingface' reads text; task is {self.task!r}. Use estimator, ensemble or python.")
            if self.student.kind == "huggingface":
                yield Problem("student.kind", f"= 'huggingface' reads text; task is {self.task!r}. Use estimator.")


def _endpoints_among_members(spec: AnyTeacherSpec, place: str) -> Iterator[Problem]:
    """An ensemble's members answer rows at once and in memory; an endpoint does neither."""
    for i, member in enumerate(spec.members if isinstance(spec, EnsembleTeacherSpec) else ()):
        inside = f"{place}.members[{i}].teacher"
        if isinstance(member.teacher, EndpointTeacherSpec):
            yield Problem(f"{inside}.kind", "= 'endpoint' cannot be one of several; let it be the teacher itself.")
        yield from _endpoints_among_members(member.teacher, inside)
