"""Divergences between distributions over classes or tokens. Shapes: ... leading axes, V classes or tokens."""

from __future__ import annotations

from stillroom.core.errors import needs_extra

with needs_extra("torch", "a loss on tensors"):
    import torch
    from torch import Tensor


def forward_kl(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) at each position, in nats; zero iff the two agree.

    Neither averaged nor multiplied by T**2: the objective does both, so this value
    can be compared across batch sizes, masks and temperatures.

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
    if student.shape != teacher.shape:
        sizes = f"student logits are {tuple(student.shape)}, teacher logits {tuple(teacher.shape)}"
        raise ValueError(f"{sizes}; map the classes or vocabularies to each other first.")
    dtype = torch.promote_types(torch.promote_types(student.dtype, teacher.dtype), torch.float32)
    log_q = torch.log_softmax(student.to(dtype) / temperature, dim=-1)
    log_p = torch.log_softmax(teacher.detach().to(dtype) / temperature, dim=-1)
    p = log_p.exp()
    # Where the teacher forbids a class, log p = -inf. Its share is 0 (lim p log p),
    # but 0 * -inf is NaN, so choose the zero instead of computing it.
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)


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
