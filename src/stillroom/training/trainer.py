"""What every trainer of torch students shares: means over the global batch, a curve, and checkpoints that count when whole."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.core.records import CurvePoint
from stillroom.models.pretrained import quiet, saving, seeded
from stillroom.training.checkpoints import keep_newest, mark_whole, newest_whole
from stillroom.training.texts import LengthGroupedSampler

with needs_extra("torch", "training a torch student"):
    import torch
    from torch import Tensor, nn
    from transformers import PrinterCallback, Trainer, TrainerCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments

    from stillroom.core.protocols import Progress

_MEASURES = {"loss": "train_loss", "eval_loss": "validation_loss", "eval_accuracy": "validation_accuracy"}
"""From the names of transformers' log to those of the learning curve."""

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
"""Work that is cheaper to repeat than to keep safe: a checkpoint is three times the model."""

_CHECKPOINT_FIELDS = {"save_steps", "save_strategy", "load_best_model_at_end"}
"""Where a job sets one of these, every checkpoint that it asks for is written."""


class GlobalMeanTrainer(Trainer):
    """transformers.Trainer with a loss whose means are over the global batch: accumulation and processes included.

    A subclass says what a micro-batch counts and what its share of the loss is.

    Args:
        lengths: of the training examples, in tokens.
    """

    def __init__(self, *, lengths: Sequence[int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.lengths = lengths
        # The loss comes out divided by the counts of the whole batch: nothing is left to divide by accumulation steps.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # says the same to transformers before 5.2

    def counts(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """What the terms of the loss are divided by, for one micro-batch; those of the micro-batches are added up."""
        raise NotImplementedError

    def share_of_loss(self, model: Any, inputs: Mapping[str, Tensor], counts: Tensor) -> tuple[Tensor, Any]:
        """The loss of one micro-batch, its sums divided by these counts; and the model's outputs."""
        raise NotImplementedError

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of one optimiser step, and their counts, summed over all devices.

        transformers counts labels that are not -100; what has no label or no answer is another matter.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = torch.stack([self.counts(inputs) for inputs in batches]).sum(dim=0).to(device)
        return batches, self.accelerator.reduce(counts, reduction="sum")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """The loss of one micro-batch: its share of the global mean."""
        counts = num_items_in_batch
        if not (model.training and isinstance(counts, Tensor)):
            counts = self.counts(inputs)
        loss, outputs = self.share_of_loss(model, inputs, counts)
        if model.training:
            # Data-parallel training averages gradients over the processes; the sum is what adds up to the global mean.
            loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *arguments: Any, **keywords: Any) -> Any:
        # A loader draws a random number; training must not notice whether it was evaluated in between.
        with torch.random.fork_rng(devices=[]):
            return super().evaluate(*arguments, **keywords)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return 0  # counts the parameters anew at every step, for a figure that nobody reads

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        return LengthGroupedSampler(self.lengths, self._train_batch_size, self.args.seed)

    def _save_checkpoint(self, *arguments: Any, **keywords: Any) -> None:
        with saving(Path(str(self.args.output_dir))):
            super()._save_checkpoint(*arguments, **keywords)


def run_training(
    make_trainer: Callable[[list[TrainerCallback]], Trainer],
    model: nn.Module,
    *,
    training: str,
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback],
    progress: Progress | None,
) -> list[CurvePoint]:
    """Train from the newest whole checkpoint of this very training, or from the start; leave `model` in eval mode.

    Args:
        make_trainer: from the callbacks to the trainer of `model`.
        training: the fingerprint of everything that shapes the weights.

    Raises:
        BadInput: transformers refuses the arguments.
        StageFailed: the loss is no longer finite, a checkpoint cannot be written, or another process trains something else.
    """
    pause = 0.0 if _CHECKPOINT_FIELDS & set(settings["arguments"]) else _SECONDS_BETWEEN_CHECKPOINTS
    try:
        with quiet(), seeded(seed):
            try:
                trainer = make_trainer([*callbacks, _Watch(training, progress, pause)])
            except (ValueError, RuntimeError, ImportError) as error:
                raise BadInput.at("training.arguments", " ".join(str(error).split())) from error
            if trainer.is_fsdp_enabled:
                # The model would be left in shards, and the loss would not see a head that accelerate puts into a group of its own.
                raise BadInput.at("training", "accelerate was told to shard; start without its FSDP options, and set arguments.fsdp.")
            trainer.remove_callback(PrinterCallback)
            _check_processes(training)
            start = newest_whole(folder, training)
            trainer.train(resume_from_checkpoint=None if start is None else str(start))
            trainer.accelerator.wait_for_everyone()  # or the first to be done might delete a checkpoint that another still reads
    finally:
        # forward() may have been replaced by the trainer, and with bf16 accelerate has put autocast around it.
        for name in ("forward", "_original_forward"):
            vars(model).pop(name, None)
    model.train(False)
    return [
        CurvePoint(int(entry["step"]), measure, float(entry[name]))
        for entry in trainer.state.log_history
        for name, measure in _MEASURES.items()
        if name in entry
    ]


def _check_processes(training: str) -> None:
    """Refuse processes that train different things. Their shards would make up a model that nobody has seen, and no step would fail."""
    if not torch.distributed.is_initialized():
        return
    trainings: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(trainings, training)
    if len(set(trainings)) > 1:
        reason = "the processes differ in their students, teachers, data, settings or versions"
        raise StageFailed(f"training: {reason}; start all of them alike, on the same files.")


class _Watch(TrainerCallback):
    """Reports progress, stops at a loss that is no number, and makes checkpoints count."""

    def __init__(self, training: str, progress: Progress | None, pause: float) -> None:
        self.training, self.progress, self.pause = training, progress, pause
        self.saved_at = time.monotonic()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # transformers deletes old checkpoints before the new one is known to be whole; see on_save.
        self.limit, args.save_total_limit = args.save_total_limit, None

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        # The running sum of the loss is not saved: a resumed curve has the same points only if it starts empty.
        control.should_log = control.should_log or control.should_save
        if time.monotonic() - self.saved_at < self.pause and args.world_size == 1:
            control.should_save = False
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        loss = state.log_history[-1].get("loss", 0.0)
        if not math.isfinite(loss):
            raise StageFailed(f"the training loss is {loss} at step {state.global_step}; lower training.learning_rate.")

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if args.world_size > 1:
            torch.distributed.barrier()  # every process writes a part; it is whole when the last one has
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            mark_whole(folder / f"checkpoint-{state.global_step}", self.training)
            keep_newest(folder, self.limit, best=state.best_model_checkpoint)
        self.saved_at = time.monotonic()
