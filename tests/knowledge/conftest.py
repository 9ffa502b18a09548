"""Answers to store: facts as labelling writes them, and the keys that follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillroom.core.fingerprint import fingerprint

Answers = tuple[list[str], NDArray[np.float64], list[dict[str, Any]]]


@pytest.fixture
def make_answers() -> Callable[..., Answers]:
    """make_answers(n, num_classes=3, seed=0, **facts) -> keys, values, facts; num_classes None for scalar answers."""

    def make(n: int, num_classes: int | None = 3, seed: int = 0, start: int = 0, **changed: Any) -> Answers:
        source = np.random.default_rng(seed)
        values = source.normal(size=n) if num_classes is None else source.dirichlet(np.ones(num_classes), n)
        classes = [] if num_classes is None else [f"class {k}" for k in range(num_classes)]
        shared = {"teacher": "sr1-7e", "context": "", "question": "probabilities", "classes": classes, "seed": 0, **changed}
        facts = [{"example": fingerprint("row", start + i), **shared} for i in range(n)]
        return [fingerprint("answer", f) for f in facts], values, facts

    return make


@pytest.fixture
def shards_of() -> Callable[[Path], list[Path]]:
    """The Parquet files of a local store."""
    return lambda store: sorted((store / "shards").glob("*.parquet"))
