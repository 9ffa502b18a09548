"""How synthetic inputs are asked for. What a person wrote is quoted or set off, and never filled into a template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stillroom.core.specification import Specification
from stillroom.teachers.synthesis.plan import Cell

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "inputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"number": {"type": "integer"}, "text": {"type": "string"}},
                "required": ["number", "text"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["inputs"],
    "additionalProperties": False,
}
"""The answer: each input under the number of the description that it was written for, so that one left out shifts no other."""

_ROLE = (
    "You write inputs for the job that is described below, as they would really come from the people who use it. "
    "You do not do the job, and you answer no input."
)
_MEANINGS = (
    "Each description of an input is one line of JSON:\n"
    '- "label": the right answer to the input. The input does not name it.\n'
    '- "case": "ordinary", an input as most are; "hard", the right answer is certain for an expert and not obvious to others; '
    '"near-miss", a hasty reader would answer "mistaken_for", which is wrong.\n'
    '- "with": what else holds of the input.\n'
    "Inputs differ from each other in what they are about and in their words."
)


def system_text(specification: Specification) -> str:
    """What all requests of a job begin with, word for word: servers keep what they have read of it."""
    parts = [_ROLE, f"The job:\n{specification.task}"]
    if specification.labels:
        lines = (f"- {_quoted(name)}{': ' if told else ''}{told}" for name, told in specification.labels.items())
        parts.append("\n".join(["Its answers are labels:", *lines]))
    if specification.output_schema is not None:
        parts.append(f"Its answers follow this JSON Schema:\n{_quoted(specification.output_schema)}")
    return "\n\n".join([*parts, _MEANINGS])


def user_text(cells: Sequence[Cell], axes: Sequence[str], *, models: Sequence[str] = (), written: Sequence[str] = ()) -> str:
    """One request: a description for each input that is wanted.

    Args:
        cells: one an input; an input's number is its place, from 1.
        axes: the names of their values.
        models: real inputs, whose manner is to be met.
        written: inputs that are there already.
    """
    parts = []
    if models:
        parts.append("\n".join(["Real inputs look like these:", *map(_quoted, models)]))
    if written:
        parts.append("\n".join(["These have been written already; write no variants of them:", *map(_quoted, written)]))
    wanted = f"Write {len(cells)} inputs, one for each description:" if len(cells) > 1 else "Write one input for this description:"
    parts.append("\n".join([wanted, *(f"{i}. {_quoted(describe(cell, axes))}" for i, cell in enumerate(cells, start=1))]))
    return "\n\n".join(parts)


def describe(cell: Cell, axes: Sequence[str]) -> dict[str, Any]:
    """A cell as the requests show it; what does not apply is left out."""
    told: Mapping[str, Any] = {
        "label": cell.label,
        "case": cell.kind,
        "mistaken_for": cell.towards,
        "with": dict(zip(axes, cell.values, strict=True)) or None,
    }
    return {name: value for name, value in told.items() if value is not None}


def _quoted(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
