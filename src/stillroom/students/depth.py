"""A shallower student: which of the teacher's blocks are kept, and a model of these alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from stillroom.core.errors import BadInput, needs_extra
from stillroom.models.causal import hidden_states
from stillroom.models.pretrained import answering
from stillroom.students.architectures import architecture_of, rebuild
from stillroom.students.hooks import hooked, tokens_of

with needs_extra("torch", "a student out of a language model"):
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]
_LISTS = ("layer_types", "no_rope_layers")
"""Fields of a config that hold one entry for each block."""


def spaced_blocks(depth: int, count: int) -> list[int]:
    """`count` of the blocks 0 to depth - 1, evenly spaced, the first and the last among them (of one, the first)."""
    assert 1 <= count <= depth, f"{count} of {depth} blocks"
    gaps = max(count - 1, 1)
    return [(place * (depth - 1) + gaps // 2) // gaps for place in range(count)]


def influential_blocks(influence: Sequence[float], count: int) -> list[int]:
    """The `count` blocks of the highest influence, in their own order; of two equals the earlier."""
    ranked = sorted(range(len(influence)), key=lambda block: -influence[block])
    return sorted(ranked[:count])


def block_influence(model: PreTrainedModel, batches: Iterable[Batch]) -> list[float]:
    """For each block, 1 minus the mean cosine similarity of its input and output: 0 for a block that changes no direction.

    Args:
        batches: "input_ids" (B, S) and, where the right end is padding, "attention_mask" (B, S), which leaves padded positions out.

    Raises:
        BadInput: no token in the batches.

    Source: Men et al. 2024, section 3.1, arXiv:2403.03853.
    """
    blocks = architecture_of(model).stack(model)
    similar = torch.zeros(len(blocks), dtype=torch.float64)
    tokens, keep = 0, torch.empty(0)

    def compare(block: int, before: Tensor, after: Tensor) -> None:
        cosine = torch.cosine_similarity(before[keep].float(), after[keep].float(), dim=-1)
        similar[block] += cosine.sum().item()

    watched = {module: (lambda before, after, block=block: compare(block, before, after)) for block, module in enumerate(blocks)}
    with answering(model), hooked(watched):
        for batch in batches:
            keep = tokens_of(batch, model)
            tokens += int(keep.sum())
            hidden_states(model, batch["input_ids"].to(model.device), attention_mask=keep.long())
    if not tokens:
        raise BadInput.at("student.calibration", "has no token; give some batches of text like the teacher's own.")
    return (1 - similar / tokens).tolist()


def keep_blocks(teacher: PreTrainedModel, blocks: Sequence[int]) -> PreTrainedModel:
    """A copy of a causal language model with only these of its blocks; all else is copied whole.

    Args:
        blocks: which ones, from 0, ascending, each once.

    Raises:
        BadInput: no such blocks, or an architecture that cannot be cut.
    """
    architecture = architecture_of(teacher)
    kept, depth, config = list(blocks), len(architecture.stack(teacher)), teacher.config
    check_blocks(kept, depth)
    places = {origin: place for place, origin in enumerate(kept)}
    tensors = {}
    for name, tensor in teacher.state_dict().items():
        block = architecture.block_of(name)
        if block in places:
            renamed = name.replace(f"{architecture.blocks}.{block}.", f"{architecture.blocks}.{places[block]}.", 1)
            tensors[renamed] = tensor.clone()
        elif block is None:
            tensors[name] = tensor.clone()
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        _keep_attention_scale(tensors, kept)
    lists = {field: [getattr(config, field)[block] for block in kept] for field in _LISTS if getattr(config, field, None)}
    return rebuild(teacher, {"num_hidden_layers": len(kept), **lists}, tensors)


def check_blocks(blocks: Sequence[int], depth: int) -> None:
    """Raises BadInput where `blocks` are not some of 0 to depth - 1, ascending, each once."""
    if not blocks or list(blocks) != sorted(set(blocks)):
        raise BadInput.at("student.layers", f"= {list(blocks)}: give them in ascending order, each once, at least one.")
    if outside := [block for block in blocks if not 0 <= block < depth]:
        raise BadInput.at("student.layers", f"= {list(blocks)}: the teacher has the layers 0 to {depth - 1}, and not {outside}.")


def _keep_attention_scale(tensors: dict[str, Tensor], kept: Sequence[int]) -> None:
    """GPT-2 may divide a block's attention scores by its number + 1: a renumbered block gets the ratio into its queries."""
    for place, origin in enumerate(kept):
        for part in ("weight", "bias"):
            fused = tensors[f"transformer.h.{place}.attn.c_attn.{part}"]
            fused[..., : fused.shape[-1] // 3] *= (place + 1) / (origin + 1)
