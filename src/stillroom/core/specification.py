"""One narrow job, said once: what the teacher is told, what answers are checked against, and what the student is measured on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class WorkedExample:
    """An input and the answer that is wanted: a label, a text, or plain data that the output schema allows."""

    input: str
    output: Any


@dataclass(frozen=True)
class Specification:
    """The job, as a person would explain it to a new colleague.

    Attributes:
        task: what is to be done, in a sentence or more.
        labels: label -> its definition ("" where the name says it all); {} where the answers are no labels.
        output_schema: JSON Schema of a structured answer; None where answers are labels or free text.
        examples: shown to the teacher before each question.
    """

    task: str
    labels: Mapping[str, str] = field(default_factory=dict)
    output_schema: Mapping[str, Any] | None = None
    examples: tuple[WorkedExample, ...] = ()
