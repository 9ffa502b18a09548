"""What to change in a job whose teacher's answers cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REMEDIES = {
    "truncated": "raise teacher.max_tokens",
    "off-label": "say in specification.task what an answer looks like, and define the labels",
    "not-json": "try teacher.structured: prompt, or tool",
    "invalid": "try teacher.structured: prompt, or tool",
    "no-logprobs": "use teacher.answers: samples",
    "refused": "say in specification.task what the answers are for",
    "not-in-text": "say in specification.task that each mention is copied from the text, and show it in specification.examples",
    "bad-request": "mend the request: teacher.structured, teacher.answers, teacher.extra",
    "content-filter": "leave such rows out, or ask a model without the filter",
    "context-too-long": "use a model with a longer context, or shorter texts",
}


def remedy(given_up: Mapping[Any, int]) -> str:
    """A sentence on the most frequent of the reasons why rows have no answer that can be used."""
    first = max(given_up, key=lambda reason: given_up[reason])
    found = _REMEDIES.get(first, "see what the server's log says")
    return f"For {first}: {found}."
