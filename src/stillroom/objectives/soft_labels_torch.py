"""The soft-label objective on tensors. Shapes: B examples of a (micro-)batch, K classes."""

from __future__ import annotations

from stillroom.core.errors import needs_extra
from stillroom.losses.divergence import cross_entropy, forward_kl, masked_mean
from stillroom.objectives.soft_labels import term_weights

with needs_extra("torch", "training a torch student"):
    import torch
    from torch import Tensor


def soft_label_loss(
    student_logits: Tensor,
    teacher_log_probs: Tensor | None,
    codes: Tensor,
    *,
    temperature: float,
    hard_label_weight: float,
    num_answered: Tensor | int,
    num_labelled: Tensor | int,
) -> Tensor:
    """(1 - w) T**2 * mean over answered rows of KL(p_T || q_T) + w * mean over labelled rows of CE(y, q).

    The means are over the global batch: the losses (and gradients) of micro-batches, given the counts of the
    whole batch, add up to those of the whole.

    Args:
        student_logits: (B, K) raw logits.
        teacher_log_probs: (B, K); a row that holds NaN has no answer. None: no row has one.
        codes: (B,) int64 class codes; negative for an unlabelled row.
        temperature: T > 0.
        hard_label_weight: w in [0, 1]; at 1 the teacher is not looked at.
        num_answered: answered rows in the global batch.
        num_labelled: labelled rows in the global batch.

    Returns:
        A scalar; 0 if the batch has neither answers nor labels that count.

    Source: Hinton, Vinyals & Dean 2015, section 2, arXiv:1503.02531.
    """
    soft, hard = term_weights(temperature, hard_label_weight)
    loss = student_logits.new_zeros(())
    if soft > 0 and teacher_log_probs is not None:
        answered = ~teacher_log_probs.isnan().any(dim=-1)
        teacher = torch.where(answered.unsqueeze(-1), teacher_log_probs, 0.0)
        divergence = forward_kl(student_logits, teacher, temperature=temperature)
        loss = loss + soft * masked_mean(divergence, answered, num_kept=num_answered)
    if hard > 0:
        loss = loss + hard * masked_mean(cross_entropy(student_logits, codes), codes >= 0, num_kept=num_labelled)
    return loss
