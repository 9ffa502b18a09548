"""A classifier whose probabilities are corrected: smoothed towards the class shares, then tempered."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import softmax

from stillroom.core.protocols import Predictor
from stillroom.core.records import Calibration
from stillroom.models.load import load_predictor
from stillroom.models.manifest import read_manifest, write_manifest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_BASE = "base"


def apply_calibration(probs: NDArray[np.float64], calibration: Calibration) -> NDArray[np.float64]:
    """softmax(log((1 - s) p + s * prior) / T), row for row, with smoothing s and temperature T.

    A class of probability 0 keeps it where s = 0. A row of NaN (no answer) stays NaN.

    Args:
        probs: (n, K), rows sum to 1.
        calibration: its prior has K shares; an empty one is uniform.

    Source: temperature scaling, Guo et al. 2017, arXiv:1706.04599, on smoothed probabilities.
    """
    num_classes = probs.shape[1]
    prior = np.array(calibration.prior or [1 / num_classes] * num_classes)
    assert len(prior) == num_classes, f"a prior of {len(prior)} shares for {num_classes} classes"
    smoothed = (1 - calibration.smoothing) * probs + calibration.smoothing * prior
    # log 0 = -inf is meant: softmax gives such a class exactly 0 again.
    with np.errstate(divide="ignore"):
        log_probs = np.log(smoothed)
    return np.asarray(softmax(log_probs / calibration.temperature, axis=1), dtype=np.float64)


class CalibratedPredictor:
    """A classifier and the correction of its probabilities."""

    def __init__(self, base: Predictor, calibration: Calibration) -> None:
        assert base.classes, "values of a regression have no calibration"
        self.base, self.calibration = base, calibration

    @property
    def classes(self) -> tuple[str, ...]:
        return self.base.classes

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) corrected probabilities in the order of `classes`."""
        return apply_calibration(self.base.predict_values(features), self.calibration)

    def save(self, folder: Path) -> None:
        """Write the classifier into `folder`/base, and predictor.json with the calibration."""
        (folder / _BASE).mkdir(parents=True, exist_ok=True)
        self.base.save(folder / _BASE)
        write_manifest(folder, kind="calibrated", classes=self.classes, calibration=asdict(self.calibration))


def load(folder: Path, *, allow_code: bool = False) -> CalibratedPredictor:
    """The predictor that `CalibratedPredictor.save` wrote."""
    facts = read_manifest(folder)["calibration"]
    calibration = Calibration(**{**facts, "prior": tuple(facts["prior"])})
    return CalibratedPredictor(load_predictor(folder / _BASE, allow_code=allow_code), calibration)
