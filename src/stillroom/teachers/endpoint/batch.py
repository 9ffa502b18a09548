"""Ask through the vendors' batch API: cheaper, within a day, and durable like every other way of asking.

A file of requests is uploaded, recorded in the store, and only then made a batch, which is looked for before it is made. So a run that is
killed anywhere finds its batches again and submits nothing twice: at worst an uploaded file is left that nobody asks about.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sized
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from stillroom.core.chat import ChatRequest, Failure, Usage
from stillroom.core.protocols import BlockStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.batch_api import CHAT_PATH, Batch, BatchApi
from stillroom.teachers.endpoint.batch_files import ScratchFile
from stillroom.teachers.endpoint.batch_records import BatchRecords, Uploaded
from stillroom.teachers.endpoint.batch_results import Results
from stillroom.teachers.endpoint.breaker import Breaker, EndpointStopped
from stillroom.teachers.endpoint.budget import BATCH_PRICE_FACTOR, NOTHING, Budget, Prices, Spending
from stillroom.teachers.endpoint.durable import ask_all
from stillroom.teachers.endpoint.ledger import spent_so_far
from stillroom.teachers.endpoint.meter import Meter, most_tokens
from stillroom.teachers.endpoint.rows import Entry, Row, Rows
from stillroom.teachers.endpoint.standing import Batches, Listen, RecentRate, Standing, tell
from stillroom.teachers.endpoint.wire import AttemptFailed

_MOST_REQUESTS, _MOST_BYTES = 50_000, 200_000_000
"""OpenAI's limits of one batch, which others share."""
_AT_ONCE = 8
"""So many batches at the vendor's together; each may take 200 MB of the temporary folder."""
_POLL_SECONDS, _LONGEST_POLL_SECONDS, _POLL_GROWTH = 2.0, 60.0, 1.3
_BARREN = 3
"""After so many batches in a row that brought nothing the run stops."""
_ENTRIES_AT_ONCE = 256


def ask(
    store: BlockStore, endpoint: Endpoint, requests: Iterable[ChatRequest], *, batch: bool = False, prices: Prices | None = None,
    budget: Budget | None = None, ask_failed_again: bool = False, listen: Listen | None = None,
) -> Standing:  # fmt: skip
    """`ask_batch` or `ask_all`, as `batch` says."""
    way = ask_batch if batch else ask_all
    return way(store, endpoint, requests, prices=prices, budget=budget, ask_failed_again=ask_failed_again, listen=listen)


def ask_batch(
    store: BlockStore, endpoint: Endpoint, requests: Iterable[ChatRequest], *, prices: Prices | None = None,
    budget: Budget | None = None, price_factor: float = BATCH_PRICE_FACTOR, ask_failed_again: bool = False, listen: Listen | None = None,
) -> Standing:  # fmt: skip
    """`durable.ask_all` through the batch API: the same rows, keys, store, budget and result.

    What a batch leaves unanswered (expired, cancelled, failed, no word about a row) is asked again in a further one, a row
    `endpoint.max_attempts` times at most. Batches of a killed run are found again and waited for. What is out counts at its most in what
    is spent, until it is settled.

    Args:
        prices: as without a batch; `price_factor` of them is paid.
        price_factor: the vendor's price inside a batch as a share of the usual one.
        requests, budget, ask_failed_again, listen: as for `ask_all`.

    Raises:
        BadInput, EndpointStopped, StageFailed: as `ask_all`.
    """
    meter = Meter((prices or Prices()).times(price_factor), budget, spent_so_far(store))

    async def work() -> Standing:
        async with BatchApi(endpoint) as api:
            return await _Run(store, api, meter, ask_failed_again=ask_failed_again).all(requests, listen or (lambda standing: None))

    return asyncio.run(work())


@dataclass(frozen=True)
class _Line:
    """A row as it stands in a file of requests, and the most that it can take."""

    row: Row
    most: Usage
    content: bytes


@dataclass
class _Part:
    """A file of requests that grows."""

    lines: ScratchFile
    rows: dict[str, tuple[Row, Usage]] = field(default_factory=dict)
    size: int = 0
    most: Spending = NOTHING

    def has_room(self, line: _Line) -> bool:
        return len(self.rows) < _MOST_REQUESTS and self.size + len(line.content) <= _MOST_BYTES

    def add(self, line: _Line, most: Spending) -> None:
        self.rows[line.row.key] = line.row, line.most
        self.size, self.most = self.size + len(line.content), self.most + most
        self.lines.append(line.content)


@dataclass
class _Flight:
    """A batch at the vendor's.

    Attributes:
        lines: of its rows, as far as this run has read them.
        keys: of an earlier run's batch: the rows, since they may still come by.
        alone: no other was out when it was submitted.
    """

    file: str
    lines: ScratchFile
    batch: Batch
    keys: frozenset[str] = frozenset()
    alone: bool = False
    delay: float = 0.0
    next_look: float = 0.0

    def looked(self, batch: Batch, now: float) -> None:
        self.batch = batch
        self.delay = min(max(self.delay * _POLL_GROWTH, _POLL_SECONDS), _LONGEST_POLL_SECONDS)
        self.next_look = now + self.delay


class _Run:
    """One run: one thing after the other, since the vendor takes the time."""

    def __init__(self, store: BlockStore, api: BatchApi, meter: Meter, *, ask_failed_again: bool) -> None:
        self._store, self._api, self._meter = store, api, meter
        self._endpoint, self._breaker = api.endpoint, Breaker(api.endpoint)
        self._rows = Rows(store, api.endpoint.name, ask_failed_again=ask_failed_again)
        self._records = BatchRecords(store, api.endpoint.name)
        self._flights: list[_Flight] = []
        self._files = ExitStack()
        self._again: deque[Iterator[_Line]] = deque()
        self._unused: _Line | None = None  # the one that found no room
        self._asked: Counter[str] = Counter()  # how often before, of rows that are asked again
        self._barren, self._most_out = 0, _AT_ONCE
        self._total: int | None = None
        self._batches, self._budget_reached = Batches(), False
        self._start, self._rate = time.monotonic(), RecentRate()

    async def all(self, requests: Iterable[ChatRequest], listen: Listen) -> Standing:
        self._total = len(requests) if isinstance(requests, Sized) else None
        ticker = asyncio.create_task(tell(listen, self.standing))
        try:
            with self._files:
                await self._work(self._rows.missing(requests, self._meter.check))
        finally:
            ticker.cancel()
            listen(self.standing())
        return self.standing()

    def standing(self) -> Standing:
        rows, now = self._rows, time.monotonic()
        out = [each.batch for each in self._flights]
        batches = replace(self._batches, out=len(out), processed=sum(each.processed for each in out))
        return Standing(
            self._total, rows.answered, rows.failures.total(), dict(rows.failures), rows.asked, self._asked.total() + self._api.retries, 0,
            self._meter.spent, self._rate.at(now, rows.asked), now - self._start, self._budget_reached, batches,
        )  # fmt: skip

    async def _work(self, missing: AsyncIterator[tuple[Row, ChatRequest]]) -> None:
        for file in await asyncio.to_thread(self._records.unfinished):
            await self._take_up(file)
        while True:
            while len(self._flights) < self._most_out and (part := await self._fill(missing)) is not None:
                await self._submit(part)
            if not self._flights:
                return
            flight = min(self._flights, key=lambda each: each.next_look)
            await asyncio.sleep(max(flight.next_look - time.monotonic(), 0.0))
            flight.looked(await self._api.look(flight.batch.id), time.monotonic())
            if flight.batch.ended:
                await self._collect(flight)

    # --- out

    async def _take_up(self, file: str) -> None:
        """Find the batch of an earlier run's file, or make it, if the run was killed in between."""
        uploaded = await asyncio.to_thread(self._records.read, file)
        if (name := self._records.batch(file)) is None:
            name = (await self._api.submit(file, uploaded.since)).id
            self._records.created(file, name)
        self._flights.append(_Flight(file, self._scratch_file(), Batch(name, "unknown"), frozenset(uploaded.rows)))

    async def _fill(self, missing: AsyncIterator[tuple[Row, ChatRequest]]) -> _Part | None:
        """The next file of requests, as large as the limits and the budget allow; None where there is nothing to ask now."""
        part: _Part | None = None
        while (line := await self._next_line(missing)) is not None:
            most = self._meter.prices.of(line.most)
            self._budget_reached = not self._meter.fits(most if part is None else part.most + most)
            if self._budget_reached or (part is not None and not part.has_room(line)):
                self._unused = line
                break
            part = part or _Part(self._scratch_file())
            part.add(line, most)
        return part

    async def _next_line(self, missing: AsyncIterator[tuple[Row, ChatRequest]]) -> _Line | None:
        """The next row to ask: first what is asked again, then what has not been yet."""
        if (line := self._unused) is not None:
            self._unused = None
            return line
        while self._again:
            if (line := next(self._again[0], None)) is not None:
                return line
            self._again.popleft()
        async for row, request in missing:
            body = request.body()
            content = b'{"custom_id":"%s","method":"POST","url":"%s","body":%s}\n' % (row.key.encode(), CHAT_PATH.encode(), body)
            line = _Line(row, most_tokens(request, len(body)), content)
            if (flight := next((each for each in self._flights if row.key in each.keys), None)) is not None:
                flight.lines.append(content)  # on its way already; kept in case it must be asked again
            elif self._rows.waits(row):  # a batch of an earlier run has not brought it meanwhile
                return line
        return None

    async def _submit(self, part: _Part) -> None:
        file, since = await self._api.upload(part.lines)
        uploaded = Uploaded(file, part.rows, part.most, since)
        await asyncio.to_thread(self._records.uploaded, uploaded)
        self._meter.spent += part.most
        batch = await self._api.submit(file, since)
        self._records.created(file, batch.id)
        flight = _Flight(file, part.lines, batch, alone=not self._flights)
        flight.looked(batch, time.monotonic())
        self._flights.append(flight)

    # --- back

    async def _collect(self, flight: _Flight) -> None:
        """Store what a batch has brought, settle what it cost, and ask the rest again."""
        uploaded = await asyncio.to_thread(self._records.read, flight.file)
        results = Results(uploaded.rows.keys(), self._endpoint.max_response_bytes)
        cost = Spending(requests=len(uploaded.rows))
        for file in flight.batch.files:
            cost += await self._take_in(file, uploaded, results)
        silent = results.silent()
        # A batch that ended before its time has not run those that it does not speak of.
        words = f"the batch ended ({flight.batch.status}) without a word about this row"
        unsaid = AttemptFailed("broken", words, retry=True, billed=flight.batch.status == "completed")
        failures = {**results.failures, **dict.fromkeys(silent, unsaid)}
        for key, failed in failures.items():
            cost += self._price(failed.usage or (uploaded.rows[key][1] if failed.billed else Usage()))
        # One that failed was never begun: its rows have not been tried.
        again = await self._fail(uploaded, failures, untried=silent if flight.batch.status == "failed" else ())
        counts = {"answered": len(results.answered), "duplicates": results.duplicates, "unknown": results.unknown, "silent": len(silent)}
        await asyncio.to_thread(self._records.ended, uploaded, cost, {"status": flight.batch.status, **counts})
        self._meter.spent += cost - uploaded.most
        self._flights.remove(flight)
        self._count(results, len(silent))
        self._again.append(_lines(flight.lines, {key: uploaded.rows[key] for key in again}))
        self._judge(flight, failures, answered=bool(results.answered), gone=len(uploaded.rows) > len(again))

    async def _take_in(self, file: str, uploaded: Uploaded, results: Results) -> Spending:
        """Store the answers in a file of results. Returns what they cost."""
        cost, entries = NOTHING, list[Entry]()
        with ScratchFile() as lines:
            await self._api.download(file, lines, len(uploaded.rows) * self._endpoint.max_response_bytes)
            with lines.reader() as reader:
                for key, reply in results.replies(reader):
                    row, most = uploaded.rows[key]
                    cost += self._price(reply.usage or most)
                    entries.append(self._rows.entry(row, replace(reply, attempts=1 + self._asked[key])))
                    if len(entries) >= _ENTRIES_AT_ONCE:
                        await self._put(entries)
                        entries = []
        await self._put(entries)
        return cost

    def _price(self, usage: Usage) -> Spending:
        """Of tokens; the request itself is counted elsewhere."""
        return self._meter.prices.of(usage, requests=0)

    async def _fail(self, uploaded: Uploaded, failures: dict[str, AttemptFailed], *, untried: Collection[str]) -> list[str]:
        """Store the failures that are for good. Returns the rows to ask again."""
        again, entries = list(untried), []
        for key, failed in failures.items():
            attempts = 1 + self._asked[key]
            if key in untried:
                continue
            if failed.retry and attempts < self._endpoint.max_attempts:
                self._asked[key] = attempts
                again.append(key)
            else:
                failure = Failure(failed.reason, failed.detail, failed.status, attempts, usage=failed.usage)
                entries.append(self._rows.entry(uploaded.rows[key][0], failure))
        await self._put(entries)
        return again

    def _judge(self, flight: _Flight, failures: dict[str, AttemptFailed], *, answered: bool, gone: bool) -> None:
        """Whether going on makes sense; and how many batches may be out: one that brought nothing may have found the queue full."""
        batch = flight.batch
        if gone:
            self._barren, self._most_out = 0, min(self._most_out + 1, _AT_ONCE)
        else:
            self._barren, self._most_out = self._barren + flight.alone, max(len(self._flights), 1)
        if answered:
            self._breaker.succeeded()
        for failed in () if answered else failures.values():
            if not failed.retry or failed.settings:
                self._breaker.row_failed(Failure(failed.reason, failed.detail, failed.status))
        if self._barren >= _BARREN and not self._flights:
            last = batch.detail or next((each.detail for each in failures.values()), "")
            raise EndpointStopped(
                f"teacher.batch: {self._endpoint.base_url}: {self._barren} batches in a row brought nothing, the last {batch.status} "
                f"({last}). What has been answered is kept; mend the cause, or set teacher.batch: false."
            )

    def _count(self, results: Results, silent: int) -> None:
        so_far = self._batches
        self._batches = Batches(
            ended=so_far.ended + 1, duplicates=so_far.duplicates + results.duplicates, unknown=so_far.unknown + results.unknown,
            silent=so_far.silent + silent,
        )  # fmt: skip

    async def _put(self, entries: list[Entry]) -> None:
        if entries:
            keys, blocks, facts = zip(*entries, strict=True)
            await asyncio.to_thread(self._store.put_blocks, keys, blocks, facts)
            self._rows.stored(keys)

    def _scratch_file(self) -> ScratchFile:
        return self._files.enter_context(ScratchFile())


def _lines(lines: ScratchFile, rows: dict[str, tuple[Row, Usage]]) -> Iterator[_Line]:
    """Those of some rows in a file of requests, which is closed behind them."""
    with lines, lines.reader() as reader:
        for content in reader if rows else ():
            key = content.split(b'"', 4)[3].decode()
            if key in rows:
                yield _Line(*rows[key], content)
