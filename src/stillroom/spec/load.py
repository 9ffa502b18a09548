"""A job file in, a `Job` out; or every problem at once, each with its place and a remedy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from stillroom.core.errors import BadInput, Problem, nearest
from stillroom.spec.job import Job

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_job(path: Path, overrides: Sequence[str] = ()) -> Job:
    """Read, override and validate a job file.

    Args:
        path: a YAML file.
        overrides: "key.path=value" each, the value in YAML: "objective.temperature=4".

    Raises:
        BadInput: the file is missing or not YAML, or the job has problems; all of them.
    """
    content = _read(path)
    for override in overrides:
        _apply(content, override)
    content.setdefault("name", path.stem)
    return job_from(content, folder=path.parent)


def load_text(text: str, folder: Path, name: str) -> Job:
    """`load_job` for a job file's text that is not on disk yet."""
    content = _parse(text, Path(name))
    content.setdefault("name", name)
    return job_from(content, folder)


def job_from(content: Mapping[str, Any], folder: Path | None = None) -> Job:
    """Validate plain data as a job; relative paths are taken from `folder` (default: the working directory).

    Raises:
        BadInput: with every problem.
    """
    try:
        return Job.model_validate(dict(content), context={"folder": str(folder or Path())})
    except ValidationError as error:
        raise BadInput(list(_problems(error, content))) from None


def dump_job(job: Job) -> str:
    """The resolved job as YAML: every default written out."""
    return str(yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


_CHOSEN_BY_KIND = ("teacher", "student", "source")
"""Sections of several kinds: pydantic puts the kind into the location behind them."""


class _UniqueKeyLoader(_Loader):  # type: ignore[misc, valid-type]
    """YAML's safe loader, but a key given twice is an error: PyYAML would keep the last without a word."""


def _mapping(loader: Any, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark)
        seen.add(key_node.value)
    loader.flatten_mapping(node)
    return dict(loader.construct_pairs(node, deep=True))


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def _read(path: Path) -> dict[str, Any]:
    try:
        return _parse(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise BadInput.at(str(path), "no such job file; `stillroom init` writes one.") from None
    except IsADirectoryError:
        raise BadInput.at(str(path), "is a folder; give the job file in it.") from None
    except UnicodeDecodeError:
        raise BadInput.at(str(path), "is not UTF-8 text; a job file is YAML.") from None


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a safe loader's child
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f":{mark.line + 1}" if mark else ""
        raise BadInput.at(f"{path}{line}", f"is not valid YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        raise BadInput.at(str(path), f"is not valid YAML: {error}.") from None
    if not isinstance(content, dict):
        raise BadInput.at(str(path), "must hold keys and values: task, data, teacher, student.")
    return content


def _apply(content: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise BadInput.at(f"--set {override}", "must look like objective.temperature=4.")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a safe loader's child
    except yaml.YAMLError:
        raise BadInput.at(f"--set {override}", "the value is not valid YAML.") from None
    *parents, last = key.strip().split(".")
    place = content
    for parent in parents:
        inner = place.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise BadInput.at(f"--set {override}", f"{parent!r} is a value, not a section.")
        place = inner
    place[last] = value


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
        elif before in _CHOSEN_BY_KIND:
            before = ""
            continue
        else:
            place += f".{part}" if place else part
            here = here.get(part) if isinstance(here, Mapping) else None
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
        case "union_tag_not_found":
            return "has no valid 'kind'; add one."
        case "union_tag_invalid":
            expected = str(context.get("expected_tags", "")).replace("'", "").split(", ")
            return f"kind = {context.get('tag')!r} is not one of them; {nearest(str(context.get('tag')), expected)}"
        case "literal_error":
            options = [option.strip("' ") for option in str(context.get("expected", "")).replace(" or ", ", ").split(",")]
            return f"= {value!r} is not allowed; {nearest(str(value), options)}"
        case "value_error":
            return str(context.get("error", detail["msg"]))
        case "model_type" | "model_attributes_type" | "dict_type":
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
    return kind is not None and (kind.default == tag or (tag == "plugin" and kind.is_required()))
