"""From rows of text, prompts with completions, or conversations to token sequences that say which tokens are learnt.

A row becomes a text in which some spans are trained. The text is tokenised whole, and a token is trained if it begins in
such a span: a token that begins in the prompt stays the prompt's, as it will be when the student is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.core.errors import BadInput
from stillroom.core.token_records import Sequences, TokenExample

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class MarkedText:
    """A text and what of it is learnt.

    Attributes:
        spans: character positions [start, end) that are trained, ascending and apart.
        is_rendered: a chat template wrote it, special tokens included; else the tokenizer adds its own, and the end of
            the text is marked by the tokenizer's end-of-sequence token, which is learnt.
    """

    text: str
    spans: tuple[Span, ...]
    is_rendered: bool = False

    @property
    def is_all_learnt(self) -> bool:
        return self.spans == ((0, len(self.text)),)

    @property
    def halves(self) -> tuple[str, str]:
        """What stands before the last learnt span, and that span; of a text that is all learnt, the text and nothing."""
        start, end = self.spans[-1]
        return (self.text, "") if self.is_all_learnt else (self.text[:start], self.text[start:end])


def plain_text(text: str) -> MarkedText:
    """Every token is learnt."""
    return MarkedText(text, ((0, len(text)),))


def completion(prompt: str, answer: str) -> MarkedText:
    """The answer is learnt, given the prompt."""
    return MarkedText(prompt + answer, ((len(prompt), len(prompt) + len(answer)),))


def conversation(messages: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, *, place: str) -> MarkedText:
    """Every assistant turn is learnt, its end-of-turn token included; all else is context.

    A turn begins where the template, given the messages before it, would have the assistant begin.

    Args:
        messages: {"role", "content"} each.
        place: names the row in messages.

    Raises:
        BadInput: not such messages, no assistant turn, no chat template, or a template that writes earlier turns anew
            when later ones follow, so that no text can be split into its turns.
    """
    _check_messages(messages, place)
    _check_template(tokenizer)

    def render(part: Sequence[Mapping[str, Any]], *, begin: bool = False) -> str:
        return str(tokenizer.apply_chat_template([dict(message) for message in part], tokenize=False, add_generation_prompt=begin))

    text = render(messages)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(messages[:i], begin=True) if i else "", render(messages[: i + 1])
        if not (text.startswith(after) and after.startswith(before)):
            reason = "the chat template writes earlier turns anew when later ones follow"
            raise BadInput.at(
                place, f"turn {i + 1}: {reason}; give each assistant turn as a row of its own (data.prompt and data.completion)."
            )
        # White space behind the end-of-turn token separates turns; the assistant does not write it.
        spans.append((len(before), len(after.rstrip())))
    return MarkedText(text, tuple(spans), is_rendered=True)


def prompt_text(prompt: Any, tokenizer: PreTrainedTokenizerBase, *, is_chat: bool, place: str) -> str:
    """What a model is asked to go on with.

    Args:
        prompt: a text; of a chat also messages. A text is then what the user says, and the assistant's turns at the end of the messages
            are taken away: they are what is asked for.
        is_chat: the model has learnt conversations; the chat template writes its prompts, special tokens included.
        place: names the prompt in messages.

    Raises:
        BadInput: neither a text nor, of a chat, messages; or no chat template.
    """
    if not is_chat:
        if isinstance(prompt, str):
            return prompt
        raise BadInput.at(
            place, f"holds a {type(prompt).__name__}, not a text; messages are for models that have learnt from data.messages."
        )
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    _check_are_messages(messages, place)
    messages = [dict(message) for message in messages]
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages:
        raise BadInput.at(place, "has nothing that the assistant could answer; begin with what the user says.")
    _check_template(tokenizer)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.chat_template is None:
        raise BadInput.at(
            "data.messages", "needs a chat template, and the teacher's tokenizer has none; use data.prompt and data.completion."
        )


def _check_messages(messages: Any, place: str) -> None:
    _check_are_messages(messages, place)
    if all(message["role"] != "assistant" for message in messages):
        raise BadInput.at(place, "has no assistant turn: there is nothing to learn from it; remove the row.")


def _check_are_messages(messages: Any, place: str) -> None:
    problem = None
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        problem = f"holds a {type(messages).__name__}"
    else:
        for message in messages:
            if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
                problem = f"holds the message {str(message)[:60]!r}"
            elif message.get("role") not in _ROLES:
                problem = f"holds the role {message.get('role')!r}; allowed: {', '.join(_ROLES)}"
    if problem:
        raise BadInput.at(place, f"{problem}; data.messages must be a list of messages with 'role' and 'content'.")


@dataclass
class Losses:
    """What did not make it into the sequences, counted for the report."""

    without_answer: int = 0
    cut: int = 0
    blank: int = 0

    def notes(self, max_length: int) -> Iterator[str]:
        if self.without_answer:
            yield f"Examples whose prompt alone fills {max_length} tokens (training.max_length): {self.without_answer}, left out."
        if self.cut:
            yield f"Examples whose answer was cut at {max_length} tokens (training.max_length): {self.cut}."
        if self.blank:
            yield f"Examples without any text to learn: {self.blank}, left out."


def tokenise(texts: Sequence[MarkedText], tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> tuple[Sequences, Losses]:
    """Token sequences of at most `max_length`.

    A plain text that is longer becomes several sequences, so that all of it is learnt. An example with a prompt is cut at
    its end; where the prompt alone fills the length, it is left out.

    Raises:
        BadInput: no example is left, or the tokenizer cannot tell where its tokens lie in the text.
    """
    if not tokenizer.is_fast:
        raise BadInput.at(
            "teacher.model", "has a slow tokenizer, which cannot tell where its tokens lie in a text; give its tokenizer.json."
        )
    found = _Collected(Losses(), [], [], [])
    for row, marked in enumerate(texts):
        if not any(marked.text[start:end].strip() for start, end in marked.spans):
            found.losses.blank += 1
            continue
        ids, trained, counts = _tokens(marked, tokenizer)
        if marked.is_all_learnt:
            _split(found, row, ids, trained, counts, max_length)
        else:
            found.losses.cut += int(trained[:max_length].any() and trained[max_length:].any())
            found.losses.without_answer += not trained[:max_length].any()
            found.add(row, ids[:max_length], trained[:max_length], counts[:max_length])
    if not found.examples:
        raise BadInput.at("data", f"no example is left to learn from. {' '.join(found.losses.notes(max_length))}")
    return found.sequences(), found.losses


@dataclass
class _Collected:
    losses: Losses
    examples: list[TokenExample]
    num_bytes: list[int]
    rows: list[int]

    def add(self, row: int, ids: NDArray[np.int64], trained: NDArray[np.bool_], counts: NDArray[np.int64]) -> None:
        if trained.any():
            asked = np.append(trained[1:], False)
            self.examples.append(TokenExample(ids, asked))
            self.num_bytes.append(int(counts[trained].sum()))
            self.rows.append(row)

    def sequences(self) -> Sequences:
        return Sequences(tuple(self.examples), np.array(self.num_bytes, np.int64), np.array(self.rows, np.intp))


def _split(found: _Collected, row: int, ids: Any, trained: Any, counts: Any, max_length: int) -> None:
    # Each part begins with the last token of the part before: every token but the first of the text is predicted once.
    start = 0
    while start < max(len(ids) - 1, 1):
        part = slice(start, start + max_length)
        mask = trained[part].copy()
        mask[0] = False
        found.add(row, ids[part], mask, counts[part])
        start += max_length - 1


def _tokens(marked: MarkedText, tokenizer: PreTrainedTokenizerBase) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """Ids; which are trained (never the first: nothing predicts it); the UTF-8 bytes that each stands for."""
    coded = tokenizer(marked.text, add_special_tokens=not marked.is_rendered, return_offsets_mapping=True, verbose=False)
    ids, offsets = list(coded["input_ids"]), np.asarray(coded["offset_mapping"], np.int64).reshape(-1, 2)
    starts, ends = offsets[:, 0], offsets[:, 1]
    trained = np.zeros(len(ids), np.bool_)
    for start, end in marked.spans:
        trained |= (starts >= start) & (starts < end) & (ends > starts)
    counts = _bytes_per_token(marked.text, ends)
    if not marked.is_rendered and tokenizer.eos_token_id is not None:
        if not ids or ids[-1] != tokenizer.eos_token_id:
            ids, trained, counts = [*ids, tokenizer.eos_token_id], np.append(trained, True), np.append(counts, 0)
        else:
            trained[-1] = True
    if len(trained):
        trained[0] = False
    return np.asarray(ids, np.int64), trained, counts


def _bytes_per_token(text: str, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes between the end of the furthest token before and the end of this one: their sum is the text's, whatever a
    tokenizer says about white space, and about the several tokens of one character."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    sizes = np.concatenate([[0], np.cumsum(1 + (points >= 0x80) + (points >= 0x800) + (points >= 0x10000))])
    reached = sizes[np.maximum.accumulate(ends)] if len(ends) else np.zeros(0, np.int64)
    return np.asarray(np.diff(reached, prepend=0), np.int64)
