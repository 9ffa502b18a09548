"""`training`: settings for torch models, under the names of transformers.TrainingArguments."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stillroom.spec.base import Count, Params, Spec, described


class TrainingSpec(Spec):
    """How a torch model is trained. Estimators take their settings in `student.params`."""

    num_train_epochs: Annotated[float, Field(gt=0)] = described("Passes over the transfer set.", default=5.0)
    learning_rate: Annotated[float, Field(gt=0)] = described("Peak learning rate of AdamW.", default=5e-5)
    per_device_train_batch_size: Count = described("Examples a step and device.", default=32)
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = described("Share of the steps that raise the rate from 0.", default=0.1)
    weight_decay: Annotated[float, Field(ge=0)] = described("AdamW's decoupled weight decay.", default=0.01)
    max_length: Count = described(
        "Tokens of a text that are read; the rest is cut off (a language model's text goes on in a further example).", default=128
    )
    packing: bool = described("language-model: several examples in one row, each blind to the others, instead of padding.", default=False)
    arguments: Params = described(
        "Any other field of transformers.TrainingArguments: report_to, save_steps, gradient_accumulation_steps, ...", default={}
    )
