"""What each tensor's axes stand for, by architecture, so that one function can cut them all.

Axes: "vocab"; "channel", of the residual stream (H); "neuron", of the feed-forward; "query" and "key", heads times head_dim;
"query_head" and "key_head", one a head; "query_key_value" and "gate_up", fused in this order; None is never cut.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from stillroom.core.errors import BadInput, needs_extra
from stillroom.models.pretrained import quiet

with needs_extra("torch", "a student out of a language model"):
    from huggingface_hub.errors import StrictDataclassError
    from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Architecture:
    """How one family of models names its parts, and what it does with them.

    Attributes:
        axes: the end of a tensor's name -> what its axes stand for.
        blocks: the name of the stack of blocks.
        final_norm: the norm before the output head.
        head_reader: inside a block, the module that reads the outputs of all heads, side by side.
        neuron_reader: inside a block, the module that reads the activations of the neurons.
        neuron_field: the config's name for the number of neurons.
        heads_fill_channels: H is always heads times head_dim, so that neither is cut alone.
        centred: the norms take off the mean over the channels (LayerNorm); RMSNorm does not.
        gain_offset: a norm multiplies by its weight plus this.
        scales_embeddings: embeddings are multiplied by the square root of H.
    """

    axes: Mapping[str, Axes]
    blocks: str = "model.layers"
    final_norm: str = "model.norm"
    head_reader: str = "self_attn.o_proj"
    neuron_reader: str = "mlp.down_proj"
    neuron_field: str = "intermediate_size"
    heads_fill_channels: bool = False
    centred: bool = False
    gain_offset: float = 0.0
    scales_embeddings: bool = False

    def axes_of(self, name: str) -> Axes:
        """The axes of a tensor by its full name."""
        parts = name.split(".")
        longer, shorter = (".".join(parts[-count:]) for count in (3, 2))
        return self.axes[longer] if longer in self.axes else self.axes[shorter]

    def block_of(self, name: str) -> int | None:
        """The number of the block that a tensor belongs to; None outside the blocks."""
        found = re.match(rf"{re.escape(self.blocks)}\.(\d+)\.", name)
        return int(found[1]) if found else None

    def stack(self, model: PreTrainedModel) -> nn.ModuleList:
        """The blocks, in order."""
        return cast("nn.ModuleList", model.get_submodule(self.blocks))

    def norms(self, model: PreTrainedModel) -> dict[str, nn.Module]:
        """Every norm over the channels, by name."""
        ends = {end.removesuffix(".weight") for end, axes in self.axes.items() if axes == _CHANNEL and end.endswith(".weight")}
        return {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in ends}


@dataclass(frozen=True)
class Sizes:
    """The widths of a model; `head_dim` is never changed, since rotary positions are tied to it."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_key_value_heads: int
    head_dim: int


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The description of a model's family.

    Raises:
        BadInput: Stillroom has none; names those that it has.
    """
    found = ARCHITECTURES.get(model.config.model_type)
    if found is None:
        known = ", ".join(sorted(ARCHITECTURES))
        message = f"= {model.config.model_type!r} ({type(model).__name__}) cannot be cut; the architectures that can: {known}."
        raise BadInput.at("teacher.model_type", f"{message} Use a pretrained or a fresh student.")
    return found


def sizes_of(model: PreTrainedModel) -> Sizes:
    """The widths of a model that `architecture_of` knows."""
    config = model.config
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    return Sizes(
        hidden_size=hidden,
        intermediate_size=int(getattr(config, architecture_of(model).neuron_field) or 4 * hidden),  # GPT-2 leaves it out
        num_heads=heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or hidden // heads),
    )


def changed_config(teacher: PreTrainedModel, changes: Mapping[str, Any]) -> PreTrainedConfig:
    """A copy of the teacher's config with some fields changed.

    Raises:
        BadInput: the config refuses the changes.
    """
    config = copy.deepcopy(teacher.config)
    try:
        for field, value in changes.items():
            setattr(config, field, value)
        config.validate()
    except StrictDataclassError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[-1]
        raise BadInput.at("student", f"{dict(changes)} is refused by {type(config).__name__}: {reason} Choose other sizes.") from error
    return config


def rebuild(teacher: PreTrainedModel, changes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PreTrainedModel:
    """A model of the teacher's class from a changed config and these tensors, in eval mode, on the teacher's device.

    It is built as transformers would load it, so that nothing inside remembers the teacher's sizes or block numbers.

    Args:
        changes: fields of the config.
        tensors: by the student's names; the student takes them as they are, without a copy.

    Raises:
        BadInput: the config refuses the changes.
    """
    config = changed_config(teacher, changes)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    state = {name: tensor for name, tensor in tensors.items() if name not in tied}
    settings = {"dtype": teacher.dtype, "attn_implementation": config._attn_implementation}
    with quiet():
        built: Any = type(teacher).from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **settings)
    student, found = built
    wrong = {kind: names for kind, names in found.items() if names}
    assert not wrong, f"the cut tensors do not make a {type(teacher).__name__}: {wrong}"
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return cast("PreTrainedModel", student.to(teacher.device).eval())


_CHANNEL: Axes = ("channel",)
_LLAMA: dict[str, Axes] = {
    "embed_tokens.weight": ("vocab", "channel"),
    "lm_head.weight": ("vocab", "channel"),
    "q_proj.weight": ("query", "channel"),
    "q_proj.bias": ("query",),
    "k_proj.weight": ("key", "channel"),
    "k_proj.bias": ("key",),
    "v_proj.weight": ("key", "channel"),
    "v_proj.bias": ("key",),
    "o_proj.weight": ("channel", "query"),
    "o_proj.bias": _CHANNEL,
    "gate_proj.weight": ("neuron", "channel"),
    "gate_proj.bias": ("neuron",),
    "up_proj.weight": ("neuron", "channel"),
    "up_proj.bias": ("neuron",),
    "down_proj.weight": ("channel", "neuron"),
    "down_proj.bias": _CHANNEL,
    "input_layernorm.weight": _CHANNEL,
    "post_attention_layernorm.weight": _CHANNEL,
    "norm.weight": _CHANNEL,
}
_FOUR_NORMS: dict[str, Axes] = {"pre_feedforward_layernorm.weight": _CHANNEL, "post_feedforward_layernorm.weight": _CHANNEL}
_NORM_A_HEAD: dict[str, Axes] = {"q_norm.weight": (None,), "k_norm.weight": (None,)}
_GPT2: dict[str, Axes] = {  # Conv1D keeps its weight as (in, out)
    "wte.weight": ("vocab", "channel"),
    "wpe.weight": (None, "channel"),
    "lm_head.weight": ("vocab", "channel"),
    "c_attn.weight": ("channel", "query_key_value"),
    "c_attn.bias": ("query_key_value",),
    "attn.c_proj.weight": ("query", "channel"),
    "c_proj.bias": _CHANNEL,
    "c_fc.weight": ("channel", "neuron"),
    "c_fc.bias": ("neuron",),
    "mlp.c_proj.weight": ("neuron", "channel"),
    "ln_1.weight": _CHANNEL,
    "ln_1.bias": _CHANNEL,
    "ln_2.weight": _CHANNEL,
    "ln_2.bias": _CHANNEL,
    "ln_f.weight": _CHANNEL,
    "ln_f.bias": _CHANNEL,
}

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(_LLAMA),
    "mistral": Architecture(_LLAMA),
    "qwen2": Architecture(_LLAMA),
    "granite": Architecture(_LLAMA),
    "qwen3": Architecture({**_LLAMA, **_NORM_A_HEAD}),
    "phi3": Architecture({**_LLAMA, "qkv_proj.weight": ("query_key_value", "channel"), "gate_up_proj.weight": ("gate_up", "channel")}),
    "gemma": Architecture(_LLAMA, gain_offset=1.0, scales_embeddings=True),
    "gemma2": Architecture({**_LLAMA, **_FOUR_NORMS}, gain_offset=1.0, scales_embeddings=True),
    "gemma3_text": Architecture({**_LLAMA, **_FOUR_NORMS, **_NORM_A_HEAD}, gain_offset=1.0, scales_embeddings=True),
    "cohere": Architecture({**_LLAMA, "q_norm.weight": ("query_head", None), "k_norm.weight": ("key_head", None)}, centred=True),
    "gpt2": Architecture(
        _GPT2,
        blocks="transformer.h",
        final_norm="transformer.ln_f",
        head_reader="attn.c_proj",
        neuron_reader="mlp.c_proj",
        neuron_field="n_inner",
        heads_fill_channels=True,
        centred=True,
    ),
}
"""By the model_type of the config. Each is shown by a test to lose nothing where nothing is cut away."""
