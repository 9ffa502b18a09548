"""Calibrating a teacher on its out-of-fold answers, which are a free calibration set; kept only where it shows a gain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stillroom.core.records import Calibration

_FLOOR = 1e-4
"""The least smoothing, also in the uncalibrated baseline: a teacher that gives the label probability 0 would have infinite
loss, and any calibration an infinite gain. With n rows nobody can vouch for probabilities far below 1/n."""
_MAX_SMOOTHING = 0.5
_TEMPERATURES = (0.05, 20.0)
_STARTS = ((1.0, 1e-3), (0.5, 0.05))
_NUM_FOLDS = 5
_LEAST_ROWS = 30


def calibrate(probs: NDArray[np.float64], codes: NDArray[np.int64], *, seed: int, confidence: float = 0.95) -> Calibration:
    """Fit softmax(log((1 - s) p + s * prior) / T) to out-of-fold answers; keep it only if cross-validation shows a gain.

    T (Guo et al. 2017, arXiv:1706.04599, section 4.2) and s are fitted on four fifths of the rows and judged on the
    rest, five times; the gain is kept if the interval of its mean over the rows lies above zero. `prior` is the class shares.

    Args:
        probs: (n, K) out-of-fold probabilities; rows of NaN (no answer) are left out.
        codes: (n,) labels; rows of -1 are left out.
        seed: divides the rows into folds.
        confidence: level of the two-sided interval.
    """
    keep = (codes >= 0) & np.isfinite(probs).all(axis=1)
    p, y = probs[keep], codes[keep]
    if len(y) < _LEAST_ROWS:
        return Calibration(False, message=f"Not calibrated: {len(y)} labelled answers are too few; {_LEAST_ROWS} are needed.")
    gains = _cross_validated_gains(p, y, seed)
    gain, low, high = _mean_interval(gains, confidence)
    change = f"{gain:+.4f} nats ({low:+.4f} to {high:+.4f})"
    if low <= 0:
        return Calibration(False, gain=gain, low=low, high=high, message=f"Not calibrated: no gain in log loss to be shown, {change}.")
    prior = _prior(y, p.shape[1])
    temperature, smoothing = _fit(p, y, prior)
    message = f"Calibrated with temperature {temperature:.3g} and smoothing {smoothing:.2g}: gain in log loss {change}, cross-validated."
    return Calibration(True, temperature, smoothing, tuple(prior.tolist()), gain, low, high, message)


def _cross_validated_gains(p: NDArray[np.float64], y: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """(n,) fall of each row's loss under the calibration fitted on the other folds."""
    fold = np.random.default_rng(seed).permutation(len(y)) % _NUM_FOLDS
    gains = np.empty(len(y))
    for i in range(_NUM_FOLDS):
        judged, fitted = fold == i, fold != i
        prior = _prior(y[fitted], p.shape[1])
        temperature, smoothing = _fit(p[fitted], y[fitted], prior)
        before = _losses(p[judged], y[judged], prior, 1.0, _FLOOR)
        gains[judged] = before - _losses(p[judged], y[judged], prior, temperature, smoothing)
    return gains


def _fit(p: NDArray[np.float64], y: NDArray[np.int64], prior: NDArray[np.float64]) -> tuple[float, float]:
    from scipy.optimize import minimize

    low, high = (float(np.log(t)) for t in _TEMPERATURES)
    best = min(
        (
            minimize(
                _mean_loss_and_gradient,
                (np.log(temperature), smoothing),
                args=(p, y, prior),
                jac=True,
                method="L-BFGS-B",
                bounds=((low, high), (_FLOOR, _MAX_SMOOTHING)),
            )
            for temperature, smoothing in _STARTS
        ),
        key=lambda found: float(found.fun),
    )
    return float(np.exp(best.x[0])), float(best.x[1])


def _mean_loss_and_gradient(
    point: NDArray[np.float64], p: NDArray[np.float64], y: NDArray[np.int64], prior: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Mean negative log likelihood and its gradient by (log T, s)."""
    temperature, smoothing = float(np.exp(point[0])), float(point[1])
    mixed = (1 - smoothing) * p + smoothing * prior
    logits = np.log(mixed)
    log_q = _log_softmax(logits / temperature)
    rows = np.arange(len(y))
    residual = np.exp(log_q)
    residual[rows, y] -= 1.0
    by_log_temperature = -(residual * logits).sum(axis=1).mean() / temperature
    by_smoothing = (residual * (prior - p) / mixed).sum(axis=1).mean() / temperature
    return float(-log_q[rows, y].mean()), np.array([by_log_temperature, by_smoothing])


def _losses(
    p: NDArray[np.float64], y: NDArray[np.int64], prior: NDArray[np.float64], temperature: float, smoothing: float
) -> NDArray[np.float64]:
    logits = np.log((1 - smoothing) * p + smoothing * prior) / temperature
    return np.asarray(-_log_softmax(logits)[np.arange(len(y)), y])


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _prior(y: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    # One more of each class: a class without a row must not get prior 0, whose logarithm is -inf.
    counts = np.bincount(y, minlength=num_classes) + 1.0
    return np.asarray(counts / counts.sum())


def _mean_interval(values: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    from scipy.stats import t

    mean = float(values.mean())
    margin = float(t.ppf((1 + confidence) / 2, len(values) - 1)) * float(values.std(ddof=1)) / np.sqrt(len(values))
    return mean, mean - margin, mean + margin
