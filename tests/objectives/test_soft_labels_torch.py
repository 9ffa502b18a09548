import math

import numpy as np
import pytest
import torch

from stillroom.objectives.soft_labels import SoftLabels, term_weights
from stillroom.objectives.soft_labels_torch import soft_label_loss

NAN = math.nan


def draw(rows: int, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student logits, teacher log-probabilities and codes; some rows lack an answer, some a label."""
    source = torch.Generator().manual_seed(seed)
    student = torch.randn(rows, classes, dtype=torch.float64, generator=source)
    teacher = torch.randn(rows, classes, dtype=torch.float64, generator=source).log_softmax(-1)
    codes = torch.randint(0, classes, (rows,), generator=source)
    teacher[::5] = NAN
    codes[torch.arange(rows) % 7 < 3] = -1
    return student, teacher, codes


def whole(student: torch.Tensor, teacher: torch.Tensor | None, codes: torch.Tensor, *, t: float, w: float) -> torch.Tensor:
    answered = 0 if teacher is None else int((~teacher.isnan().any(-1)).sum())
    return soft_label_loss(
        student, teacher, codes, temperature=t, hard_label_weight=w, num_answered=answered, num_labelled=int((codes >= 0).sum())
    )


@pytest.mark.parametrize("t", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_equals_the_formula_in_plain_python(t: float, w: float) -> None:
    student, teacher, codes = draw(20)

    def softmax(z: list[float], t: float) -> list[float]:
        powers = [math.exp(x / t) for x in z]
        return [x / sum(powers) for x in powers]

    soft, hard = [], []
    for z, log_p, code in zip(student.tolist(), teacher.tolist(), codes.tolist(), strict=True):
        if not math.isnan(log_p[0]):
            soft.append(sum(a * math.log(a / b) for a, b in zip(softmax(log_p, t), softmax(z, t), strict=True)))
        if code >= 0:
            hard.append(-math.log(softmax(z, 1.0)[code]))
    want = (1 - w) * t**2 * sum(soft) / len(soft) + w * sum(hard) / len(hard)
    assert whole(student, teacher, codes, t=t, w=w).item() == pytest.approx(want, rel=1e-12)


def test_says_the_same_as_the_numpy_side() -> None:
    student, teacher, codes = draw(20)
    teacher, codes = teacher.nan_to_num(nan=math.log(0.25)), codes.clamp(min=0)
    rows = SoftLabels(temperature=3.0, hard_label_weight=0.2).loss(student.numpy(), teacher.exp().numpy(), codes.numpy())
    assert whole(student, teacher, codes, t=3.0, w=0.2).item() == pytest.approx(np.mean(rows), rel=1e-12)


def test_gradient_is_the_numerical_one() -> None:
    student, teacher, codes = draw(12)
    assert torch.autograd.gradcheck(lambda z: whole(z, teacher, codes, t=2.5, w=0.4), (student.requires_grad_(),))


def test_is_zero_with_zero_gradient_at_the_teacher() -> None:
    _, teacher, codes = draw(12)
    student = teacher.nan_to_num(nan=1.0).add(5.0).requires_grad_()
    loss = whole(student, teacher, codes, t=3.0, w=0.0)
    assert abs(loss.item()) < 1e-14
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-14


@pytest.mark.parametrize("sizes", [(8, 8, 8, 8), (1, 30, 1), (5, 3, 24)])
def test_micro_batches_add_up_to_the_batch_in_value_and_gradient(sizes: tuple[int, ...]) -> None:
    student, teacher, codes = draw(32)
    codes[8:16] = -1  # the parts have different counts, one of them none
    student.requires_grad_()
    loss = whole(student, teacher, codes, t=2.0, w=0.3)
    (gradient,) = torch.autograd.grad(loss, student)
    counts = {"num_answered": (~teacher.isnan().any(-1)).sum(), "num_labelled": (codes >= 0).sum()}
    parts = zip(student.split(sizes), teacher.split(sizes), codes.split(sizes), strict=True)
    total = sum(soft_label_loss(*part, temperature=2.0, hard_label_weight=0.3, **counts) for part in parts)
    torch.testing.assert_close(total, loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.autograd.grad(total, student)[0], gradient, rtol=1e-12, atol=1e-16)


def test_rows_without_answer_and_label_cannot_matter() -> None:
    student, teacher, codes = draw(12)
    blank = torch.full((3, 4), NAN, dtype=torch.float64), torch.full((3,), -1)
    wild = torch.tensor([[1e4, -1e4, 0.0, 3.0]] * 3, dtype=torch.float64).requires_grad_()
    padded = whole(torch.cat([student, wild]), torch.cat([teacher, blank[0]]), torch.cat([codes, blank[1]]), t=2.0, w=0.3)
    torch.testing.assert_close(padded, whole(student, teacher, codes, t=2.0, w=0.3))
    assert (torch.autograd.grad(padded, wild)[0] == 0).all()


def test_weight_one_is_the_control_exactly_whatever_the_teacher_says() -> None:
    student, teacher, codes = draw(12)
    control = whole(student, None, codes, t=1.0, w=1.0)
    assert torch.equal(whole(student, teacher, codes, t=4.0, w=1.0), control)
    assert torch.equal(whole(student, torch.full_like(teacher, NAN), codes, t=4.0, w=1.0), control)
    sure = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)  # KL is infinite here, and 0 * inf is NaN
    assert whole(sure, torch.tensor([[0.5, 0.5]], dtype=torch.float64).log(), torch.tensor([0]), t=2.0, w=1.0).item() == 0.0


def test_a_micro_batch_with_nothing_to_learn_has_zero_loss_and_gradient() -> None:
    student = torch.randn(4, 3).requires_grad_()
    loss = soft_label_loss(
        student, torch.full((4, 3), NAN), torch.full((4,), -1), temperature=2.0, hard_label_weight=0.5, num_answered=0, num_labelled=0
    )
    assert loss.item() == 0.0
    assert (torch.autograd.grad(loss, student)[0] == 0).all()


def test_a_class_that_the_teacher_rules_out_leaves_value_and_gradient_finite() -> None:
    student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.7, 0.3, 0.0]], dtype=torch.float64).log()
    loss = whole(student, teacher, torch.tensor([-1]), t=2.0, w=0.0)
    powers = [math.sqrt(0.7), math.sqrt(0.3)]
    want = 4 * sum(a / sum(powers) * math.log(3 * a / sum(powers)) for a in powers)
    assert loss.item() == pytest.approx(want, rel=1e-12)
    assert torch.autograd.grad(loss, student)[0].isfinite().all()


@pytest.mark.parametrize("t", [0.5, 1.0, 2.0, 4.0])
def test_the_minimiser_is_the_teacher_at_every_temperature(t: float) -> None:
    # Tempering the student against an untempered teacher would make of 70/30 a 92.7/7.3 at T = 3.
    logits = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[0.7, 0.3]], dtype=torch.float64).log()
    optimiser = torch.optim.LBFGS([logits], tolerance_grad=1e-12, tolerance_change=1e-15, max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = whole(logits, teacher, torch.tensor([-1]), t=t, w=0.0)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)
    torch.testing.assert_close(logits.softmax(-1), torch.tensor([[0.7, 0.3]], dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_soft_gradient_keeps_its_scale_as_the_temperature_grows() -> None:
    student, teacher, codes = draw(12)
    teacher, student = teacher.nan_to_num(nan=0.0), student.requires_grad_()
    norms = [torch.autograd.grad(whole(student, teacher, codes, t=t, w=0.0), student)[0].norm().item() for t in (50.0, 500.0)]
    assert norms[0] == pytest.approx(norms[1], rel=0.1)
    assert term_weights(3.0, 0.25) == (0.75 * 9.0, 0.25)
