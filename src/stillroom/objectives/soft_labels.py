"""Soft labels with temperature, hard labels, and their mix: the NumPy side, for estimators.

    loss = (1 - w) * T**2 * mean over answered rows KL(p_T || q_T)  +  w * mean over labelled rows CE(y, q)

p is the teacher, q the student, p_T is proportional to p**(1/T). Hinton, Vinyals & Dean 2015, section 2, arXiv:1503.02531.
Shapes: n rows, K classes. A row of p that holds NaN has no answer; a code of -1 is no label. Such rows leave that term.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import log_softmax, softmax

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

_ABSENT = 1e-15
"""The share from which a class that no answer and no label names starts; LightGBM's own floor."""


def term_weights(temperature: float, hard_label_weight: float) -> tuple[float, float]:
    """What the soft and the hard term are multiplied by: ((1 - w) * T**2, w). T**2 is written here and nowhere else.

    It keeps the gradient of the soft term on one scale as T changes, so that w keeps its meaning (Hinton et al. 2015).
    """
    return (1 - hard_label_weight) * temperature**2, hard_label_weight


def tempered(p: Floats, temperature: float) -> Floats:
    """(n, K) p**(1/T), rows summing to 1; zeros stay zeros, rows of NaN stay NaN."""
    with np.errstate(divide="ignore"):
        return np.asarray(softmax(np.log(p) / temperature, axis=-1))


@dataclass(frozen=True)
class SoftLabels:
    """The objective above. Implements `core.protocols.SoftLabelObjective`.

    Args:
        temperature: T > 0, divides the logits of both.
        hard_label_weight: w in [0, 1]; 1 never looks at the teacher.
    """

    temperature: float
    hard_label_weight: float

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"temperature = {self.temperature} must be a number above 0; 1 leaves the teacher as it is.")
        if not 0 <= self.hard_label_weight <= 1:
            raise ValueError(f"hard_label_weight = {self.hard_label_weight} is outside [0, 1]; 1 never looks at the teacher.")

    def loss(self, raw: Floats, p: Floats, codes: Codes) -> Floats:
        """(n,) each row's part of the loss in nats; the mean over the n rows is the formula of this module.

        `raw` (n, K) are the student's logits, at temperature 1.
        """
        soft, hard = self._row_weights(p, codes)
        log_q, log_q_tempered = log_softmax(raw, axis=1), log_softmax(raw / self.temperature, axis=1)
        p_tempered = tempered(_filled(p), self.temperature)
        with np.errstate(divide="ignore", invalid="ignore"):
            # lim p log p = 0, but 0 * -inf is NaN: choose the zero instead of computing it.
            divergence = np.where(p_tempered > 0, p_tempered * (np.log(p_tempered) - log_q_tempered), 0.0).sum(axis=1)
        cross_entropy = -np.take_along_axis(log_q, np.maximum(codes, 0)[:, None], axis=1)[:, 0]
        return np.asarray(soft * divergence + hard * cross_entropy)

    def gradient(self, raw: Floats, p: Floats, codes: Codes) -> tuple[Floats, Floats]:
        """(n, K) first derivative of each row's loss and (n, K) diagonal of the second, both by `raw`."""
        soft, hard = (weights[:, None] for weights in self._row_weights(p, codes))
        q, q_tempered = softmax(raw, axis=1), softmax(raw / self.temperature, axis=1)
        p_tempered = tempered(_filled(p), self.temperature)
        first = soft / self.temperature * (q_tempered - p_tempered) + hard * (q - _one_hot(codes, p.shape[1]))
        second = soft / self.temperature**2 * q_tempered * (1 - q_tempered) + hard * q * (1 - q)
        return first, second

    def targets(self, p: Floats, codes: Codes) -> Floats:
        """(n, K) masses to fit by weighted cross-entropy with a student whose output is the *tempered* distribution.

        Where the loss is least, its derivative is zero: (1-w) T q_T + w q = (1-w) T p_T + w y, on average over the rows
        that the student cannot tell apart. The right side is linear in what is known of a row, so these masses are in that
        ratio. A row's mass is the sum of its line: 1 where every row has both answer and label. The sum over all rows is
        (1-w) * answered + w * labelled, so that a penalty on the parameters keeps its strength as w goes to 0 or 1.
        """
        answered, labelled = np.isfinite(p).all(axis=1), codes >= 0
        w = self.hard_label_weight
        total = (1 - w) * answered.sum() + w * labelled.sum()
        share = self._soft_share()
        soft = share * answered / max(answered.sum(), 1)
        hard = (1 - share) * labelled / max(labelled.sum(), 1)
        return np.asarray(total * (soft[:, None] * tempered(_filled(p), self.temperature) + hard[:, None] * _one_hot(codes, p.shape[1])))

    def logit_scale(self, p: Floats, codes: Codes) -> float:
        """What the log-probabilities of such a student are multiplied by at prediction, before softmax.

        T where w = 0, and 1 where T = 1 or w = 1: exact. Between, the scalar with the least loss for a student that has
        learnt `targets` under labels that follow the teacher.
        """
        del codes  # the labels' distribution is taken to be the teacher's: one-hot labels would reward overconfidence
        share, T = self._soft_share(), self.temperature
        if share == 1.0 or T == 1.0:
            return T
        p = p[np.isfinite(p).all(axis=1)]
        if share == 0.0 or not len(p):
            return 1.0
        p_tempered = tempered(p, T)
        ideal = share * p_tempered + (1 - share) * p
        with np.errstate(divide="ignore"):
            log_ideal = np.where(p > 0, np.log(ideal), -np.inf)

        def slope(scale: float) -> float:
            """Derivative of the loss by the scale; it rises with it, for the loss is convex."""
            pull = share * (softmax(scale * log_ideal / T, axis=1) - p_tempered) + (1 - share) * (softmax(scale * log_ideal, axis=1) - p)
            return float(np.where(p > 0, pull * np.where(p > 0, log_ideal, 0.0), 0.0).sum())

        if slope(1.0) * slope(T) >= 0:
            return T  # answers without any doubt, or nothing but doubt: every scale fits them, and this is the limit
        return float(brentq(slope, 1.0, T, xtol=1e-12))

    def prior_logits(self, p: Floats, codes: Codes) -> Floats:
        """(K,) the logits, mean 0, of the constant student with the least loss: where boosting starts."""
        share, T = self._soft_share(), self.temperature
        target = self.targets(p, codes).sum(axis=0)
        target = np.maximum(target / target.sum(), _ABSENT)
        target /= target.sum()

        def loss_and_gradient(z: Floats) -> tuple[float, Floats]:
            # The antiderivative of share * softmax(z / T) + (1 - share) * softmax(z) - target.
            loss = share * T * np.logaddexp.reduce(z / T) + (1 - share) * np.logaddexp.reduce(z) - target @ z
            return float(loss), share * softmax(z / T) + (1 - share) * softmax(z) - target

        start = (share * T + 1 - share) * np.log(target)
        found = minimize(loss_and_gradient, start, jac=True, method="BFGS", options={"gtol": 1e-9})
        return np.asarray(found.x - found.x.mean())

    def _soft_share(self) -> float:
        """(1-w) T / ((1-w) T + w): the soft term's part of the derivative by the logits."""
        soft, hard = term_weights(self.temperature, self.hard_label_weight)
        return soft / self.temperature / (soft / self.temperature + hard)

    def _row_weights(self, p: Floats, codes: Codes) -> tuple[Floats, Floats]:
        """(n,) each: what turns the mean over all rows into a mean over answered, and over labelled ones."""
        answered, labelled = np.isfinite(p).all(axis=1), codes >= 0
        soft, hard = term_weights(self.temperature, self.hard_label_weight)
        n = len(codes)
        return soft * n / max(answered.sum(), 1) * answered, hard * n / max(labelled.sum(), 1) * labelled


def _filled(p: Floats) -> Floats:
    """Rows without an answer as uniform ones: their weight is 0, and 0 * NaN would not be."""
    return np.where(np.isfinite(p).all(axis=1, keepdims=True), p, 1 / p.shape[1])


def _one_hot(codes: Codes, num_classes: int) -> Floats:
    """(n, K); a row of zeros where there is no label."""
    return np.asarray(codes[:, None] == np.arange(num_classes), dtype=np.float64)
