"""`evaluation`: what is measured, how often, and what the verdict is about."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillroom.spec.base import ColumnNames, Count, Fraction, Spec, described

ClassMeasure = Literal["accuracy", "macro_f1", "roc_auc", "log_loss"]
ValueMeasure = Literal["r2", "mae", "rmse"]
SpanMeasure = Literal["span_f1", "span_precision", "span_recall", "token_accuracy"]
WrittenMeasure = Literal["exact_match", "passed"]


class EvaluationSpec(Spec):
    """Arms, seeds and intervals."""

    control: bool = described("Train the same student on hard labels only, and judge distillation against it.", default=True)
    primary: ClassMeasure | ValueMeasure | SpanMeasure | WrittenMeasure | None = described(
        "What the verdict is about; default accuracy, r2 for regression, span_f1 for sequence-labelling, log_loss for language-model. "
        "Where a language model learns checked responses, exact_match with the data's own answers, or passed (the check).",
        default=None,
    )
    seeds: Annotated[int, Field(ge=1, le=100)] = described(
        "How many students (and controls) are trained, each with a seed of its own; one alone gives no verdict.", default=3
    )
    confidence: Fraction = described("Level of every interval.", default=0.95)
    resamples: Annotated[int, Field(ge=100)] = described("Bootstrap resamples.", default=2000)
    slices: ColumnNames = described("Columns whose groups are also measured apart.", default=())
    cost: bool = described("Measure latency, throughput, memory and size of every arm.", default=True)
    prompts: Annotated[int, Field(ge=0)] = described("language-model: test prompts that every arm continues; 0 for none.", default=32)
    new_tokens: Count = described("language-model: tokens of a continuation, at most.", default=64)
    latency_calls: Count = described("Timed calls at batch size 1; the interval of the 99th percentile needs 368.", default=400)
