"""The limits of one endpoint, for coroutines: whoever wants to send waits here, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from stillroom.teachers.endpoint.limits import Pace, Ticket, Window


class Closed(Exception):
    """Not an error: nothing is sent any more."""


class Gate:
    """Lets requests through as `window` and `pace` allow. One event loop only."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.window, self.pace = Window(most), Pace()
        self.in_flight = 0
        self.closed = False
        self._clock = clock
        self._waiting: deque[asyncio.Future[Ticket]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self) -> Ticket:
        """Wait for one's turn. Every `enter` that returns needs a `leave`.

        Raises:
            Closed: no turn will come.
        """
        if self.closed:
            raise Closed
        if not self._waiting and self._open():
            return self._let_through()
        turn: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._pump()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self.leave()
            raise

    def leave(self) -> None:
        """A request is over, however it ended."""
        self.in_flight -= 1
        self._pump()

    def close(self) -> None:
        """Let nobody else through, those who wait among them."""
        self.closed = True
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_exception(Closed())

    def _open(self) -> bool:
        return self.in_flight < int(self.window.limit) and self.pace.wait(self._clock()) <= 0

    def _let_through(self) -> Ticket:
        self.in_flight += 1
        return self.pace.send(self._clock(), self.window.spacing())

    def _pump(self) -> None:
        while self._waiting and self._open():
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(self._let_through())
        if self._waiting and self._timer is None and self.in_flight < int(self.window.limit):
            wait = self.pace.wait(self._clock())
            self._timer = asyncio.get_running_loop().call_later(max(wait, 0.0), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._pump()
