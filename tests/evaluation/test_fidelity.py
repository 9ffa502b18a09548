from __future__ import annotations

import math

import numpy as np
import pytest

from stillroom.evaluation.fidelity import agreement, correlation, fidelity_metrics, forward_kl
from stillroom.evaluation.statistic import Floats


def distributions(n: int, num_classes: int, seed: int) -> Floats:
    return np.random.default_rng(seed).dirichlet(np.ones(num_classes), size=n)


def test_forward_kl_equals_the_textbook_sum_and_has_the_teacher_in_front() -> None:
    p, q = distributions(7, 4, 0), distributions(7, 4, 1)
    want = sum(a * math.log(a / b) for rows in zip(p.tolist(), q.tolist(), strict=True) for a, b in zip(*rows, strict=True)) / 7
    assert forward_kl(p, q).value == pytest.approx(want, rel=1e-12)
    assert forward_kl(q, p).value != pytest.approx(want, rel=1e-3)


def test_forward_kl_is_zero_at_the_teacher_and_finite_at_zeros() -> None:
    p = distributions(5, 3, 0)
    assert forward_kl(p, p).value == 0.0
    assert forward_kl(p, p[:, ::-1]).value > 0
    sure, other = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert forward_kl(sure, sure).value == 0.0
    assert forward_kl(sure, other).value == pytest.approx(-math.log(np.finfo(float).eps))
    # The teacher forbids a class, the student does not: the student's mass there costs what it takes from the rest.
    assert forward_kl(sure, np.array([[0.5, 0.5]])).value == pytest.approx(math.log(2))


def test_agreement_counts_equal_choices() -> None:
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    assert agreement(p, np.array([[0.6, 0.4], [0.9, 0.1], [0.1, 0.9]])).value == pytest.approx(2 / 3)


def test_correlation_is_pearsons_on_rows_and_resamples() -> None:
    rng = np.random.default_rng(2)
    p = 1e4 + rng.normal(size=40)
    q = p + rng.normal(size=40)
    statistic = correlation(p, q)
    assert statistic is not None
    assert statistic.value == pytest.approx(np.corrcoef(p, q)[0, 1], rel=1e-9)
    rows = rng.integers(40, size=40)
    again = float(statistic.of_means(np.bincount(rows, minlength=40) @ statistic.rows / 40))
    assert again == pytest.approx(np.corrcoef(p[rows], q[rows])[0, 1], rel=1e-9)
    assert correlation(p, np.full(40, 3.0)) is None


def test_names_do_not_clash_with_quality() -> None:
    from stillroom.evaluation.metrics import quality_metrics

    for task in ("classification", "regression"):
        names = [metric.name for metric in (*quality_metrics(task), *fidelity_metrics(task))]  # type: ignore[arg-type]
        assert len(names) == len(set(names))
