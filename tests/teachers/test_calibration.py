from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import cross_val_predict, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stillroom.core.records import Calibration
from stillroom.models.calibrated import apply_calibration
from stillroom.teachers import calibration as module
from stillroom.teachers.calibration import calibrate


def draw(probs: NDArray[np.float64], seed: int) -> NDArray[np.int64]:
    """Labels that these probabilities describe exactly."""
    u = np.random.default_rng(seed).random(len(probs))
    return np.minimum((probs.cumsum(axis=1) < u[:, None]).sum(axis=1), probs.shape[1] - 1)


def dirichlet(num: int, num_classes: int, seed: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.full(num_classes, 0.7), num)


def test_recovers_the_temperature_that_spoilt_the_answers() -> None:
    true = dirichlet(4000, 3, 0)
    y = draw(true, 1)
    for temperature in (0.4, 2.5):
        spoilt = true**temperature / (true**temperature).sum(axis=1, keepdims=True)
        found = calibrate(spoilt, y, seed=0)
        assert found.kept
        assert found.temperature == pytest.approx(temperature, rel=0.1)
        assert log_loss(y, apply_calibration(spoilt, found)) < log_loss(y, spoilt)


@pytest.mark.parametrize("teacher", [ExtraTreesClassifier(50, random_state=0), KNeighborsClassifier(1)], ids=["extra-trees", "1-nn"])
def test_kept_on_digits_and_better_on_rows_that_nobody_saw(teacher: object) -> None:
    """ExtraTrees doubts too much out of fold, 1-NN never: both gain, on a test split too."""
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
    found = calibrate(cross_val_predict(teacher, x, y, cv=5, method="predict_proba"), y, seed=0)
    assert found.kept
    assert 0 < found.low < found.gain < found.high
    raw = teacher.fit(x, y).predict_proba(x_test)
    rows = np.arange(len(y_test))
    before, after = (-np.log(np.clip(p[rows, y_test], 1e-4, 1)).mean() for p in (raw, apply_calibration(raw, found)))
    assert after < before


def test_dropped_where_the_answers_are_calibrated_already() -> None:
    """95 % intervals keep at most 2.5 % by chance; fitted on other rows, they keep fewer."""
    kept = 0
    for seed in range(99):
        probs = dirichlet((60, 200, 600)[seed % 3], (2, 3, 10)[seed // 3 % 3], seed)
        found = calibrate(probs, draw(probs, seed + 1000), seed=seed)
        kept += found.kept
        if not found.kept:
            assert (found.temperature, found.smoothing) == (1.0, 0.0)
            assert found.message.startswith("Not calibrated")
    assert kept <= 3


def test_dropped_for_an_honest_teacher_on_a_real_table() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    probs = cross_val_predict(make_pipeline(StandardScaler(), LogisticRegression()), x, y, cv=5, method="predict_proba")
    assert not calibrate(probs, y, seed=0).kept


def test_the_fitted_formula_is_the_one_that_is_applied() -> None:
    p, y, prior = dirichlet(50, 4, 0), draw(dirichlet(50, 4, 0), 1), np.array([0.1, 0.2, 0.3, 0.4])
    for temperature, smoothing in [(1.0, 1e-4), (0.3, 0.4), (3.0, 0.02)]:
        applied = apply_calibration(p, Calibration(True, temperature, smoothing, tuple(prior)))
        np.testing.assert_allclose(module._losses(p, y, prior, temperature, smoothing), -np.log(applied[np.arange(50), y]), rtol=1e-10)


@pytest.mark.parametrize("point", [(0.0, 0.01), (-1.0, 0.3), (1.5, 0.001)])
def test_the_gradient_is_the_numerical_one(point: tuple[float, float]) -> None:
    p = dirichlet(80, 4, 0)
    p[:40] = np.eye(4)[draw(p[:40], 2)]  # zeros too
    args = (p, draw(p, 1), np.full(4, 0.25))

    step, here = 1e-6, np.array(point)
    numeric = [
        (module._mean_loss_and_gradient(here + h, *args)[0] - module._mean_loss_and_gradient(here - h, *args)[0]) / (2 * step)
        for h in step * np.eye(2)
    ]
    np.testing.assert_allclose(module._mean_loss_and_gradient(here, *args)[1], numeric, rtol=1e-5)


def test_rows_without_answer_or_label_do_not_matter_and_few_rows_are_left_alone() -> None:
    true = dirichlet(300, 3, 0)
    y, spoilt = draw(true, 1), true**3 / (true**3).sum(axis=1, keepdims=True)
    more_p = np.concatenate([np.full((5, 3), np.nan), spoilt, dirichlet(5, 3, 9)])
    more_y = np.concatenate([np.zeros(5, dtype=np.int64), y, np.full(5, -1)])
    assert calibrate(more_p, more_y, seed=0) == calibrate(spoilt, y, seed=0)
    few = calibrate(spoilt[:20], y[:20], seed=0)
    assert not few.kept
    assert "20 labelled answers are too few" in few.message


def test_a_class_without_a_row_stays_finite() -> None:
    probs = np.concatenate([dirichlet(200, 3, 0) ** 4, np.zeros((200, 1))], axis=1)
    probs /= probs.sum(axis=1, keepdims=True)
    found = calibrate(probs, draw(dirichlet(200, 3, 0), 1), seed=0)
    assert found.kept
    assert np.isfinite([found.gain, found.low, found.high]).all()
    assert np.isfinite(np.log(apply_calibration(probs, found))).all()


def test_the_seed_decides_the_folds_and_nothing_else() -> None:
    probs = dirichlet(100, 3, 0)
    y = draw(probs, 1)
    assert calibrate(probs, y, seed=1) == calibrate(probs, y, seed=1)
    assert calibrate(probs, y, seed=1).gain != calibrate(probs, y, seed=2).gain
