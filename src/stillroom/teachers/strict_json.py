"""JSON that came from a model, read strictly and held against a schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from stillroom.core.errors import BadInput

FENCE = re.compile(r"\s*```[A-Za-z]*\n(.*?)\n?```\s*", re.DOTALL)
"""A code fence, alone: `FENCE.fullmatch(answer)[1]` is what it holds."""
_SHOWN = 240


def parse(text: str) -> Any:
    """The value of a JSON text (RFC 8259): NaN, infinities and repeated keys are refused.

    Raises:
        ValueError: it is no such text; the message says so in one line, such as "is not JSON: ...".
    """
    try:
        return decoder.decode(text)
    except RecursionError:
        raise ValueError("is nested too deeply to be read") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {one_line(str(error))}") from None


def schema_problem(schema: Mapping[str, Any]) -> Callable[[Any], str]:
    """What is wrong with a value under the schema, in one line with its place; "" where it is valid.

    References are followed inside the schema only; nothing is fetched.

    Args:
        schema: JSON Schema; draft 2020-12 unless its `$schema` says otherwise.

    Raises:
        BadInput: the schema is none, or refers to something outside itself (then at the first value).

    Source: json-schema.org, through the package `jsonschema`.
    """
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise BadInput.at(f"schema.{_path(error)}".rstrip("."), f"is no JSON Schema: {one_line(error.message)}") from error
    validator = kind(schema, registry=Registry())

    def problem(value: Any) -> str:
        try:
            first = next(iter(sorted(validator.iter_errors(value), key=lambda error: list(map(str, error.absolute_path)))), None)
        except Unresolvable as error:
            raise BadInput.at("schema", f"refers to {error.ref!r}, which it does not hold; copy it into $defs.") from error
        except RecursionError:
            return "is nested too deeply to be checked"
        if first is None:
            return ""
        place = _path(first)
        return f"{place + ': ' if place else ''}{one_line(first.message)}"

    return problem


def one_line(text: str) -> str:
    """The beginning of a text on one line, for a message."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed in JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{one_line(text)} is more than a number can hold")
    return number


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key occurs twice in one object")
    return made


decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
"""Reads strictly; its `raw_decode` may raise RecursionError."""


def _path(error: ValidationError | SchemaError) -> str:
    return ".".join(str(part) for part in error.absolute_path)
