"""Every divergence as a value and its gradient in closed form, which is all that a fused loss asks of it.

The same divergences as in `losses.divergence`, by the same names. Shapes: R rows, V classes, tokens or buckets.

With w_i = dD/dq_i, the gradient by the logits z, q = softmax(z), is q_i * (w_i - sum_j q_j w_j).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from stillroom.core.errors import nearest, needs_extra
from stillroom.losses.divergence import LOG_FLOOR, LOG_ZERO, check_alpha, check_beta

with needs_extra("torch", "a loss on tensors"):
    import torch
    from torch import Tensor


class Distribution(NamedTuple):
    """A softmax and its logarithm, both (R, V); the logarithm is finite, LOG_ZERO at the least."""

    probs: Tensor
    log_probs: Tensor


class Divergence(Protocol):
    """One of the classes below, or a user's own."""

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        """Values (R,) in nats and gradients (R, V) by the logits whose softmax is q.

        May overwrite all tensors but `q.probs`: a row of a large vocabulary is read and written as seldom as can be.
        """
        ...


@dataclass(frozen=True)
class ForwardKL:
    """KL(p || q)."""

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        value = _expectation(p.probs, p.log_probs.sub_(q.log_probs))
        return value, torch.sub(q.probs, p.probs, out=p.probs)


@dataclass(frozen=True)
class ReverseKL:
    """KL(q || p), log p at least LOG_FLOOR."""

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        return _through_softmax(q.probs, q.log_probs.sub_(p.log_probs.clamp_(min=LOG_FLOOR)))


@dataclass(frozen=True)
class JensenShannon:
    """beta * KL(p || M) + (1 - beta) * KL(q || M), M = beta * p + (1 - beta) * q, 0 < beta < 1."""

    beta: float = 0.5

    def __post_init__(self) -> None:
        check_beta(self.beta)

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        log_m = _log(torch.lerp(q.probs, p.probs, self.beta))
        from_p = _expectation(p.probs, p.log_probs.sub_(log_m))
        from_q, gradient = _through_softmax(q.probs, q.log_probs.sub_(log_m))
        return self.beta * from_p + (1 - self.beta) * from_q, gradient.mul_(1 - self.beta)


@dataclass(frozen=True)
class SkewedForwardKL:
    """KL(p || alpha * p + (1 - alpha) * q), 0 <= alpha < 1."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        if self.alpha == 0:
            return ForwardKL()(p, q)
        m = torch.lerp(q.probs, p.probs, self.alpha).clamp_(min=torch.finfo(q.probs.dtype).tiny)
        w = torch.div(p.probs, m).mul_(self.alpha - 1)
        value = _expectation(p.probs, p.log_probs.sub_(m.log_()))
        return value, _through_softmax(q.probs, w)[1]


@dataclass(frozen=True)
class SkewedReverseKL:
    """KL(q || (1 - alpha) * p + alpha * q), 0 <= alpha < 1."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        check_alpha(self.alpha)

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        if self.alpha == 0:
            return ReverseKL()(p, q)
        m = torch.lerp(p.probs, q.probs, self.alpha).clamp_(min=torch.finfo(q.probs.dtype).tiny)
        ratio = torch.div(q.probs, m)
        log_ratio = q.log_probs.sub_(m.log_())
        value = _expectation(q.probs, log_ratio.clone())
        return value, _through_softmax(q.probs, log_ratio.sub_(ratio, alpha=self.alpha))[1]


@dataclass(frozen=True)
class TotalVariation:
    """Half the sum of |p - q|; the subgradient 0 where they are equal."""

    def __call__(self, p: Distribution, q: Distribution) -> tuple[Tensor, Tensor]:
        difference = torch.sub(q.probs, p.probs, out=p.probs)
        value = difference.abs().sum(dim=-1) / 2
        return value, _through_softmax(q.probs, difference.sign_().div_(2))[1]


DIVERGENCES: dict[str, Callable[..., Divergence]] = {
    "forward_kl": ForwardKL,
    "reverse_kl": ReverseKL,
    "jensen_shannon": JensenShannon,
    "skewed_forward_kl": SkewedForwardKL,
    "skewed_reverse_kl": SkewedReverseKL,
    "total_variation": TotalVariation,
}


def as_divergence(which: str | Divergence) -> Divergence:
    """The divergence of this name with its default parameter, or the divergence itself."""
    if not isinstance(which, str):
        return which
    if which not in DIVERGENCES:
        raise ValueError(f"divergence = {which!r} is not one of {', '.join(DIVERGENCES)}; {nearest(which, DIVERGENCES)}")
    return DIVERGENCES[which]()


def softmax(logits: Tensor) -> Distribution:
    """The distribution of logits (R, V), which are overwritten by the log-probabilities."""
    # Not softmax plus log_softmax: the exponentials are the dear part. The largest logit and its own probability give the normaliser.
    probs = torch.softmax(logits, dim=-1)
    log_normaliser = logits.amax(dim=-1, keepdim=True) - probs.amax(dim=-1, keepdim=True).log()
    return Distribution(probs, logits.sub_(log_normaliser).clamp_(min=LOG_ZERO))


def _through_softmax(q: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """sum q w (R,), and q * (w - sum q w), which overwrites w (R, V)."""
    product = q * w
    mean = product.sum(dim=-1)
    return mean, torch.addcmul(product, q, mean.unsqueeze(-1), value=-1, out=w)


def _expectation(probs: Tensor, values: Tensor) -> Tensor:
    """sum probs * values (R,); overwrites values (R, V)."""
    return values.mul_(probs).sum(dim=-1)


def _log(m: Tensor) -> Tensor:
    """log m in place, finite: where m is 0, so are the shares that it is weighed with."""
    return m.clamp_(min=torch.finfo(m.dtype).tiny).log_()
