"""The limits against a simulated server, in virtual time: what is learnt, and what the learning costs."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from stillroom.teachers.endpoint.limits import Pace, Ticket, Window
from stillroom.teachers.endpoint.wire import Allowance


@dataclass
class TokenBucket:
    rate: float
    burst: float
    level: float = field(init=False)
    last: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.burst

    def admits(self, now: float) -> bool:
        self.level, self.last = min(self.burst, self.level + (now - self.last) * self.rate), now
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass
class FixedWindow:
    most: int
    seconds: float
    window: int = -1
    count: int = 0

    def admits(self, now: float) -> bool:
        if int(now / self.seconds) != self.window:
            self.window, self.count = int(now / self.seconds), 0
        self.count += 1
        return self.count <= self.most


@dataclass
class SlidingWindow:
    most: int
    seconds: float
    counts_refusals: bool = False
    times: deque[float] = field(default_factory=deque)

    def admits(self, now: float) -> bool:
        while self.times and self.times[0] <= now - self.seconds:
            self.times.popleft()
        admitted = len(self.times) < self.most
        if admitted or self.counts_refusals:
            self.times.append(now)
        return admitted


@dataclass
class Outcome:
    rate: float
    refused: float
    window: float
    end: float


def simulate(
    admits: Callable[[float], bool],
    rows: int,
    *,
    latency: Callable[[int], float],
    most: int,
    allowance: Callable[[float], list[Allowance]] | None = None,
) -> Outcome:
    """Send `rows` through a Window and a Pace; latency(in flight) is the server's. A refusal comes after 2 ms."""
    chance, window, pace = random.Random(0), Window(most), Pace()
    now, waiting, in_flight, done, refused, number = 0.0, rows, 0, 0, 0, 0
    events: list[tuple[float, int, str, Ticket | None]] = []
    while done < rows:
        while waiting and in_flight < int(window.limit) and pace.wait(now) <= 0:
            ticket = pace.send(now, window.spacing())
            waiting, in_flight, number = waiting - 1, in_flight + 1, number + 1
            admitted = admits(now)
            heapq.heappush(events, (now + (latency(in_flight) if admitted else 0.002), number, "ok" if admitted else "refused", ticket))
        sending = now + pace.wait(now) + 0.0015 * chance.random() if waiting and in_flight < int(window.limit) else float("inf")
        now = max(now, min(sending, events[0][0] if events else float("inf")))
        while events and events[0][0] <= now:
            _, _, kind, ticket = heapq.heappop(events)
            if ticket is None:
                waiting += 1
                continue
            if kind == "ok":
                window.answered(now - ticket.time, in_flight)
                done += 1
                if allowance is not None:
                    pace.told(allowance(now), now)
            else:
                refused += 1
                pace.refused(ticket, now, None)
                window.refused(in_flight)
                number += 1
                heapq.heappush(events, (now + 0.5 * chance.random(), number, "again", None))
            in_flight -= 1
    return Outcome(rows / now, refused / rows, window.limit, now)


@pytest.mark.parametrize("most", [50, 256])
@pytest.mark.parametrize("burst", [5, 20])
def test_a_hidden_limit_is_found_and_kept(most: int, burst: int) -> None:
    found = simulate(TokenBucket(20, burst).admits, 1000, latency=lambda n: 0.2, most=most)
    assert found.rate >= 19
    assert found.refused < 0.02


@pytest.mark.parametrize("rate", [0.5, 3, 200])
def test_at_other_rates_too(rate: float) -> None:
    found = simulate(TokenBucket(rate, max(rate, 3)).admits, int(200 * rate), latency=lambda n: 0.5, most=256)
    assert found.rate >= 0.85 * rate
    assert found.refused < {200: 0.01, 3: 0.03, 0.5: 0.15}[rate]  # of few requests, the dozen that find the limit are more


def test_a_bucket_without_a_burst_and_fixed_windows_are_borne() -> None:
    strict = simulate(TokenBucket(20, 1).admits, 1000, latency=lambda n: 0.2, most=64)
    assert strict.rate > 12
    assert strict.refused < 0.02
    minute = simulate(FixedWindow(600, 60).admits, 3000, latency=lambda n: 0.2, most=64)
    assert minute.end < 400  # five windows of a minute at best
    assert minute.refused < 0.05  # nothing tells when the minute is over but asking


_KINDS: dict[str, Callable[[float], Callable[[float], bool]]] = {
    "bucket, no burst": lambda rate: TokenBucket(rate, 1).admits,
    "bucket of a second": lambda rate: TokenBucket(rate, rate).admits,
    "bucket of ten seconds": lambda rate: TokenBucket(rate, 10 * rate).admits,
    "every second": lambda rate: FixedWindow(int(rate), 1).admits,
    "every ten seconds": lambda rate: FixedWindow(int(10 * rate), 10).admits,
    "every minute": lambda rate: FixedWindow(int(60 * rate), 60).admits,
    "of the last second": lambda rate: SlidingWindow(int(rate), 1).admits,
    "of the last ten seconds": lambda rate: SlidingWindow(int(10 * rate), 10).admits,
    "of the last minute": lambda rate: SlidingWindow(int(60 * rate), 60).admits,
    "of the last ten seconds, refusals too": lambda rate: SlidingWindow(int(10 * rate), 10, counts_refusals=True).admits,
}


@pytest.mark.parametrize(("rate", "latency"), [(2, 0.1), (2, 2.0), (20, 0.1), (20, 2.0)])
@pytest.mark.parametrize("kind", _KINDS)
def test_no_kind_of_limit_is_taken_for_another(kind: str, rate: float, latency: float) -> None:
    """Not for a limit of half its rate, and not for none: five minutes of work."""
    found = simulate(_KINDS[kind](rate), int(300 * rate), latency=lambda n: latency, most=256)
    assert found.rate > 0.65 * rate
    assert found.refused < {2: 0.15, 20: 0.04}[rate]  # of 600 requests, those that find a window of a minute are more


def test_a_server_that_refuses_everything_for_hours_is_asked_ever_more_seldom() -> None:
    pace, now = Pace(), 0.0
    for _ in range(2000):
        now += pace.wait(now)
        pace.refused(pace.send(now), now + 0.01, None)
    assert pace.wait(now) == pytest.approx(30, abs=1)


def test_a_limit_that_changes_is_followed() -> None:
    server = TokenBucket(40, 20)

    def admits(now: float) -> bool:
        server.rate = 40 if now < 60 else 10 if now < 120 else 40
        return server.admits(now)

    found = simulate(admits, 6000, latency=lambda n: 0.2, most=64)
    assert found.end < 1.25 * (120 + (6000 - 60 * 50) / 40)
    assert found.refused < 0.02


def test_without_a_limit_the_window_opens_in_a_few_round_trips() -> None:
    found = simulate(lambda now: True, 5000, latency=lambda n: 0.1, most=256)
    assert found.refused == 0
    assert found.rate > 0.85 * 2560


@pytest.mark.parametrize(("sigma", "seed"), [(0.5, 0), (1.0, 1), (1.0, 2), (1.5, 3)])
def test_answers_of_very_different_length_are_no_queue(sigma: float, seed: int) -> None:
    """Log-normal lengths: the quickest of a window is chance, and took half of the window away."""
    lengths = random.Random(seed)
    found = simulate(lambda now: True, 3000, latency=lambda n: lengths.lognormvariate(-2.0, sigma), most=50)
    assert found.window >= 45


def test_the_window_stops_where_more_only_wait() -> None:
    found = simulate(lambda now: True, 20_000, latency=lambda n: 0.1 * max(1.0, n / 40), most=1024)  # 40 served at once
    assert 40 <= found.window <= 500
    assert found.rate > 0.9 * 400


def test_retry_after_holds_everybody_back() -> None:
    pace = Pace()
    pace.refused(pace.send(0.0), 0.1, 7.0)
    assert pace.wait(0.1) == pytest.approx(7.0)
    pace.refused(pace.send(8.0), 8.1, 2.0)
    assert pace.wait(8.1) == pytest.approx(2.0)


def test_headers_are_kept_before_anything_is_refused() -> None:
    server = TokenBucket(10, 600)

    def told(now: float) -> list[Allowance]:
        return [Allowance("requests", server.level, (server.burst - server.level) / server.rate)]

    found = simulate(server.admits, 3000, latency=lambda n: 0.3, most=128, allowance=told)
    assert found.refused == 0
    assert found.rate > 10


def test_tokens_a_minute_are_kept_like_requests() -> None:
    pace = Pace()
    pace.cost(100)
    pace.told([Allowance("tokens", 1000, 20.0)], 0.0)
    assert pace.rate(1.0) == pytest.approx(1000 / 100 / 20)
    assert pace.rate(21.0) is None  # the allowance is full again


def test_what_was_told_last_counts_and_no_longer_than_its_reset() -> None:
    pace = Pace()
    pace.told([Allowance("requests", 0, 60.0)], 0.0)
    pace.send(0.0)
    assert 50 < pace.wait(1.0) <= 59
    assert pace.wait(60.0) <= 0
    pace.told([Allowance("requests", 500, 60.0)], 2.0)
    assert pace.wait(2.0) <= 0


def test_one_burst_of_refusals_is_one_cut() -> None:
    window, pace = Window(64), Pace()
    tickets = [pace.send(0.001 * i) for i in range(20)]
    for ticket in tickets:
        pace.refused(ticket, 0.1, None)
    assert pace.rate(0.1) == pytest.approx(0.5 * tickets[0].number / 0.25, abs=3)
    window.limit = 64
    for ticket in tickets:
        window.congested(ticket, 0.1)
    assert window.limit == pytest.approx(0.8 * 64)
