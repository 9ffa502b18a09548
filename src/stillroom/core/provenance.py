"""Who taught what: the one record that is needed before anything is loaded. Kept apart from `records` so that a check stays fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["classification", "regression", "spans"]


@dataclass(frozen=True)
class Provenance:
    """One teacher (or data set) in the lineage: what it is, under which licence, and what that permits."""

    role: Literal["teacher", "other teacher", "data", "student"]
    """`other teacher`: asked for comparison; what ships has learnt nothing from it."""
    name: str
    kind: str
    fingerprint: str
    licence: str
    output_training: Literal["allowed", "conditional", "forbidden", "unknown", "waived"]
    """May its answers train other models? `waived` only with the job's signed waiver."""
    conditions: tuple[str, ...] = ()
    source: str = ""
    checked_on: str = ""
    provider: str = ""
    """Of a teacher behind an endpoint: who answered, a vendor or a host."""
    served: tuple[str, ...] = ()
    """Of a teacher behind an endpoint: what its server called the model in its answers, each name once."""
