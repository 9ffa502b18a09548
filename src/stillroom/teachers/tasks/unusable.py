"""What was answered: text that can be read, or the reason why nothing can be made of it. Such answers are never trained on."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from stillroom.core.chat import Choice
from stillroom.teachers.final_answers import split_thinking
from stillroom.teachers.strict_json import one_line

T = TypeVar("T")
UnusableReason = Literal[
    "refused",  # the model declined
    "content-filter",
    "truncated",  # the token limit came before the end
    "empty",
    "not-json",
    "invalid",  # JSON, but not what the schema allows
    "off-label",  # none of the labels
    "no-logprobs",  # none, or none that can be probabilities
    "not-in-text",  # what was to be found in the row's text is not there, or not at one place
]
Repair = Literal["fence", "prose", "trailing-comma", "spelling"]
"""Taken off: a code fence; text around the one object; a comma before a closing bracket; case, space or quotes of a label."""

_REFUSAL = re.compile(
    r"\W*(?:i(?:'m| am) (?:very |so )?sorry\b|sorry, |i (?:can't|can ?not|won't|will not|am unable|am not able)\b|i'm (?:unable|not able)\b"
    r"|as an ai\b|unfortunately,? i )",
    re.IGNORECASE,
)

_DECLINED = re.compile(
    r"\W*(?:(?:i(?:'m| am) (?:very |so )?sorry|sorry|unfortunately|i apologi[sz]e)\b[,.;:]? ?(?:but )?)?(?:as an ai\b[^.\n]{0,60}?,? ?)?"
    r"i(?:'m| am)? (?:can't|can ?not|won't|will not|unable to|not able to) "
    r"(?:help|assist|answer|comply|fulfil|provide|do that|do this|continue|discuss|engage|support|create|write|generate|share|give)",
    re.IGNORECASE,
)


class Unusable(Exception):
    """An answer that cannot be used.

    Attributes:
        detail: one line: what is wrong with it, and what would be right. The model reads it when it is asked again.
    """

    def __init__(self, reason: UnusableReason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What was read from an answer, and what had to be mended for it."""

    value: T
    repairs: tuple[Repair, ...] = ()


def said(choice: Choice) -> str:
    """The text of an answer that came whole, its thinking split off.

    Raises:
        Unusable: it is refused, filtered, cut or empty.
    """
    whole(choice)
    return without_thinking(choice.text)


def without_thinking(text: str) -> str:
    """Raises Unusable where nothing is left."""
    response = split_thinking(text)
    if not response.closed:
        raise Unusable("truncated", "the answer ends within its thinking; think briefly, then answer.")
    if not response.answer:
        raise Unusable("empty", "there is no answer.")
    return response.answer


def given(choice: Choice) -> None:
    """Raises Unusable where the answer is refused or filtered."""
    if choice.finish_reason == "content_filter":
        raise Unusable("content-filter", "the server's filter ended the answer.")
    if choice.refusal:
        raise Unusable("refused", one_line(choice.refusal))


def whole(choice: Choice) -> None:
    """Raises Unusable where the answer is refused, filtered or cut."""
    given(choice)
    if choice.finish_reason == "length":
        raise Unusable("truncated", "the answer was cut at the token limit; answer more briefly.")


def refused_in_words(text: str) -> bool:
    """Does a text that is no answer begin as refusals do? English only, and only good for naming the reason."""
    return _REFUSAL.match(text.replace("’", "'")) is not None


def declined(text: str) -> bool:
    """Is a free text a refusal? English only, and strict, since an apology may be the answer: "I'm sorry, but I can't help with that"."""
    return _DECLINED.match(text.replace("’", "'")) is not None
