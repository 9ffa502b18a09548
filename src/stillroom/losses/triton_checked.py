"""`losses.triton_rows`, taken at its word once it has agreed with `losses.rows` on the first rows of a kind.

The kernels were written without a GPU at hand, and each release of triton and each chip compiles them anew. So the first rows of each kind
of work go through both, once a process; kernels that fail or differ are left out, with a warning, and torch does the same in more passes.
"""

from __future__ import annotations

import warnings
from dataclasses import replace

from stillroom.core.errors import needs_extra
from stillroom.losses import rows, triton_rows
from stillroom.losses.head import Head
from stillroom.losses.rows import Answer, BucketAnswer, DenseAnswer, Mix, SampledAnswer

with needs_extra("torch", "a loss on tensors"):
    import torch
    from torch import Tensor

_ROWS = 4
_agreed: dict[tuple[object, ...], bool] = {}
"""Kind of work -> whether the kernels do it as torch does."""


def loss_and_gradient_(raw: Tensor, head: Head, answer: Answer | None, labels: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """As `losses.rows.loss_and_gradient_`, for what `losses.triton_rows` handles."""
    cut = (head.bias is None, head.soft_cap is None)
    kind = (raw.device, raw.dtype, raw.shape[1], type(answer), type(mix.divergence), mix.temperature == 1, mix.hard_weight > 0, *cut)
    if kind not in _agreed:
        _agreed[kind] = _agree(raw[:_ROWS], head, _first(answer), labels[:_ROWS], mix)
    compare_ = triton_rows.loss_and_gradient_ if _agreed[kind] else rows.loss_and_gradient_
    return compare_(raw, head, answer, labels, mix)


def _agree(raw: Tensor, head: Head, answer: Answer | None, labels: Tensor, mix: Mix) -> bool:
    """Whether both give the same values and gradients, within the rounding of the gradient's type. Nothing is overwritten."""
    by_kernels, by_torch = raw.clone(), raw.to(torch.float32, copy=True)
    want = rows.loss_and_gradient_(by_torch, head, _first(answer), labels, mix)
    try:
        got = triton_rows.loss_and_gradient_(by_kernels, head, _first(answer), labels, mix)
    except Exception as error:  # whatever a compiler or a driver has to say
        return _left_out(f"failed ({type(error).__name__}: {error})")
    rounding = 2 * torch.finfo(raw.dtype).eps if raw.dtype != torch.float32 else 1e-3
    floor = 1e-5 * max(1.0, mix.soft_weight + mix.hard_weight)  # float32, where terms of the size of the weights cancel
    for ours, theirs, relative in ((by_kernels, by_torch, rounding), (got[0], want[0], 1e-3), (got[1], want[1], 1e-3)):
        if not torch.allclose(ours.float(), theirs.float(), rtol=relative, atol=floor, equal_nan=True):
            return _left_out("differ from torch")
    return True


def _left_out(why: str) -> bool:
    warnings.warn(
        f"the compiled kernels of the loss {why} on this GPU and are left out: torch computes it instead, more slowly. Please report it.",
        RuntimeWarning, stacklevel=2,
    )  # fmt: skip
    return False


def _first(answer: Answer | None) -> Answer | None:
    """The first rows, in memory of their own where they are overwritten."""
    match answer:
        case DenseAnswer(raw):
            return replace(answer, raw=raw[:_ROWS].clone())
        case BucketAnswer(ids, probs, tail):
            return BucketAnswer(ids[:_ROWS], probs[:_ROWS], tail[:_ROWS])
        case SampledAnswer(ids, probs, entropy):
            return SampledAnswer(ids[:_ROWS], probs[:_ROWS], None if entropy is None else entropy[:_ROWS])
    return None
