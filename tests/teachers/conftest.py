"""Small teachers and an in-memory store that counts, shared by the tests of this area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from stillroom.core.fingerprint import fingerprint, row_fingerprints
from stillroom.core.protocols import Teacher
from stillroom.core.records import Batch


class MemoryStore:
    """Fulfils `AnswerStore`; refuses a second answer to one key, and can fail after so many puts, as a killed run does."""

    def __init__(self) -> None:
        self.answers: dict[str, NDArray[np.float64]] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.contexts: dict[str, list[str]] = {}
        self.puts_left: int | None = None

    def missing(self, keys: Sequence[str]) -> list[int]:
        return [i for i, key in enumerate(keys) if key not in self.answers]

    def put(self, keys: Sequence[str], values: NDArray[np.float64], facts: Sequence[dict[str, Any]]) -> None:
        if self.puts_left is not None:
            if self.puts_left == 0:
                raise KeyboardInterrupt
            self.puts_left -= 1
        for key, value, fact in zip(keys, values, facts, strict=True):
            assert key not in self.answers, "asked twice"
            assert key == fingerprint("answer", fact)
            assert fact["context"] in {"", *self.contexts}
            self.answers[key], self.facts[key] = np.asarray(value), fact

    def get(self, keys: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self.answers[key] for key in keys])

    def put_context(self, context: str, rows: Sequence[str]) -> None:
        self.contexts[context] = list(rows)

    def context(self, context: str) -> list[str]:
        return self.contexts[context]


@dataclass
class TableTeacher:
    """Nearest labelled row: (n, K) one-hot answers, or its value in regression. Interpolates, as 1-NN does."""

    keys: NDArray[Any]
    target: NDArray[Any]
    points: NDArray[np.float64]
    classes: tuple[str, ...]
    calls: list[int] = field(default_factory=list)
    state: str = "fixed"

    @property
    def fingerprint(self) -> str:
        return fingerprint("table", self.state)

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        self.calls.append(len(features))
        x = features.to_numpy(dtype=np.float64)
        nearest = ((x[:, None, :] - self.points[None]) ** 2).sum(axis=2).argmin(axis=1)
        return np.eye(len(self.classes))[self.target[nearest]] if self.classes else self.target[nearest].astype(np.float64)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@dataclass
class NearestRecipe:
    """Fits a `TableTeacher`; remembers every fit."""

    name: str = "nearest"
    fits: list[Batch] = field(default_factory=list)
    teachers: list[TableTeacher] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return fingerprint("recipe", self.name)

    def fit(self, examples: Batch, classes: tuple[str, ...], *, seed: int) -> Teacher:
        self.fits.append(examples)
        assert examples.target is not None
        teacher = TableTeacher(examples.keys, examples.target, examples.features.to_numpy(), classes)
        self.teachers.append(teacher)
        return teacher


def make_batch(num: int = 40, num_classes: int = 3, seed: int = 0, regression: bool = False) -> Batch:
    source = np.random.default_rng(seed)
    frame = pd.DataFrame({"a": source.normal(size=num), "b": source.normal(size=num)})
    target = source.normal(size=num) if regression else source.integers(num_classes, size=num).astype(np.int64)
    return Batch(frame, np.array(row_fingerprints(frame)), target)


def make_fold_rows(num: int, num_folds: int = 4) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    rows = np.arange(num)
    return [(rows[rows % num_folds != i], rows[rows % num_folds == i]) for i in range(num_folds)]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()
