"""How much memory a language model's training needs, said before it starts, not found out in the middle of it.

The estimate was within 0.90 and 1.22 of the measured peak (resident memory above that before the training, float32, AdamW, one CPU
thread) on seven Llama-style students: H 128 to 512, V 512 to 32000, rows of 32 to 1024 tokens, with and without an online teacher and
recomputation (tests/training/test_language_memory.py). bfloat16 under autocast keeps less than is said.

Shapes: B rows of S tokens on a device, H channels of the hidden states, V tokens of the vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from stillroom.core.errors import StageFailed, needs_extra
from stillroom.losses.fused import chunk_bytes
from stillroom.models.causal import head_of, hidden_states
from stillroom.models.memory import available_memory, bytes_per_token, gib, model_bytes
from stillroom.models.pretrained import seeded

with needs_extra("torch", "training a language model"):
    import torch
    from torch import Tensor, nn
    from transformers import TrainingArguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RECOMPUTE = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in {field.name for field in fields(TrainingArguments)}
)
"""The argument that keeps the inputs of blocks alone and computes the rest twice; transformers 5.2x renames it."""

_PROBED_TOKENS = 16
"""Short enough for any memory; a row of twice as many shows what grows with the square of its length."""


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes that a training takes beside the loaded models.

    Attributes:
        state: gradients and the optimiser's moments.
        activations: what the student's forward pass keeps for its backward pass, and what the backward pass of one block adds.
        loss: a chunk of logits, or two; the gradients of the head and of the hidden states, and their scaled copies.
        teacher: its forward pass where it stays in memory, or its answers to a batch.
        checkpoint: a copy of the weights on their way to the disk.
    """

    state: int
    activations: int
    loss: int
    teacher: int
    checkpoint: int

    @property
    def total(self) -> int:
        """The peak: a step, or a checkpoint after it. The state is there in both."""
        return self.state + max(self.activations + self.loss + self.teacher, self.checkpoint)

    def __str__(self) -> str:
        parts = {"gradients and optimiser": self.state, "activations": self.activations, "loss": self.loss, "teacher": self.teacher}
        return ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)


@dataclass(frozen=True)
class TeacherMemory:
    """What a teacher takes beside its weights.

    Attributes:
        bytes_per_token: while it reads a batch.
        bytes_per_position: its answer to an asked position.
        is_dense: whether its logits are computed, chunk by chunk.
    """

    bytes_per_token: int = 0
    bytes_per_position: int = 0
    is_dense: bool = False


def training_memory(
    student: nn.Module,
    inner: PreTrainedModel,
    *,
    rows: int,
    row_tokens: int,
    kept_of_row: int,
    vocabulary_size: int,
    arguments: TrainingArguments,
    teacher: TeacherMemory,
    sharded: bool = False,
) -> TrainingMemory:
    """What a batch of B = `rows` rows of S = `row_tokens` tokens needs, each of them asked.

    Args:
        student: the model as it is trained, with its adapters.
        inner: the model of transformers in it.
        kept_of_row: as `kept_activations` has it.
        sharded: whether the processes divide gradients and moments among them. What is gathered of the weights, at most the model, takes
            the place of the whole model that was loaded.
    """
    shards = arguments.world_size if sharded else 1
    in_buckets = arguments.world_size > shards  # where DDP adds the gradients up
    tokens, weight = rows * row_tokens, head_of(inner).weight
    gradients = sum(p.numel() * p.element_size() for p in student.parameters() if p.requires_grad)
    states, blocks = tokens * weight.shape[1] * weight.element_size(), int(inner.config.get_text_config().num_hidden_layers)
    kept = rows * kept_of_row
    if getattr(arguments, RECOMPUTE):
        kept = blocks * states + kept // blocks
    chunk = min(chunk_bytes(inner.device), 4 * tokens * vocabulary_size) * (2 if teacher.is_dense else 1)
    by_loss = states + (4 * vocabulary_size * weight.shape[1] if weight.requires_grad else 0)
    return TrainingMemory(
        state=gradients * (1 + in_buckets + _moments(arguments)) // shards,
        activations=kept + tokens * bytes_per_token(inner),
        loss=by_loss + max(chunk, by_loss),
        teacher=tokens * max(teacher.bytes_per_token, teacher.bytes_per_position),
        checkpoint=model_bytes(student) // shards,
    )


def kept_activations(model: PreTrainedModel, row_tokens: int, *, packed: bool) -> int:
    """Bytes that autograd keeps of one row of S = `row_tokens` tokens for the backward pass.

    Not guessed from the architecture: the model itself reads two short rows; what grows with the length, and what with its square
    (attention that is no fused kernel), is continued to S.
    """
    if row_tokens <= 2 * _PROBED_TOKENS:
        return _kept_of_row(model, row_tokens, packed=packed)
    short, long = (_kept_of_row(model, tokens, packed=packed) for tokens in (_PROBED_TOKENS, 2 * _PROBED_TOKENS))
    square = max(long - 2 * short, 0) / (2 * _PROBED_TOKENS**2)
    return int((short / _PROBED_TOKENS - square * _PROBED_TOKENS) * row_tokens + square * row_tokens**2)


def refuse_too_large_training(needed: Callable[[int], TrainingMemory], rows: int, device: torch.device, *, accumulation: int) -> None:
    """Refuse a training that does not fit, with the figures and with what would fit.

    Fewer rows on the device and as many more accumulation steps would train on the same global batches. That is not done in silence:
    sums in another order are other bits, and a run resumed with more memory free would not go on with its own.

    Args:
        needed: from rows on the device to what they need.
        rows: `per_device_train_batch_size`.

    Raises:
        StageFailed: it does not fit.
    """
    available, asked = available_memory(device), needed(rows)
    if available is not None and device.type == "cpu":
        available //= int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes on one machine share its memory
    if available is None or asked.total <= available:
        return
    fitting = next((fewer for fewer in range(rows - 1, 0, -1) if rows % fewer == 0 and needed(fewer).total <= available), None)
    if fitting is not None:
        steps = rows // fitting * accumulation
        remedy = f"Set it to {fitting} and training.arguments.gradient_accumulation_steps to {steps}: as many rows a step; or free memory."
    else:
        remedy = f"Free memory, lower training.max_length, set training.arguments.{RECOMPUTE} to true, or take a smaller student."
    what = f"= {rows} needs {gib(asked.total)} beside the loaded models ({asked}); {gib(available)} are available."
    raise StageFailed(f"training.per_device_train_batch_size: {what} {remedy}")


def _kept_of_row(model: PreTrainedModel, tokens: int, *, packed: bool) -> int:
    """The same of a row that is really read. Views share what they show; parameters are there anyway."""
    known = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.arange(tokens, device=model.device)[None] % model.config.get_text_config().vocab_size
    halves = torch.arange(tokens, device=model.device)[None] % max(tokens // 2, 1)
    was_trained = model.training
    model.train()
    try:
        with seeded(0), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            states = hidden_states(model, ids, position_ids=halves if packed else None)
            del states  # until here all that was kept is alive, and no storage can have taken another's place
    finally:
        model.train(was_trained)
    return sum(kept.values())


def _moments(arguments: TrainingArguments) -> int:
    """How many numbers the optimiser keeps of each weight."""
    name = str(getattr(arguments.optim, "value", arguments.optim))
    if "adam" in name or "lamb" in name:
        return 2
    return 0 if name in ("sgd", "adafactor") else 1
