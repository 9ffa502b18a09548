"""Training an encoder on soft labels, hard labels or both, with transformers.Trainer underneath.

Its arguments, callbacks, checkpoints and trackers work. What is ours: the loss and its global means, batches by length in
an order that a resumed run goes on with, and checkpoints that count only when they are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import needs_extra
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import Batch, CurvePoint
from stillroom.models.pretrained import parameters_fingerprint
from stillroom.models.text import label_order, readable_length
from stillroom.training.arguments import training_arguments
from stillroom.training.texts import TokenisedTexts
from stillroom.training.trainer import GlobalMeanTrainer, run_training

with needs_extra("torch", "training an encoder"):
    import torch
    import transformers
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

    from stillroom.core.protocols import Progress


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

    return train_on(
        model, tokenised(batch, probs), None if validation is None else tokenised(validation, None), temperature=temperature,
        hard_label_weight=1.0 if probs is None else hard_label_weight, loss_fn=loss_fn, settings=settings, seed=seed, folder=folder,
        callbacks=callbacks, progress=progress,
    )  # fmt: skip


def train_on(
    model: PreTrainedModel,
    train_set: TokenisedTexts,
    validation_set: TokenisedTexts | None,
    *,
    temperature: float,
    hard_label_weight: float,
    loss_fn: Callable[..., Tensor],
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """`train_encoder` on texts that are tokenised already."""
    arguments = training_arguments(settings, seed=seed, folder=folder, validated=validation_set is not None)
    data = [train_set.fingerprint, None if validation_set is None else validation_set.fingerprint]
    code = [loss_fn.__module__, loss_fn.__qualname__, torch.__version__, transformers.__version__]
    training = fingerprint("training", parameters_fingerprint(model), data, dict(settings), seed, temperature, hard_label_weight, code)

    def make_trainer(watching: list[TrainerCallback]) -> SoftLabelTrainer:
        return SoftLabelTrainer(
            model=model,
            args=arguments,
            train_dataset=train_set,
            eval_dataset=validation_set,
            data_collator=train_set.collate,
            compute_metrics=_validation_metrics,
            callbacks=watching,
            lengths=train_set.lengths,
            objective=lambda *tensors, **counts: loss_fn(*tensors, temperature=temperature, hard_label_weight=hard_label_weight, **counts),
        )

    return run_training(
        make_trainer, model, training=training, settings=settings, seed=seed, folder=folder, callbacks=callbacks, progress=progress
    )


class SoftLabelTrainer(GlobalMeanTrainer):
    """Soft and hard labels of classes: one a text, or one at each position of a token classifier.

    Args:
        objective: objective(logits, teacher_log_probs, codes, num_answered=, num_labelled=) -> scalar.
    """

    objective: Callable[..., Tensor]

    def __init__(self, *, objective: Callable[..., Tensor], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.objective = objective

    def counts(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """(2,) how many rows (or positions) have an answer, and how many a label."""
        teacher, labelled = inputs.get("teacher_log_probs"), (inputs["labels"] >= 0).sum()
        answered = torch.zeros_like(labelled) if teacher is None else (~teacher.isnan().any(dim=-1)).sum()
        return torch.stack([answered, labelled])

    def share_of_loss(self, model: Any, inputs: Mapping[str, Tensor], counts: Tensor) -> tuple[Tensor, Any]:
        inputs = dict(inputs)
        codes, teacher = inputs.pop("labels"), inputs.pop("teacher_log_probs", None)
        outputs = model(**inputs)
        return self.objective(outputs.logits, teacher, codes, num_answered=counts[0], num_labelled=counts[1]), outputs


def _validation_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Over all labelled rows (or positions) at once; transformers' own eval_loss weighs a short last batch like a full one."""
    codes, logits = np.asarray(prediction.label_ids), np.asarray(prediction.predictions, dtype=np.float64)
    codes, logits = codes[codes >= 0], logits[codes >= 0]
    if not len(codes):
        return {}
    top = logits.max(axis=1, keepdims=True)
    log_probs = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    loss = -log_probs[np.arange(len(codes)), codes].mean()
    return {"loss": float(loss), "accuracy": float((logits.argmax(axis=1) == codes).mean())}
