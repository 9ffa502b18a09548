"""Between two matrix products: from a chunk of logits to its loss and its gradient, in place.

Everything that a fused loss does but the products happens here, once: scale and soft-cap with their chain rule, temperature,
cross-entropy on labels, and the comparison with the teacher. `loss_and_gradient_` is also the seam for another device: it
takes plain tensors and frozen records, and on CUDA that of `losses.triton_rows` takes its place as a whole.

Shapes: R rows of a chunk, V vocabulary, K entries of a sparse teacher.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from stillroom.core.errors import needs_extra
from stillroom.losses.closed_form import Distribution, Divergence, softmax
from stillroom.losses.divergence import LOG_ZERO
from stillroom.losses.head import Head

with needs_extra("torch", "a loss on tensors"):
    import torch
    from torch import Tensor

BLOCK_BYTES = 2**19
"""Bytes of one thread's block of rows: a dozen passes over a handful of such blocks stay in a core's cache."""


@dataclass(frozen=True, eq=False)
class Mix:
    """What is summed over rows: soft_weight * divergence at this temperature + hard_weight * cross-entropy."""

    divergence: Divergence
    temperature: float
    soft_weight: float
    hard_weight: float


@dataclass(frozen=True, eq=False)
class DenseAnswer:
    """A chunk of the teacher's projections: raw (R, V) = hidden @ weight.T, overwritten."""

    raw: Tensor
    head: Head

    def compare(self, rows: slice, q: Distribution, mix: Mix) -> tuple[Tensor, Tensor]:
        logits, _ = activate(self.raw[rows].to(q.probs.dtype), self.head)
        return mix.divergence(softmax(tempered(logits, mix.temperature)), q)


@dataclass(frozen=True, eq=False)
class SampledAnswer:
    """An unbiased estimate of the teacher: ids (R, K), probs (R, K), entropy (R,) or None."""

    ids: Tensor
    probs: Tensor
    entropy: Tensor | None

    def compare(self, rows: slice, q: Distribution, mix: Mix) -> tuple[Tensor, Tensor]:
        """Cross-entropy to the estimate, less the entropy; linear in `probs`, and so unbiased, as no other divergence is."""
        probs = self.probs[rows].to(q.probs.dtype)
        ids = torch.where(probs > 0, self.ids[rows], 0)
        value = -(probs * q.log_probs.gather(-1, ids)).sum(dim=-1)
        if self.entropy is not None:
            value = value - self.entropy[rows]
        return value, (q.probs * probs.sum(dim=-1, keepdim=True)).scatter_add_(-1, ids, -probs)


@dataclass(frozen=True, eq=False)
class BucketAnswer:
    """The teacher on K tokens and on all others together: ids (R, K), probs (R, K), tail (R,)."""

    ids: Tensor
    probs: Tensor
    tail: Tensor

    def compare(self, rows: slice, q: Distribution, mix: Mix) -> tuple[Tensor, Tensor]:
        """The divergence of the K + 1 buckets; the gradient of the last is shared by its tokens in proportion to q."""
        probs, dtype = self.probs[rows].to(q.probs.dtype), q.probs.dtype
        listed = probs > 0
        ids = torch.where(listed, self.ids[rows], 0)
        at_ids = torch.where(listed, q.probs.gather(-1, ids), 0.0)
        # Summing what is left, not 1 - sum(at_ids): a tail of 1e-9 would drown in the rounding of that difference.
        others = q.probs.scatter_add(-1, ids, -at_ids)
        tail = others.sum(dim=-1, keepdim=True)
        log_q = torch.cat([torch.where(listed, q.log_probs.gather(-1, ids), LOG_ZERO), tail.log()], dim=-1)
        p = torch.cat([probs, self.tail[rows].to(dtype).clamp(min=0).unsqueeze(-1)], dim=-1)
        buckets = Distribution(torch.cat([at_ids, tail], dim=-1), log_q.clamp_(min=LOG_ZERO))
        value, gradient = mix.divergence(Distribution(p, p.log().clamp_(min=LOG_ZERO)), buckets)
        others.mul_(gradient[:, -1:] / tail.clamp(min=torch.finfo(dtype).tiny))
        return value, others.scatter_add_(-1, ids, gradient[:, :-1])  # 0 in a padding entry, where p = q = 0


Answer = DenseAnswer | SampledAnswer | BucketAnswer


def loss_and_gradient_(raw: Tensor, head: Head, answer: Answer | None, labels: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """The soft and the hard value of each row, neither weighted; `raw` becomes the gradient of their weighted sum by itself.

    Args:
        raw: (R, V) = hidden @ head.weight.T, without bias, scale and soft-cap; overwritten.
        head: the student's.
        answer: the teacher's, for the same rows; None where mix.soft_weight is 0.
        labels: (R,) int64 token ids.
        mix: the terms and their weights.

    Returns:
        Two tensors (R,), float32 or float64; zeros for a term whose weight is 0.
    """
    soft = raw.new_zeros(len(raw), dtype=torch.promote_types(raw.dtype, torch.float32))
    hard = torch.zeros_like(soft)
    for rows in _blocks(raw):
        logits, slope = activate(raw[rows].to(soft.dtype), head)
        gradient = _terms(logits, rows, answer, labels, mix, soft, hard)
        raw[rows] = _scaled(gradient, slope)
    return soft, hard


def _terms(logits: Tensor, rows: slice, answer: Answer | None, labels: Tensor, mix: Mix, soft: Tensor, hard: Tensor) -> Tensor:
    """The gradient of a block's weighted sum by its logits, which are overwritten; fills in the rows of `soft` and `hard`."""
    gradient, q = None, None
    if mix.hard_weight:
        keep_logits = answer is not None and mix.temperature != 1
        q = softmax(logits.clone() if keep_logits else logits)
        label = labels[rows].unsqueeze(-1)
        hard[rows] = -q.log_probs.gather(-1, label).squeeze(-1)
        gradient = q.probs * mix.hard_weight
        gradient.scatter_add_(-1, label, gradient.new_full(label.shape, -mix.hard_weight))
    if answer is not None:
        if q is None or mix.temperature != 1:
            q = softmax(tempered(logits, mix.temperature))
        soft[rows], by_logits = answer.compare(rows, q, mix)
        by_logits = _scaled(by_logits, mix.soft_weight / mix.temperature)
        gradient = by_logits if gradient is None else gradient.add_(by_logits)
    return torch.zeros_like(logits) if gradient is None else gradient


def activate(raw: Tensor, head: Head) -> tuple[Tensor, Tensor | float]:
    """The logits of a head, in place of its products, and d logits / d raw."""
    if head.bias is not None:
        raw.add_(head.bias)
    if head.soft_cap is None:
        return _scaled(raw, head.scale), head.scale
    bounded = raw.mul_(head.scale / head.soft_cap).tanh_()
    slope = bounded.square().neg_().add_(1).mul_(head.scale)
    return bounded.mul_(head.soft_cap), slope


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """logits / T, in place."""
    return logits if temperature == 1 else logits.div_(temperature)


def _scaled(values: Tensor, factor: Tensor | float) -> Tensor:
    """values * factor, in place; a factor of 1 costs no pass over the memory."""
    return values if isinstance(factor, float) and factor == 1 else values.mul_(factor)


def _blocks(raw: Tensor) -> Iterator[slice]:
    """Rows that go through all passes together: as many as fit the caches on a CPU, all of them elsewhere."""
    num_rows, row_bytes = len(raw), raw.shape[1] * max(raw.element_size(), 4)
    size = max(1, BLOCK_BYTES * torch.get_num_threads() // row_bytes) if raw.device.type == "cpu" else max(1, num_rows)
    return (slice(start, start + size) for start in range(0, num_rows, size))
