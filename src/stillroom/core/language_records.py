"""What a language model scores on tokenised texts, as it is handed from the models to the evaluation.

Shapes: n examples, B bins of equal width over [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TeacherComparison:
    """A student beside its teacher, summed over each example's asked positions.

    Attributes:
        agreements: (n,) int64, positions at which both hold the same token for the likeliest.
        forward_kl: (n,) float64, KL(teacher || student) in nats.
        top_overlap: (n,) float64, the share of the teacher's `top_k` likeliest tokens that are among the student's.
        top_k: how many tokens were compared.
    """

    agreements: NDArray[np.int64]
    forward_kl: NDArray[np.float64]
    top_overlap: NDArray[np.float64]
    top_k: int


@dataclass(frozen=True, eq=False)
class LanguageScores:
    """A model on texts, summed over each example's asked positions; means over tokens are ratios of sums.

    Attributes:
        rows: (n,) intp, the document that each example is a part of.
        num_tokens: (n,) int64, asked positions.
        num_bytes: (n,) int64, UTF-8 bytes that the predicted tokens stand for.
        nll: (n,) float64, -log q(next token) in nats.
        hits: (n,) int64, positions whose likeliest token came next.
        bin_counts, bin_hits: (n, B) int64, positions and hits by the confidence, the largest probability.
        bin_confidence: (n, B) float64, the sum of the confidences.
        comparison: with the teacher; None where there was none.
    """

    rows: NDArray[np.intp]
    num_tokens: NDArray[np.int64]
    num_bytes: NDArray[np.int64]
    nll: NDArray[np.float64]
    hits: NDArray[np.int64]
    bin_counts: NDArray[np.int64]
    bin_confidence: NDArray[np.float64]
    bin_hits: NDArray[np.int64]
    comparison: TeacherComparison | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Everything as arrays, for an .npz file."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "comparison"}
        if self.comparison is not None:
            arrays |= {f"comparison.{f.name}": np.asarray(getattr(self.comparison, f.name)) for f in fields(self.comparison)}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.generic]]) -> LanguageScores:
        """What `to_arrays` gave."""
        sums = {name.partition(".")[2]: values for name, values in arrays.items() if "." in name}
        own = {name: values for name, values in arrays.items() if "." not in name}
        comparison = TeacherComparison(**{**sums, "top_k": int(sums["top_k"])}) if sums else None  # type: ignore[arg-type]
        return cls(**own, comparison=comparison)  # type: ignore[arg-type]
