"""What every section of a job file shares: strict, frozen, and it refuses what it does not know."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    ValidationInfo,
)

from stillroom.core.registry import is_plugin


class Spec(BaseModel):
    """A section of the job file."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), defer_build=True)


_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")


def _fill_variable(value: str) -> tuple[str, bool]:
    """The text with the variable at its start filled in, and whether the environment had it."""
    match = _VARIABLE.match(value)
    if match is None:
        if "${" in value:
            raise ValueError(f"= {value!r}: a variable is written ${{NAME}} or ${{NAME:-default}}, and stands at the start.")
        return value, False
    name, default = match["name"], match["default"]
    if content := os.environ.get(name):  # an empty one counts as unset, as in a shell
        return content + value[match.end() :], True
    if default is None:
        raise ValueError(f"the variable {name} is not set; set it, or give a default: ${{{name}:-default}}.")
    return default + value[match.end() :], False


def _resolve_path(value: object, info: ValidationInfo) -> object:
    """What the file says is relative to the file; what the environment says is relative to the working directory."""
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    if not value:
        raise ValueError("is empty; give a path, or leave the key out.")
    value, from_environment = _fill_variable(value)
    folder = Path() if from_environment else Path((info.context or {}).get("folder", "."))
    if "://" in value:
        return value
    return os.path.normpath((folder / os.path.expanduser(value)).absolute())  # noqa: PTH111 - Path's raises where ~NAME is nobody


FilePath = Annotated[str, BeforeValidator(_resolve_path)]
"""A path, made absolute; a URL stays as it is. `${NAME}` and `${NAME:-default}` at its start are taken from the environment."""


def _resolve_model(value: object, info: ValidationInfo) -> object:
    return _resolve_path(value, info) if isinstance(value, str) and value[:1] in ("", "$", ".", "/", "~") else value


ModelName = Annotated[str, BeforeValidator(_resolve_model)]
"""A hub id or "package:NAME/FOLDER" as it stands, or a folder: a path that begins with `/`, `./`, `../`, `~` or a variable."""


def _fill_address(value: object) -> object:
    return _fill_variable(value)[0].strip() if isinstance(value, str) else value


WebAddress = Annotated[str, BeforeValidator(_fill_address)]
"""A URL; `${NAME}` and `${NAME:-default}` at its start are taken from the environment."""

Names = Annotated[tuple[str, ...], Field(strict=False)]
"""A list of names; YAML has no tuples."""


def _no_duplicates(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} given more than once; name each column once.")
    return names


ColumnNames = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_no_duplicates)]
Params = dict[str, JsonValue]
"""Keyword arguments for somebody else's constructor: plain data, checked by that constructor."""

Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


PLUGIN = "<plugin>"
"""The tag of the model for a kind that an installed package adds; no kind that anybody would write."""


def by_kind(group: str, builtin: tuple[str, ...]) -> Discriminator:
    """Chooses a section's model by its `kind`: a built-in one, or `PLUGIN` for one of the entry-point group "stillroom.<group>"."""

    def tag(value: object) -> str | None:
        kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        if not isinstance(kind, str):
            return None
        return kind if kind in builtin or not is_plugin(group, kind) else PLUGIN

    return Discriminator(tag)


def described(text: str, **rules: Any) -> Any:
    """A field with the sentence that `stillroom schema` and editors show."""
    return Field(description=text, **rules)
