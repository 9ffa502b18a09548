"""Losses: pure functions of tensors, in nats; no T**2 and no state. Fused with the output projection, they are means over tokens."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillroom.losses.closed_form import (
        DIVERGENCES,
        ForwardKL,
        JensenShannon,
        ReverseKL,
        SkewedForwardKL,
        SkewedReverseKL,
        TotalVariation,
    )
    from stillroom.losses.divergence import (
        cross_entropy,
        forward_kl,
        jensen_shannon,
        masked_mean,
        reverse_kl,
        skewed_forward_kl,
        skewed_reverse_kl,
        total_variation,
    )
    from stillroom.losses.fused import FusedLoss, fused_divergence, next_token_rows
    from stillroom.losses.head import Head
    from stillroom.losses.teacher import DenseTeacher, SparseTeacher

__all__ = [
    "DIVERGENCES",
    "DenseTeacher",
    "ForwardKL",
    "FusedLoss",
    "Head",
    "JensenShannon",
    "ReverseKL",
    "SkewedForwardKL",
    "SkewedReverseKL",
    "SparseTeacher",
    "TotalVariation",
    "cross_entropy",
    "forward_kl",
    "fused_divergence",
    "jensen_shannon",
    "masked_mean",
    "next_token_rows",
    "reverse_kl",
    "skewed_forward_kl",
    "skewed_reverse_kl",
    "total_variation",
]


def __getattr__(name: str) -> Any:
    # Imported when asked for: areas that run without torch may import this package.
    if name not in __all__:
        raise AttributeError(f"module 'stillroom.losses' has no attribute {name!r}")
    homes = (import_module(f"stillroom.losses.{home}") for home in ("divergence", "fused", "head", "teacher", "closed_form"))
    return next(getattr(home, name) for home in homes if hasattr(home, name))
