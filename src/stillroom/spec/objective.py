"""`objective`: what the student is trained on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillroom.spec.base import Share, Spec, described


class ObjectiveSpec(Spec):
    """(1 - w) * T**2 * KL(p_T || q_T) + w * cross-entropy; for regression (1 - w) * (q - p)**2 + w * (q - y)**2."""

    kind: Literal["soft-labels"] = "soft-labels"
    temperature: Annotated[float, Field(gt=0, le=100)] | None = described(
        "T, divides the logits of both (classification only); 1 leaves the teacher's distribution as it is. Default 2.", default=None
    )
    hard_label_weight: Share = described("w, the share of the hard labels; 1 never looks at the teacher.", default=0.1)
