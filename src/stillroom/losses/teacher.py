"""What a teacher says about N positions: its hidden states with its head, or a few of its probabilities at each position."""

from __future__ import annotations

from dataclasses import dataclass

from stillroom.core.errors import needs_extra
from stillroom.losses.head import Head

with needs_extra("torch", "a loss on tensors"):
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class DenseTeacher:
    """The whole distribution at every position, projected chunk by chunk.

    Args:
        hidden: (N, Ht) the inputs of the teacher's head; a constant.
        head: the teacher's head; its width may differ from the student's, its vocabulary may not.
    """

    hidden: Tensor
    head: Head

    @property
    def num_rows(self) -> int:
        return int(self.hidden.shape[0])


@dataclass(frozen=True, eq=False)
class SparseTeacher:
    """K probabilities at every position, at the temperature that the student will be compared at.

    Without `tail` they are an unbiased estimate of the distribution, as drawn at random (arXiv:2503.16870): the expectation of
    `probs` is p. Each row sums to 1, if only in expectation. With `tail` they are the exact probabilities of K distinct tokens,
    and `tail` is what the teacher gives to all others together.

    Args:
        ids: (N, K) int64 token ids; any number in a padding entry.
        probs: (N, K); 0 marks a padding entry.
        tail: (N,) the teacher's mass outside `ids`, or None.
        entropy: (N,) the teacher's entropy in nats, or None. A constant that turns the cross-entropy to a sample into an estimate
            of the KL; ignored with `tail`.
        vocabulary_size: size of the teacher's vocabulary, checked against the student's head; None where it is not known.

    Raises:
        ValueError: the shapes do not fit each other.
    """

    ids: Tensor
    probs: Tensor
    tail: Tensor | None = None
    entropy: Tensor | None = None
    vocabulary_size: int | None = None

    def __post_init__(self) -> None:
        if self.ids.dim() != 2 or self.ids.shape != self.probs.shape:
            raise ValueError(
                f"teacher.ids are {tuple(self.ids.shape)}, teacher.probs {tuple(self.probs.shape)}; both must be (positions, entries)."
            )
        for name, column in (("tail", self.tail), ("entropy", self.entropy)):
            if column is not None and column.shape != self.ids.shape[:1]:
                raise ValueError(
                    f"teacher.{name} is {tuple(column.shape)}, teacher.ids {tuple(self.ids.shape)}; one {name} for each position."
                )

    @property
    def num_rows(self) -> int:
        return int(self.ids.shape[0])


Teacher = DenseTeacher | SparseTeacher
