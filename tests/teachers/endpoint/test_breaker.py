"""When a run is stopped, and when it is not yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from stillroom.core.chat import Failure, FailureReason
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.breaker import Breaker, EndpointStopped
from stillroom.teachers.endpoint.wire import AttemptFailed

PLACE = Endpoint("http://127.0.0.1:1/v1")


def breaker(*, ever: bool) -> Breaker:
    made = Breaker(PLACE)
    if ever:
        made.succeeded()
    return made


def borne(step: Callable[[int], None], most: int) -> int:
    """How many steps are borne before the run is stopped; `most` where it is not."""
    for i in range(most):
        try:
            step(i)
        except EndpointStopped:
            return i
    return most


@pytest.mark.parametrize(("reason", "patience"), [("server-error", 60), ("unreachable", 60), ("rate-limited", 900)])
def test_an_outage_needs_many_attempts_and_a_time(reason: FailureReason, patience: int) -> None:
    failed = AttemptFailed(reason, "", retry=True)
    quick, slow = breaker(ever=True), breaker(ever=True)
    assert borne(lambda i: quick.attempt_failed(failed, 100 + 0.01 * i), 500) == 500, "many at once are a moment"
    assert borne(lambda i: slow.attempt_failed(failed, 100 + patience * i), 500) == 19, "few are chance"
    steady = breaker(ever=True)
    assert borne(lambda i: steady.attempt_failed(failed, 100 + i), 2000) == patience
    steady.succeeded()
    assert borne(lambda i: steady.attempt_failed(failed, 9000 + i), 2000) == patience, "a success begins it anew"


def test_wrong_settings_stop_at_once_and_later_only_in_a_row() -> None:
    failed = AttemptFailed("unauthorised", "", status=401, retry=True, settings=True)
    fresh, proven = breaker(ever=False), breaker(ever=True)
    assert borne(lambda i: fresh.attempt_failed(failed, 0.0), 5) == 0
    assert borne(lambda i: proven.attempt_failed(failed, 0.0), 100) == 19


def test_rows_that_all_fail_stop_the_run_sooner_where_nothing_has_succeeded() -> None:
    fresh, proven = breaker(ever=False), breaker(ever=True)
    assert borne(lambda i: fresh.row_failed(Failure("bad-request")), 500) == 19
    assert borne(lambda i: proven.row_failed(Failure("bad-request")), 500) == 99


@pytest.mark.parametrize(("reason", "remedy"), [("bad-request", "Mend the request's parameters"), ("server-error", "Run again when")])
def test_the_remedy_fits_the_reason(reason: Any, remedy: str) -> None:
    fresh, failure = breaker(ever=False), Failure(reason, "why", 500)
    assert borne(lambda i: fresh.row_failed(failure), 19) == 19
    with pytest.raises(EndpointStopped, match=rf"{reason}.*\. {remedy}.*what has been answered is kept"):
        fresh.row_failed(failure)
