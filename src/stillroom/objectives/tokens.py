"""What a language model is trained on: the teacher's next-token distributions, the tokens themselves, and their mix.

    loss = (1 - w) * T**2 * mean over asked positions D(p_T, q_T)  +  w * mean over the same positions CE(next token, q)

p is the teacher, q the student, p_T is proportional to p**(1/T). Hinton, Vinyals & Dean 2015, section 2, arXiv:1503.02531.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from stillroom.core.errors import BadInput, nearest, needs_extra
from stillroom.losses.closed_form import Divergence, as_divergence
from stillroom.losses.fused import FusedLoss, fused_divergence
from stillroom.objectives.soft_labels import term_weights

with needs_extra("torch", "training a language model"):
    from torch import Tensor

if TYPE_CHECKING:
    from stillroom.losses.head import Head
    from stillroom.losses.teacher import Teacher

Shape = Literal["linear", "cosine"]


@dataclass(frozen=True)
class Schedule:
    """A number that may change while the student learns.

    Args:
        start: its value at the first optimiser step.
        end: its value at the last one; None: it stays at `start`.
        shape: of the way between: a straight line, or half a cosine, which is flat at both ends.
    """

    start: float
    end: float | None = None
    shape: Shape = "linear"

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise BadInput.at("objective.shape", f"= {self.shape!r} is no way from start to end; {nearest(self.shape, get_args(Shape))}")

    def at(self, share: float) -> float:
        """The value when `share` of the training is done, 0 to 1."""
        if self.end is None:
            return self.start
        way = share if self.shape == "linear" else (1 - math.cos(math.pi * share)) / 2
        return (1 - way) * self.start + way * self.end

    @property
    def ends(self) -> tuple[float, float]:
        """Its first and last value; all others lie between."""
        return self.start, self.start if self.end is None else self.end


@dataclass(frozen=True)
class TokenObjective:
    """The objective above.

    Args:
        divergence: a name in `losses.closed_form.DIVERGENCES`, with its default parameter, or one of its objects.
        temperature: T > 0, divides the logits of both.
        hard_label_weight: w in [0, 1], the share of the plain language-model loss; 1 never looks at the teacher.

    Raises:
        BadInput: an unknown divergence, or a value outside its range; every problem at once.
    """

    divergence: str | Divergence = "forward_kl"
    temperature: Schedule = Schedule(1.0)
    hard_label_weight: Schedule = Schedule(0.0)

    def __post_init__(self) -> None:
        problems: list[BadInput] = []
        try:
            as_divergence(self.divergence)
        except ValueError as error:
            problems.append(BadInput.at("objective.divergence", str(error).removeprefix("divergence ")))
        for value in self.temperature.ends:
            if not 0 < value < math.inf:
                problems.append(BadInput.at("objective.temperature", f"= {value} must be a number above 0; 1 leaves the teacher as it is."))
        for value in self.hard_label_weight.ends:
            if not 0 <= value <= 1:
                problems.append(BadInput.at("objective.hard_label_weight", f"= {value} is outside [0, 1]; 1 never looks at the teacher."))
        if problems:
            raise BadInput(problem for error in problems for problem in error.problems)

    @property
    def control(self) -> TokenObjective:
        """The same student without a teacher: plain cross-entropy, through the same code."""
        return replace(self, hard_label_weight=Schedule(1.0))

    @property
    def temperatures(self) -> tuple[float, float]:
        """The first and the last."""
        return self.temperature.ends

    def looks_at_teacher(self, share: float | None = None) -> bool:
        """Whether the teacher counts when `share` of the training is done; None: whether it ever does."""
        if share is None:
            return self.hard_label_weight.ends != (1, 1)
        return term_weights(self.temperature.at(share), self.hard_label_weight.at(share))[0] > 0

    def loss(
        self, hidden: Tensor, head: Head, teacher: Teacher | None, labels: Tensor, *, share: float, num_tokens: Tensor | int | None = None
    ) -> FusedLoss:
        """The loss of some asked positions: their share of the mean over the global batch.

        Args:
            hidden: (N, H) what the student's head reads at N asked positions.
            head: the student's.
            teacher: its answers at these positions. A sparse teacher's are at the temperature of this share already.
            labels: (N,) int64 the tokens that follow.
            share: of the training that is done, 0 to 1.
            num_tokens: asked positions of the global batch; None: N.

        Raises:
            ValueError: sizes or vocabularies that do not fit, or a divergence that a sampled teacher cannot estimate.
        """
        temperature = self.temperature.at(share)
        soft, hard = term_weights(temperature, self.hard_label_weight.at(share))
        return fused_divergence(
            hidden,
            head,
            teacher,
            labels,
            divergence=self.divergence,
            temperature=temperature,
            soft_weight=soft,
            hard_weight=hard,
            num_tokens=num_tokens,
        )
