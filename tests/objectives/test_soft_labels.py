"""The soft-label objective against the textbook formula, written in plain Python, and its laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import softmax

from stillroom.objectives.soft_labels import SoftLabels, tempered, term_weights

TEMPERATURES = [0.5, 1.0, 2.0, 4.0]
WEIGHTS = [0.0, 0.1, 0.5, 1.0]
NAN = math.nan


def some_rows(n: int = 7, k: int = 4, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Logits, teacher probabilities and codes; row 1 has no answer, row 2 no label."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(k), size=n)
    codes = random.integers(0, k, size=n)
    p[1], codes[2] = NAN, -1
    return random.normal(size=(n, k)), p, codes


def textbook(raw: list[list[float]], p: list[list[float]], codes: list[int], t: float, w: float) -> float:
    """The loss in plain Python: no code shared with the library."""

    def share(numbers: list[float]) -> list[float]:
        return [x / sum(numbers) for x in numbers]

    soft, hard = [], []
    for z, teacher, code in zip(raw, p, codes, strict=True):
        if not any(math.isnan(x) for x in teacher):
            q_t = share([math.exp(x / t) for x in z])
            p_t = share([x ** (1 / t) for x in teacher])
            soft.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(p_t, q_t, strict=True) if a > 0))
        if code >= 0:
            hard.append(-math.log(share([math.exp(x) for x in z])[code]))
    return (1 - w) * t * t * sum(soft) / len(soft) + w * sum(hard) / len(hard)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("w", WEIGHTS)
def test_the_mean_over_rows_is_the_textbook_formula(t: float, w: float) -> None:
    raw, p, codes = some_rows()
    p[3] = [0.0, 0.25, 0.75, 0.0]  # classes that the teacher rules out
    want = textbook(raw.tolist(), p.tolist(), codes.tolist(), t, w)
    assert SoftLabels(t, w).loss(raw, p, codes).mean() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("w", WEIGHTS)
def test_the_derivatives_are_the_numerical_ones(t: float, w: float) -> None:
    raw, p, codes = some_rows()
    p[3] = [0.0, 0.25, 0.75, 0.0]
    objective, step = SoftLabels(t, w), 1e-5
    first, second = objective.gradient(raw, p, codes)
    for k in range(raw.shape[1]):
        move = step * np.eye(raw.shape[1])[k]
        by_loss = (objective.loss(raw + move, p, codes) - objective.loss(raw - move, p, codes)) / (2 * step)
        np.testing.assert_allclose(first[:, k], by_loss, atol=1e-8)
        by_first = (objective.gradient(raw + move, p, codes)[0] - objective.gradient(raw - move, p, codes)[0])[:, k] / (2 * step)
        np.testing.assert_allclose(second[:, k], by_first, atol=1e-8)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_loss_and_gradient_are_zero_at_the_teacher_and_positive_elsewhere(t: float) -> None:
    raw, p, codes = some_rows()
    p[1] = 0.25
    soft_only = SoftLabels(t, 0.0)
    assert np.abs(soft_only.loss(np.log(p) + 3.0, p, codes)).max() < 1e-14 * t * t  # 3: a constant on all logits is nothing
    assert np.abs(soft_only.gradient(np.log(p), p, codes)[0]).max() < 1e-14
    assert (soft_only.loss(raw, p, codes) > 0).all()


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("w", WEIGHTS)
def test_where_labels_follow_the_teacher_the_teacher_is_the_minimiser(t: float, w: float) -> None:
    teacher = np.array([0.7, 0.2, 0.1])
    codes = np.repeat([0, 1, 2], [7, 2, 1])
    p = np.tile(teacher, (10, 1))
    objective = SoftLabels(t, w)
    assert np.abs(objective.gradient(np.log(p), p, codes)[0].sum(axis=0)).max() < 1e-13
    np.testing.assert_allclose(softmax(objective.prior_logits(p, codes)), teacher, atol=1e-7)


def test_t_squared_is_written_once_and_kept_without_labels() -> None:
    # torchdistill's KDLoss drops T**2 where there is no hard term; TextBrewer never has it.
    assert term_weights(3.0, 0.0) == (9.0, 0.0)
    assert term_weights(3.0, 0.25) == (6.75, 0.25)
    raw, p, codes = some_rows()
    scale = [float(np.abs(SoftLabels(t, 0.0).gradient(0.01 * raw, softmax(raw, axis=1), codes)[0]).mean()) for t in (20.0, 200.0)]
    assert scale[0] == pytest.approx(scale[1], rel=0.05)  # the gradient keeps its size as T grows
    assert np.isfinite(SoftLabels(2.0, 0.0).loss(raw, p, np.full_like(codes, -1))).all()


def test_both_sides_are_tempered() -> None:
    # TabTune tempers the student only: its least loss at T = 3 turns 70/30 into 92.7/7.3.
    p = np.array([[0.7, 0.3]])
    codes = np.array([-1])
    objective = SoftLabels(3.0, 0.0)
    sharpened = np.log([[0.927, 0.073]])
    assert objective.loss(np.log(p), p, codes)[0] < 1e-14 < objective.loss(sharpened, p, codes)[0]
    np.testing.assert_allclose(tempered(p, 3.0), [[0.7 ** (1 / 3), 0.3 ** (1 / 3)] / np.sum([0.7 ** (1 / 3), 0.3 ** (1 / 3)])])


def test_a_row_without_answer_or_label_leaves_that_term_and_no_other_row_changes() -> None:
    raw, p, codes = some_rows()
    objective = SoftLabels(2.0, 0.3)
    whole = [0, 3, 4, 5, 6]
    apart = SoftLabels(2.0, 1.0).loss(raw[[1]], np.full((1, 4), 0.25), codes[[1]]), SoftLabels(2.0, 0.0).loss(raw[[2]], p[[2]], codes[[2]])
    together = objective.loss(raw, p, codes)
    # 7 rows, 6 of them answered and 6 labelled.
    assert together[1] == pytest.approx(0.3 * 7 / 6 * apart[0][0])
    assert together[2] == pytest.approx(0.7 * 7 / 6 * apart[1][0])
    np.testing.assert_allclose(together[whole], objective.loss(raw[whole], p[whole], codes[whole]) * 7 / 6)
    nothing = objective.loss(raw, np.full_like(p, NAN), np.full_like(codes, -1))
    assert (nothing == 0).all()


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("w", WEIGHTS)
def test_masses_have_the_gradient_of_the_objective(t: float, w: float) -> None:
    # At the teacher's own logits the gradient is (1-w) T q_T + w q minus what the masses say, up to one factor.
    raw, p, codes = some_rows()
    del raw
    p[1], codes[2] = 0.25, 0  # all answered, all labelled
    masses = SoftLabels(t, w).targets(p, codes)
    np.testing.assert_allclose(masses.sum(axis=1), 1.0)
    zero = np.zeros_like(p)
    first, _ = SoftLabels(t, w).gradient(zero, p, codes)
    np.testing.assert_allclose(first, ((1 - w) * t + w) * (0.25 - masses), atol=1e-14)


def test_masses_at_the_limits() -> None:
    _, p, codes = some_rows()
    answered, labelled = np.isfinite(p).all(axis=1), codes >= 0
    one_hot = (codes[:, None] == np.arange(4)).astype(float)
    np.testing.assert_allclose(SoftLabels(4.0, 0.0).targets(p, codes)[answered], tempered(p[answered], 4.0))
    assert (SoftLabels(4.0, 0.0).targets(p, codes)[~answered] == 0).all()
    assert (SoftLabels(4.0, 1.0).targets(p, codes) == one_hot).all()
    p[1], codes[2], one_hot[2] = 0.25, 0, [1, 0, 0, 0]
    np.testing.assert_allclose(SoftLabels(1.0, 0.3).targets(p, codes), 0.7 * p + 0.3 * one_hot, rtol=1e-14)
    assert labelled.sum() == 6
    # Continuous in w at both ends, with an answer and a label missing.
    _, p, codes = some_rows()
    for end, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        np.testing.assert_allclose(SoftLabels(4.0, near).targets(p, codes), SoftLabels(4.0, end).targets(p, codes), atol=1e-7)


def test_the_pool_does_not_drown_the_labels() -> None:
    # Two terms, each a mean: with 90 more rows that have answers only, the labels keep the share w of the loss.
    p = np.tile([0.7, 0.3], (100, 1))
    codes = np.r_[np.ones(10, dtype=np.int64), np.full(90, -1)]
    masses = SoftLabels(1.0, 0.5).targets(p, codes)
    assert masses.sum(axis=0)[1] / masses.sum() == pytest.approx(0.5 * 0.3 + 0.5)


@pytest.mark.parametrize("t", [0.5, 2.0, 4.0])
def test_the_logit_scale_is_exact_at_its_limits_and_goes_evenly_between(t: float) -> None:
    _, p, codes = some_rows(n=40)
    assert SoftLabels(t, 0.0).logit_scale(p, codes) == t
    assert SoftLabels(t, 1.0).logit_scale(p, codes) == 1.0
    assert SoftLabels(1.0, 0.4).logit_scale(p, codes) == 1.0
    path = [SoftLabels(t, w).logit_scale(p, codes) for w in np.linspace(0, 1, 21)]
    assert path == sorted(path, reverse=t > 1)
    assert abs(SoftLabels(t, 1e-6).logit_scale(p, codes) - t) < 1e-3
    assert abs(SoftLabels(t, 1 - 1e-6).logit_scale(p, codes) - 1) < 1e-3


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("w", [0.1, 0.5, 0.9])
def test_the_logit_scale_brings_two_classes_back_to_the_teacher(t: float, w: float) -> None:
    p = np.tile([0.7, 0.3], (10, 1))
    codes = np.repeat([0, 1], [7, 3])
    objective = SoftLabels(t, w)
    learnt = objective.targets(p, codes).mean(axis=0)
    back = learnt ** objective.logit_scale(p, codes)
    np.testing.assert_allclose(back / back.sum(), [0.7, 0.3], rtol=1e-9)


def test_the_logit_scale_of_answers_without_doubt() -> None:
    codes = np.array([0, 1])
    assert SoftLabels(3.0, 0.5).logit_scale(np.eye(2), codes) == 3.0
    assert SoftLabels(3.0, 0.5).logit_scale(np.full((2, 2), NAN), codes) == 1.0


def test_a_class_that_nobody_names_starts_far_below() -> None:
    p = np.array([[0.6, 0.4, 0.0]] * 5)
    start = SoftLabels(2.0, 0.1).prior_logits(p, np.array([0, 0, 0, 1, 1]))
    assert start.mean() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(softmax(start), [0.6, 0.4, 0.0], atol=1e-6)


def test_extreme_logits_and_probabilities_stay_finite() -> None:
    raw = np.array([[1e4, -1e4, 0.0], [0.0, 0.0, 0.0]])
    p = np.array([[0.0, 1.0, 0.0], [1e-300, 1.0, 1e-300]])
    for t in (0.05, 100.0):
        objective = SoftLabels(t, 0.2)
        assert np.isfinite(objective.loss(raw, p, np.array([2, 1]))).all()
        assert all(np.isfinite(part).all() for part in objective.gradient(raw, p, np.array([2, 1])))
        assert np.isfinite(objective.logit_scale(p, np.array([2, 1])))


@pytest.mark.parametrize(("t", "w"), [(0.0, 0.1), (-1.0, 0.1), (math.nan, 0.1), (2.0, -0.1), (2.0, 1.1), (2.0, math.nan)])
def test_values_out_of_range_are_refused(t: float, w: float) -> None:
    with pytest.raises(ValueError, match=r"temperature|hard_label_weight"):
        SoftLabels(t, w)
