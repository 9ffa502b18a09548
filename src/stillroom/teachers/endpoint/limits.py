"""How fast, and how many at once: what an endpoint bears, learnt from what it does. No network, no waiting; time is an argument."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from stillroom.teachers.endpoint.wire import Allowance

_LATE_SECONDS, _LATE_SECONDS_WIDE = 0.02, 0.002
"""So much lateness of a timer is made up for; the latter where requests are further apart than the former, and a strict server would
take two close ones for one too many."""


@dataclass(frozen=True)
class Ticket:
    """A request that goes: when, and how many have gone, itself among them."""

    time: float
    number: int


class Window:
    """How many requests at once: additive increase, multiplicative decrease on timeouts, overload and latency that grows.

    It starts low and doubles every round trip until something speaks against it (slow start). If for two windows in a row even the
    quicker quarter of the answers takes three times as long as in the best window, all wait in the server's queue (Brakmo & Peterson
    1995, TCP Vegas): more at once would bring nothing. A mean would not do, since answers differ in length and one slow moment is no
    queue; nor would the least, which for answers of log-normal length wanders by more than that.
    """

    _CUT, _CROWDED, _FORGET = 0.8, 3.0, 1.001
    _ENOUGH = 64
    """So many answers at least tell a quartile: to within a third at the tails that real answers have (log-normal, sigma 1 to 1.5)."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.slow_start = True
        self.latency: float | None = None
        """Seconds: the lower quartile of the best window seen; forgotten slowly."""
        self._start = self.limit = min(max(most / 8, 4.0), 32.0, most)
        self._step = max(most / 32, 1.0)
        self._seconds: list[float] = []
        self._was_crowded, self._cut_at = False, 0.0

    def spacing(self) -> float:
        """Seconds between two sendings: the slow start spreads a window over a round trip, so that a refusal comes before most are out."""
        return (0.05 if self.latency is None else self.latency) / self.limit if self.slow_start else 0.0

    def answered(self, seconds: float, in_flight: int) -> None:
        """An answer came after `seconds`; `in_flight` requests were out, itself among them."""
        if in_flight + 1 >= 0.8 * self.limit:  # what is not used shows nothing
            self.limit = min(self.limit + (1.0 if self.slow_start else self._step / self.limit), self.most)
        self._seconds.append(seconds)
        if len(self._seconds) >= max(self._ENOUGH, self.limit):
            self._judge(sorted(self._seconds)[len(self._seconds) // 4])
            self._seconds.clear()

    def _judge(self, latency: float) -> None:
        """The lower quartile of a window of answers."""
        crowded = self.latency is not None and latency > self._CROWDED * self.latency
        if self.latency is None or not crowded:
            self.latency = latency if self.latency is None else min(latency, self.latency * self._FORGET)
        elif not self._was_crowded:
            pass  # once may be chance
        elif self.limit > self._start:
            self.limit, self.slow_start = self.limit * self._CUT, False
        else:  # so few cannot crowd it: the server has become slower by itself
            self.latency = latency
        self._was_crowded = crowded

    def refused(self, in_flight: int) -> None:
        """A request was refused for the rate: the pace is what has to fall; more at once than now were of no use."""
        self.limit, self.slow_start = max(self.limit * self._CUT, min(in_flight, self.limit), 1.0), False

    def congested(self, ticket: Ticket, now: float) -> None:
        """A request timed out or found the server overloaded. One cut for all that were out at once."""
        if ticket.time >= self._cut_at:
            self.limit, self.slow_start, self._cut_at = max(self.limit * self._CUT, 1.0), False, now


class Pace:
    """Requests a second: unbounded until the endpoint refuses, then what it has been seen to bear.

    A limit is learnt between two refusals: at both the allowance was used up, so it lies between what was let through in between
    (exactly that, if the server's bucket kept what was not used at once) and the rate at which the second one came. While both are far
    apart, the pace doubles from their mean and is refused again (search). Then it starts just below the limit and follows a cubic:
    level around it, faster the longer nothing is refused (Ha, Rhee & Xu 2008, CUBIC). Where headers say what is left, that is spread
    evenly over the time until the reset.
    """

    _BELOW = 0.98
    """The share of the learnt limit to start from."""
    _LEVEL: float = (1 - _BELOW) ** (1 / 3)
    _SECONDS, _REQUESTS = 30.0, 250.0
    """The cubic takes the longer of both from the limit to its double, so that refusals stay rare at any rate."""
    _ENOUGH, _NEAR = 10, 1.3
    """So many let through between two refusals tell a limit, if the rate at the second is no further above it than this."""
    _PAUSE, _LONGEST_PAUSE = 0.5, 30.0

    def __init__(self) -> None:
        self.refusals = 0
        self._sent, self._first = 0, 0.0
        self._last_sent = 0.0  # made earlier by what its timer was late
        self._spacing, self._resume = 0.0, 0.0
        self._limit: float | None = None
        self._searches = 1  # how many guesses there have been; 0 once the limit is learnt
        self._recent: deque[float] = deque(maxlen=self._ENOUGH)  # when requests went
        self._since = 0.0  # when the limit was set
        self._marks: list[tuple[float, int, int]] = []  # refusals: when sent, as which request, how many had been let through by then
        self._least: float | None = None  # what the latest guess found to be let through
        self._silent = 0  # refusals in a row with nothing let through
        self._told: dict[str, tuple[float, float]] = {}  # name -> requests a second, until when
        self._tokens = 0.0

    def rate(self, now: float) -> float | None:
        """Requests a second that are allowed now; None: as many as there are."""
        rates = [rate for rate, until in self._told.values() if now < until]
        if self._limit is not None:
            rates.append(self._limit * self._growth(now - self._since))
        return min(rates, default=None)

    def _growth(self, seconds: float) -> float:
        assert self._limit is not None
        if self._searches:  # each guess is tried more gently than the one before
            return float(2 ** min(seconds / (self._searches * max(1.0, 5 / self._limit)), 60.0))
        scale = max(self._SECONDS, self._REQUESTS / self._limit)
        return 1 + (seconds / scale - self._LEVEL) ** 3

    def wait(self, now: float) -> float:
        """Seconds until the next request may go."""
        return max(self._last_sent + self._gap(now) if self._sent else now, self._resume) - now

    def _gap(self, now: float) -> float:
        """Seconds from the last request to the next. What was told may be told anew meanwhile, and holds until its reset at the longest."""
        told = [min(1 / rate, until - self._last_sent) for rate, until in self._told.values() if now < until]
        return max(self._spacing, *told) if told else self._spacing

    def send(self, now: float, spacing: float = 0.0) -> Ticket:
        """A request goes now; the next one no sooner than `spacing` later."""
        if not self._sent:
            self._first = self._last_sent = now
        else:
            late = _LATE_SECONDS if self._spacing < _LATE_SECONDS else _LATE_SECONDS_WIDE
            self._last_sent = max(self._last_sent + self._gap(now), now - late)
        self._spacing = spacing if self._limit is None else max(spacing, 1 / (self._limit * self._growth(now - self._since)))
        self._sent += 1
        self._recent.append(now)
        return Ticket(now, self._sent)

    def pause(self, until: float) -> None:
        """Nothing goes before `until`."""
        self._resume = max(self._resume, until)

    def refused(self, ticket: Ticket, now: float, wait: float | None) -> None:
        """A request was refused for the rate; the server asks for `wait` seconds, or says nothing."""
        self.refusals += 1
        if wait is not None:
            self.pause(now + wait)
        if self._limit is not None and ticket.time < self._since:  # sent before the last cut: nothing new
            self._marks = [(when, sent, passed - (ticket.number < sent)) for when, sent, passed in self._marks]
            return
        let_through = ticket.number - self.refusals
        passed = let_through - self._marks[-1][2] if self._marks else 0
        self._silent = 0 if passed > 0 or not self._marks else self._silent + 1
        self._limit, self._since = max(self._learn(ticket.time, let_through, self._used(now)), 1 / 60), now
        self._recent.clear()
        self._marks = [*self._marks[-self._ENOUGH :], (ticket.time, ticket.number, let_through)]
        if wait is None:
            pause = min(self._PAUSE * 2 ** min(self._silent, 10), self._LONGEST_PAUSE)
            self.pause(now + (min(pause, 2 / self._limit) if passed >= self._ENOUGH else pause))

    def _used(self, now: float) -> float | None:
        """The pace, or the rate at which requests really went, if it was less."""
        rate = self.rate(now)
        if rate is None or len(self._recent) < self._ENOUGH or self._recent[-1] == self._recent[0]:
            return rate
        return min(rate, (len(self._recent) - 1) / (self._recent[-1] - self._recent[0]))

    def _learn(self, sent_at: float, let_through: int, rate: float | None) -> float:
        """The limit, as far as the refusals show it; `rate` was the pace."""
        if not self._marks or rate is None:
            return max(0.5 * let_through, 0.5) / max(sent_at - self._first, 0.25)
        # The latest refusal that is far enough back to tell.
        when, _, before = next((mark for mark in reversed(self._marks) if let_through - mark[2] >= self._ENOUGH), self._marks[0])
        passed = let_through - before
        if self._silent or passed <= 0:  # still none allowed; the pauses grow instead
            return self._limit or rate
        least = min(passed / max(sent_at - when, 1e-3), rate)
        if not self._searches or (passed >= self._ENOUGH and (rate < self._NEAR * least or self._agrees(least))):
            self._searches = 0
            return least
        self._searches, self._least = self._searches + 1, least
        return float((least * rate) ** 0.5)

    def _agrees(self, least: float) -> bool:
        """Twice the same was let through, whatever the pace: a window of many seconds, or a large bucket, shows no rate but this."""
        return self._least is not None and max(least, self._least) < self._NEAR * min(least, self._least)

    def told(self, allowances: Iterable[Allowance], now: float) -> None:
        """The server has said what is left."""
        for each in allowances:
            if each.reset > 0:
                requests = each.remaining / max(self._tokens, 1.0) if each.name == "tokens" else each.remaining
                self._told[each.name] = max(requests, 0.5) / each.reset, now + each.reset

    def cost(self, tokens: int) -> None:
        """An answer took so many tokens."""
        self._tokens = 0.9 * self._tokens + 0.1 * tokens if self._tokens else float(tokens)
