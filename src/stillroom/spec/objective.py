"""`objective`: what the student is trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stillroom.spec.base import Share, Spec, described

Temperature = Annotated[float, Field(gt=0, le=100)]
DivergenceName = Literal["forward-kl", "reverse-kl", "jensen-shannon", "skewed-forward-kl", "skewed-reverse-kl", "total-variation"]


class TemperatureSchedule(Spec):
    """A temperature that changes over the training (language-model)."""

    start: Temperature
    end: Temperature
    shape: Literal["linear", "cosine"] = "linear"


class WeightSchedule(Spec):
    """A weight that changes over the training (language-model)."""

    start: Share
    end: Share
    shape: Literal["linear", "cosine"] = "linear"


class ObjectiveSpec(Spec):
    """(1 - w) * T**2 * KL(p_T || q_T) + w * cross-entropy; for regression (1 - w) * (q - p)**2 + w * (q - y)**2."""

    kind: Literal["soft-labels"] = "soft-labels"
    temperature: Temperature | TemperatureSchedule | None = described(
        "T, divides the logits of both; 1 leaves the teacher's distribution as it is. No meaning for regression. Default 2, for "
        "language-model 1.",
        default=None,
    )
    hard_label_weight: Share | WeightSchedule = described("w, the share of the hard labels; 1 never looks at the teacher.", default=0.1)
    divergence: DivergenceName = described(
        "language-model: what is small where the student is like the teacher. forward-kl covers all that the teacher would say, "
        "reverse-kl avoids what it would not.",
        default="forward-kl",
    )
    beta: Annotated[float, Field(gt=0, lt=1)] | None = described(
        "jensen-shannon: weight of the teacher in the mixture that both are compared with. Default 0.5.", default=None
    )
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = described(
        "skewed divergences: share of the first distribution that is mixed into the second. Default 0.1.", default=None
    )

    @model_validator(mode="after")
    def _parameters_fit(self) -> ObjectiveSpec:
        if self.beta is not None and self.divergence != "jensen-shannon":
            raise ValueError("'beta' goes with divergence: jensen-shannon, and only with it.")
        if self.alpha is not None and not self.divergence.startswith("skewed"):
            raise ValueError("'alpha' goes with a skewed divergence, and only with it.")
        return self
