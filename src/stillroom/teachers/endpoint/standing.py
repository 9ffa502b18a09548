"""How far a run is: the live record that a person watches, and that the run ends with."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from stillroom.core.chat import FailureReason
from stillroom.core.duration import duration
from stillroom.teachers.endpoint.budget import NOTHING, Spending

_RECENT_SECONDS, _TELL_SECONDS = 15.0, 0.5


@dataclass(frozen=True)
class Batches:
    """Attributes:
    out, processed: batches at the vendor's, and how many of their requests it is done with.
    ended: batches of this run that have ended.
    duplicates, unknown, silent: what was wrong with their results: further lines about a row, lines about no row of the batch, and
        rows without a line.
    """

    out: int = 0
    processed: int = 0
    ended: int = 0
    duplicates: int = 0
    unknown: int = 0
    silent: int = 0


@dataclass(frozen=True)
class Standing:
    """Attributes:
    total: rows, where that is known.
    answered, failed: rows, those of earlier runs among them.
    failures: how many of the failed rows failed for which reason.
    asked: rows whose outcome came in this run.
    retries, refusals: attempts of this run that were made again; that were refused for the rate.
    spent: by all runs on this store.
    rate: rows a second, lately.
    seconds: of this run.
    budget_reached: the run ended before its rows did.
    batches: where the rows go through a batch API.
    parting: the run was interrupted, and waits for what it has sent.
    """

    total: int | None = None
    answered: int = 0
    failed: int = 0
    failures: Mapping[FailureReason, int] = field(default_factory=dict)
    asked: int = 0
    retries: int = 0
    refusals: int = 0
    spent: Spending = NOTHING
    rate: float = 0.0
    seconds: float = 0.0
    budget_reached: bool = False
    batches: Batches | None = None
    parting: bool = False

    @property
    def done(self) -> int:
        return self.answered + self.failed

    @property
    def seconds_left(self) -> float | None:
        """None where it cannot be said yet."""
        return (self.total - self.done) / self.rate if self.total is not None and self.rate else None

    def __str__(self) -> str:
        """One line."""
        left = None if self.parting else self.seconds_left
        parts = [
            f"{self.done:,}{'' if self.total is None else f' of {self.total:,}'} rows",
            f"{self.rate:.1f}/s",
            f"{self.failed} failed",
            f"{self.retries} retries",
            f"{self.spent.tokens:,} tokens",
            *([f"{self.spent.usd:.4f} USD"] if self.spent.picodollars else []),  # a job without prices costs what nobody knows, not nothing
            *([] if self.batches is None else [f"{self.batches.out} batches out with {self.batches.processed} done"]),
            *(["interrupted: waiting for what was sent (Ctrl-C again: not even that)"] if self.parting else []),
            *([] if left is None else [f"{duration(left)} left"]),
        ]
        return ", ".join(parts)


class RecentRate:
    """Events a second over the last seconds."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()

    def at(self, now: float, count: int) -> float:
        """The rate now that there have been `count` events."""
        self._marks.append((now, count))
        while len(self._marks) > 2 and self._marks[0][0] < now - _RECENT_SECONDS:
            self._marks.popleft()
        (since, before) = self._marks[0]
        return (count - before) / (now - since) if now > since else 0.0


Listen = Callable[[Standing], None]


async def tell(listen: Listen, standing: Callable[[], Standing]) -> None:
    """Tell how the run stands again and again, until cancelled."""
    while True:
        listen(standing())
        await asyncio.sleep(_TELL_SECONDS)
