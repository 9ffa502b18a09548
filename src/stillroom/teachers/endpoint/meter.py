"""Every attempt is reserved at its most before it is sent, and settled when it is known what it has cost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from stillroom.core.chat import ChatRequest, Usage
from stillroom.teachers.endpoint.budget import NOTHING, Budget, Prices, Spending

_TEMPLATE_TOKENS = 256
"""What a server's chat template may add to a prompt, at most."""


def most_tokens(request: ChatRequest, num_bytes: int) -> Usage:
    """The most tokens that one attempt can take: a token is at least a byte long."""
    return Usage(num_bytes + _TEMPLATE_TOKENS * len(request.messages), request.parameters.most_tokens or 0)


async def _nothing_to_wait_for() -> None: ...


class BudgetReached(Exception):
    """Not an error: the next request might cost more than is left."""


class Meter:
    """Counts what is spent, and lets no attempt begin that the budget might not cover.

    What an attempt has cost is not always known: it timed out, or the answer was cut short. It then counts at its most.
    """

    def __init__(self, prices: Prices | None = None, budget: Budget | None = None, spent: Spending = NOTHING) -> None:
        """`spent`: by earlier runs."""
        self.prices, self.budget = prices or Prices(), budget
        self.spent, self.reserved = spent, NOTHING
        self._waiting: deque[tuple[Spending, asyncio.Future[None]]] = deque()
        self.record: Callable[[Spending], None] = lambda change: None
        """Told each change of what is spent or reserved; without a budget, of what is spent."""
        self.commit: Callable[[], Awaitable[None]] = _nothing_to_wait_for
        """Returns once what was recorded is durable: under a budget, a request is sent only then."""

    def most(self, request: ChatRequest, num_bytes: int) -> Spending:
        """The most that one attempt can cost."""
        return self.prices.of(most_tokens(request, num_bytes))

    def check(self, request: ChatRequest) -> None:
        """Raises BadInput where the budget cannot be kept for this request."""
        if self.budget is not None:
            self.budget.check(request, self.prices)

    async def reserve(self, most: Spending) -> None:
        """Wait until the budget covers `most`, and until that it was reserved is durable.

        Raises:
            BudgetReached: it does not, and nothing is out that might come cheaper than feared.
        """
        if self.budget is None:
            return
        if self._waiting or not self.fits(most):
            await self._turn(most)
        else:
            self._take(most)
        try:
            await self.commit()
        except BaseException:
            self.settle(most, NOTHING)
            raise

    def settle(self, most: Spending, cost: Spending) -> None:
        """What was reserved as `most` has cost `cost`."""
        self.spent += cost
        if self.budget is None:
            self.record(cost)
            return
        self.reserved -= most
        self.record(cost - most)
        self._wake()

    async def _turn(self, most: Spending) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((most, turn))
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.settle(most, NOTHING)
            raise

    def fits(self, most: Spending) -> bool:
        """Whether the budget covers `most` beside what is spent and reserved."""
        return self.budget is None or self.budget.allows(self.spent + self.reserved + most)

    def _take(self, most: Spending) -> None:
        self.reserved += most
        self.record(most)

    def _wake(self) -> None:
        while self._waiting and (self._waiting[0][1].done() or self.fits(self._waiting[0][0])):
            most, turn = self._waiting.popleft()
            if not turn.done():
                self._take(most)
                turn.set_result(None)
        if self._waiting and self.reserved.requests == 0:
            for _, turn in self._waiting:
                if not turn.done():
                    turn.set_exception(BudgetReached())
            self._waiting.clear()
