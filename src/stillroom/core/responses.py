"""What came of a teacher's responses: how many passed their check, and which are learnt. What a stage records, and the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class AcceptRate:
    """How many responses of a group passed, and for how many of its examples at least one did."""

    accepted: int
    samples: int
    examples_accepted: int
    examples: int

    @property
    def share(self) -> float:
        """accepted / samples, in [0, 1]."""
        return self.accepted / self.samples


@dataclass(frozen=True)
class Accepted:
    """Responses to training prompts; those that are refused, cut or empty are not among them.

    Attributes:
        check: number, exact, record, code or none.
        against: gold or vote; "" where the check has no reference.
        whole: over all of them.
        learnt: responses that the student learns.
        learnt_prompts: prompts that those answer.
        by_model: as the server called it.
        by_difficulty: from the easiest to the hardest where the job names no column.
    """

    check: str
    against: str
    whole: AcceptRate
    learnt: int
    learnt_prompts: int
    by_model: Mapping[str, AcceptRate] = field(default_factory=dict)
    by_difficulty: Mapping[str, AcceptRate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Accepted:
        groups = {name: {group: AcceptRate(**rate) for group, rate in content[name].items()} for name in ("by_model", "by_difficulty")}
        return cls(**{**content, **groups, "whole": AcceptRate(**content["whole"])})
