"""A teacher whose answers say nothing about the question: those of a real teacher, shuffled over the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stillroom.core.fingerprint import row_fingerprints


class Shuffled:
    """Answers each example with what a real teacher would say about another one, drawn by the example's fingerprint."""

    def __init__(self, classes: list[str], answers: NDArray[np.float64], seed: int) -> None:
        self.classes_, self.answers, self.seed = np.array(classes), answers, seed

    def predict_proba(self, features: pd.DataFrame) -> NDArray[np.float64]:
        drawn = [int(key[-12:], 16) ^ self.seed for key in row_fingerprints(features)]
        return np.array([self.answers[np.random.default_rng(number).integers(len(self.answers))] for number in drawn])


def make_shuffled(name: str, seed: int) -> Any:
    """The shuffled answers of a forest to a bundled set."""
    from sklearn import datasets
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import cross_val_predict

    data = getattr(datasets, f"load_{name}")()
    answers = cross_val_predict(RandomForestClassifier(50, random_state=0), data.data, data.target, method="predict_proba")
    names = [str(target) for target in data.target_names]
    return Shuffled(names, answers, seed)
