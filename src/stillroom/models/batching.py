"""Batches of texts of similar length: padding is work without use. NumPy only, since serving needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def as_texts(cells: Iterable[Any]) -> list[str]:
    """Cells of a text column as str; a missing one is the empty text."""
    return [cell if isinstance(cell, str) else "" if cell is None or cell != cell else str(cell) for cell in cells]


def by_length(lengths: Sequence[int], batch_size: int) -> list[NDArray[np.intp]]:
    """Positions in batches of `batch_size`, the longest first; each position once."""
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """(n, K) logits to probabilities, in float64: rows sum to 1 within 1e-15."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
