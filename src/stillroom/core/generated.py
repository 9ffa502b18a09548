"""What was generated for a job, and how good it is: what the generate stage records and the report shows. Written as quality.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from stillroom.core.records import Measure

GENERATED_SCHEMA = "stillroom/generated@1"


@dataclass(frozen=True)
class Unfilled:
    """A cell of the plan that did not get its examples, in words."""

    cell: str
    wanted: int
    accepted: int


@dataclass(frozen=True)
class Generated:
    """Attributes:
    planned, accepted: examples.
    cells, unfilled_cells: of the plan; of them those that lack examples.
    unfilled: those that lack most, in words.
    pairs, covered: pairs of values (of two axes, of an axis and a label or a case) that meet in the plan; in the accepted examples.
    removed: reason -> texts that were not kept.
    unusable: reason -> requests without a usable answer.
    repaired, asked_again: answers that were mended; that were asked for anew.
    rounds: how often was asked.
    requests, tokens, usd: by all requests on the run's store so far; usd is None where the job names no prices.
    complete: False where the budget ended it.
    measures: of the arms `generated` and `real`, two_sample_auc and the teacher's label_agreement among them.
    remarks: what could not be measured, and why.
    """

    planned: int
    accepted: int
    cells: int
    unfilled_cells: int = 0
    unfilled: tuple[Unfilled, ...] = ()
    pairs: int = 0
    covered: int = 0
    removed: Mapping[str, int] = field(default_factory=dict)
    unusable: Mapping[str, int] = field(default_factory=dict)
    repaired: int = 0
    asked_again: int = 0
    rounds: int = 0
    requests: int = 0
    tokens: int = 0
    usd: float | None = None
    complete: bool = True
    measures: tuple[Measure, ...] = ()
    remarks: tuple[str, ...] = ()

    def value(self, arm: str, measure: str) -> Measure | None:
        return next((m for m in self.measures if (m.arm, m.measure) == (arm, measure)), None)

    def with_measures(self, measures: tuple[Measure, ...]) -> Generated:
        """With these in the place of those of the same arms and names."""
        named = {(m.arm, m.measure) for m in measures}
        return replace(self, measures=(*(m for m in self.measures if (m.arm, m.measure) not in named), *measures))

    def to_json(self) -> dict[str, Any]:
        return {"schema": GENERATED_SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Generated:
        if content.get("schema") != GENERATED_SCHEMA:
            raise ValueError(f"the schema is {content.get('schema')!r}; this version reads {GENERATED_SCHEMA!r}.")
        made = {name: value for name, value in content.items() if name != "schema"}
        return cls(
            **{
                **made,
                "unfilled": tuple(Unfilled(**cell) for cell in content["unfilled"]),
                "measures": tuple(Measure(**m) for m in content["measures"]),
                "remarks": tuple(content["remarks"]),
            }
        )
