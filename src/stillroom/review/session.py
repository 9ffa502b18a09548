"""One person going through a sample, whichever way: the page and the sheet both end here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from stillroom.core.review import Decision, ReviewItem, standing
from stillroom.review.journal import DecisionJournal


@dataclass(frozen=True)
class Session:
    """A sample, who looks at it, and what is kept.

    Attributes:
        title: the job's name.
        items: the sample, in the order in which it is looked at.
        classes: the labels.
        definitions: label -> what it means; {} where the job has no specification.
        sample, seed: as in `Decision`.
    """

    title: str
    items: Sequence[ReviewItem]
    classes: tuple[str, ...]
    definitions: Mapping[str, str]
    journal: DecisionJournal
    reviewer: str
    sample: str
    seed: int

    @cached_property
    def numbers(self) -> dict[int, int]:
        """Row of the transfer set -> its number in the sample, from 0."""
        return {item.row: number for number, item in enumerate(self.items)}

    def decided(self) -> dict[int, str | None]:
        """Number in the sample -> this reviewer's present label, None where skipped."""
        last = standing(self.journal.decisions()).values()
        own = (d for d in last if (d.sample, d.reviewer) == (self.sample, self.reviewer) and d.row in self.numbers)
        return {self.numbers[decision.row]: decision.label for decision in own}

    def decide(self, labels: Mapping[int, str | None]) -> None:
        """Keep labels (None: skipped) for numbers in the sample; durable when this returns.

        Raises:
            StageFailed: they cannot be written.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self.journal.append(
            [
                Decision(self.sample, self.seed, item.row, item.example, item.answer, item.teacher, label, self.reviewer, now)
                for number, label in labels.items()
                for item in [self.items[number]]
            ]
        )
