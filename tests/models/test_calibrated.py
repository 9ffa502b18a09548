from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from stillroom.core.records import Calibration
from stillroom.models.calibrated import apply_calibration


def probabilities(num_rows: int, num_classes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).dirichlet(np.full(num_classes, 0.5), size=num_rows)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_equals_the_formula_row_by_row(temperature: float, smoothing: float) -> None:
    prior = (0.5, 0.2, 0.3)
    probs = probabilities(20, 3)
    got = apply_calibration(probs, Calibration(True, temperature, smoothing, prior))
    for row, answer in zip(probs.tolist(), got.tolist(), strict=True):  # plain Python, no code shared with the library
        terms = [math.exp(math.log((1 - smoothing) * p + smoothing * share) / temperature) for p, share in zip(row, prior, strict=True)]
        assert answer == pytest.approx([term / sum(terms) for term in terms], rel=1e-12)


def test_without_a_correction_nothing_changes() -> None:
    probs = np.concatenate([probabilities(10, 4), np.eye(4)])
    np.testing.assert_allclose(apply_calibration(probs, Calibration(kept=False)), probs, rtol=1e-12)


def test_an_exact_zero_is_safe_and_stays_zero_without_smoothing() -> None:
    probs = np.array([[0.0, 0.25, 0.75], [0.0, 1.0, 0.0]])
    for temperature in (1e-3, 1.0, 1e3):
        got = apply_calibration(probs, Calibration(True, temperature))
        assert np.isfinite(got).all()
        assert (got[probs == 0] == 0).all()
        np.testing.assert_allclose(got.sum(axis=1), 1.0)
    # With smoothing it is lifted: here 0.1 of a uniform prior over three classes.
    np.testing.assert_allclose(apply_calibration(probs, Calibration(True, 1.0, 0.1))[1], [0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])


def test_the_order_of_classes_is_kept_by_temperature_and_its_limits_are_certainty_and_ignorance() -> None:
    probs = probabilities(50, 3)
    cold, hot = (apply_calibration(probs, Calibration(True, t)) for t in (1e-4, 1e6))
    np.testing.assert_array_equal(np.argsort(probs, axis=1), np.argsort(apply_calibration(probs, Calibration(True, 2.0)), axis=1))
    np.testing.assert_allclose(cold.max(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(hot, 1 / 3, atol=1e-4)


def test_a_row_without_an_answer_stays_without_one() -> None:
    probs = probabilities(3, 2)
    probs[1] = np.nan
    got = apply_calibration(probs, Calibration(True, 0.5, 0.1, (0.5, 0.5)))
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()
