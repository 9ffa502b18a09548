"""A narrower student: how much each channel, neuron and head of a model does, and a model of those that do most.

Source: Muralidharan et al. 2024 (Minitron), section 2, arXiv:2407.14679.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stillroom.core.errors import BadInput, Problem, needs_extra
from stillroom.models.causal import hidden_states
from stillroom.models.pretrained import answering
from stillroom.students.architectures import Architecture, Sizes, architecture_of, changed_config, rebuild, sizes_of
from stillroom.students.hooks import Look, hooked, tokens_of

with needs_extra("torch", "a student out of a language model"):
    import torch
    from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Importance:
    """Means over the calibration tokens, float64 on the CPU; L blocks.

    Attributes:
        channels: (H,) mean absolute output of the norms, summed over all norms of the model.
        neurons: (L, I) mean absolute activation, as the second matrix of the feed-forward reads it.
        heads: (L, heads) mean Euclidean length of a head's output.
        energy: for each norm, (H,) the mean square of what it normalises: tells by how much a norm's divisor changes with its channels.
    """

    channels: Tensor
    neurons: Tensor
    heads: Tensor
    energy: Mapping[str, Tensor]


def measure_importance(model: PreTrainedModel, batches: Iterable[Batch]) -> Importance:
    """How much each part of a model does on these texts.

    Args:
        batches: "input_ids" (B, S) and, where the right end is padding, "attention_mask" (B, S), which leaves padded positions out.

    Raises:
        BadInput: no token in the batches, or an architecture that cannot be cut.
    """
    architecture, sizes = architecture_of(model), sizes_of(model)
    meter = _Meter()
    watched: dict[nn.Module, Look] = {}
    for name, norm in architecture.norms(model).items():
        watched[norm] = meter.norm(name, centred=architecture.centred)
    for block, module in enumerate(architecture.stack(model)):
        watched[module.get_submodule(architecture.neuron_reader)] = meter.neurons(block)
        watched[module.get_submodule(architecture.head_reader)] = meter.heads(block, sizes.head_dim)
    with answering(model), hooked(watched):
        for batch in batches:
            meter.keep = tokens_of(batch, model)
            meter.tokens += int(meter.keep.sum())
            hidden_states(model, batch["input_ids"].to(model.device), attention_mask=meter.keep.long())
    if not meter.tokens:
        raise BadInput.at("student.calibration", "has no token; give some batches of text like the teacher's own.")
    return meter.importance()


def cut_width(
    model: PreTrainedModel,
    importance: Importance,
    *,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_heads: int | None = None,
    num_key_value_heads: int | None = None,
) -> PreTrainedModel:
    """A narrower copy of a causal language model: of each kind, the parts of the highest importance, in their own order.

    The gain of each norm is corrected by the share of the energy that its channels keep, so that what stays has
    the scale it had: channels that are zero can go without a trace, but for the norms' epsilon.
    Channels are the same everywhere; neurons and heads are chosen in each block. Query heads go with their key/value head.

    Args:
        importance: of this model, from `measure_importance`.
        hidden_size, intermediate_size, num_heads, num_key_value_heads: see `narrower_sizes`.

    Raises:
        BadInput: sizes that the model cannot be cut to.
    """
    architecture, sizes = architecture_of(model), sizes_of(model)
    wanted = narrower_sizes(
        model,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
    )
    channels = largest(importance.channels, wanted.hidden_size)
    outside = {"channel": channels}
    inside = [_block_indices(importance, block, sizes, wanted) | outside for block in range(len(importance.heads))]
    tensors = {}
    for name, tensor in model.state_dict().items():
        block = architecture.block_of(name)
        tensors[name] = _taken(tensor, architecture.axes_of(name), outside if block is None else inside[block])
    _correct_gains(tensors, architecture, importance.energy, channels)
    if architecture.scales_embeddings:
        _correct_embeddings(tensors, architecture, wanted.hidden_size / sizes.hidden_size, tied=model.config.tie_word_embeddings)
    return rebuild(model, _fields(architecture, wanted), tensors)


def narrower_sizes(
    model: PreTrainedModel,
    *,
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_heads: int | None = None,
    num_key_value_heads: int | None = None,
) -> Sizes:
    """The widths of a student; None leaves one as it is, or lets it follow from the others.

    Args:
        hidden_size: channels. In GPT-2 these are heads times head_dim, so that each of the two follows from the other.
        intermediate_size: neurons of the feed-forward in each block.
        num_heads: query heads; alone, each key/value head keeps its query heads, and whole groups go.
        num_key_value_heads: alone, likewise.

    Raises:
        BadInput: sizes under 1 or above the model's, heads that do not divide, every problem at once; or what the config refuses.
    """
    sizes, architecture = sizes_of(model), architecture_of(model)
    group = sizes.num_heads // sizes.num_key_value_heads
    if architecture.heads_fill_channels:
        num_heads = num_heads or num_key_value_heads or (hidden_size and -(-hidden_size // sizes.head_dim))
        hidden_size = hidden_size or (num_heads and num_heads * sizes.head_dim)
    if num_heads is None:
        num_heads = sizes.num_heads if num_key_value_heads is None else num_key_value_heads * group
    if num_key_value_heads is None:
        num_key_value_heads = num_heads // group if num_heads % group == 0 else sizes.num_key_value_heads
    wanted = Sizes(
        hidden_size=sizes.hidden_size if hidden_size is None else hidden_size,
        intermediate_size=sizes.intermediate_size if intermediate_size is None else intermediate_size,
        num_heads=num_heads,
        num_key_value_heads=num_key_value_heads,
        head_dim=sizes.head_dim,
    )
    _check_sizes(sizes, wanted, heads_fill_channels=architecture.heads_fill_channels)
    changed_config(model, _fields(architecture, wanted))
    return wanted


def largest(values: Tensor, count: int) -> Tensor:
    """The positions of the `count` largest of (n,) values, ascending; of two equals the earlier."""
    return torch.argsort(values, descending=True, stable=True)[:count].sort().values


class _Meter:
    """Sums over tokens, gathered while a model answers."""

    def __init__(self) -> None:
        self.keep = torch.empty(0)
        self.tokens = 0
        self.sums: dict[tuple[str, str | int], Tensor] = {}

    def add(self, kind: str, part: str | int, values: Tensor) -> None:
        """Adds (B, S, K) values at the positions that hold tokens."""
        total = values[self.keep].float().sum(dim=0).cpu().double()
        self.sums[kind, part] = self.sums.get((kind, part), 0.0) + total

    def norm(self, name: str, *, centred: bool) -> Look:
        def look(before: Tensor, after: Tensor) -> None:
            self.add("channels", name, after.abs())
            self.add("energy", name, (before - before.mean(dim=-1, keepdim=True) if centred else before).square())

        return look

    def neurons(self, block: int) -> Look:
        return lambda before, _: self.add("neurons", block, before.abs())

    def heads(self, block: int, head_dim: int) -> Look:
        return lambda before, _: self.add("heads", block, before.reshape(*before.shape[:-1], -1, head_dim).norm(dim=-1))

    def importance(self) -> Importance:
        def means(kind: str) -> list[Tensor]:
            return [total / self.tokens for (found, _), total in sorted(self.sums.items(), key=lambda item: item[0]) if found == kind]

        energy = {str(name): total / self.tokens for (kind, name), total in self.sums.items() if kind == "energy"}
        return Importance(torch.stack(means("channels")).sum(dim=0), torch.stack(means("neurons")), torch.stack(means("heads")), energy)


def _block_indices(importance: Importance, block: int, sizes: Sizes, wanted: Sizes) -> dict[str, Tensor]:
    """For each axis inside a block, the positions that stay."""
    neurons = largest(importance.neurons[block], wanted.intermediate_size)
    query_heads, key_heads = _kept_heads(importance.heads[block], sizes, wanted)
    query, key = (_spread(heads, sizes.head_dim) for heads in (query_heads, key_heads))
    queries, keys = sizes.num_heads * sizes.head_dim, sizes.num_key_value_heads * sizes.head_dim
    return {
        "neuron": neurons,
        "gate_up": torch.cat([neurons, neurons + sizes.intermediate_size]),
        "query": query,
        "key": key,
        "query_head": query_heads,
        "key_head": key_heads,
        "query_key_value": torch.cat([query, key + queries, key + queries + keys]),
    }


def _kept_heads(importance: Tensor, sizes: Sizes, wanted: Sizes) -> tuple[Tensor, Tensor]:
    """Query heads and key/value heads that stay: in every group its best query heads, then the groups whose best do most."""
    group, kept = (size.num_heads // size.num_key_value_heads for size in (sizes, wanted))
    grouped = importance.reshape(sizes.num_key_value_heads, group)
    best = torch.stack([largest(heads, kept) for heads in grouped])
    key_heads = largest(grouped.gather(1, best).sum(dim=1), wanted.num_key_value_heads)
    return (key_heads[:, None] * group + best[key_heads]).flatten(), key_heads


def _spread(heads: Tensor, head_dim: int) -> Tensor:
    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()


def _taken(tensor: Tensor, axes: tuple[str | None, ...], kept: Mapping[str, Tensor]) -> Tensor:
    """A copy of a tensor with only the kept positions of each of its axes."""
    assert tensor.dim() == len(axes), f"{tuple(tensor.shape)} has the axes {axes}"
    tensor = tensor.clone()
    for dim, axis in enumerate(axes):
        if axis is not None and axis != "vocab":
            tensor = tensor.index_select(dim, kept[axis].to(tensor.device))
    return tensor


def _correct_gains(tensors: dict[str, Tensor], architecture: Architecture, energy: Mapping[str, Tensor], channels: Tensor) -> None:
    """A norm divides by the root mean square of its channels. Where those that stay have another than all had, its gain follows."""
    for name, squares in energy.items():
        if (whole := squares.mean().item()) > 0:
            _multiply_gain(tensors, name, math.sqrt(squares[channels].mean().item() / whole), architecture.gain_offset)


def _correct_embeddings(tensors: dict[str, Tensor], architecture: Architecture, share: float, *, tied: bool) -> None:
    """The model multiplies embeddings by sqrt(H): what a smaller H takes away goes into the table, and off again before the head."""
    (embeddings,) = (name for name in tensors if name.endswith("embed_tokens.weight"))
    tensors[embeddings] /= math.sqrt(share)
    if tied:
        _multiply_gain(tensors, architecture.final_norm, math.sqrt(share), architecture.gain_offset)


def _multiply_gain(tensors: dict[str, Tensor], norm: str, factor: float, offset: float) -> None:
    if factor != 1.0:  # (w + 1) * 1 - 1 is not w in floating point
        weight = tensors[f"{norm}.weight"]
        tensors[f"{norm}.weight"] = (weight + offset) * factor - offset


def _fields(architecture: Architecture, sizes: Sizes) -> dict[str, int]:
    """The fields of a config that say these widths."""
    fields = {"hidden_size": sizes.hidden_size, "num_attention_heads": sizes.num_heads, architecture.neuron_field: sizes.intermediate_size}
    if not architecture.heads_fill_channels:
        fields |= {"num_key_value_heads": sizes.num_key_value_heads, "head_dim": sizes.head_dim}
    return fields


def _check_sizes(sizes: Sizes, wanted: Sizes, *, heads_fill_channels: bool) -> None:
    """Raises BadInput with every size that is not to be had."""
    problems = []
    for field in ("hidden_size", "intermediate_size", "num_heads", "num_key_value_heads"):
        value, most = getattr(wanted, field), getattr(sizes, field)
        if not 1 <= value <= most:
            problems.append(Problem(f"student.{field}", f"= {value}: a student cut out of its teacher has 1 to {most} of them."))
    group, heads, keys = sizes.num_heads // sizes.num_key_value_heads, wanted.num_heads, wanted.num_key_value_heads
    if not problems and heads % keys:
        problems.append(Problem("student.num_heads", f"= {heads} is not a multiple of the {keys} key/value heads that share them."))
    elif not problems and heads // keys > group:
        message = f"= {heads} with {keys} key/value heads: each of the teacher's serves {group} query heads, so at most {keys * group}."
        problems.append(Problem("student.num_heads", message))
    if heads_fill_channels and wanted.hidden_size != heads * sizes.head_dim:
        message = f"= {wanted.hidden_size} is not num_heads ({heads}) times head_dim ({sizes.head_dim}, which stays)."
        problems.append(Problem("student.hidden_size", f"{message} Give one of the two, and the other follows."))
    if problems:
        raise BadInput(problems)
