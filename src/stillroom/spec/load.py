"""A job file in, a `Job` out; or every problem at once, each with its place and a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stillroom.core.errors import BadInput, Problem, collecting, nearest
from stillroom.spec.base import PLUGIN
from stillroom.spec.data import BUILTIN_SOURCES
from stillroom.spec.job import Job
from stillroom.spec.student import BUILTIN_STUDENTS
from stillroom.spec.teacher import BUILTIN_TEACHERS

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STEP = re.compile(r"(?:^|\.)([^.\[\]]+)|\[([0-9]+)\]")
"""A part of a dotted place: a key, or the number of an item in square brackets."""


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read, override and validate a job file.

    Args:
        path: a YAML file.
        overrides: "key.path=value" each, the value in YAML: "objective.temperature=4", "teacher.members[0].weight=2".

    Raises:
        BadInput: the file is missing or not YAML, or the job has problems; all of them.
    """
    content = _read(path)
    problems: list[Problem] = []
    for override in overrides:
        with collecting(problems):
            content = _overridden(content, override)
    if problems:
        raise BadInput(problems)
    content.setdefault("name", _job_name(path.stem))
    return job_from(content, folder=path.parent)


def load_text(text: str, folder: Path, name: str) -> Job:
    """`load_job` for a job file's text that is not on disk yet."""
    content = _parse(text, Path(name))
    content.setdefault("name", _job_name(name))
    return job_from(content, folder)


def job_from(content: Mapping[str, Any], folder: Path | None = None) -> Job:
    """Validate plain data as a job; relative paths are taken from `folder` (default: the working directory).

    Raises:
        BadInput: with every problem.
    """
    context = {"folder": str(folder or Path())}
    try:
        return Job.model_validate(dict(content), context=context)
    except ValidationError as error:
        found = list(_problems(error, content))
    try:  # pydantic holds sections against each other only once each is right alone; a misspelt key must not hide what that shows
        Job.model_validate(dict(content), context=context, extra="ignore")
    except ValidationError as error:
        found += [problem for problem in _problems(error, content) if problem not in found]
    raise BadInput(found)


def dump_job(job: Job) -> str:
    """The resolved job as YAML: every default written out."""
    return str(yaml.dump(job.model_dump(mode="json"), Dumper=_JobDumper, sort_keys=False, allow_unicode=True))


_KINDS = {"teacher": BUILTIN_TEACHERS, "student": BUILTIN_STUDENTS, "source": BUILTIN_SOURCES}
"""Sections of several kinds: pydantic puts the kind into the location behind them."""


class _JobLoader(_Loader):  # type: ignore[misc, valid-type]
    """YAML's safe loader, with the scalars of YAML 1.2: 5e-5 is a number, and a date is text. A key given twice is an error:
    PyYAML would keep the last without a word."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - the name and the shape are PyYAML's
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
        for first, rules in _Loader.yaml_implicit_resolvers.items()
    }


class _JobDumper(yaml.SafeDumper):
    """Puts the text 5e-5 in quotes, so that the loader above reads it as text again."""


def _mapping(loader: Any, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
    seen: set[str] = set()
    for key, _ in node.value:
        problem = None
        if not isinstance(key, yaml.ScalarNode):
            problem = "a key must be a single word"
        elif key.tag not in ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"):
            problem = f"the key {key.value!r} is no text; put it in quotes"
        elif key.value in seen:
            problem = f"the key {key.value!r} is given twice"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
        seen.add(key.value)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_JobLoader.add_constructor("tag:yaml.org,2002:map", _mapping)
for _side in (_JobLoader, _JobDumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise BadInput.at(str(path), "no such job file; `stillroom init` writes one.") from None
    except IsADirectoryError:
        raise BadInput.at(str(path), "is a folder; give the job file in it.") from None
    except OSError as error:
        raise BadInput.at(str(path), f"cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise BadInput.at(str(path), "is not UTF-8 text; a job file is YAML.") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader=_JobLoader)  # noqa: S506 - a safe loader's child
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BadInput.at(f"{path}{line}", f"is not valid YAML: {error.problem}.") from None
    except (yaml.YAMLError, ValueError) as error:  # the latter: a number of thousands of digits, !!timestamp 2026-13-01
        raise BadInput.at(str(path), f"is not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise BadInput.at(str(path), "must hold keys and values: task, data, teacher, student.")
    return content


def _job_name(stem: str) -> str:
    """A run's name after a file's: "my job (2)" -> "my-job-2"."""
    return re.sub(r"[^\w.-]+", "-", stem).strip(".-") or "job"


def _overridden(content: dict[str, Any], override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    steps = [part or int(number) for part, number in _STEP.findall(key)]
    if not equals or not steps or "".join(match.group() for match in _STEP.finditer(key)) != key:
        raise BadInput.at(f"--set {override}", "must look like objective.temperature=4 or teacher.members[0].weight=2.")
    try:
        value = yaml.load(text, Loader=_JobLoader)  # noqa: S506 - a safe loader's child
    except (yaml.YAMLError, ValueError):
        raise BadInput.at(f"--set {override}", "the value is not valid YAML.") from None
    try:
        changed: dict[str, Any] = _replaced(content, steps, value)
    except LookupError as error:
        raise BadInput.at(f"--set {override}", str(error.args[0])) from None
    return changed


def _replaced(section: Any, steps: Sequence[str | int], value: Any) -> Any:
    """`section` with `value` at `steps`; a copy, since an alias in the file makes one object of two sections."""
    if not steps:
        return value
    step, *rest = steps
    if isinstance(step, int):
        if not isinstance(section, list) or step >= len(section):
            raise LookupError(f"there is no item [{step}]; items are counted from 0, and only those in the file can be changed.")
        return [*section[:step], _replaced(section[step], rest, value), *section[step + 1 :]]
    section = {} if section is None else section
    if not isinstance(section, dict):
        raise LookupError(f"{step!r} lies in a {'list' if isinstance(section, list) else 'value'}, not in a section.")
    return {**section, step: _replaced(section.get(step), rest, value)}


def _problems(error: ValidationError, content: Mapping[str, Any]) -> Iterator[Problem]:
    details = error.errors()
    for detail in details:
        loc = detail["loc"]
        if detail["type"] == "too_short" and any(other["loc"][: len(loc)] == loc != other["loc"] for other in details):
            continue  # too short only because its items were refused
        message = _message(detail)
        if detail["type"] == "value_error" and not loc:
            # Job's own cross-section checks: they carry their places, one a line.
            for line in message.splitlines():
                where, _, what = line.partition(": ")
                yield Problem(where, what)
        else:
            yield Problem(_place(loc, content), message)


def _place(loc: tuple[int | str, ...], content: Mapping[str, Any]) -> str:
    """The dotted place as the user wrote it: pydantic's location without the kinds that chose a section's model."""
    place, before = "", ""
    here: Any = content
    for part in loc:
        if isinstance(part, int):
            place += f"[{part}]"
            here = here[part] if isinstance(here, Sequence) and part < len(here) else None
        elif before in _KINDS:
            before = ""
            continue
        elif not isinstance(here, Mapping):
            continue  # pydantic's word for what the value is, not a key
        elif part == "[key]" and part not in here:
            continue  # pydantic's word for a key that is wrong itself
        else:
            place += f".{part}" if place else part
            here = here.get(part)
        before = str(part)
    return place


def _message(detail: ErrorDetails) -> str:
    value = detail["input"]
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return f"no such key; {nearest(str(detail['loc'][-1]), _known_keys(detail['loc']))}"
        case "missing":
            return "is missing; add it."
        case "union_tag_not_found" if isinstance(value, Mapping):
            return f"has no 'kind' that is a word; give one of {', '.join(_KINDS[str(detail['loc'][-1])])}."
        case "union_tag_invalid":
            return f"kind = {context.get('tag')!r} is not one of them; {nearest(str(context.get('tag')), _KINDS[str(detail['loc'][-1])])}"
        case "literal_error":
            options = [option.strip("' ") for option in str(context.get("expected", "")).replace(" or ", ", ").split(",")]
            return f"= {value!r} is not allowed; {nearest(str(value), options)}"
        case "value_error":
            return str(context.get("error", detail["msg"]))
        case "string_type" if isinstance(value, bool | int | float):
            return f"= {value!r} is no text; put it in quotes."
        case "model_type" | "model_attributes_type" | "dict_type" | "union_tag_not_found":
            return f"= {value!r} must be a section with keys and values."
        case _:
            return f"= {value!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}."


def _known_keys(loc: tuple[int | str, ...]) -> list[str]:
    """The keys of the section that `loc` (ending in an unknown key) is in."""
    models: list[type[BaseModel]] = [Job]
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        inside = [m for model in models if part in model.model_fields for m in _models_of(model.model_fields[part].annotation)]
        models = inside or [model for model in models if _has_tag(model, part)] or models
    return sorted({name for model in models for name in model.model_fields})


def _models_of(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    annotation = getattr(annotation, "__value__", annotation)
    return [model for argument in get_args(annotation) for model in _models_of(argument)]


def _has_tag(model: type[BaseModel], tag: str) -> bool:
    kind = model.model_fields.get("kind")
    return kind is not None and (kind.default == tag or (tag == PLUGIN and kind.is_required()))
