"""Licences and terms of a job: asked before anything heavy starts, and again before labelling, training and export."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stillroom.core.errors import BadInput, Problem, collecting, for_each, needs_extra
from stillroom.core.provenance import Provenance
from stillroom.data.sources import check_files, formats_of
from stillroom.lineage.policy import (
    PRETRAINED_PACKAGES,
    Waiver,
    check_data_licence,
    check_teacher_licence,
    ensemble_provenance,
    licence_from_model_card,
    student_provenance,
)
from stillroom.lineage.providers import endpoint_licence, provider_name
from stillroom.models.estimators import import_path
from stillroom.models.locate import locate_model
from stillroom.spec.data import FileSourceSpec, HubSourceSpec, SklearnSourceSpec, SourceSpec
from stillroom.spec.job import Job
from stillroom.spec.student import EstimatorStudentSpec
from stillroom.spec.teacher import (
    AnyTeacherSpec,
    EndpointTeacherSpec,
    EnsembleTeacherSpec,
    EstimatorTeacherSpec,
    HuggingFaceTeacherSpec,
)

BUNDLED_LICENCE = "BSD-3-Clause"
"""scikit-learn's own, under which its bundled data sets are distributed."""


_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tekken.json", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""Any of them is a tokenizer, whatever else lies beside it."""


@dataclass(frozen=True)
class Terms:
    """The lines of the lineage: an ensemble's members before the ensemble, other teachers behind the one whose student ships."""

    teachers: tuple[Provenance, ...]
    data: Provenance
    student: Provenance
    waiver: Waiver | None

    @property
    def lines(self) -> tuple[Provenance, ...]:
        return (*self.teachers, self.data, self.student)

    @property
    def notes(self) -> list[str]:
        """What a person should know before going on: terms that are not simply permissive."""
        bound = [line for line in (*self.teachers, self.data) if line.output_training != "allowed"]
        return list(dict.fromkeys(f"{line.role} {line.name!r} ({line.licence}): {note}" for line in bound for note in line.conditions))


def check_job(job: Job) -> Terms:
    """Everything about a job that can be refused without loading a library or a row: its files and its terms.

    Raises:
        BadInput: files that are missing and licences that have to be declared; all of them.
        PolicyRefused: the terms of the teacher or the data forbid the job.
    """
    problems = [*_file_problems(job), *_fitted_problems(job.teacher, "teacher"), *_model_problems(job)]
    for place, name in _estimators(job):
        with collecting(problems):
            import_path(name, task=job.kind_of_task, place=place)
    if isinstance(job.teacher, EndpointTeacherSpec):
        from stillroom.teachers.endpoint.build import build_endpoint_teacher

        with collecting(problems):
            build_endpoint_teacher(job.teacher, job.budget)
    with collecting(problems):
        terms = check_terms(job)
    if problems:
        raise BadInput(problems)
    return terms


def missing_key(job: Job) -> list[str]:
    """That the endpoint's key is not there, as a note: another machine may have it, and a job whose answers are stored needs none."""
    name = job.teacher.api_key_env if isinstance(job.teacher, EndpointTeacherSpec) else None
    if name is None or os.environ.get(name, "").strip():
        return []
    return [f"teacher.api_key_env: the environment variable {name!r} is not set here; nothing can be asked without it."]


def check_terms(
    job: Job,
    *,
    teacher: str = "",
    other_teachers: Mapping[str, str] | None = None,
    data: str = "",
    student: str = "",
    served: Sequence[str] = (),
) -> Terms:
    """The lineage of a job whose teacher, other teachers (by name), data and student have these fingerprints ("" while they are
    not known). Every teacher's terms can refuse the job; the student that ships is bound by those of its own.

    Args:
        served: what an endpoint's server called the model in its answers.

    Raises:
        BadInput, PolicyRefused: as `check_job`.
    """
    spec = job.policy.waiver
    waiver = None if spec is None else Waiver(spec.reason, spec.signed_by, spec.date)
    name, licence = _data_terms(job.data.source)
    rows = check_data_licence(name=name, kind=job.data.source.kind, fingerprint=data, licence=job.data.licence or licence, waiver=waiver)
    teachers = {"teacher": job.teacher, **{f"other_teachers.{name}": spec for name, spec in job.other_teachers.items()}}
    lines, *others = for_each(lambda place: _teacher_terms(teachers[place], place, rows, waiver), teachers)
    lines[-1] = replace(lines[-1], fingerprint=teacher, served=tuple(served))
    prints = other_teachers or {}
    compared = [
        replace(line, role="other teacher", fingerprint=prints.get(name, ""))
        for name, (line,) in zip(job.other_teachers, others, strict=True)
    ]
    taught = student_provenance(name=f"{job.name or 'job'} student", kind=job.student.kind, fingerprint=student, sources=[lines[-1], rows])
    return Terms((*lines, *compared), rows, taught, waiver)


def _data_terms(source: SourceSpec) -> tuple[str, str | None]:
    """What the examples are called, and the licence that comes with them."""
    if isinstance(source, FileSourceSpec):
        return Path(source.train).name, None
    if isinstance(source, HubSourceSpec):
        folder = Path(source.id)
        name = folder.name if folder.is_absolute() else source.id
        return f"{name} ({source.subset})" if source.subset else name, _licence_of_card(_data_card(source))
    return f"scikit-learn {source.name}", BUNDLED_LICENCE


def _data_card(source: HubSourceSpec) -> Path | None:
    """Of a folder, or of what the hub has sent already: nothing is fetched to look at terms."""
    if Path(source.id).is_absolute():
        return Path(source.id) / "README.md"
    with needs_extra("llm", "data.source.kind: hub"):
        from huggingface_hub import try_to_load_from_cache
    found = try_to_load_from_cache(source.id, "README.md", repo_type="dataset", revision=source.revision)
    return Path(found) if isinstance(found, str) else None


def _teacher_terms(spec: AnyTeacherSpec, place: str, data: Provenance, waiver: Waiver | None) -> list[Provenance]:
    if isinstance(spec, EnsembleTeacherSpec):

        def terms(index: int) -> list[Provenance]:
            return _teacher_terms(spec.members[index].teacher, _member(place, index), data, waiver)

        groups = for_each(terms, range(len(spec.members)))
        members = [group[-1] for group in groups]
        whole = ensemble_provenance(name=spec.name or "ensemble", fingerprint="", members=members)
        return [line for group in groups for line in group] + [whole]
    fitted_here = (
        isinstance(spec, EstimatorTeacherSpec) and spec.estimator is not None and _package(spec.estimator) not in PRETRAINED_PACKAGES
    )
    endpoint = spec if isinstance(spec, EndpointTeacherSpec) else None
    licence = spec.licence or _licence_of_folder(spec, place)
    line = check_teacher_licence(
        name=teacher_name(spec),
        kind=spec.kind,
        fingerprint="",
        licence=licence if endpoint is None else endpoint_licence(endpoint.base_url, licence, place=f"{place}.licence"),
        place=f"{place}.licence",
        fitted_here=fitted_here,
        data=data,
        waiver=waiver,
    )
    return [line if endpoint is None else replace(line, provider=provider_name(endpoint.base_url))]


def teacher_name(spec: AnyTeacherSpec) -> str:
    """How a teacher is called where the job gives it no name. Of a folder the last part: the card goes out into the world."""
    for field in ("name", "estimator", "fitted", "model", "object", "kind"):
        if value := getattr(spec, field, None):
            return Path(value).name if field == "model" and Path(value).is_absolute() else str(value)
    raise AssertionError(spec)


def _package(estimator: str) -> str:
    return estimator.partition(".")[0]


def _member(place: str, index: int) -> str:
    return f"{place}.members[{index}].teacher"


def _licence_of_folder(spec: AnyTeacherSpec, place: str) -> str | None:
    """The licence in the model card beside local weights, where there is one."""
    if not isinstance(spec, HuggingFaceTeacherSpec):
        return None
    return _licence_of_card(Path(locate_model(spec.model, f"{place}.model")) / "README.md")


def _licence_of_card(card: Path | None) -> str | None:
    # errors="replace": one odd byte in somebody's prose does not make the licence above it unreadable.
    return None if card is None or not card.is_file() else licence_from_model_card(card.read_text(encoding="utf-8", errors="replace"))


def _file_problems(job: Job) -> list[Problem]:
    source = job.data.source
    if isinstance(source, SklearnSourceSpec):
        return []
    named = {f"source.{key}": getattr(source, key, None) for key in ("train", "test", "unlabeled")}
    named |= {f"other_domains.{name}": path for name, path in job.data.other_domains.items()}
    return check_files({f"data.{key}": Path(path) for key, path in named.items() if path is not None}, formats_of(job.task))


def _model_problems(job: Job) -> Iterator[Problem]:
    """Folders of models and data sets that are named as such; a hub id is the hub's to know."""
    if isinstance(job.data.source, HubSourceSpec) and Path(job.data.source.id).is_absolute() and not Path(job.data.source.id).is_dir():
        yield _no_folder("data.source.id", job.data.source.id)
    others = ((f"other_teachers.{name}.model", spec) for name, spec in job.other_teachers.items())
    for place, section in (("teacher.model", job.teacher), *others, ("student.model", job.student)):
        name = getattr(section, "model", None)
        if name is None or isinstance(section, EndpointTeacherSpec):
            continue
        folder = Path(name)
        if not folder.is_absolute():
            if folder.is_dir():
                reason = "is a hub id, and there is a folder of this name here: write ./ before it (paths are relative to the job file)"
                yield Problem(place, f"= {name!r} {reason}, or rename the folder.")
        elif not folder.is_dir():
            yield _no_folder(place, name)
        elif not (folder / "config.json").is_file():
            yield Problem(place, f"= {name!r} is no folder of a transformers model: it has no config.json.")
        elif not any((folder / file).is_file() for file in _TOKENIZERS):
            yield Problem(place, f"= {name!r} has no tokenizer (tokenizer.json); put the one there that the model was trained with.")


def _no_folder(place: str, name: str) -> Problem:
    return Problem(place, f"no such folder: {name}. Correct the path, or the environment variable it is made of.")


def _estimators(job: Job) -> Iterator[tuple[str, str]]:
    """Where the job names an estimator, and how."""

    def named(spec: AnyTeacherSpec, place: str) -> Iterator[tuple[str, str]]:
        if isinstance(spec, EnsembleTeacherSpec):
            for i, member in enumerate(spec.members):
                yield from named(member.teacher, _member(place, i))
        elif isinstance(spec, EstimatorTeacherSpec) and spec.estimator is not None:
            yield f"{place}.estimator", spec.estimator

    yield from named(job.teacher, "teacher")
    if isinstance(job.student, EstimatorStudentSpec):
        yield "student.estimator", job.student.estimator


def _fitted_problems(spec: AnyTeacherSpec, place: str) -> Iterator[Problem]:
    if isinstance(spec, EnsembleTeacherSpec):
        for i, member in enumerate(spec.members):
            yield from _fitted_problems(member.teacher, _member(place, i))
    elif isinstance(spec, EstimatorTeacherSpec) and spec.fitted is not None and not Path(spec.fitted).is_file():
        yield Problem(f"{place}.fitted", f"no such file: {spec.fitted}. Give a file written by skops.io.dump.")
