"""Ask what a store does not hold yet, and store what comes: killed at any moment, a run repeats no stored answer and loses none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from stillroom.core.chat import ChatRequest, Failure, Reply, from_block
from stillroom.core.errors import StageFailed
from stillroom.core.garbage import collecting_rarely
from stillroom.core.protocols import BlockStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.budget import Budget, Prices
from stillroom.teachers.endpoint.client import EndpointClient
from stillroom.teachers.endpoint.gate import Closed
from stillroom.teachers.endpoint.ledger import spent_so_far
from stillroom.teachers.endpoint.meter import BudgetReached, Meter
from stillroom.teachers.endpoint.pool import for_each
from stillroom.teachers.endpoint.rows import ROWS_AT_ONCE, Row, Rows, lookup
from stillroom.teachers.endpoint.standing import Listen, RecentRate, Standing, tell
from stillroom.teachers.endpoint.writer import GroupWriter

PARTING_SECONDS = 10.0
"""So long an interrupted run waits for what it has sent: those answers are paid for."""


@dataclass(frozen=True)
class Asker:
    """Whom to ask, where the answers are kept and what they may cost: all of `ask_all` but the requests.

    Attributes:
        draws: how often all begins anew for a row whose answers cannot be used: as often as the cause may have been mended.
    """

    store: BlockStore
    endpoint: Endpoint
    prices: Prices | None = None
    budget: Budget | None = None
    listen: Listen | None = None
    draws: int = 0

    @property
    def tries_first(self) -> bool:
        """Whether a few rows may be asked before the others."""
        return True

    def ask(self, requests: Iterable[ChatRequest]) -> Standing:
        """`ask_all`."""
        return ask_all(self.store, self.endpoint, requests, prices=self.prices, budget=self.budget, listen=self.listen)

    def outcomes(self, requests: Iterable[ChatRequest]) -> Iterator[Reply | Failure | None]:
        """`stored_outcomes`."""
        return stored_outcomes(self.store, self.endpoint, requests)


def ask_all(
    store: BlockStore,
    endpoint: Endpoint,
    requests: Iterable[ChatRequest],
    *,
    prices: Prices | None = None,
    budget: Budget | None = None,
    ask_failed_again: bool = False,
    listen: Listen | None = None,
) -> Standing:
    """Ask every request that the store holds no outcome of; read the outcomes with `stored_outcomes`.

    Interrupted (Ctrl-C), it sends nothing more and keeps the answers that come within `PARTING_SECONDS`; a second Ctrl-C ends it at once.

    Args:
        requests: read as they are needed, so that any number of them takes little memory.
        prices, budget: what this store may spend over all its runs. Reaching the budget is no error: the rest is left for a later run.
        ask_failed_again: ask those again that failed for good in an earlier run.
        listen: told how the run stands, every half a second and at its end.

    Returns:
        How it ended.

    Raises:
        BadInput: the key is not set; the budget cannot be kept.
        EndpointStopped: the endpoint is down, or the settings are wrong. What came before is stored.
        StageFailed: the store cannot be written.
    """
    with collecting_rarely():
        return asyncio.run(
            ask_all_async(store, endpoint, requests, prices=prices, budget=budget, ask_failed_again=ask_failed_again, listen=listen)
        )


async def ask_all_async(
    store: BlockStore,
    endpoint: Endpoint,
    requests: Iterable[ChatRequest],
    *,
    prices: Prices | None = None,
    budget: Budget | None = None,
    ask_failed_again: bool = False,
    listen: Listen | None = None,
) -> Standing:
    """`ask_all` for callers that run an event loop already."""
    meter = Meter(prices, budget, spent_so_far(store))
    client = EndpointClient(endpoint, meter=meter)
    run = _Run(store, client, ask_failed_again=ask_failed_again, total=len(requests) if isinstance(requests, Sized) else None)
    async with client:
        await run.all(requests, listen or (lambda standing: None))
    return run.standing()


def stored_outcomes(store: BlockStore, endpoint: Endpoint, requests: Iterable[ChatRequest]) -> Iterator[Reply | Failure | None]:
    """The outcome of each request in their order; None for one that was not asked yet.

    Raises:
        StageFailed: a stored answer is damaged.
    """
    rows = iter(requests)
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        blocks = lookup(store, [Row(request.facts(endpoint.name)) for request in chunk])
        yield from (None if block is None else from_block(block) for block in blocks)


class _Run:
    """One run: its rows go out, and their outcomes into the store."""

    def __init__(self, store: BlockStore, client: EndpointClient, *, ask_failed_again: bool, total: int | None) -> None:
        self._client, self._total = client, total
        self._rows = Rows(store, client.endpoint.name, ask_failed_again=ask_failed_again)
        self._writer = GroupWriter(store, self._rows.stored)
        self._budget_reached = self._parting = False
        self._start, self._rate = time.monotonic(), RecentRate()
        client.meter.record, client.meter.commit = self._writer.record, self._writer.commit

    async def all(self, requests: Iterable[ChatRequest], listen: Listen) -> None:
        """Ask what is missing, and store it. Cancelled, wait a little for what is out."""
        walk = asyncio.create_task(self._walk(requests, listen))
        try:
            await asyncio.shield(walk)
        except asyncio.CancelledError:
            self._parting = True
            self._client.gate.close()
            await asyncio.wait([walk], timeout=PARTING_SECONDS)
            raise
        finally:
            walk.cancel()
            await asyncio.gather(walk, return_exceptions=True)

    async def _walk(self, requests: Iterable[ChatRequest], listen: Listen) -> None:
        async def work() -> None:
            try:
                missing = self._rows.missing(requests, self._client.meter.check)
                self._budget_reached = not await for_each(missing, self._ask, self._client.num_workers)
            finally:
                self._writer.close()
                ticker.cancel()

        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(tell(listen, self.standing))
                group.create_task(self._writer.run())
                group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            with suppress(StageFailed):  # a disk that is full: the first error says so
                self._writer.finish()
            listen(self.standing())

    def standing(self) -> Standing:
        rows, counts, now = self._rows, self._client.counts, time.monotonic()
        return Standing(
            self._total, rows.answered, rows.failures.total(), dict(rows.failures), rows.asked, counts.retries, counts.refusals,
            self._client.meter.spent, self._rate.at(now, rows.asked), now - self._start, self._budget_reached,
            parting=self._parting,
        )  # fmt: skip

    async def _ask(self, pair: tuple[Row, ChatRequest]) -> bool:
        row, request = pair
        try:
            outcome = await self._client.ask(request)
        except (BudgetReached, Closed):
            return False
        await self._writer.put(*self._rows.entry(row, outcome))
        return True
