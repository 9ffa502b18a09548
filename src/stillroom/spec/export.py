"""`export`: what the student is turned into, and how exactly it must match."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stillroom.spec.base import Spec, described


class ExportSpec(Spec):
    """Formats beside the student's own folder."""

    formats: Annotated[tuple[Literal["onnx"], ...], Field(strict=False)] | None = described(
        "What to export. Absent: onnx; of a language model nothing, since it is a transformers checkpoint already.", default=None
    )
    tolerance: Annotated[float, Field(gt=0)] = described(
        "Largest difference over the test split that an export may show: absolute for probabilities, for regression in "
        "standard deviations of the target.",
        default=1e-4,
    )
