"""`losses.rows.loss_and_gradient_` for CUDA, in Triton: each chunk of logits is read two or three times and written once.

A dense teacher goes through the kernels alone. Of a sparse teacher's comparison only the student's log-normaliser and softmax touch
whole rows; the K listed tokens are picked out, compared in plain torch by the formulas of `losses.rows`, and put back.

Checked against `losses.rows` and a float64 oracle in Triton's interpreter on a CPU, and compiled for NVIDIA's sm_90. Never run on
a GPU and never timed: block and warps are a first guess, `benchmarks/kd_loss.py --device cuda` is the measurement to make,
and `losses.triton_checked` holds the first rows against torch before the others go this way.

Shapes: R rows of a chunk, V vocabulary, K entries of a sparse teacher.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any

from stillroom.core.errors import needs_extra
from stillroom.losses import triton_kernels as kernels
from stillroom.losses.closed_form import DIVERGENCES, Distribution
from stillroom.losses.divergence import LOG_ZERO
from stillroom.losses.head import Head
from stillroom.losses.rows import Answer, BucketAnswer, DenseAnswer, Mix, SampledAnswer, activate

with needs_extra("torch", "a loss on tensors"):
    import torch
    from torch import Tensor

BLOCK = 2048
"""Columns that one program holds at a time: 8 a thread, one load of 16 bytes in bfloat16, at most 61 registers on sm_90 and so no fewer
than four programs on a multiprocessor. Where V is odd the loads are of single values."""

NUM_WARPS = 8

_NAMES = {make: name for name, make in DIVERGENCES.items()}


def handles(dtype: torch.dtype, dense: bool, mix: Mix) -> bool:
    """Whether the kernels compute this mix on rows of this type: float64 and a user's own divergence on whole rows they do not."""
    return dtype != torch.float64 and not (dense and type(mix.divergence) not in _NAMES)


def loss_and_gradient_(raw: Tensor, head: Head, answer: Answer | None, labels: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
    """As `losses.rows.loss_and_gradient_`, for what this module `handles`; `raw`, and a dense teacher's, are contiguous."""
    student = _Student(raw, head, labels.contiguous() if mix.hard_weight else None, mix)
    with torch.cuda.device_of(raw):  # type: ignore[no-untyped-call]
        at_label = student.logits_at(labels.unsqueeze(-1))[0].squeeze(-1)  # before they are overwritten
        if isinstance(answer, DenseAnswer):
            soft, log_z_plain = _against_rows_(student, answer)
        elif isinstance(answer, SampledAnswer):
            soft, log_z_plain = _against_sample_(student, answer)
        elif isinstance(answer, BucketAnswer):
            soft, log_z_plain = _against_buckets_(student, answer)
        else:
            log_z, log_z_plain = student.log_normalisers()
            soft = torch.zeros_like(log_z)
            student.softmax_gradient_(log_z, log_z_plain, None)
        return soft, (log_z_plain - at_label).clamp_(max=-LOG_ZERO) if mix.hard_weight else torch.zeros_like(soft)


@dataclass(frozen=True, eq=False)
class _Student:
    """The student's products of a chunk (R, V) and what is done with them; labels (R,) where the mix has a cross-entropy."""

    raw: Tensor
    head: Head
    labels: Tensor | None
    mix: Mix

    def log_normalisers(self) -> tuple[Tensor, Tensor]:
        """(R,) at the temperature and at 1, the second only where the cross-entropy needs it; else it is the first."""
        return _log_normalisers(self.raw, self.head, self.mix.temperature, plain=self.labels is not None)

    def logits_at(self, ids: Tensor) -> tuple[Tensor, Tensor | float]:
        """The logits at ids (R, K), and their slope."""
        products = self.raw.gather(-1, ids).float()
        if self.head.bias is not None:
            products += self.head.bias[ids]
        return activate(products, replace(self.head, bias=None))

    def softmax_gradient_(self, log_z: Tensor, log_z_plain: Tensor, shares: Tensor | None) -> None:
        """raw becomes shares (R,) times its softmax at the temperature, and the gradient of the cross-entropy, both by itself."""
        kernels.softmax_gradient[(len(self.raw),)](
            self.raw, _bias(self.head), log_z, log_z_plain, self.labels, shares, self.raw.shape[1], *_floats(self.head),
            1 / self.mix.temperature, self.mix.hard_weight, **_tiling(self.raw),
        )  # fmt: skip

    def put_gradient_(
        self, ids: Tensor, by_logits: Tensor, logits: Tensor, slope: Tensor | float, log_z_plain: Tensor, keep: Tensor
    ) -> None:
        """Write the gradient at ids (R, K) anew where `keep`: of the soft term it is `by_logits`; the cross-entropy's is added here.

        In one rounding: 0.99 - 1 in bfloat16, as a sum of two gradients, would be 0.
        """
        if self.labels is not None:
            q = (logits - log_z_plain.unsqueeze(-1)).exp()
            by_logits = by_logits + self.mix.hard_weight * (q - (ids == self.labels.unsqueeze(-1)).float())
        _put_(self.raw, ids, by_logits * slope, keep)


def _against_rows_(student: _Student, answer: DenseAnswer) -> tuple[Tensor, Tensor]:
    """The divergence (R,) and the normalisers at temperature 1; raw becomes the gradient."""
    mix = student.mix
    log_z, log_z_plain = student.log_normalisers()
    teacher_log_z, _ = _log_normalisers(answer.raw, answer.head, mix.temperature, plain=False)
    values, (name, parameter) = torch.empty_like(log_z), _kernel_divergence(mix)
    kernels.dense_loss_and_gradient[(len(values),)](
        student.raw, _bias(student.head), log_z, log_z_plain, student.labels, answer.raw, _bias(answer.head), teacher_log_z, values,
        student.raw.shape[1], *_floats(student.head), *_floats(answer.head), 1 / mix.temperature, mix.soft_weight, mix.hard_weight,
        parameter, DIVERGENCE=name, **_tiling(student.raw),
    )  # fmt: skip
    return values, log_z_plain


def _against_sample_(student: _Student, answer: SampledAnswer) -> tuple[Tensor, Tensor]:
    """As `SampledAnswer.compare`; results as of `_against_rows_`."""
    mix, probs = student.mix, answer.probs.float()
    ids = torch.where(probs > 0, answer.ids, 0)
    logits, slope = student.logits_at(ids)
    log_z, log_z_plain = student.log_normalisers()
    log_q = (logits / mix.temperature - log_z.unsqueeze(-1)).clamp_(min=LOG_ZERO)
    values = -(probs * log_q).sum(dim=-1)
    if answer.entropy is not None:
        values = values - answer.entropy
    mass, weight = probs.sum(dim=-1), mix.soft_weight / mix.temperature
    student.softmax_gradient_(log_z, log_z_plain, mass * weight)
    by_logits = weight * (mass.unsqueeze(-1) * log_q.exp() - _sums_by_id(ids, probs))
    student.put_gradient_(ids, by_logits, logits, slope, log_z_plain, torch.ones_like(ids, dtype=torch.bool))
    return values.float(), log_z_plain


def _against_buckets_(student: _Student, answer: BucketAnswer) -> tuple[Tensor, Tensor]:
    """As `BucketAnswer.compare`; results as of `_against_rows_`."""
    mix, probs = student.mix, answer.probs.float()
    listed = probs > 0
    ids = torch.where(listed, answer.ids, 0)
    logits, slope = student.logits_at(ids)
    # Summing what is left, not 1 - sum(listed): a tail of 1e-9 would drown in the rounding of that difference.
    _put_(student.raw, ids, torch.full_like(logits, -torch.inf), listed)
    others, others_plain = student.log_normalisers()
    at_ids = torch.where(listed, logits, -torch.inf)
    log_z_plain = torch.cat([at_ids, others_plain.unsqueeze(-1)], dim=-1).logsumexp(dim=-1)
    log_masses = torch.cat([at_ids / mix.temperature, others.unsqueeze(-1)], dim=-1)
    log_q = log_masses.log_softmax(dim=-1).clamp_(min=LOG_ZERO)
    p = torch.cat([probs, answer.tail.float().clamp(min=0).unsqueeze(-1)], dim=-1)
    values, by_logits = mix.divergence(Distribution(p, p.log().clamp_(min=LOG_ZERO)), Distribution(log_q.exp(), log_q))
    by_logits = by_logits * (mix.soft_weight / mix.temperature)
    student.softmax_gradient_(others, log_z_plain, by_logits[:, -1].contiguous())
    student.put_gradient_(ids, by_logits[:, :-1], logits, slope, log_z_plain, listed)
    return values, log_z_plain


def _log_normalisers(raw: Tensor, head: Head, temperature: float, *, plain: bool) -> tuple[Tensor, Tensor]:
    log_z = torch.empty(len(raw), dtype=torch.float32, device=raw.device)
    log_z_plain = torch.empty_like(log_z) if plain and temperature != 1 else None
    kernels.log_normalisers[(len(raw),)](
        raw, _bias(head), log_z, log_z_plain, raw.shape[1], *_floats(head), 1 / temperature, **_tiling(raw)
    )  # fmt: skip
    return log_z, log_z if log_z_plain is None else log_z_plain


def _put_(raw: Tensor, ids: Tensor, values: Tensor, keep: Tensor) -> None:
    """raw[r, ids[r, k]] = values[r, k] where keep[r, k]; equal ids of a row carry equal values."""
    entries = ids.contiguous(), values.contiguous(), keep.to(torch.int8).contiguous()
    kernels.put[(len(raw),)](raw, *entries, raw.shape[1], ids.shape[1], BLOCK=_power_of_two(ids.shape[1]))


def _sums_by_id(ids: Tensor, probs: Tensor) -> Tensor:
    """(R, K): for each entry, the sum of `probs` over all entries of its row with the same id. A sample may name a token twice."""
    ordered, order = ids.sort(dim=-1)
    group = (ordered.diff(dim=-1, prepend=ordered[:, :1]) != 0).cumsum(dim=-1)
    sums = torch.zeros_like(probs).scatter_add_(-1, group, probs.gather(-1, order))
    return torch.empty_like(probs).scatter_(-1, order, sums.gather(-1, group))


def _kernel_divergence(mix: Mix) -> tuple[str, float]:
    """The kernel's name of the divergence, and its beta or alpha."""
    parameters: tuple[float, ...] = astuple(mix.divergence)  # type: ignore[call-overload]
    name, parameter = _NAMES[type(mix.divergence)], next(iter(parameters), 0.0)
    return (name if parameter else name.removeprefix("skewed_")), parameter


def _bias(head: Head) -> Tensor | None:
    """As a kernel reads it: value by value. A user's may be a column of something."""
    return None if head.bias is None else head.bias.contiguous()


def _floats(head: Head) -> tuple[float, float | None]:
    """Scale and soft-cap; floats, since Triton compiles a kernel anew for an integer of 1."""
    return float(head.scale), None if head.soft_cap is None else float(head.soft_cap)


def _tiling(raw: Tensor) -> dict[str, Any]:
    """No more threads than columns: two that held the same one could read it before and after it is overwritten."""
    block = max(32, min(BLOCK, _power_of_two(raw.shape[1])))
    return {"BLOCK": block, "num_warps": min(NUM_WARPS, block // 32)}


def _power_of_two(size: int) -> int:
    return 1 << max(size - 1, 0).bit_length()
