from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from stillroom.core.errors import BadInput
from stillroom.losses.closed_form import JensenShannon
from stillroom.losses.head import Head
from stillroom.losses.teacher import DenseTeacher
from stillroom.objectives.tokens import Schedule, TokenObjective


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


HIDDEN, HEAD, LABELS = numbers(6, 4, seed=0), Head(numbers(9, 4, seed=1)), torch.tensor([0, 8, 3, 3, 1, 5])
TEACHER = DenseTeacher(numbers(6, 3, seed=2), Head(numbers(9, 3, seed=3)))


def softmax(logits: list[float], temperature: float) -> list[float]:
    powers = [math.exp(z / temperature) for z in logits]
    return [x / sum(powers) for x in powers]


def by_hand(temperature: float, w: float) -> float:
    """The formula in plain Python, with no code of the library."""
    students, teachers = ((hidden @ head.weight.T).tolist() for hidden, head in ((HIDDEN, HEAD), (TEACHER.hidden, TEACHER.head)))
    total = 0.0
    for s, t, label in zip(students, teachers, LABELS.tolist(), strict=True):
        p, q = softmax(t, temperature), softmax(s, temperature)
        kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        total += (1 - w) * temperature**2 * kl - w * math.log(softmax(s, 1.0)[label])
    return total / len(students)


@pytest.mark.parametrize(("temperature", "w"), [(1.0, 0.0), (2.0, 0.3), (0.5, 0.9), (4.0, 1.0)])
def test_the_loss_is_the_formula(temperature: float, w: float) -> None:
    objective = TokenObjective("forward_kl", Schedule(temperature), Schedule(w))
    loss = objective.loss(HIDDEN, HEAD, TEACHER, LABELS, share=0.3).loss
    assert loss.item() == pytest.approx(by_hand(temperature, w), rel=1e-10)


def test_schedules_move_both_over_the_training() -> None:
    objective = TokenObjective("forward_kl", Schedule(4.0, 1.0), Schedule(0.2, 0.8, "cosine"))
    for share, temperature, w in ((0.0, 4.0, 0.2), (0.25, 3.25, 0.5 - 0.3 * math.sqrt(0.5)), (0.5, 2.5, 0.5), (1.0, 1.0, 0.8)):
        loss = objective.loss(HIDDEN, HEAD, TEACHER, LABELS, share=share).loss
        assert loss.item() == pytest.approx(by_hand(temperature, w), rel=1e-10), share
    assert objective.temperatures == (4.0, 1.0)


def test_the_losses_of_parts_add_up_to_that_of_the_whole() -> None:
    objective = TokenObjective(JensenShannon(0.3), Schedule(2.0), Schedule(0.4))
    whole = objective.loss(HIDDEN, HEAD, TEACHER, LABELS, share=0.0).loss
    parts = [
        objective.loss(HIDDEN[i], HEAD, DenseTeacher(TEACHER.hidden[i], TEACHER.head), LABELS[i], share=0.0, num_tokens=6).loss
        for i in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole, rtol=1e-12, atol=0)


def test_weight_one_does_not_look_at_the_teacher() -> None:
    control = TokenObjective(temperature=Schedule(3.0), hard_label_weight=Schedule(1.0))
    assert TokenObjective(temperature=Schedule(3.0), hard_label_weight=Schedule(0.2, 0.5)).control == control
    assert not control.looks_at_teacher()
    unanswered: Any = object()
    assert control.loss(HIDDEN, HEAD, unanswered, LABELS, share=0.5).loss.item() == pytest.approx(by_hand(1.0, 1.0), rel=1e-10)
    fading = TokenObjective(hard_label_weight=Schedule(0.5, 1.0))
    assert [fading.looks_at_teacher(share) for share in (None, 0.0, 0.99, 1.0)] == [True, True, True, False]
    with pytest.raises(ValueError, match="there is no teacher"):
        fading.loss(HIDDEN, HEAD, None, LABELS, share=0.0)


def test_what_cannot_be_is_told_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        TokenObjective("reverse_lk", Schedule(1.0, 0.0), Schedule(-0.1, 1.1))
    assert [problem.place for problem in caught.value.problems] == [
        "objective.divergence",
        "objective.temperature",
        "objective.hard_label_weight",
        "objective.hard_label_weight",
    ]
    assert "'reverse_kl'" in str(caught.value)
    with pytest.raises(BadInput, match="did you mean 'cosine'"):
        Schedule(1.0, 2.0, "cosin")  # type: ignore[arg-type]
    for value in (math.inf, math.nan):
        with pytest.raises(BadInput, match=r"objective\.temperature"):
            TokenObjective(temperature=Schedule(value))
