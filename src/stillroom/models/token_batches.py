"""Tokenised examples through a causal model: batches with a bound on tokens, and the states of asked positions alone.

Shapes: M asked positions of a batch, H channels of the hidden states, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, needs_extra
from stillroom.core.token_records import TokenExample
from stillroom.models.causal import HeadParts, head_of, hidden_states

with needs_extra("torch", "a language model"):
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_CPU_ELEMENTS, _DEVICE_ELEMENTS = 1 << 23, 1 << 26
"""Logits that exist at once, 32 and 256 MB of float32: enough rows for a fast product, few enough for any memory."""


def by_tokens(lengths: Sequence[int], batch_tokens: int) -> list[NDArray[np.intp]]:
    """Positions in batches, the longest first; each position once.

    A batch holds at most `batch_tokens` tokens, padding included; an example that is longer is a batch of its own.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(batch_tokens // max(lengths[order[start]], 1), 1)
        batches.append(order[start : start + size])
        start += size
    return batches


def asked_states(model: PreTrainedModel, examples: Sequence[TokenExample]) -> Tensor:
    """(M, H) the hidden states of the asked positions, example after example.

    Examples are padded at their end. A causal model never looks there: the mask is all ones, and its faster kernels run.
    """
    shape = len(examples), max(map(len, examples))
    ids, asked = np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
    for i, example in enumerate(examples):
        ids[i, : len(example)], asked[i, : len(example)] = example.token_ids, example.asked
    tokens = torch.from_numpy(ids).to(model.device)
    states = hidden_states(model, tokens, attention_mask=torch.ones_like(tokens))
    return states[torch.from_numpy(asked).to(states.device)]


def cut_head(model: PreTrainedModel, vocabulary_size: int, *, place: str = "model") -> HeadParts:
    """The model's head without the rows from `vocabulary_size` on, which are padding.

    Raises:
        BadInput: the head has fewer rows.
    """
    head = head_of(model)
    rows = head.weight.shape[0]
    if not 0 < vocabulary_size <= rows:
        raise BadInput.at(place, f"its head has {rows} rows, the vocabulary {vocabulary_size} tokens; take a model of this tokenizer.")
    bias = None if head.bias is None else head.bias[:vocabulary_size]
    return HeadParts(head.weight[:vocabulary_size], bias, head.scale, head.soft_cap)


def logits_in_chunks(head: HeadParts, states: Tensor, *, chunk_elements: int | None = None) -> Iterator[tuple[slice, Tensor]]:
    """(rows of `states`, their float32 logits), no more than `chunk_elements` logits at a time; None: as the device likes."""
    size = max((chunk_elements or elements_at_once(states.device)) // head.weight.shape[0], 1)
    for start in range(0, len(states), size):
        rows = slice(start, min(start + size, len(states)))
        yield rows, head.logits(states[rows]).float()


def elements_at_once(device: torch.device) -> int:
    """How many logits exist at once on a device."""
    return _CPU_ELEMENTS if device.type == "cpu" else _DEVICE_ELEMENTS


def check_examples(model: PreTrainedModel, examples: Sequence[TokenExample], *, place: str = "model") -> None:
    """Refuse what the model cannot read.

    Raises:
        BadInput: an example is longer than the model's context, or holds an id that the model has no embedding for; names it.
    """
    context = context_length(model)
    embedding: Any = model.get_input_embeddings()
    embedded = int(embedding.weight.shape[0])
    for number, example in enumerate(examples):
        if context is not None and len(example) > context:
            remedy = f"set training.max_length to {context} or less."
            raise BadInput.at(place, f"reads {context} tokens at once, example {number} has {len(example)}; {remedy}")
        if len(example) and not 0 <= int(example.token_ids.min()) <= int(example.token_ids.max()) < embedded:
            worst = int(example.token_ids.min() if example.token_ids.min() < 0 else example.token_ids.max())
            remedy = "tokenise the data with this model's tokenizer."
            raise BadInput.at(place, f"has embeddings for the ids 0 to {embedded - 1}, example {number} holds {worst}; {remedy}")


def context_length(model: PreTrainedModel) -> int | None:
    """How many tokens the model reads at once; None where its config sets no limit."""
    length = getattr(model.config, "max_position_embeddings", None)
    return None if length is None else int(length)


def first_not_finite(logits: Tensor) -> int | None:
    """The first row that is no distribution: with NaN, +inf, or -inf alone. A single -inf forbids a token, and is legal."""
    bad = ~logits.amax(dim=-1).isfinite()  # NaN if there is one
    return int(bad.nonzero()[0]) if bad.any() else None


def owner(examples: Sequence[TokenExample], row: int) -> tuple[int, int]:
    """(example, position in it) of the `row`-th asked position."""
    for number, example in enumerate(examples):
        places = np.flatnonzero(example.asked)
        if row < len(places):
            return number, int(places[row])
        row -= len(places)
    raise AssertionError("a row beyond the asked positions")
