"""Divergences between distributions over classes or tokens. Shapes: ... leading axes, V classes or tokens.

p is the teacher, q the student. Every divergence is in nats, one value a position, zero iff the two agree; none is
averaged or multiplied by T**2: the objective does both, so a value can be compared across batch sizes, masks and
temperatures. `losses.fused` computes the same values together with the output projection, in chunks.
"""

from __future__ import annotations

import math

from stillroom.core.errors import needs_extra

with needs_extra("torch", "a loss on tensors"):
    import torch
    from torch import Tensor

LOG_ZERO = -1e30
"""Stands for log 0. A forbidden token (logit -inf) has the share lim p log p = 0, but 0 * -inf is NaN; 0 * -1e30 is 0."""

LOG_FLOOR = math.log(torch.finfo(torch.float32).tiny)
"""-87.3, the least log-probability of the teacher that `reverse_kl` sees: it is infinite where the teacher forbids what the
student allows, and an infinite loss teaches nothing. No smaller probability exists in float32."""


def forward_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(p || q) at each position: the student covers whatever the teacher may say.

    Args:
        student: (..., V) raw logits; gradients flow to them.
        teacher: (..., V) raw logits, or log-probabilities, in the same order; a constant.
        temperature: T > 0; divides both.

    Returns:
        (...,) float32, or float64 if either input is.

    Raises:
        ValueError: the shapes differ.

    Source: Hinton, Vinyals & Dean 2015, section 2, arXiv:1503.02531.
    """
    log_q, log_p = _log_probs(student, teacher, temperature)
    return _kl(log_p, log_q)


def reverse_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(q || p) at each position: the student avoids what the teacher would not say. log p is read as at least LOG_FLOOR.

    Arguments, result and errors as for `forward_kl`.

    Source: Gu et al. 2023 (MiniLLM), section 2.1, arXiv:2306.08543.
    """
    log_q, log_p = _log_probs(student, teacher, temperature)
    return _kl(log_q, log_p.clamp(min=LOG_FLOOR))


def jensen_shannon(student: Tensor, teacher: Tensor, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """beta * KL(p || M) + (1 - beta) * KL(q || M) with M = beta * p + (1 - beta) * q, at each position.

    Between the two KLs, and bounded by the entropy of (beta, 1 - beta): JSD / beta tends to KL(p || q) as beta tends
    to 0, JSD / (1 - beta) to KL(q || p) as it tends to 1. At 0 and 1 themselves it is zero whatever the student says,
    so both are refused. GKD, TRL, ms-swift and Liger give beta the same meaning inside (0, 1), but take their 0 for
    `forward_kl` and their 1 for `reverse_kl`, a jump in scale; KDFlow's beta is 1 - beta here.

    Args:
        beta: weight of the teacher in the mixture, 0 < beta < 1.

    Other arguments, result and errors as for `forward_kl`.

    Source: Agarwal et al. 2023 (GKD), section 2, arXiv:2306.13649.
    """
    check_beta(beta)
    log_q, log_p = _log_probs(student, teacher, temperature)
    log_m = _log_mixture(log_p, log_q, beta)
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def skewed_forward_kl(student: Tensor, teacher: Tensor, *, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """KL(p || alpha * p + (1 - alpha) * q) at each position; `forward_kl` at alpha = 0, at most -log(alpha).

    Args:
        alpha: share of the teacher mixed into the student, 0 <= alpha < 1.

    Other arguments, result and errors as for `forward_kl`.

    Source: Ko et al. 2024 (DistiLLM), section 3.1, arXiv:2402.03898.
    """
    check_alpha(alpha)
    log_q, log_p = _log_probs(student, teacher, temperature)
    return _kl(log_p, _log_mixture(log_p, log_q, alpha))


def skewed_reverse_kl(student: Tensor, teacher: Tensor, *, alpha: float = 0.1, temperature: float = 1.0) -> Tensor:
    """KL(q || (1 - alpha) * p + alpha * q) at each position; `reverse_kl` at alpha = 0, at most -log(alpha).

    Args:
        alpha: share of the student mixed into the teacher, 0 <= alpha < 1.

    Other arguments, result and errors as for `forward_kl`.

    Source: Ko et al. 2024 (DistiLLM), section 3.1, arXiv:2402.03898.
    """
    check_alpha(alpha)
    log_q, log_p = _log_probs(student, teacher, temperature)
    return _kl(log_q, _log_mixture(log_p.clamp(min=LOG_FLOOR), log_q, 1 - alpha))


def total_variation(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Half the sum of |p - q| at each position, in [0, 1]. Arguments, result and errors as for `forward_kl`.

    Source: Wen et al. 2023 (f-distill), section 3, arXiv:2307.15190.
    """
    log_q, log_p = _log_probs(student, teacher, temperature)
    return (log_p.exp() - log_q.exp()).abs().sum(dim=-1) / 2


def cross_entropy(student: Tensor, codes: Tensor) -> Tensor:
    """-log q(code) at each position, in nats; 0 where the code is negative: there is no label.

    Args:
        student: (..., V) raw logits; gradients flow to them.
        codes: (...,) int64 class codes.

    Returns:
        (...,) float32, or float64 if `student` is.
    """
    log_q = torch.log_softmax(student.to(torch.promote_types(student.dtype, torch.float32)), dim=-1)
    picked = log_q.gather(-1, codes.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(codes >= 0, -picked, 0.0)


def masked_sum(values: Tensor, keep: Tensor) -> Tensor:
    """Sum of `values` (...,) where boolean `keep` (...,) is true."""
    # where(), not a product: a padded position may hold inf, and inf * 0 is NaN.
    return torch.where(keep, values, 0.0).sum()


def masked_mean(values: Tensor, keep: Tensor, *, num_kept: Tensor | int | None = None) -> Tensor:
    """Mean of `values` (...,) where boolean `keep` (...,) is true; 0 if it never is.

    Args:
        num_kept: the count to divide by, where these values are one part of a larger batch: the means of the
            parts then add up to the mean of the whole. Default: the count in `keep`.
    """
    count = torch.as_tensor(keep.sum() if num_kept is None else num_kept, device=values.device)
    # clamp(): a batch without any label or answer is legal and must not poison the weights.
    return masked_sum(values, keep) / count.clamp(min=1)


def check_beta(beta: float) -> None:
    """Refuse a weight at which the Jensen-Shannon divergence is no divergence."""
    if not 0 < beta < 1:
        raise ValueError(
            f"beta = {beta} is outside (0, 1), the weight of the teacher in the mixture; at 0 and 1 the divergence is zero for "
            "every student. Take forward_kl for the limit at 0 and reverse_kl for the limit at 1."
        )


def check_alpha(alpha: float) -> None:
    """Refuse a skew at which the two sides are the same distribution."""
    if not 0 <= alpha < 1:
        raise ValueError(
            f"alpha = {alpha} is outside [0, 1), the skew; 0 is the plain KL, and at 1 the divergence is zero for every student."
        )


def _log_probs(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log q and log p at this temperature, finite."""
    if student.shape != teacher.shape:
        sizes = f"student logits are {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}"
        raise ValueError(f"{sizes}; map the classes or vocabularies to each other first.")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    log_q = torch.log_softmax(student.to(dtype) / temperature, dim=-1)
    log_p = torch.log_softmax(teacher.detach().to(dtype) / temperature, dim=-1)
    return log_q.clamp(min=LOG_ZERO), log_p.clamp(min=LOG_ZERO)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) from log-probabilities that are finite."""
    return (log_a.exp() * (log_a - log_b)).sum(dim=-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, weight: float) -> Tensor:
    """log(weight * p + (1 - weight) * q)."""
    if weight in (0, 1):
        return log_p if weight else log_q
    return torch.logaddexp(log_p + math.log(weight), log_q + math.log1p(-weight))
