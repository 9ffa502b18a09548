"""Loss bugs found in other distillation systems, each as a check that a tiny faulty function fails and ours passes.

Each faulty function has the fault and nothing else of the system that it is named after: written here, from the description of
the bug. Shapes: B sequences, L tokens, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stillroom.losses.closed_form import JensenShannon
from stillroom.losses.fused import fused_divergence, next_token_rows
from stillroom.losses.head import Head
from stillroom.losses.teacher import DenseTeacher, SparseTeacher

Loss = Callable[..., Tensor]
B, L, V = 3, 6, 8
EYE = torch.eye(V, dtype=torch.float64)


def draw(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student logits (B, L, V), teacher logits, labels (B, L): a prompt of two tokens, padding at the end of two rows."""
    source = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(B, L, V, dtype=torch.float64, generator=source) for _ in range(2))
    labels = torch.randint(0, V, (B, L), generator=source)
    labels[:, :2], labels[1, 4:], labels[2, 3:] = -100, -100, -100
    return student.requires_grad_(), teacher, labels


def ours(student: Tensor, teacher: Tensor, labels: Tensor, *, head: dict[str, Any] | None = None, **options: Any) -> Tensor:
    """Our loss of logits: they are the hidden states of an identity head."""
    rows, after = next_token_rows(student, labels)
    size = teacher.shape[-1]
    answers = DenseTeacher(teacher.flatten(0, 1), Head(torch.eye(size, dtype=teacher.dtype), **(head or {})))
    return fused_divergence(rows, Head(EYE.to(student.dtype), **(head or {})), answers, after, **options).loss


def kl(p_logits: Tensor, q_logits: Tensor) -> Tensor:
    return (p_logits.softmax(-1) * (p_logits.log_softmax(-1) - q_logits.log_softmax(-1))).sum(-1)


def taught(labels: Tensor) -> Tensor:
    """(B, L) whether the position predicts a token that counts."""
    return F.pad(labels[:, 1:] != -100, (0, 1))


def plain(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """What the loss should be."""
    return kl(teacher, student)[taught(labels)].mean()


def is_the_mean_over_taught_positions(loss: Loss) -> None:
    s, t, labels = draw()
    torch.testing.assert_close(loss(s, t, labels), plain(s, t, labels))


def unshifted_mask(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return kl(t, s)[labels != -100].mean()


def never_applied_ignore_index(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return kl(t, s).mean()


def mask_of_shifted_inputs(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    inputs = labels.clamp(min=0)  # token ids are never -100, so the mask is always true
    return kl(t, s)[:, :-1][inputs[:, 1:] != -100].mean()


def normalised_twice(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return plain(s, t, labels) / taught(labels).sum()


def swapped_direction(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return kl(s, t)[taught(labels)].mean()


def mean_over_sequences(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([plain(s[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(B)]).mean()


def multiplied_by_the_mask(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return (kl(t, s) * taught(labels)).sum() / taught(labels).sum()


def cannot_be_poisoned_by_what_is_masked(loss: Loss) -> None:
    s, t, labels = draw()
    want = plain(s, t, labels)
    wild = s.detach().clone()
    wild[~taught(labels)] = math.nan
    assert torch.equal(loss(wild.requires_grad_(), t, labels).isfinite(), torch.tensor(True))
    torch.testing.assert_close(loss(wild, t, labels), want)


def is_zero_where_nothing_is_taught(loss: Loss) -> None:
    s, t, labels = draw()
    value = loss(s, t, torch.full_like(labels, -100))
    assert value.item() == 0.0
    assert (torch.autograd.grad(value, s)[0] == 0).all()


def is_zero_at_the_teacher(loss: Loss) -> None:
    _, t, labels = draw()
    assert abs(loss(t.clone().requires_grad_(), t, labels).item()) < 1e-12


def cross_entropy_to_the_teacher(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return -(t.softmax(-1) * s.log_softmax(-1)).sum(-1)[taught(labels)].mean()


def half_of_it_is_cross_entropy(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    keep, after = taught(labels), labels.roll(-1, 1)
    return 0.5 * kl(t, s)[keep].mean() + 0.5 * F.cross_entropy(s[keep], after[keep])


def micro_batches_add_up(loss: Loss) -> None:
    s, t, labels = draw()
    num_tokens = int(taught(labels).sum())
    parts = [loss(s[i : i + 1], t[i : i + 1], labels[i : i + 1], num_tokens=num_tokens) for i in range(B)]
    torch.testing.assert_close(torch.stack(parts).sum(), plain(s, t, labels))


def local_mean(s: Tensor, t: Tensor, labels: Tensor, *, num_tokens: int) -> Tensor:
    return plain(s, t, labels) / B  # the trainer divides by the number of accumulation steps or ranks


def gradient_is_that_of_the_mean(loss: Loss) -> None:
    s, t, labels = draw()
    (got,) = torch.autograd.grad(loss(s, t, labels), s)
    torch.testing.assert_close(got, torch.autograd.grad(plain(s, t, labels), s)[0])


class ScaledAfterwards(torch.autograd.Function):
    """A value whose gradient is that of another value."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, reported: float) -> Tensor:
        return value * reported

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        return upstream, None


def value_and_gradient_belong_together(loss: Loss) -> None:
    s, t, labels = draw()
    assert torch.autograd.gradcheck(lambda x: loss(x, t, labels, temperature=2.0), (s,), raise_exception=False)


def t_squared_after_the_gradients(s: Tensor, t: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    return ScaledAfterwards.apply(plain(s / temperature, t / temperature, labels), temperature**2)


def gradient_divided_by_tokens_again(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return ScaledAfterwards.apply(plain(s, t, labels) / taught(labels).sum(), float(taught(labels).sum()))


def detached(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return (kl(t, s.detach())[taught(labels)] + 0.0 * s.sum()).mean()


def temperature_divides_both(loss: Loss) -> None:
    s, t, labels = draw()
    torch.testing.assert_close(loss(s, t, labels, temperature=2.0), plain(s / 2, t / 2, labels))


def temperature_of_the_student_only(s: Tensor, t: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    return plain(s / temperature, t, labels)


def temperature_for_sampling_only(s: Tensor, t: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    return plain(s, t, labels)


def heads_are_the_models_own(loss: Loss) -> None:
    s, t, labels = draw()
    scaled = [2.0 * torch.tanh(0.25 * x / 2.0) for x in (s, t)]
    torch.testing.assert_close(loss(s, t, labels, head={"scale": 0.25, "soft_cap": 2.0}), plain(*scaled, labels))


def soft_cap_and_scale_ignored(s: Tensor, t: Tensor, labels: Tensor, *, head: dict[str, float]) -> Tensor:
    return plain(s, t, labels)


def unequal_vocabularies_are_refused(loss: Loss) -> None:
    s, t, labels = draw()
    wider = torch.cat([t, torch.zeros(B, L, 2, dtype=torch.float64)], dim=-1)
    refused = False
    try:
        loss(s, wider, labels)
    except ValueError as error:
        refused = str(V) in str(error) and str(V + 2) in str(error)
    assert refused


def student_padded_with_zero_logits(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return plain(F.pad(s, (0, t.shape[-1] - s.shape[-1])), t, labels)


def padded_with_foreign_logits(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return plain(torch.cat([s, t[..., s.shape[-1] :]], dim=-1), t, labels)


def cut_to_the_smaller_in_silence(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return plain(s, t[..., : s.shape[-1]], labels)


def beta_is_the_weight_of_the_teacher(loss: Loss) -> None:
    s, t, labels = draw()
    value = loss(s, t, labels, divergence=JensenShannon(1e-6))
    torch.testing.assert_close(value / 1e-6, plain(s, t, labels), rtol=1e-4, atol=0)


def beta_is_the_weight_of_the_student(s: Tensor, t: Tensor, labels: Tensor, *, divergence: JensenShannon) -> Tensor:
    p, q, beta = t.softmax(-1), s.softmax(-1), divergence.beta
    log_m = ((1 - beta) * p + beta * q).log()
    return ((1 - beta) * kl(t, log_m) + beta * kl(s, log_m))[taught(labels)].mean()


def topk(t: Tensor, k: int = 3) -> tuple[Tensor, Tensor]:
    probs, ids = t.softmax(-1).topk(k)
    return ids, probs


def ours_on_topk(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    rows, after = next_token_rows(s, labels)
    ids, probs = topk(t.flatten(0, 1))
    return fused_divergence(rows, Head(EYE), SparseTeacher(ids, probs, tail=1 - probs.sum(-1)), after).loss


def mass_outside_costs(loss: Loss) -> None:
    _, t, labels = draw()
    s = t.scatter_add(-1, topk(t)[0], torch.full((B, L, 3), -3.0, dtype=torch.float64)).requires_grad_()
    at_teacher, elsewhere = loss(t.clone().requires_grad_(), t, labels), loss(s, t, labels)
    assert abs(at_teacher.item()) < 1e-12  # zero at the teacher
    assert elsewhere.item() > 0.1  # and nowhere else: the student has moved its mass out of the top
    top = t.scatter_add(-1, topk(t)[0], torch.full((B, L, 3), 3.0, dtype=torch.float64)).requires_grad_()
    assert loss(top, t, labels).item() > 0.01  # nor where it has moved more into it; never below zero


def truncated_and_unnormalised(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    ids, probs = topk(t)
    return (probs * (probs.log() - s.log_softmax(-1).gather(-1, ids))).sum(-1)[taught(labels)].mean()


def truncated_and_clamped(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    ids, probs = topk(t)
    return (probs * (probs.log() - s.log_softmax(-1).gather(-1, ids))).sum(-1).clamp(min=0)[taught(labels)].mean()


def renormalised_on_the_topk(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    ids, probs = topk(t)
    return kl(probs.log(), s.gather(-1, ids))[taught(labels)].mean()


def topk_before_the_softmax(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    ids, _ = topk(t)
    p = t.gather(-1, ids).softmax(-1)
    return (p * (p.log() - s.log_softmax(-1).gather(-1, ids))).sum(-1)[taught(labels)].mean()


def bfloat16_logits_are_not_rounded_again(loss: Loss) -> None:
    source = torch.Generator().manual_seed(0)
    s, t = ((torch.randn(B, L, V, generator=source) * 4).bfloat16() for _ in range(2))
    labels = torch.zeros(B, L, dtype=torch.long)
    torch.testing.assert_close(loss(s.requires_grad_(), t, labels).double(), plain(s.double(), t.double(), labels), rtol=2e-4, atol=0)


def log_softmax_in_bfloat16(s: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return kl(t, s)[taught(labels)].float().mean()


def gradient_survives_many_chunks(loss: Loss) -> None:
    """`loss` of hidden states (N, H), weight (V, H) and labels (N,), in chunks of one row."""
    hidden = torch.ones(600, 1, dtype=torch.bfloat16)
    weight = torch.zeros(V, 1, dtype=torch.bfloat16).requires_grad_()
    (got,) = torch.autograd.grad(loss(hidden, weight, torch.zeros(600, dtype=torch.long)), weight)
    want = torch.full((V, 1), 1 / V).index_fill(0, torch.tensor([0]), 1 / V - 1)
    torch.testing.assert_close(got.float(), want, rtol=4e-3, atol=0)


def ours_in_chunks(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return fused_divergence(hidden, Head(weight), None, labels, soft_weight=0.0, hard_weight=1.0, chunk_rows=1).loss


class AccumulatedInBfloat16(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
        total = torch.zeros_like(weight)
        for h, label in zip(hidden, labels, strict=True):
            gradient = torch.softmax(weight @ h, 0) - F.one_hot(label, V)
            total += (gradient.unsqueeze(1) * h).bfloat16()
        ctx.save_for_backward(total / len(hidden))
        return hidden.new_zeros(())

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.saved_tensors[0] * upstream, None


class Bug(NamedTuple):
    """Where it was, what was wrong, what finds it."""

    where: str
    check: Callable[[Loss], None]
    faulty: Loss
    right: Loss = ours


BUGS = [
    Bug("DistillKit: mask of the labels, not shifted against the logits", is_the_mean_over_taught_positions, unshifted_mask),
    Bug("TRL GOLD: row k taken for the prediction of token k", is_the_mean_over_taught_positions, unshifted_mask),
    Bug("Liger #974: ignore_index never applied", is_the_mean_over_taught_positions, never_applied_ignore_index),
    Bug("TRL MiniLLM #7024: mask made of token ids, always true", is_the_mean_over_taught_positions, mask_of_shifted_inputs),
    Bug("EasyDistill #34, #37: divided by the token count twice", is_the_mean_over_taught_positions, normalised_twice),
    Bug("TRL SDPO #4935: direction of the KL swapped", is_the_mean_over_taught_positions, swapped_direction),
    Bug("TRL GOLD: mean over sequences, not tokens", is_the_mean_over_taught_positions, mean_over_sequences),
    Bug("Liger: ignored rows computed, then multiplied by zero", cannot_be_poisoned_by_what_is_masked, multiplied_by_the_mask),
    Bug("TRL #2217: data of prompts only; 0 / 0", is_zero_where_nothing_is_taught, multiplied_by_the_mask),
    Bug("torchtune: -sum p log q never reaches zero", is_zero_at_the_teacher, cross_entropy_to_the_teacher),
    Bug("Liger defaults in TRL #5731 and ms-swift: half of the loss is cross-entropy", is_zero_at_the_teacher, half_of_it_is_cross_entropy),
    Bug("TRL #4719, ms-swift #10165, DistillKit, Liger, KDFlow, ModelOpt, Soup #720: local mean", micro_batches_add_up, local_mean),
    Bug("torchtune: gradients divided by the token count once more", gradient_is_that_of_the_mean, gradient_divided_by_tokens_again),
    Bug("miles #2362: divergence without a path to the student, zero gradient", gradient_is_that_of_the_mean, detached),
    Bug("axolotl: T**2 on the reported loss, after the gradients", value_and_gradient_belong_together, t_squared_after_the_gradients),
    Bug("slime #2085, verl: the teacher is not tempered", temperature_divides_both, temperature_of_the_student_only),
    Bug("TRL GKD: temperature only for sampling, loss at T = 1", temperature_divides_both, temperature_for_sampling_only),
    Bug("TRL #6629: soft-cap of Gemma-2 and logit scale of Cohere ignored", heads_are_the_models_own, soft_cap_and_scale_ignored),
    Bug("Liger: smaller vocabulary padded with zero logits", unequal_vocabularies_are_refused, student_padded_with_zero_logits),
    Bug("ms-swift: smaller vocabulary padded with the other model's logits", unequal_vocabularies_are_refused, padded_with_foreign_logits),
    Bug("KDFlow, DistillKit: larger vocabulary cut in silence", unequal_vocabularies_are_refused, cut_to_the_smaller_in_silence),
    Bug("KDFlow: beta weighs the student", beta_is_the_weight_of_the_teacher, beta_is_the_weight_of_the_student),
    Bug("verl: truncated top-k sum that is no KL, below zero", mass_outside_costs, truncated_and_unnormalised, ours_on_topk),
    Bug("verl #7856: the same, clamped at zero", mass_outside_costs, truncated_and_clamped, ours_on_topk),
    Bug("ms-swift, NeMo-RL, verl #5041: both renormalised on the top-k", mass_outside_costs, renormalised_on_the_topk, ours_on_topk),
    Bug("axolotl #2700: top-k of the teacher before its softmax", mass_outside_costs, topk_before_the_softmax, ours_on_topk),
    Bug("Liger, TRL GKD, Soup: log-softmax in the type of the logits", bfloat16_logits_are_not_rounded_again, log_softmax_in_bfloat16),
    Bug("Liger: weight gradient accumulated in bfloat16", gradient_survives_many_chunks, AccumulatedInBfloat16.apply, ours_in_chunks),
]  # fmt: skip


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.where)
def test_the_check_finds_the_bug_and_passes_ours(bug: Bug) -> None:
    bug.check(bug.right)
    with pytest.raises(AssertionError):
        bug.check(bug.faulty)


@pytest.mark.parametrize("check", [is_the_mean_over_taught_positions, is_zero_at_the_teacher, gradient_is_that_of_the_mean])
def test_the_reference_of_the_checks_passes_them(check: Callable[[Loss], None]) -> None:
    check(plain)
