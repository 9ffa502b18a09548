"""Output projection and divergence in one pass: the logits of all positions never exist at once.

Rows are projected, compared and differentiated chunk by chunk in the forward pass, so a dense teacher costs four matrix
products (its logits, the student's, and two for the gradients), a sparse one three. The backward pass only scales.
Between the products: `losses.rows` in torch, and on CUDA `losses.triton_rows` where triton is installed. There the host waits for the
device once, before the first chunk, to learn how many positions count and whether the ids are in range.

Shapes: N positions, H hidden width of the student, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from stillroom.core.errors import needs_extra
from stillroom.losses.closed_form import Divergence, ForwardKL, as_divergence
from stillroom.losses.head import Head
from stillroom.losses.rows import Answer, BucketAnswer, DenseAnswer, Mix, SampledAnswer, loss_and_gradient_
from stillroom.losses.teacher import DenseTeacher, SparseTeacher, Teacher

with needs_extra("torch", "a loss on tensors"):
    import torch
    from torch import Tensor
    from torch.autograd.function import once_differentiable

CHUNK_BYTES = 2**26
"""Bytes of one chunk of logits (two with a dense teacher). Below some 128 rows the products slow down: each chunk reads the weight anew."""

CUDA_CHUNK_BYTES = 2**29
"""The same on CUDA, where a tile of a product is 128 rows or more, and each chunk reads and writes the float32 gradient of the weight:
2 GB at V = 128256, H = 2048, for which 2048 rows of bfloat16 logits are the least that keep it behind the product.

The reckoning of that size, N = 8192 positions and a dense teacher: the gradient 1.05 GB, two chunks of logits 1.05 GB, the gradient of
the hidden states 0.07 GB, together 2.2 GB; in the backward pass the chunks are gone, and 0.53 GB of bfloat16 gradient come. By
arithmetic, not measured.
"""


class FusedLoss(NamedTuple):
    """A loss and what it is made of."""

    loss: Tensor
    """(): soft_weight * soft / num_tokens + hard_weight * hard / num_tokens; gradients flow from it."""

    soft: Tensor
    """(): sum of the divergence over this call's positions, in nats, detached; 0 where soft_weight is 0."""

    hard: Tensor
    """(): sum of the cross-entropy over this call's positions, in nats, detached; 0 where hard_weight is 0."""

    num_tokens: int
    """The positions of this call that counted."""


def fused_divergence(
    hidden: Tensor,
    head: Head,
    teacher: Teacher | None,
    labels: Tensor,
    *,
    divergence: str | Divergence = "forward_kl",
    temperature: float = 1.0,
    soft_weight: float = 1.0,
    hard_weight: float = 0.0,
    num_tokens: Tensor | int | None = None,
    ignore_index: int = -100,
    chunk_rows: int | None = None,
    matmul_dtype: torch.dtype | None = None,
) -> FusedLoss:
    """Mean over tokens of soft_weight * D(teacher, student) + hard_weight * cross-entropy on the labels.

    The divergence is at the temperature, the cross-entropy at 1; nothing is multiplied by T**2: the caller's soft_weight
    holds it. Row i of `hidden`, `teacher` and `labels` belong to one prediction: see `next_token_rows`. Positions whose label is
    `ignore_index` are dropped before any projection. A term with weight 0 is not computed.

    Args:
        hidden: (N, H) inputs of the student's head; gradients flow to them.
        head: the student's head; gradients flow to its weight and bias.
        teacher: dense or sparse, N rows; a constant. None where soft_weight is 0: plain fused cross-entropy.
        labels: (N,) int64 token ids, or `ignore_index`.
        divergence: a name in `DIVERGENCES`, with its default parameter, or one of its objects.
        temperature: T > 0; divides the logits of both in the soft term. A sparse teacher's probabilities are already at T.
        soft_weight: of the divergence.
        hard_weight: of the cross-entropy.
        num_tokens: positions that count in the *global* batch: losses and gradients of its micro-batches and ranks then add up
            to those of the whole. (Where ranks average their gradients, as DDP does, multiply the loss by their number.)
            Default: those of this call.
        ignore_index: the label that marks a position to skip.
        chunk_rows: rows projected at a time; default: as many as fill CHUNK_BYTES, CUDA_CHUNK_BYTES on CUDA.
        matmul_dtype: of the four products; default: the autocast type, else that of the inputs, float32 for float16. bfloat16
            rounds logits as a bfloat16 model does; float32 keeps them exact at the price of float32 products.

    Returns:
        A FusedLoss; its tensors are float32, or float64 for float64 inputs. Loss and gradients are 0 where no position counts.

    Raises:
        ValueError: sizes that do not fit each other, a vocabulary of another size, a parameter outside its range, or a
            divergence that a sampled teacher cannot estimate.
    """
    mix = Mix(as_divergence(divergence), temperature, soft_weight, hard_weight)
    teacher = teacher if soft_weight else None
    _check(hidden, head, teacher, labels, mix)
    keep = _kept_rows(labels, teacher, head, ignore_index)
    dtype = matmul_dtype or _product_dtype(hidden, head)
    chunk_rows = chunk_rows or _rows_at_once(hidden.device, head.vocabulary_size * dtype.itemsize)
    plan = _Plan(head, _in_type(teacher, dtype), labels, keep, mix, dtype, chunk_rows)
    wanted = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in (hidden, head.weight, head.bias))
    count = _global_count(num_tokens, len(keep), hidden.device)
    loss, soft, hard = _Fused.apply(hidden, head.weight, head.bias, count, plan, wanted)  # type: ignore[no-untyped-call]
    return FusedLoss(loss, soft, hard, len(keep))


def next_token_rows(hidden: Tensor, labels: Tensor, *, ignore_index: int = -100) -> tuple[Tensor, Tensor]:
    """Rows of hidden states (B * L, H), each with the label that it predicts: the *next* token of its sequence (B * L,).

    The last position of a sequence predicts nothing and gets `ignore_index`. Teacher rows are flattened the same way. In a packed
    sequence, the first token of each document should carry `ignore_index`, or the end of one predicts the start of another.

    Args:
        hidden: (B, L, H), not copied where it is contiguous.
        labels: (B, L) int64, the label of each token at its own place, as transformers has them.
    """
    if hidden.shape[:2] != labels.shape:
        raise ValueError(f"hidden states are {tuple(hidden.shape)}, labels {tuple(labels.shape)}; both must begin with (batch, length).")
    after = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), ignore_index)], dim=1)
    return hidden.flatten(0, 1), after.flatten()


@dataclass(frozen=True, eq=False)
class _Plan:
    """What the forward pass needs beside the tensors that gradients flow to."""

    head: Head
    teacher: Teacher | None
    labels: Tensor
    keep: Tensor
    mix: Mix
    dtype: torch.dtype
    chunk_rows: int

    def answer(self, rows: Tensor, buffer: Tensor) -> Answer | None:
        """The teacher's on these rows; a dense one projects into `buffer`."""
        teacher = self.teacher
        if isinstance(teacher, DenseTeacher):
            raw = torch.mm(teacher.hidden[rows].to(self.dtype), teacher.head.weight.t(), out=buffer)
            return DenseAnswer(raw, teacher.head)
        if isinstance(teacher, SparseTeacher):
            ids, probs = teacher.ids[rows], teacher.probs[rows]
            if teacher.tail is not None:
                return BucketAnswer(ids, probs, teacher.tail[rows])
            return SampledAnswer(ids, probs, None if teacher.entropy is None else teacher.entropy[rows])
        return None


class _Fused(torch.autograd.Function):
    """The loss, whose gradients are computed beside it; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, count: Tensor, plan: _Plan, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            soft, hard, gradients = _forward(hidden, weight, bias, plan, wanted)
        ctx.save_for_backward(count, *gradients)
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        loss = (plan.mix.soft_weight * soft + plan.mix.hard_weight * hard) / count
        ctx.mark_non_differentiable(soft, hard)
        return loss, soft, hard

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        count, *gradients = ctx.saved_tensors
        scale = upstream / count
        # Multiplied and rounded in one pass: a float32 copy of a weight's gradient would be the largest tensor of all.
        scaled = (
            None if x is None else torch.mul(x, scale, out=torch.empty_like(x, dtype=dtype))
            for x, dtype in zip(gradients, ctx.dtypes, strict=True)
        )  # fmt: skip
        return (*scaled, None, None, None)


def _forward(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, plan: _Plan, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Sums of the two terms over all rows, and the gradients of their weighted sum by the three inputs."""
    dtype, total = plan.dtype, torch.promote_types(plan.dtype, torch.float32)
    products = weight.to(dtype)
    soft, hard = hidden.new_zeros((), dtype=total), hidden.new_zeros((), dtype=total)
    inputs = (hidden, weight, bias)
    by_hidden, by_weight, by_bias = (
        torch.zeros_like(x, dtype=total) if want and x is not None else None for x, want in zip(inputs, wanted, strict=True)
    )
    size = min(plan.chunk_rows, len(plan.keep))
    raw, answers = (
        torch.empty((size * used, len(weight)), dtype=dtype, device=hidden.device) for used in (1, isinstance(plan.teacher, DenseTeacher))
    )
    compare_ = _rows_function(hidden.device, plan)
    for rows in torch.split(plan.keep, plan.chunk_rows):
        chunk = hidden[rows].to(dtype)
        logits = torch.mm(chunk, products.t(), out=raw[: len(rows)])
        values = compare_(logits, plan.head, plan.answer(rows, answers[: len(rows)]), plan.labels[rows], plan.mix)
        soft += values[0].sum()
        hard += values[1].sum()
        if by_hidden is not None:
            by_hidden[rows] = torch.mm(logits, products).to(total)
        if by_weight is not None:
            _add_product_(by_weight, logits.t(), chunk)
        if by_bias is not None:
            by_bias += logits.sum(dim=0, dtype=total)
    return soft, hard, [by_hidden, by_weight, by_bias]


def _rows_function(device: torch.device, plan: _Plan) -> Callable[..., tuple[Tensor, Tensor]]:
    """`loss_and_gradient_` of `losses.rows`, or of `losses.triton_checked` on CUDA where triton is installed and can."""
    if device.type == "cuda" and find_spec("triton"):
        from stillroom.losses import triton_checked, triton_rows  # not at the top: triton is no dependency of the CPU build of torch

        if triton_rows.handles(plan.dtype, isinstance(plan.teacher, DenseTeacher), plan.mix):
            return triton_checked.loss_and_gradient_
    return loss_and_gradient_


def _rows_at_once(device: torch.device, row_bytes: int) -> int:
    """Rows of a chunk; on CUDA a multiple of 128, so that no tile of a product is partly empty but the last chunk's."""
    tile = 128 if device.type == "cuda" else 1
    return max(1, chunk_bytes(device) // (tile * row_bytes)) * tile


def chunk_bytes(device: torch.device) -> int:
    """What a chunk of logits takes, on this device, where there are as many rows."""
    return CUDA_CHUNK_BYTES if device.type == "cuda" else CHUNK_BYTES


def _in_type(teacher: Teacher | None, dtype: torch.dtype) -> Teacher | None:
    """The teacher with its weight in the type of the products: converted once, not in each chunk."""
    if not isinstance(teacher, DenseTeacher):
        return teacher
    return replace(teacher, head=replace(teacher.head, weight=teacher.head.weight.to(dtype)))


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, accumulated in the type of `total`."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif _adds_to_float32(left.device, left.dtype):
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += torch.mm(left, right)


@cache
def _adds_to_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `addmm` adds a product of this type to a float32 matrix in place: on CUDA with recent releases of torch, not on a CPU.

    Tried once a process; what other releases answer is an error. Without it each chunk's product is rounded before it is added, and
    takes a matrix of its own.
    """
    ones, total = torch.ones(16, 16, dtype=dtype, device=device), torch.ones(16, 16, device=device)
    try:
        torch.addmm(total, ones, ones, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):
        return False
    return bool((total == 17).all())


def _product_dtype(hidden: Tensor, head: Head) -> torch.dtype:
    device = hidden.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else torch.promote_types(hidden.dtype, head.weight.dtype)
    # A gradient of 1e-8 is nothing in float16 and is kept in bfloat16.
    return torch.float32 if dtype == torch.float16 else dtype


def _global_count(num_tokens: Tensor | int | None, num_kept: int, device: torch.device) -> Tensor:
    """The divisor of the sums."""
    if isinstance(num_tokens, int) and num_tokens < num_kept:
        raise ValueError(f"num_tokens = {num_tokens}, but {num_kept} positions of this call count; give the count of the global batch.")
    # clamp(): a batch without any token to learn is legal and must not poison the weights.
    if isinstance(num_tokens, Tensor):
        return num_tokens.to(device).clamp(min=1)
    return torch.full((), max(num_kept if num_tokens is None else num_tokens, 1), device=device)  # a copy from the host would wait


def _check(hidden: Tensor, head: Head, teacher: Teacher | None, labels: Tensor, mix: Mix) -> None:
    if hidden.dim() != 2 or hidden.shape[1] != head.width or labels.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden states are {tuple(hidden.shape)}, labels {tuple(labels.shape)}, the head's weight {tuple(head.weight.shape)}; "
            "needed are (N, H), (N,) and (V, H). next_token_rows() makes rows of (B, L, H) and (B, L)."
        )
    if not mix.temperature > 0:
        raise ValueError(f"temperature = {mix.temperature} must be above 0; 1.0 leaves the distributions as they are.")
    if mix.soft_weight and teacher is None:
        raise ValueError(f"soft_weight = {mix.soft_weight}, but there is no teacher; give one, or set soft_weight=0.")
    if teacher is not None:
        _check_teacher(teacher, head, len(hidden), mix)


def _check_teacher(teacher: Teacher, head: Head, num_rows: int, mix: Mix) -> None:
    if teacher.num_rows != num_rows:
        raise ValueError(f"the teacher has {teacher.num_rows} rows, the student {num_rows}; row i of both must be the same position.")
    if isinstance(teacher, DenseTeacher):
        if teacher.hidden.shape[1:] != (teacher.head.width,):
            raise ValueError(
                f"teacher.hidden is {tuple(teacher.hidden.shape)}, its head's weight {tuple(teacher.head.weight.shape)}; the widths differ."
            )
        size: int | None = teacher.head.vocabulary_size
    else:
        size = teacher.vocabulary_size  # where it is None, `_kept_rows` looks at the ids
        if teacher.tail is None and mix.divergence != ForwardKL():
            raise ValueError(
                f"divergence = {mix.divergence}: a teacher sampled at random gives an unbiased estimate of forward_kl only. "
                "Take forward_kl, a teacher with `tail`, or a dense teacher."
            )
    if size is not None and size != head.vocabulary_size:
        raise _unequal_vocabularies(head, size)


def _unequal_vocabularies(head: Head, size: int) -> ValueError:
    larger, smaller = ("teacher", head.vocabulary_size) if size > head.vocabulary_size else ("student", size)
    return ValueError(
        f"the student's vocabulary has {head.vocabulary_size} tokens, the teacher's {size}. If one tokenizer serves both and the "
        f"{larger}'s further rows are padding, cut its head: head.cut({smaller}). Otherwise the models need the same tokenizer."
    )


def _kept_rows(labels: Tensor, teacher: Teacher | None, head: Head, ignore_index: int) -> Tensor:
    """The positions that count, in order, once every id is known to be in range: all that the host has to wait for."""
    kept, size = labels != ignore_index, head.vocabulary_size
    facts = [kept.sum(), (kept & ((labels < 0) | (labels >= size))).sum()]
    if isinstance(teacher, SparseTeacher) and teacher.vocabulary_size is None:
        facts.append(((teacher.probs > 0) & (teacher.ids >= size)).sum())
    num_kept, wrong_labels, *wrong_ids = torch.stack(facts).tolist()
    if any(wrong_ids):
        assert isinstance(teacher, SparseTeacher)
        raise _unequal_vocabularies(head, int(torch.where(teacher.probs > 0, teacher.ids, 0).max()) + 1)
    if wrong_labels:
        raise ValueError(
            f"labels go from {int(labels[kept].min())} to {int(labels[kept].max())}, the vocabulary has {size} tokens; "
            f"a position to skip is marked by ignore_index = {ignore_index}."
        )
    # Not nonzero(), which would ask the device for the count once more.
    return (~kept).to(torch.uint8).argsort(stable=True)[:num_kept]
