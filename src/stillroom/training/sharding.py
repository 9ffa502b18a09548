"""A student whose weights, gradients and optimiser state are divided among the processes: FSDP2 of torch, on any device.

accelerate, which transformers would ask, shards on accelerators only, and puts the output head into a group of its own, which
a loss that reads the head's weight without calling the head does not gather. So the sharding is done here, and accelerate
is told nothing of it.

Source: torch.distributed.fsdp.fully_shard; Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.core.errors import BadInput, Problem, needs_extra

with needs_extra("torch", "training a torch student"):
    import torch
    from torch import nn
    from torch.distributed.checkpoint import state_dict
    from torch.distributed.checkpoint.state_dict_loader import load
    from torch.distributed.checkpoint.state_dict_saver import save
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor import DTensor
    from transformers import Trainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STRATEGIES = ("full_shard", "shard_grad_op")
"""The values of `fsdp`: whether a block's weights are given up between its forward and its backward pass, or not."""

_CONFIG: dict[str, tuple[tuple[Any, ...], str]] = {
    "version": ((2,), "only FSDP2 is there; set it to 2, or remove it."),
    "auto_wrap_policy": (("TRANSFORMER_BASED_WRAP",), "every block is a unit; set it to TRANSFORMER_BASED_WRAP, or remove it."),
    "reshard_after_forward": ((True, False), "must be true (full_shard) or false (shard_grad_op)."),
}
"""The keys of `fsdp_config` that are known, their values, and what to do about others."""

_POLICIES = {"no": MixedPrecisionPolicy(), "bf16": MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)}

_WEIGHTS, _OPTIMIZER, _SCHEDULE = "sharded-weights", "sharded-optimizer", "scheduler.pt"
"""What lies in a checkpoint of a sharded model."""


@dataclass(frozen=True)
class Sharding:
    """How a student is sharded.

    Attributes:
        reshard_after_forward: whether each block's weights are gathered anew for its backward pass: less memory, more traffic.
    """

    reshard_after_forward: bool = True

    def shard(self, model: nn.Module, blocks: PreTrainedModel, *, precision: str = "no") -> None:
        """Shard `model` in place over all processes: each block of `blocks`, the model inside it, and the root with the rest.

        The embeddings, the last norm and the head belong to the root, and are whole while its forward() runs.

        Args:
            precision: "no", or "bf16": weights are gathered, and so computed with, in bfloat16; shards and sums of gradients stay float32.

        Raises:
            ValueError: another precision.
        """
        if precision not in _POLICIES:
            raise ValueError(f"{precision} does not go with fsdp, take bf16.")  # the processes would not agree on which steps overflow
        policy = _POLICIES[precision]
        names = set(blocks._no_split_modules or ())
        for module in list(blocks.modules()):
            if type(module).__name__ in names:
                fully_shard(module, reshard_after_forward=self.reshard_after_forward, mp_policy=policy)
        fully_shard(model, mp_policy=policy)


def read_sharding(arguments: Mapping[str, Any], *, place: str = "training.arguments") -> tuple[Sharding | None, dict[str, Any]]:
    """How the fields `fsdp` and `fsdp_config` of transformers.TrainingArguments want it, if at all; and the other fields.

    Raises:
        BadInput: a value that is not supported; every kind of problem at once.
    """
    rest = {name: value for name, value in arguments.items() if name not in ("fsdp", "fsdp_config")}
    wanted, config = arguments.get("fsdp"), arguments.get("fsdp_config") or {}
    if not wanted:
        if config:
            raise BadInput.at(f"{place}.fsdp_config", "is set, but fsdp is not; set fsdp to true, or remove it.")
        return None, rest
    if not isinstance(config, Mapping):
        raise BadInput.at(f"{place}.fsdp_config", f"= {config!r} is not a mapping; write the keys into the job.")
    problems = []
    given = set(wanted.split()) if isinstance(wanted, str) else set() if wanted is True else {str(wanted)}
    if given - {*_STRATEGIES, "auto_wrap"} or len(given & set(_STRATEGIES)) > 1:
        problems.append(Problem(f"{place}.fsdp", f"= {wanted!r} is not supported; set it to true, full_shard or shard_grad_op."))
    for key, value in config.items():
        allowed, remedy = _CONFIG.get(str(key).removeprefix("fsdp_"), ((), f"is not supported; allowed: {', '.join(_CONFIG)}. Remove it."))
        if value not in allowed:
            problems.append(Problem(f"{place}.fsdp_config.{key}", f"= {value!r}: {remedy}"))
    if rest.get("fp16"):
        problems.append(Problem(f"{place}.fp16", "does not go with fsdp; set bf16 instead."))
    if problems:
        raise BadInput(problems)
    named = {str(key).removeprefix("fsdp_"): value for key, value in config.items()}
    return Sharding(named.get("reshard_after_forward", "shard_grad_op" not in given)), rest


@contextmanager
def sharded_twin(student: nn.Module) -> Iterator[nn.Module]:
    """A copy of `student` to be sharded and trained; afterwards `student` has its weights, whole, in every process.

    fully_shard changes a model for good, and the caller's is to be an ordinary one again. Meanwhile it waits in main memory.
    """
    device = next(student.parameters()).device
    twin = copy.deepcopy(student)
    student.to("cpu").train(False)
    try:
        yield twin
        with torch.no_grad():
            ours = dict([*student.named_parameters(), *student.named_buffers()])
            # One after the other: the whole model need not fit beside its shards on an accelerator.
            for name, tensor in [*twin.named_parameters(), *twin.named_buffers()]:
                ours[name].copy_(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)
    finally:
        student.to(device)


def give_up_gathered(model: nn.Module) -> None:
    """Leave only the shards: after a forward without a backward pass the root, at least, is still whole."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


class ShardedCheckpoints(Trainer):
    """A trainer whose checkpoints of a sharded model are written by all processes, each its own shards, and read by any number.

    transformers would write the shards of the first process and take them for the whole. Models that are not sharded stay its own.
    """

    @property
    def _shards(self) -> Any:
        """The model if it is sharded, else None."""
        return self.model if isinstance(self.model, FSDPModule) else None

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        if self._shards is None:
            super().save_model(output_dir, _internal_call)
            return
        weights = state_dict.get_model_state_dict(self._shards)
        save(weights, checkpoint_id=Path(output_dir or str(self.args.output_dir)) / _WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._shards is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        weights = state_dict.get_model_state_dict(self._shards)
        load(weights, checkpoint_id=Path(resume_from_checkpoint) / _WEIGHTS)
        state_dict.set_model_state_dict(self._shards, weights)

    def _load_best_model(self) -> None:
        if self._shards is None:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self._shards is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer, schedule = self._optimizer_and_schedule()
        save(state_dict.get_optimizer_state_dict(self._shards, optimizer), checkpoint_id=Path(output_dir) / _OPTIMIZER)
        if self.args.should_save:
            torch.save(schedule.state_dict(), Path(output_dir) / _SCHEDULE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._shards is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer, schedule = self._optimizer_and_schedule()
        state = state_dict.get_optimizer_state_dict(self._shards, optimizer)
        load(state, checkpoint_id=Path(checkpoint) / _OPTIMIZER)
        state_dict.set_optimizer_state_dict(self._shards, optimizer, state)
        schedule.load_state_dict(torch.load(Path(checkpoint) / _SCHEDULE, weights_only=True))

    def _optimizer_and_schedule(self) -> tuple[torch.optim.Optimizer, Any]:
        """The optimiser inside accelerate's wrapper, and the schedule of its learning rate."""
        wrapper: Any = self.optimizer
        return wrapper.optimizer, self.lr_scheduler
