"""Structured records from texts; and spans: what a text names, found again at its place in the text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from stillroom.core.chat import ChatParameters, ChatRequest, Reply
from stillroom.core.errors import BadInput
from stillroom.core.spans import Span
from stillroom.core.specification import Specification
from stillroom.teachers.strict_json import one_line, schema_problem
from stillroom.teachers.tasks.prompts import beginning, with_text
from stillroom.teachers.tasks.rounds import Questions
from stillroom.teachers.tasks.structured import Mode, instruction, structured_parameters, structured_reader
from stillroom.teachers.tasks.unusable import Reading, Unusable

_IN_ORDER = "List each mention separately, in the order of the text and exactly as it is written there; none may overlap."


def extraction_questions(
    parameters: ChatParameters,
    specification: Specification,
    texts: Sequence[str],
    *,
    structured: Mode = "json-schema",
    asked_again: int = 2,
) -> Questions[Any]:
    """A request a text, whose answer is a record: plain data, valid under the specification's `output_schema`.

    Raises:
        BadInput: there is no such schema, servers do not take it, or a worked example is not valid under it.
    """
    if specification.output_schema is None:
        raise BadInput.at("specification.output_schema", "is missing; say by a JSON Schema what is to be extracted.")
    schema = specification.output_schema
    problem = schema_problem(schema)
    for i, example in enumerate(specification.examples):
        if wrong := problem(example.output):
            raise BadInput.at(f"specification.examples[{i}].output", f"is not valid under output_schema: {wrong}; mend one of them.")
    start = beginning(specification, instruction(schema, structured), lambda output: json.dumps(output, ensure_ascii=False))
    asked, read = structured_parameters(parameters, schema, structured), structured_reader(schema)
    return Questions([ChatRequest(with_text(start, text), asked) for text in texts], lambda row, reply: read(reply.choices[0]), asked_again)


def entity_specification(specification: Specification) -> Specification:
    """A specification whose labels are kinds of mentions, as one whose answers are {"entities": [{"text", "label"}, ...]}.

    Raises:
        BadInput: it has no labels.
    """
    if not specification.labels:
        raise BadInput.at("specification.labels", "is empty; name the kinds of mentions that are to be found.")
    fields = {"text": {"type": "string", "minLength": 1}, "label": {"type": "string", "enum": list(specification.labels)}}
    entities = {"type": "array", "items": _closed(fields)}
    task = f"{specification.task}\n\n{_IN_ORDER}"
    return replace(specification, task=task, output_schema=_closed({"entities": entities}))


def span_questions(
    parameters: ChatParameters,
    specification: Specification,
    texts: Sequence[str],
    *,
    structured: Mode = "json-schema",
    asked_again: int = 2,
) -> Questions[tuple[Span, ...]]:
    """A request a text, whose answer is its mentions, at their places. A mention that is not there, or might be at several places, makes
    the answer unusable.

    Args:
        specification: its labels are the kinds of mentions; worked examples' outputs are {"entities": [{"text", "label"}, ...]}.

    Raises:
        BadInput: there are no labels; a worked example is none, or its mentions are not to be found.
    """
    questions = extraction_questions(parameters, entity_specification(specification), texts, structured=structured, asked_again=asked_again)
    for i, example in enumerate(specification.examples):
        try:
            located(example.input, example.output["entities"])
        except Unusable as wrong:
            raise BadInput.at(f"specification.examples[{i}].output", wrong.detail) from None

    def spans(row: int, reply: Reply) -> Reading[tuple[Span, ...]]:
        found = questions.read(row, reply)
        return Reading(located(texts[row], found.value["entities"]), found.repairs)

    return Questions(questions.requests, spans, asked_again)


def located(text: str, entities: Sequence[Mapping[str, str]]) -> tuple[Span, ...]:
    """Each mention {"text", "label"} at its place: the one way to find all of them, one after the other, without overlap.

    A mention is looked for as whole words; inside words only where it is nowhere else (writing without spaces).

    Raises:
        Unusable: "not-in-text": there is no such way, or more than one.
    """
    places = [_occurrences(text, entity["text"]) for entity in entities]
    lengths = [len(entity["text"]) for entity in entities]
    first: list[int] = []
    for starts, entity in zip(places, entities, strict=True):
        free = first[-1] + lengths[len(first) - 1] if first else 0
        start = next((start for start in starts if start >= free), None)
        if start is None:
            raise Unusable("not-in-text", f"{one_line(entity['text'])!r} is not in the text after what is listed before it. {_IN_ORDER}")
        first.append(start)
    bound = len(text)
    for i in reversed(range(len(first))):  # as late as can be: where that is somewhere else, there is more than one way
        bound = max(start for start in places[i] if start + lengths[i] <= bound)
        if bound != first[i]:
            words = f"{one_line(entities[i]['text'])!r} is in the text more than once, and it cannot be told where it is meant"
            raise Unusable("not-in-text", f"{words}. {_IN_ORDER}")
    return tuple(Span(start, start + n, entity["label"]) for start, n, entity in zip(first, lengths, entities, strict=True))


def _occurrences(text: str, mention: str) -> list[int]:
    starts = [found.start() for found in re.finditer(f"(?={re.escape(mention)})", text)]
    whole = [start for start in starts if not (_inside_word(text, start) or _inside_word(text, start + len(mention)))]
    return whole or starts


def _inside_word(text: str, at: int) -> bool:
    return 0 < at < len(text) and text[at - 1].isalnum() and text[at].isalnum()


def _closed(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
