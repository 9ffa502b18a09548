"""Ask what a store does not hold yet, and store what comes: killed at any moment, a run repeats no stored answer and loses none."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from stillroom.core.chat import CHAT_FAILURE, ChatRequest, Failure, FailureReason, Reply, failure_facts, from_block, to_block
from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import BlockStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.budget import Budget, BudgetReached, Meter, Prices
from stillroom.teachers.endpoint.client import EndpointClient
from stillroom.teachers.endpoint.ledger import spent_so_far
from stillroom.teachers.endpoint.pool import for_each
from stillroom.teachers.endpoint.standing import RecentRate, Standing
from stillroom.teachers.endpoint.writer import GroupWriter

_ROWS_AT_ONCE = 128
_TELL_SECONDS = 0.5
Listen = Callable[[Standing], None]


@dataclass(frozen=True)
class Asker:
    """Whom to ask, where the answers are kept and what they may cost: all of `ask_all` but the requests."""

    store: BlockStore
    endpoint: Endpoint
    prices: Prices | None = None
    budget: Budget | None = None
    listen: Listen | None = None

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
    while chunk := list(islice(rows, _ROWS_AT_ONCE)):
        blocks = _lookup(store, [_Row(request, endpoint.name) for request in chunk])
        yield from (None if block is None else from_block(block) for block in blocks)


class _Row:
    """A request with the names of its outcomes."""

    def __init__(self, request: ChatRequest, endpoint: str) -> None:
        self.request, self.facts = request, request.facts(endpoint)
        self.key = fingerprint("answer", self.facts)

    @property
    def failure_facts(self) -> dict[str, Any]:
        return failure_facts(self.facts, self.key)

    @property
    def failure_key(self) -> str:
        return fingerprint("answer", self.failure_facts)


def _lookup(store: BlockStore, rows: Sequence[_Row]) -> list[bytes | None]:
    """The stored answer of each row, or else its stored failure."""
    found: dict[int, bytes] = {}
    for name in ("key", "failure_key"):
        unknown = [i for i in range(len(rows)) if i not in found]
        keys = [getattr(rows[i], name) for i in unknown]
        absent = set(store.missing(keys))
        present = [place for place in range(len(keys)) if place not in absent]
        blocks = store.get_blocks([keys[place] for place in present])
        found.update(zip((unknown[place] for place in present), blocks, strict=True))
    return [found.get(i) for i in range(len(rows))]


class _Run:
    """One run: which rows are on their way, and how far it is."""

    def __init__(self, store: BlockStore, client: EndpointClient, *, ask_failed_again: bool, total: int | None) -> None:
        self._store, self._client, self._total = store, client, total
        self._heed_failures = not ask_failed_again and any(each.get("question") == CHAT_FAILURE for each in store.questions())
        self._pending: dict[str, int] = {}  # a row's key -> how many rows wait for its outcome: equal requests are asked once
        self._unstored: dict[str, tuple[str, FailureReason | None]] = {}  # key on its way to the store -> the row's key, why it failed
        self._failed: dict[str, FailureReason] = {}  # in this run
        self._writer = GroupWriter(store, self._stored)
        self._answered = self._asked = 0
        self._failures: Counter[FailureReason] = Counter()
        self._budget_reached = False
        self._start, self._rate = time.monotonic(), RecentRate()
        client.meter.record, client.meter.commit = self._writer.record, self._writer.commit

    async def all(self, requests: Iterable[ChatRequest], listen: Listen) -> None:
        """Ask what is missing, and store it."""

        async def work() -> None:
            try:
                self._budget_reached = not await for_each(self._missing(requests), self._ask, self._client.num_workers)
            finally:
                self._writer.close()
                ticker.cancel()

        try:
            async with asyncio.TaskGroup() as group:
                ticker = group.create_task(self._tick(listen))
                group.create_task(self._writer.run())
                group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            with suppress(StageFailed):  # a disk that is full: the first error says so
                self._writer.finish()
            listen(self.standing())

    def standing(self) -> Standing:
        counts, now = self._client.counts, time.monotonic()
        return Standing(
            self._total, self._answered, self._failures.total(), dict(self._failures), self._asked, counts.retries, counts.refusals,
            self._client.meter.spent, self._rate.at(now, self._asked), now - self._start, self._budget_reached,
        )  # fmt: skip

    async def _tick(self, listen: Listen) -> None:
        while True:
            listen(self.standing())
            await asyncio.sleep(_TELL_SECONDS)

    async def _missing(self, requests: Iterable[ChatRequest]) -> AsyncIterator[_Row]:
        """The rows without a stored outcome, each once."""
        rows, meter = iter(requests), self._client.meter
        while chunk := [_Row(request, self._client.endpoint.name) for request in islice(rows, _ROWS_AT_ONCE)]:
            new = []
            for row in chunk:  # before the store is asked: what leaves `_pending` meanwhile is in the store
                if reason := self._failed.get(row.key):
                    self._failures[reason] += 1
                elif row.key in self._pending:
                    self._pending[row.key] += 1
                else:
                    self._pending[row.key] = 1
                    new.append(row)
            for row in await asyncio.to_thread(self._look_up, new):
                if meter.budget is not None:
                    meter.budget.check(row.request, meter.prices)
                yield row

    def _look_up(self, rows: list[_Row]) -> list[_Row]:
        """Count the rows that the store knows; give the others."""
        unknown = [rows[i] for i in self._store.missing([row.key for row in rows])]
        known = {row.key for row in rows} - {row.key for row in unknown}
        failed: dict[str, FailureReason] = {}
        if self._heed_failures:
            for row, block in zip(unknown, _lookup(self._store, unknown), strict=True):
                if block is not None and isinstance(outcome := from_block(block), Failure):
                    failed[row.key] = outcome.reason
        for key in known:
            self._answered += self._pending.pop(key)
        for key, reason in failed.items():
            self._count_failed(key, reason)
        return [row for row in unknown if row.key not in failed]

    async def _ask(self, row: _Row) -> bool:
        try:
            outcome = await self._client.ask(row.request)
        except BudgetReached:
            return False
        failed = isinstance(outcome, Failure)
        facts = row.failure_facts if failed else row.facts
        key = row.failure_key if failed else row.key
        self._unstored[key] = row.key, outcome.reason if isinstance(outcome, Failure) else None
        await self._writer.put(key, to_block(outcome), facts)
        return True

    def _stored(self, keys: list[str]) -> None:
        """These are durable now, and count."""
        for key in keys:
            if key in self._unstored:  # no entry of the ledger
                row_key, reason = self._unstored.pop(key)
                self._asked += 1
                if reason is None:
                    self._answered += self._pending.pop(row_key)
                else:
                    self._count_failed(row_key, reason)

    def _count_failed(self, key: str, reason: FailureReason) -> None:
        self._failed[key] = reason
        self._failures[reason] += self._pending.pop(key)
