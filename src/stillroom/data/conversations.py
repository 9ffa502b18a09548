"""From conversations to marked texts: the tokenizer's chat template writes them, and every assistant turn is learnt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import TemplateError

from stillroom.core.errors import BadInput
from stillroom.data.sequences import MarkedText, Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]

_ROLES = ("system", "user", "assistant", "tool")
_TODAY = datetime(2024, 7, 26)
"""What a template is told that asks for the date, as those of Llama 3 do; it is their own default. With the day of the run the same
job would have other texts every day."""
_DATES = "".join(f"|replace('{code}', '{_TODAY.strftime(code)}')" for code in ("%d", "%b", "%B", "%m", "%Y", "%y", "%a", "%A", "%H", "%M"))
_CLOCK = "{% macro strftime_now(format) %}{{ format" + _DATES + " }}{% endmacro %}"
"""In front of a template: in the place of the function of this name, which transformers gives it."""
_CONTENT = "stillroom-content"
"""Stands for a turn's content where only what the template writes around it is wanted."""
_WANTED = "data.messages must be a list of messages with 'role' and 'content'."


def conversation(messages: Any, tokenizer: PreTrainedTokenizerBase, *, place: str) -> MarkedText:
    """Every assistant turn is learnt, its end-of-turn token included; all else is context.

    A turn begins where the template, given the messages before it, would have the assistant begin. A turn without content is
    context too, and what follows the last assistant turn is left out: neither has anything to teach.

    Args:
        messages: {"role", "content"} each; further keys are the template's to read.
        place: names the row in messages.

    Raises:
        BadInput: not such messages, no assistant turn, calls of tools, no chat template, a template that refuses the messages, or
            one that writes earlier turns anew when later ones follow, so that no text can be split into its turns.
    """
    turns, template = _checked(messages, place), _template(tokenizer)
    if all(turn["role"] != "assistant" for turn in turns):
        raise BadInput.at(place, "has no assistant turn: there is nothing to learn from it; remove the row.")
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    chat = _Chat(turns[: answers[-1] + 1], tokenizer, template, place)
    text = chat.render(chat.turns)
    return MarkedText(text, tuple(chat.span(i, text) for i in answers if turns[i]["content"].strip()), is_rendered=True)


def chat_prompt(prompt: str | Messages, tokenizer: PreTrainedTokenizerBase, *, place: str) -> str:
    """The template's text up to where the assistant begins to answer.

    Args:
        prompt: what the user says; or messages, of which the assistant's turns at the end are taken away: they are what is asked for.
        place: names the prompt in messages.

    Raises:
        BadInput: as `conversation`; or nothing that could be answered.
    """
    turns = _checked([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt, place)
    while turns and turns[-1]["role"] == "assistant":
        turns.pop()
    if not turns:
        raise BadInput.at(place, "has nothing that the assistant could answer; begin with what the user says.")
    return _Chat(turns, tokenizer, _template(tokenizer), place).render(turns, begin=True)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token with which the template ends an assistant's turn; None where it writes none."""
    turns = [{"role": "user", "content": _CONTENT}, {"role": "assistant", "content": _CONTENT}]
    _, answer = conversation(turns, tokenizer, place="the chat template").halves
    last = tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"][-1]
    found = tokenizer.added_tokens_decoder.get(last)
    return last if found is not None and found.special else None


def _template(tokenizer: PreTrainedTokenizerBase) -> str:
    if tokenizer.chat_template is None:
        raise BadInput.at("data.messages", "needs a chat template, and the tokenizer has none; use data.prompt and data.completion.")
    template = tokenizer.get_chat_template()
    return _CLOCK + template if "strftime_now" in template else template


@dataclass(frozen=True)
class _Chat:
    turns: Messages
    tokenizer: PreTrainedTokenizerBase
    template: str
    place: str

    def render(self, turns: Messages, *, begin: bool = False) -> str:
        """The template's text of these turns; `begin`: up to where the assistant begins the next."""
        settings: dict[str, Any] = {"chat_template": self.template, "tokenize": False, "add_generation_prompt": begin}
        try:
            return str(self.tokenizer.apply_chat_template([dict(turn) for turn in turns], **settings))
        except (TemplateError, TypeError, ValueError, LookupError) as error:
            reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise BadInput.at(
                self.place, f"the chat template refuses the conversation ({reason}); write it as the template wants it, or remove the row."
            ) from error

    def span(self, i: int, text: str) -> Span:
        """Where turn `i` stands in the whole text."""
        # Before the first message there is nothing to render; what the template writes before the content is not learnt.
        before = self.render(self.turns[:i], begin=True) if i else self._around(i)[0]
        end = self._end(i, text, len(before)) if text.startswith(before) else None
        if end is None:
            reason = "the chat template writes earlier turns anew when later ones follow"
            raise BadInput.at(
                self.place, f"turn {i + 1}: {reason}; give each assistant turn as a row of its own (data.prompt and data.completion)."
            )
        return len(before), end

    def _end(self, i: int, text: str, start: int) -> int | None:
        """Behind the end-of-turn token. White space after it separates turns; the assistant does not write it."""
        after = self.render(self.turns[: i + 1])
        if text.startswith(after):
            return len(after.rstrip())
        # Some write only the last turn differently: Qwen 3 puts an empty thought before it, Phi 3 the end of the text behind it.
        behind = self._around(i)[1].split()
        content_end = _past(text, start, self.turns[i]["content"].strip())
        return content_end if content_end is None or not behind else _past(text, content_end, behind[0])

    def _around(self, i: int) -> tuple[str, str]:
        """What the template writes before and behind the content of turn `i` where it is the last."""
        text = self.render([*self.turns[:i], {**self.turns[i], "content": _CONTENT}])
        before, _, behind = text.rpartition(_CONTENT)
        return before, behind


def _past(text: str, start: int, part: str) -> int | None:
    """Where `part` ends in `text`, if it is what stands there from `start` on, but for white space."""
    at = len(text) - len(text[start:].lstrip())
    return at + len(part) if text.startswith(part, at) else None


def _checked(messages: Any, place: str) -> list[dict[str, Any]]:
    """The messages without the keys that are null, with which Parquet fills what other rows have."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise BadInput.at(place, f"holds a {type(messages).__name__}; {_WANTED}")
    turns = []
    for number, message in enumerate(messages, start=1):
        if isinstance(message, Mapping) and (calls := message.get("tool_calls")) is not None and np.size(calls):
            remedy = "write the calls into its content, or remove the row"
            raise BadInput.at(place, f"turn {number} calls tools (tool_calls), which cannot be learnt yet; {remedy}.")
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise BadInput.at(place, f"holds the message {str(message)[:60]!r}; {_WANTED}")
        if message.get("role") not in _ROLES:
            raise BadInput.at(place, f"holds the role {message.get('role')!r}; allowed: {', '.join(_ROLES)}; {_WANTED}")
        turns.append({key: value for key, value in message.items() if value is not None})
    return turns
