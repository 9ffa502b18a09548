"""One job at work in one folder: what every stage needs, made once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom import __version__
from stillroom.core.arms import other_teacher
from stillroom.core.errors import BadInput, Problem, nearest
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import Batch, Dataset
from stillroom.core.review import corrections
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.progress import Listener, Silence
from stillroom.pipeline.terms import check_job, check_terms
from stillroom.spec.job import Job
from stillroom.spec.specification import SpecificationSpec
from stillroom.spec.student import EstimatorStudentSpec
from stillroom.spec.teacher import AnyTeacherSpec, EndpointTeacherSpec, EstimatorTeacherSpec, LabellingSpec

if TYPE_CHECKING:
    from stillroom.pipeline.terms import Terms


def family(job: Job, module: str) -> Any:
    """A module of the job's family of tasks: language models walk the same stages by other means. Only what is walked is imported."""
    package = ".responses" if job.learns_responses else ".language" if job.task == "language-model" else ""
    return import_module(f"stillroom.pipeline{package}.{module}")


@dataclass(frozen=True)
class Work:
    """A job, its folder, and who listens. `inputs` names what a stage's results depend on."""

    job: Job
    folder: RunFolder
    listener: Listener
    allow_code: bool = False

    @cached_property
    def terms(self) -> Terms:
        """Raises PolicyRefused where a teacher's terms forbid the job."""
        return check_terms(self.job)

    def require_permission(self) -> None:
        """Raises PolicyRefused where a teacher's terms forbid the job."""
        _ = self.terms

    @cached_property
    def dataset(self) -> Dataset:
        """The job's examples. Where it generates some, that comes first, and they are in the pool."""
        if self.job.generation is None:
            return self.given
        from stillroom.pipeline.generate import generate
        from stillroom.pipeline.generated import with_generated

        generate(self)
        return with_generated(self.given, self.folder)

    @cached_property
    def given(self) -> Dataset:
        """The examples of the `data` section alone."""
        from stillroom.data.build import build_dataset

        dataset = build_dataset(self.job.data, task=self.job.task, seed=self.job.seed)
        for note in dataset.notes:
            self.listener.say(f"data: {note}")
        return dataset

    @cached_property
    def data_fingerprint(self) -> str:
        """Covers every row, target and split."""
        dataset = self.dataset
        parts = [dataset.train, dataset.test, dataset.validation, dataset.unlabeled]
        columns = [[column.name, column.kind] for column in dataset.columns]
        return fingerprint("data", columns, list(dataset.classes), [None if part is None else _batch_facts(part) for part in parts])

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """One a student; the first is the one that ships."""
        return tuple(self.job.seed + i for i in range(self.job.evaluation.seeds))

    def inputs(self, stage: str, arm: str = "") -> str:
        """The fingerprint of everything that shapes a stage's (or a student's) result: the data, the sections it reads, and the
        stages before it. An `arm` of another teacher's has that teacher's section among them, and the main arms have not."""
        job, other = self.job, other_teacher(arm)
        sections: dict[str, list[Any]] = {
            "label": [
                job.task,
                job.seed,
                _answering(job.teacher),
                _asked(job.labelling),
                *_given(job.specification),
                *_given(job.responses),
            ],
            "student": [job.student, job.objective, job.training],  # one of them: more seeds leave those that are trained
            "train": [job.evaluation.seeds, job.evaluation.control, *([job.other_teachers] if job.other_teachers else [])],
            "evaluate": [job.evaluation, *_given(getattr(job.teacher, "prices", None))],
            "export": [job.export],
            "report": [job.policy, job.name],
        }
        order = list(sections)
        facts = [_plain(section) for name in order[: order.index(stage) + 1] for section in sections[name]]
        facts += [_plain(job.other_teachers[other])] if other else []
        if self.corrections and stage != "label" and arm != "control":  # the control never looks at an answer
            facts.append(["corrections", sorted(self.corrections.items())])
        return fingerprint(__version__, self.data_fingerprint, stage, facts)

    @cached_property
    def corrections(self) -> dict[str, str]:
        """Example -> the label that people gave it, where they did not take the teacher's; {} unless the job uses them."""
        if self.job.labelling.corrections == "ignore":
            return {}
        from stillroom.review.journal import DecisionJournal

        return {d.example: d.label for d in corrections(DecisionJournal(self.folder.decisions).decisions()) if d.label is not None}

    def scratch(self, *parts: str) -> Path:
        """A folder for the checkpoints of one training."""
        return self.folder.work.joinpath(*parts)


def check_against_data(work: Work) -> None:
    """What a job can get wrong about its data and its estimators, found before anything is fitted or asked.

    Raises:
        BadInput: a slice of a column that the data lacks; an estimator that cannot be built; a specification of other labels.
    """
    names = [column.name for column in work.given.columns]
    if unknown := [name for name in work.job.evaluation.slices if name not in names]:
        raise BadInput(Problem("evaluation.slices", f"= {name!r} is no feature; {nearest(name, names)}") for name in unknown)
    teacher, student = work.job.teacher, work.job.student
    has_mentions = work.job.kind_of_task == "spans"
    if work.job.specification is not None and (wrong := list(_label_problems(work.job.specification, work.given.classes, has_mentions))):
        raise BadInput(wrong)
    if has_mentions:
        from stillroom.pipeline.asking import questions_of

        questions_of(work, ())  # refuses worked examples that are none
    if work.job.generation is not None and (wrong := list(work.job.generation.label_problems(work.given.classes))):
        raise BadInput(wrong)
    if isinstance(teacher, EstimatorTeacherSpec) and teacher.estimator is not None:
        from stillroom.models.estimators import resolve_estimator

        resolve_estimator(teacher.estimator, teacher.params, task=work.given.task, seed=work.job.seed, place="teacher")
    if isinstance(student, EstimatorStudentSpec):
        from stillroom.students.estimators import build_student

        build_student(student, task=work.given.task, columns=work.given.columns, seed=work.job.seed)


def check_without_asking(job: Job) -> None:
    """All that can be wrong with a job before a teacher is fitted or asked, and without a run folder.

    Raises:
        BadInput, PolicyRefused: as `check_job` and `check_against_data`.
    """
    check_job(job)
    family(job, "work").open_work(job, RunFolder(Path(job.name or "job")), Silence())


def open_work(job: Job, folder: RunFolder, listener: Listener, allow_code: bool = False) -> Work:
    """A job at work, checked against its data.

    Raises:
        BadInput: as `check_against_data`.
    """
    work = Work(job, folder, listener, allow_code)
    check_against_data(work)
    return work


def _asked(labelling: LabellingSpec) -> LabellingSpec:
    """What of the section shapes the answers: not where they are kept, nor how many are asked at once."""
    return labelling.model_copy(update={"store": None, "batch_size": 1, "batch_tokens": 1, "corrections": "ignore"})


def _label_problems(specification: SpecificationSpec, classes: tuple[str, ...], has_mentions: bool) -> Iterator[Problem]:
    """Where the specification and the data speak of different labels."""
    if specification.labels:
        for name in [name for name in classes if name not in specification.labels]:
            yield Problem("specification.labels", f"lack {name!r}, which rows of the data have; define it.")
        for name in [name for name in specification.labels if name not in classes]:
            yield Problem("specification.labels", f"name {name!r}, which no row of the data has; {nearest(name, classes)}")
    for i, example in enumerate(() if has_mentions else specification.examples):
        if not specification.labels and example.output not in classes:
            yield Problem(
                f"specification.examples[{i}].output", f"= {example.output!r} is no label; {nearest(str(example.output), classes)}"
            )


def _answering(teacher: AnyTeacherSpec) -> AnyTeacherSpec:
    """What of the section shapes the answers: of an endpoint not its account, its way and pace, or its prices."""
    if not isinstance(teacher, EndpointTeacherSpec):
        return teacher
    pace = {name: EndpointTeacherSpec.model_fields[name].default for name in ("max_concurrency", "timeout_seconds", "max_attempts")}
    return teacher.model_copy(update={"api_key_env": None, "prices": None, "batch": False, **pace})


def _given(section: Any) -> list[Any]:
    """A section that few jobs have: the fingerprints of the others do not know of it."""
    return [] if section is None else [section]


def _plain(section: Any) -> Any:
    if isinstance(section, dict):
        return {name: _plain(part) for name, part in section.items()}
    return section.model_dump(mode="json") if hasattr(section, "model_dump") else section


def _batch_facts(batch: Batch) -> list[Any]:
    target = batch.target.tolist() if batch.target is not None and batch.target.dtype.hasobject else batch.target
    groups = None if batch.groups is None else [str(group) for group in batch.groups]
    times = None if batch.times is None else [str(time) for time in batch.times]
    return [[str(key) for key in batch.keys], target, groups, times]
