"""Causal language models of the transformers library: loading, saving, the output head in parts, and vocabularies.

Shapes: B sequences, S positions, H channels of the hidden states, V rows of the output head.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.core.errors import BadInput, needs_extra
from stillroom.models.locate import locate_model
from stillroom.models.pretrained import answering, quiet, readable, saving, to_accelerator

with needs_extra("torch", "a language model"):
    import torch
    from torch import Tensor, nn
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_OWN_TOKENIZER = "Use a student with the teacher's tokenizer (cut it out of the teacher), or learn from the teacher's texts instead."

_HEAD_TOLERANCE = 1e-4
"""How far `head_of` may be from the model's own logits, as a share of the largest: float32 differs by less than 1e-5."""


@dataclass(frozen=True)
class HeadParts:
    """What turns hidden states into logits: `soft_cap * tanh(scale * (hidden @ weight.T + bias) / soft_cap)`.

    Attributes:
        weight: (V, H); the parameter itself, not a copy.
        bias: (V,) or None.
        scale: multiplies the logits: Cohere's logit_scale, or 1 / logits_scaling of Granite; 1.0 elsewhere.
        soft_cap: the logits stay inside (-soft_cap, soft_cap): final_logit_softcapping of Gemma 2; None elsewhere.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., H) hidden states -> (..., V) logits, all of them at once: the reference for a fused loss."""
        logits = nn.functional.linear(hidden, self.weight, self.bias) * self.scale
        return logits if self.soft_cap is None else self.soft_cap * torch.tanh(logits / self.soft_cap)


def load_causal(name: str, *, place: str = "model") -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model in float32 and eval mode, on the accelerator if there is one, and its own tokenizer.

    Args:
        name: a folder, a hub id or "package:NAME/FOLDER".

    Raises:
        BadInput: nothing to load there, pickled weights, missing weights, code of its own, a model that sees later tokens,
            an output head that `head_of` does not know, or a tokenizer with more tokens than the head has rows.
    """
    source = locate_model(name, place)
    with quiet(), readable(name, place):
        settings: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, output_loading_info=True, **settings)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    model, found = loaded
    if lacking := sorted(found["missing_keys"]):
        raise BadInput.at(place, f"= {name!r} lacks weights of its own architecture ({lacking[0]}, ...); get the whole model.")
    to_accelerator(model).eval()
    _check_causal(model, name, place)
    usable_vocabulary(model, tokenizer, place=place)
    return model, tokenizer


def sketch_causal(name: str, *, place: str = "model") -> PreTrainedModel:
    """A causal language model without its weights, on torch's meta device: what it is, for next to nothing.

    Raises:
        BadInput: no config to read, or one with code of its own.
    """
    source = locate_model(name, place)
    with quiet(), readable(name, place), torch.device("meta"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    return model


def load_tokenizer(name: str, *, place: str = "model") -> PreTrainedTokenizerBase:
    """The tokenizer of a causal language model, without its weights.

    Raises:
        BadInput: nothing to load there, or a tokenizer with code of its own.
    """
    source = locate_model(name, place)
    with quiet(), readable(name, place):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    return tokenizer


def save_causal(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Weights (safetensors), config and tokenizer, as `transformers.AutoModelForCausalLM` loads them without Stillroom.

    Raises:
        StageFailed: the folder cannot be written.
    """
    with saving(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def head_of(model: PreTrainedModel) -> HeadParts:
    """The model's output head in the parts that a fused loss needs; `load_causal` has checked them against the model's logits."""
    head, config = _output_matrix(model), model.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    soft_cap = getattr(config, "final_logit_softcapping", None)
    return HeadParts(head.weight, head.bias, scale, None if soft_cap is None else float(soft_cap))


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, *, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
) -> Tensor:
    """(B, S, H) what the output head reads: the states after the last norm. Gradients flow as the caller's context says.

    It calls the decoder inside the model. A wrapper that synchronises gradients (DDP, FSDP) has to be around this call, not inside it.

    Args:
        input_ids: (B, S) token ids.
        attention_mask: (B, S), 1 on tokens and 0 on padding; None: all are tokens.
        position_ids: (B, S) positions, of packed or left-padded sequences; None: 0, 1, 2, ...
    """
    given = {"attention_mask": attention_mask, "position_ids": position_ids}
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    outputs = decoder(input_ids=input_ids, use_cache=False, **{name: value for name, value in given.items() if value is not None})
    states: Tensor = outputs.last_hidden_state
    return states


def usable_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, place: str = "model") -> int:
    """How many rows of the head stand for a token. The rest is padding, for the speed of the matrix product.

    Raises:
        BadInput: the tokenizer has more tokens than the head has rows.
    """
    rows, tokens = _output_matrix(model).weight.shape[0], max(tokenizer.get_vocab().values()) + 1
    if tokens > rows:
        message = f"the tokenizer has {tokens} tokens, the model's head {rows} rows; use the tokenizer that the model was trained with."
        raise BadInput.at(place, message)
    return int(tokens)


def shared_vocabulary(
    teacher: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    student: tuple[PreTrainedModel, PreTrainedTokenizerBase],
    *,
    place: str = "student",
) -> int:
    """How many tokens, counted from id 0, both models predict; rows from there on are padding and have to be cut off.

    Ids are compared, not the rules that split a text: whoever writes the ids of a text does it once, for both models.

    Raises:
        BadInput: the tokenizers differ; names the first ids that disagree.
    """
    usable = [usable_vocabulary(model, tokenizer, place=side) for side, (model, tokenizer) in (("teacher", teacher), (place, student))]
    require_same_tokens(teacher[1], student[1], place=place)
    return min(usable)


def require_same_tokens(
    teacher: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, *, place: str, who: str = "the student", remedy: str = _OWN_TOKENIZER
) -> None:
    """Refuse a tokenizer in which some id is another token than in the teacher's.

    Args:
        place: what has the other tokenizer, in the job.
        who: the same, in a sentence.

    Raises:
        BadInput: names the first ids that disagree, and the remedy.
    """
    p, q = ({i: token for token, i in tokenizer.get_vocab().items()} for tokenizer in (teacher, other))
    differ = sorted(i for i in p.keys() | q.keys() if p.get(i) != q.get(i))
    if differ:
        examples = "; ".join(f"id {i} is {p.get(i)!r} for the teacher and {q.get(i)!r} for {who}" for i in differ[:3])
        raise BadInput.at(place, f"has another tokenizer than the teacher: {len(differ)} ids differ: {examples}. {remedy}")


def size_note(teacher: PreTrainedModel, student: PreTrainedModel) -> str | None:
    """A sentence for the caller to show where the student is no smaller than its teacher: legal, but seldom meant."""
    ours, theirs = student.num_parameters(), teacher.num_parameters()
    if ours < theirs:
        return None
    relation = "larger than" if ours > theirs else "as large as"
    return f"The student ({ours:,} parameters) is {relation} its teacher ({theirs:,}): it saves nothing at inference."


def _output_matrix(model: PreTrainedModel) -> nn.Linear:
    head: nn.Linear = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head


def _check_causal(model: PreTrainedModel, name: str, place: str) -> None:
    """Refuse a model that looks ahead, or whose logits are not what `head_of` makes of its hidden states.

    Both are asked of the model itself, on two texts of two tokens that differ in the second: an architecture's name does not tell.
    """
    texts = torch.tensor([[0, 1], [0, 2]], device=model.device)
    with answering(model), quiet():  # an id among them may be the padding's, and is none
        logits = model(input_ids=texts, use_cache=False).logits
        rebuilt = head_of(model).logits(hidden_states(model, texts))
    allowed = _HEAD_TOLERANCE * logits.abs().max()
    if not logits.isfinite().all():
        raise BadInput.at(place, f"= {name!r} answers with NaN or infinite logits; its weights are damaged, get them anew.")
    if (logits[0, 0] - logits[1, 0]).abs().max() > allowed:
        raise BadInput.at(place, f"= {name!r} is a {type(model).__name__} that sees later tokens; give a causal language model.")
    if rebuilt.shape != logits.shape or (rebuilt - logits).abs().max() > allowed:
        message = f"= {name!r}: the output head of {type(model).__name__} does more than a product, a scale and a soft-cap."
        raise BadInput.at(place, f"{message} Use a model whose config names it as Llama, Qwen, Gemma, GPT-2, Granite or Cohere do.")
