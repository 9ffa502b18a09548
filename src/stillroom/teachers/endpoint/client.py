"""The client: a request with its retries, and many requests at once, each on its own."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Self

from stillroom.core.chat import ChatRequest, Failure, Reply
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.breaker import Breaker
from stillroom.teachers.endpoint.budget import NOTHING, Spending
from stillroom.teachers.endpoint.gate import Gate
from stillroom.teachers.endpoint.limits import Ticket
from stillroom.teachers.endpoint.meter import BudgetReached, Meter
from stillroom.teachers.endpoint.pool import for_each
from stillroom.teachers.endpoint.transport import Transport
from stillroom.teachers.endpoint.wire import AttemptFailed, allowances, parse_reply, refusal

Outcome = Reply | Failure
_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 0.5, 30.0
LONGEST_WAIT_SECONDS = 600.0
"""A server that asks for a longer wait is waited for no longer than this before it is asked again."""
_REFUSALS = 50
"""So often is one row refused for the rate before it fails for good."""
_NO_FAULT_OF_A_ROW = ("rate-limited", "unreachable")
"""Such attempts do not count: the breaker says when there are too many of the latter."""
_LOOK_AHEAD = 32
_JSON = {"Content-Type": "application/json"}


@dataclass
class Counts:
    """What has happened so far."""

    attempts: int = 0
    retries: int = 0
    refusals: int = 0


class EndpointClient:
    """Asks one endpoint. An async context manager: the connections live inside it.

    `clock` (monotonic seconds), `wall` (Unix seconds), `sleep` and `rng` are there for tests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: random.Random | None = None,
    ) -> None:
        """Raises BadInput where the key is not in its variable, MissingExtra without aiohttp."""
        self.endpoint, self.meter, self.counts = endpoint, meter or Meter(), Counts()
        self.gate = Gate(endpoint.max_concurrency, clock)
        self.breaker = Breaker(endpoint)
        self._clock, self._wall, self._sleep = clock, wall, sleep
        self._rng = rng or random.Random()  # noqa: S311 - jitter
        self._transport = Transport(endpoint)

    async def __aenter__(self) -> Self:
        import yarl

        self._url = yarl.URL(self.endpoint.url)
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._transport.__aexit__(*error)

    async def ask(self, request: ChatRequest) -> Outcome:
        """One request, with as many attempts as it takes.

        Raises:
            EndpointStopped: going on makes no sense.
            BudgetReached: the next attempt might cost more than is left.
            Closed: the gate was closed before the next attempt.
        """
        body = request.body()
        most = self.meter.most(request, len(body))
        attempts = failures = refusals = 0
        while True:
            await self.meter.reserve(most)
            attempts += 1
            try:
                reply = await self._attempt(body, most, attempts)
            except AttemptFailed as failed:
                self.breaker.attempt_failed(failed, self._clock())
                refusals += failed.reason == "rate-limited"
                failures += failed.reason not in _NO_FAULT_OF_A_ROW
                if not failed.retry or failures >= self.endpoint.max_attempts or refusals >= _REFUSALS:
                    failure = Failure(failed.reason, failed.detail, failed.status, attempts, usage=failed.usage)
                    self.breaker.row_failed(failure)
                    return failure
                self.counts.retries += 1
                await self._sleep(backoff_seconds(attempts - refusals, self._rng))  # then the gate may want a longer wait
            else:
                self.breaker.succeeded()
                return reply

    @property
    def num_workers(self) -> int:
        """How many rows to work on: as many as may be out, and some that get ready meanwhile."""
        return self.endpoint.max_concurrency + _LOOK_AHEAD

    async def ask_each(self, requests: Iterable[ChatRequest] | AsyncIterable[ChatRequest]) -> AsyncIterator[tuple[ChatRequest, Outcome]]:
        """The outcomes as they come, in any order. `requests` is read as it is needed.

        Raises:
            EndpointStopped, BudgetReached: as `ask` does; the latter once what is out has come back.
        """
        outcomes: asyncio.Queue[tuple[ChatRequest, Outcome] | None] = asyncio.Queue(2 * self.num_workers)

        async def work(request: ChatRequest) -> bool:
            try:
                outcome = await self.ask(request)
            except BudgetReached:
                return False
            await outcomes.put((request, outcome))
            return True

        async def all_of_them() -> bool:
            try:
                return await for_each(requests, work, self.num_workers)
            finally:
                await outcomes.put(None)

        task = asyncio.create_task(all_of_them())
        try:
            while (pair := await outcomes.get()) is not None:
                yield pair
            if not await task:
                raise BudgetReached
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _attempt(self, body: bytes, most: Spending, attempts: int) -> Reply:
        """Send once. What was reserved is settled, whatever happens."""
        cost, gate = NOTHING, self.gate
        try:
            ticket = await gate.enter()
            cost = most  # until the answer says otherwise
            self.counts.attempts += 1
            try:
                reply = await self._exchange(body, attempts)
                gate.window.answered(reply.seconds, gate.in_flight)
                if reply.usage is not None:
                    cost = self.meter.prices.of(reply.usage)
                    gate.pace.cost(reply.usage.tokens)
                return reply
            except AttemptFailed as failed:
                if failed.usage is not None:
                    cost = self.meter.prices.of(failed.usage)
                elif not failed.billed:
                    cost = NOTHING if failed.reason == "unreachable" else Spending(requests=1)
                self._heed(failed, ticket)
                raise
            finally:
                gate.leave()
        finally:
            self.meter.settle(most, cost)

    async def _exchange(self, body: bytes, attempts: int) -> Reply:
        """One HTTP exchange within the deadline. Raises AttemptFailed."""
        start = self._clock()
        async with self._transport.exchange("POST", self._url, data=body, headers=_JSON) as response:
            content = await self._transport.read(response)
            headers, wall = response.headers, self._wall()
            if "x-ratelimit-remaining-requests" in headers or "x-ratelimit-remaining-tokens" in headers:
                self.gate.pace.told(allowances(headers, wall), self._clock())
            if not 200 <= response.status < 300:
                raise refusal(response.status, content, headers, wall)
            choices, usage, model = parse_reply(content, headers.get("Content-Type", ""), response.status, wall)
            return Reply(choices, usage, model, attempts, self._clock() - start)

    def _heed(self, failed: AttemptFailed, ticket: Ticket) -> None:
        """Tell the limits what a failed attempt says about them."""
        now, gate = self._clock(), self.gate
        wait = None if failed.wait is None else min(failed.wait, LONGEST_WAIT_SECONDS)
        if failed.reason == "rate-limited":
            self.counts.refusals += 1
            gate.pace.refused(ticket, now, wait)
            gate.window.refused(gate.in_flight)
        elif failed.reason == "timeout" or failed.status in (503, 529):
            gate.window.congested(ticket, now)
            if wait is not None:
                gate.pace.pause(now + wait)


def backoff_seconds(failures: int, rng: random.Random) -> float:
    """Full jitter (Brooker 2015): anywhere up to a bound that doubles with each failure."""
    return rng.uniform(0.0, min(_BACKOFF_SECONDS * 2.0 ** max(failures - 1, 0), _LONGEST_BACKOFF_SECONDS))
