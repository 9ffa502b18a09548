"""Answers that are JSON under a schema: how a server is asked for them, and how they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

from stillroom.core.chat import ChatParameters, Choice
from stillroom.core.errors import BadInput
from stillroom.teachers.strict_json import FENCE, decoder, one_line, parse, schema_problem
from stillroom.teachers.tasks.unusable import Reading, Repair, Unusable, refused_in_words, said, whole

Mode = Literal["json-schema", "tool", "prompt"]
_VALUE_AND_COMMA = re.compile(r'("(?:[^"\\]|\\.)*+"?+|[^\s",\[{])(?:\s*+,(?=\s*[}\]]))?', re.DOTALL)
"""A string, or the last character of another value or bracket, and a comma before a closing bracket. A string that does not end goes on to
the end of the text: looking for others inside it would take quadratic time."""


def structured_parameters(parameters: ChatParameters, schema: Mapping[str, Any], mode: Mode, name: str = "answer") -> ChatParameters:
    """`parameters` with what makes the server answer under the schema.

    Args:
        mode: "json-schema": `response_format`; "tool": the answer is the arguments of the one tool `name`, which has to be called;
            "prompt": nothing, `instruction` says it in words.

    Raises:
        BadInput: the schema's root is no object, which servers want in the first two modes.
    """
    if mode == "prompt":
        return parameters
    if schema.get("type") != "object":
        found = schema.get("type")
        raise BadInput.at("specification.output_schema.type", f"= {found!r}; servers want 'object'. Put the value into a property.")
    strict = {"strict": True} if _is_closed(schema) else {}
    if mode == "json-schema":
        return replace(parameters, response_format={"type": "json_schema", "json_schema": {"name": name, "schema": schema, **strict}})
    tool = {"type": "function", "function": {"name": name, "description": "Give the answer.", "parameters": schema, **strict}}
    choice = {"type": "function", "function": {"name": name}}
    return replace(parameters, extra={**parameters.extra, "tools": [tool], "tool_choice": choice})


def instruction(schema: Mapping[str, Any], mode: Mode, name: str = "answer") -> str:
    """The words for the system message. Some servers take `response_format` and heed it not, so these are never left out."""
    if mode == "tool":
        return f"Answer by calling the function {name!r} once."
    return f"Answer with one JSON value alone, valid under this JSON Schema:\n{json.dumps(schema, ensure_ascii=False)}"


def structured_reader(schema: Mapping[str, Any]) -> Callable[[Choice], Reading[Any]]:
    """A function that reads an answer's data: from its tool call's arguments if it made one, else from its text.

    Mended is what is certain: a code fence, text around the one object (not a single brace may be left over), a comma before a
    closing bracket.

    Returns:
        read(choice): plain data, valid under the schema. Raises Unusable.

    Raises:
        BadInput: the schema is none.
    """
    problem = schema_problem(schema)

    def read(choice: Choice) -> Reading[Any]:
        found = _mended(_written(choice))
        if wrong := problem(found.value):
            raise Unusable("invalid", f"the JSON is not valid under the schema: {wrong}")
        return found

    return read


def _is_closed(schema: object) -> bool:
    """May a server be asked to hold the schema strictly? It then wants every object closed and every property required."""
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, Mapping):
        return True
    is_object = schema.get("type") == "object" or isinstance(schema.get("properties"), Mapping)
    closed = schema.get("additionalProperties") is False and set(schema.get("required", ())) >= schema.get("properties", {}).keys()
    return (closed or not is_object) and all(_is_closed(part) for part in schema.values())


def _written(choice: Choice) -> str:
    """Raises Unusable."""
    if not choice.tool_calls:
        return said(choice)
    whole(choice)
    if len(choice.tool_calls) > 1:
        raise Unusable("not-json", f"{len(choice.tool_calls)} calls of the function; call it once.")
    return choice.tool_calls[0][1]


def _mended(text: str) -> Reading[Any]:
    """The value of a JSON text. Raises Unusable."""
    fence: tuple[Repair, ...] = ()
    if fenced := FENCE.fullmatch(text):
        text, fence = fenced[1], ("fence",)
    start = max(text.find("{"), 0)
    attempts: tuple[tuple[tuple[Repair, ...], Callable[[], Any]], ...] = (
        ((), lambda: _value(text)),
        (("trailing-comma",), lambda: _value(_without_trailing_commas(text))),
        (("prose",), lambda: _only_object(text, start)),
        # From the brace on: a single quote mark in the prose would turn the strings inside out.
        (("prose", "trailing-comma"), lambda: _only_object(text[:start] + _without_trailing_commas(text[start:]), start)),
    )
    wrong = ""
    for repairs, attempt in attempts:
        try:
            return Reading(attempt(), fence + repairs)
        except ValueError as error:
            wrong = wrong or str(error)
    if refused_in_words(text):
        raise Unusable("refused", one_line(text))
    raise Unusable("not-json", f"{one_line(text)!r} {wrong}. Answer with one JSON value alone.")


def _value(text: str) -> Any:
    """Raises ValueError."""
    value = parse(text)
    if "\\ud" in text.lower():  # half a surrogate pair is JSON, but no text: it could be neither stored nor shown
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("is not JSON: it holds half a surrogate pair") from None
    return value


def _only_object(text: str, start: int) -> Any:
    """The one object in a text, which begins at `start`; ValueError if it is none, or if another might be around it."""
    try:
        _, end = decoder.raw_decode(text, start)
    except RecursionError:
        raise ValueError("is nested too deeply to be read") from None
    if re.search(r"[{}]", text[:start] + text[end:]):
        raise ValueError("there is more than one object")
    return _value(text[start:end])


def _without_trailing_commas(text: str) -> str:
    """Without each comma, outside strings, that follows a value and comes before a closing bracket."""
    return _VALUE_AND_COMMA.sub(lambda found: found[1], text)
