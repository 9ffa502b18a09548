"""Continuations of prompts by a causal language model, greedy or sampled.

The checkpoint's own generation settings (repetition penalties, its nucleus) play no part: arms are compared under one rule.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.core.protocols import Progress
from stillroom.models.batching import by_length
from stillroom.models.causal import HeadParts
from stillroom.models.pretrained import answering
from stillroom.models.token_batches import context_length, cut_head, first_not_finite

with needs_extra("torch", "a language model"):
    import torch
    from torch import Tensor
    from transformers import DynamicCache

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def continuations(
    model: PreTrainedModel,
    prompts: Sequence[NDArray[np.int64]],
    *,
    max_new_tokens: int,
    vocabulary_size: int,
    end_ids: Collection[int] = (),
    seed: int | None = None,
    sampling_temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 16,
    place: str = "model",
    progress: Progress | None = None,
) -> list[NDArray[np.int64]]:
    """The tokens that the model writes after each prompt, the end token not among them.

    The chance that a prompt takes depends on the seed and the number of the prompt alone: it is the same in any batch, and the
    same for every arm, which takes some noise out of their comparison.

    Args:
        prompts: token ids, at least one each.
        vocabulary_size: ids from there on are padding, and never written.
        end_ids: the tokens that end a text, each by itself.
        seed: of the sampling; None: greedy, the likeliest token each time.
        sampling_temperature: above 0; divides the logits that are sampled from.
        top_p: in (0, 1]; sampled are the likeliest tokens alone that together hold this share of the probability.

    Raises:
        BadInput: an empty prompt, or one that leaves no room for `max_new_tokens` in the context; names it.
        StageFailed: logits are NaN or infinite; names the prompt.

    Source: top_p: nucleus sampling, Holtzman et al. 2020, section 3.1, arXiv:1904.09751.
    """
    choose = partial(_choose, temperature=sampling_temperature, top_p=top_p)
    head, context = cut_head(model, vocabulary_size, place=place), context_length(model)
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise BadInput.at(place, f"prompt {number} is empty; begin it with the tokenizer's first token.")
        if context is not None and len(prompt) + max_new_tokens > context:
            room = f"{len(prompt)} tokens and {max_new_tokens} new ones"
            raise BadInput.at(place, f"prompt {number} has {room}, the context {context}; shorten the prompt or ask for fewer.")
    found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)] * len(prompts)
    done = 0
    for batch in by_length([len(prompt) for prompt in prompts], batch_size):
        chances = None if seed is None else np.array([np.random.default_rng([seed, n]).random(max_new_tokens) for n in batch.tolist()])
        with answering(model):
            ends = np.array([*end_ids], np.int64)
            texts = _write(model, head, [prompts[n] for n in batch], chances, choose, max_new_tokens, ends, batch, place)
        for number, text in zip(batch.tolist(), texts, strict=True):
            found[number] = text
        done += len(batch)
        if progress:
            progress(done, len(prompts))
    return found


def _write(
    model: PreTrainedModel,
    head: HeadParts,
    prompts: Sequence[NDArray[np.int64]],
    chances: NDArray[np.float64] | None,
    choose: Callable[[Tensor, NDArray[np.float64] | None], Tensor],
    max_new_tokens: int,
    end_ids: NDArray[np.int64],
    numbers: NDArray[np.intp],
    place: str,
) -> list[NDArray[np.int64]]:
    ids, mask = _padded_left(prompts, model.device)
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    written: list[NDArray[np.int64]] = []
    cached: dict[str, Any] = {_cache_name(model): DynamicCache(config=model.config), "use_cache": True}
    ended = np.zeros(len(prompts), np.bool_)
    for step in range(max_new_tokens):
        outputs = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, **cached)
        logits = head.logits(outputs.last_hidden_state[:, -1]).float()
        bad = first_not_finite(logits)
        if bad is not None:
            raise StageFailed(f"{place}: prompt {numbers[bad]}, new token {step}: NaN or infinite logits. Did its training diverge?")
        chosen = choose(logits, None if chances is None else chances[:, step])
        written.append(chosen.cpu().numpy())
        ended |= np.isin(written[-1], end_ids)
        if ended.all():
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=-1)
    return [_until_end(row, end_ids) for row in np.stack(written, axis=1)] if written else [np.zeros(0, np.int64)] * len(prompts)


def _choose(logits: Tensor, chances: NDArray[np.float64] | None, *, temperature: float, top_p: float) -> Tensor:
    """The likeliest token, or the one in whose share of the cumulative probability the chance lies."""
    if chances is None:
        return logits.argmax(dim=-1)
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        probs = _nucleus(probs, top_p)
    below = probs.cumsum(dim=-1)
    points = torch.from_numpy(chances).to(logits.device)[:, None] * below[:, -1:]
    return torch.searchsorted(below, points, right=True)[:, 0].clamp(max=logits.shape[1] - 1)


def _nucleus(probs: Tensor, top_p: float) -> Tensor:
    """Without the tokens before which, in falling order, a share of `top_p` is reached already; not summing to 1 any more."""
    falling, order = probs.sort(dim=-1, descending=True, stable=True)
    kept = torch.where(falling.cumsum(dim=-1) - falling < top_p, falling, 0.0)
    return torch.zeros_like(probs).scatter(-1, order, kept)


def _cache_name(model: PreTrainedModel) -> str:
    """What its `forward` calls the cache: past_key_values was renamed within transformers 5."""
    return "cache" if "cache" in inspect.signature(model.base_model.forward).parameters else "past_key_values"


def _padded_left(prompts: Sequence[NDArray[np.int64]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids, mask = np.zeros((len(prompts), longest), np.int64), np.zeros((len(prompts), longest), np.int64)
    for i, prompt in enumerate(prompts):
        ids[i, longest - len(prompt) :], mask[i, longest - len(prompt) :] = prompt, 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _until_end(row: NDArray[np.int64], end_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.flatnonzero(np.isin(row, end_ids)).tolist()
    return row[: ends[0]] if ends else row
