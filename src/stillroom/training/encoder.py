"""Training an encoder on soft labels, hard labels or both, with transformers.Trainer underneath.

Its arguments, callbacks, checkpoints and trackers work. What is ours: the loss and its global means, batches by length in
an order that a resumed run goes on with, and checkpoints that count only when they are whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import Batch, CurvePoint
from stillroom.models.pretrained import parameters_fingerprint, quiet, saving, seeded
from stillroom.models.text import label_order, readable_length
from stillroom.training.arguments import training_arguments
from stillroom.training.checkpoints import keep_newest, mark_whole, newest_whole
from stillroom.training.texts import LengthGroupedSampler, TokenisedTexts

with needs_extra("torch", "training an encoder"):
    import torch
    import transformers
    from torch import Tensor
    from transformers import PrinterCallback, Trainer, TrainerCallback

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TrainerControl, TrainerState, TrainingArguments

    from stillroom.core.protocols import Progress

_MEASURES = {"loss": "train_loss", "eval_loss": "validation_loss", "eval_accuracy": "validation_accuracy"}
"""From the names of transformers' log to those of the learning curve."""

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
"""Work that is cheaper to repeat than to keep safe: a checkpoint is three times the model."""

_CHECKPOINT_FIELDS = {"save_steps", "save_strategy", "load_best_model_at_end"}
"""Where a job sets one of these, every checkpoint that it asks for is written."""


def train_encoder(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    *,
    column: str,
    classes: Sequence[str],
    probs: NDArray[np.float64] | None,
    temperature: float,
    hard_label_weight: float,
    loss_fn: Callable[..., Tensor],
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    validation: Batch | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Train `model` in place, and leave it in eval mode.

    Called again with the same arguments after it was killed, it goes on from the newest whole checkpoint in `folder`; on a
    CPU the weights are then, bit for bit, those of a training that was never stopped.

    Args:
        batch: the examples; `target` holds codes into `classes`, -1 for no label.
        column: the text column.
        classes: the order of codes and of the columns of `probs`; the model's own labels are matched to it by name.
        probs: (n, K) the teacher's answers, rows of NaN for none. None: train on hard labels alone, whatever the weight.
        loss_fn: `stillroom.objectives.soft_labels_torch.soft_label_loss`, or one called like it.
        settings: the fields of `stillroom.spec.training.TrainingSpec`.
        folder: for the checkpoints; may be deleted once the model is saved.
        validation: labelled examples for the learning curve; never trained on.
        callbacks: further callbacks of transformers.
        progress: told the optimiser steps done and in all.

    Returns:
        The learning curve: train_loss (the objective, a mean since the point before), and validation_loss (cross-entropy
        in nats) and validation_accuracy if there is validation.

    Raises:
        BadInput: the settings, or labels that are not `classes`.
        StageFailed: the loss is no longer finite, or a checkpoint cannot be written.
    """
    order = np.asarray(label_order(model.config, classes))
    length = readable_length(model, tokenizer, settings["max_length"])

    def tokenised(examples: Batch, answers: NDArray[np.float64] | None) -> TokenisedTexts:
        codes = np.full(len(examples), -1) if examples.target is None else np.where(examples.target < 0, -1, order[examples.target])
        in_model_order = None if answers is None else answers[:, np.argsort(order)]
        return TokenisedTexts(
            examples.features[column].tolist(), codes, in_model_order, model=model, tokenizer=tokenizer, max_length=length
        )

    arguments = training_arguments(settings, seed=seed, folder=folder, validated=validation is not None)
    train_set = tokenised(batch, probs)
    validation_set = None if validation is None else tokenised(validation, None)
    weight = 1.0 if probs is None else hard_label_weight
    data = [train_set.fingerprint, None if validation_set is None else validation_set.fingerprint]
    code = [loss_fn.__module__, loss_fn.__qualname__, torch.__version__, transformers.__version__]
    training = fingerprint("training", parameters_fingerprint(model), data, dict(settings), seed, temperature, weight, code)
    pause = 0.0 if _CHECKPOINT_FIELDS & set(settings["arguments"]) else _SECONDS_BETWEEN_CHECKPOINTS
    with quiet(), seeded(seed):
        try:
            trainer = SoftLabelTrainer(
                model=model,
                args=arguments,
                train_dataset=train_set,
                eval_dataset=validation_set,
                data_collator=train_set.collate,
                compute_metrics=_validation_metrics,
                callbacks=[*callbacks, _Watch(training, progress, pause)],
                lengths=train_set.lengths,
                objective=lambda *tensors, **counts: loss_fn(*tensors, temperature=temperature, hard_label_weight=weight, **counts),
            )
        except (ValueError, RuntimeError, ImportError) as error:
            raise BadInput.at("training.arguments", " ".join(str(error).split())) from error
        trainer.remove_callback(PrinterCallback)
        start = newest_whole(folder, training)
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    # With bf16, accelerate has put autocast around forward(); the student must not keep it.
    for name in ("forward", "_original_forward"):
        vars(model).pop(name, None)
    model.train(False)
    return [
        CurvePoint(int(entry["step"]), measure, float(entry[name]))
        for entry in trainer.state.log_history
        for name, measure in _MEASURES.items()
        if name in entry
    ]


class SoftLabelTrainer(Trainer):
    """transformers.Trainer with an objective whose means are over the global batch.

    Args:
        objective: objective(logits, teacher_log_probs, codes, num_answered=, num_labelled=) -> scalar.
        lengths: of the training texts, in tokens.
    """

    objective: Callable[..., Tensor]

    def __init__(self, *, objective: Callable[..., Tensor], lengths: Sequence[int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.objective, self.lengths = objective, lengths
        # The loss comes out divided by the counts of the whole batch: nothing is left to divide by accumulation steps.
        self.loss_is_scaled_for_ga = True
        self.model_accepts_loss_kwargs = True  # says the same to transformers before 5.2

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], Tensor | None]:
        """The micro-batches of one optimiser step, and how many of their rows are answered and labelled, on all devices.

        transformers counts labels that are not -100; rows without a label or an answer are another matter.
        """
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = torch.stack([_counts(inputs) for inputs in batches]).sum(dim=0).to(device)
        return batches, self.accelerator.reduce(counts, reduction="sum")

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """The loss of one micro-batch: its share of the global mean."""
        inputs = dict(inputs)
        codes, teacher = inputs.pop("labels"), inputs.pop("teacher_log_probs", None)
        outputs = model(**inputs)
        counts = num_items_in_batch
        if not (model.training and isinstance(counts, Tensor)):
            counts = _counts({"labels": codes, "teacher_log_probs": teacher})
        loss = self.objective(outputs.logits, teacher, codes, num_answered=counts[0], num_labelled=counts[1])
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
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir))
            mark_whole(folder / f"checkpoint-{state.global_step}", self.training)
            keep_newest(folder, self.limit, best=state.best_model_checkpoint)
        self.saved_at = time.monotonic()


def _counts(inputs: Mapping[str, Tensor | None]) -> Tensor:
    """(2,) how many rows have an answer, and how many a label."""
    teacher, codes = inputs.get("teacher_log_probs"), inputs["labels"]
    assert codes is not None
    labelled = (codes >= 0).sum()
    answered = torch.zeros_like(labelled) if teacher is None else (~teacher.isnan().any(dim=-1)).sum()
    return torch.stack([answered, labelled])


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Over all labelled rows at once; transformers' own eval_loss weighs a short last batch like a full one."""
    codes, logits = np.asarray(prediction.label_ids), np.asarray(prediction.predictions, dtype=np.float64)
    codes, logits = codes[codes >= 0], logits[codes >= 0]
    if not len(codes):
        return {}
    top = logits.max(axis=1, keepdims=True)
    log_probs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    loss = -log_probs[np.arange(len(codes)), codes].mean()
    return {"loss": float(loss), "accuracy": float((logits.argmax(axis=1) == codes).mean())}
