"""The client against a real server on loopback that does everything wrong, one thing at a time."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import ssl
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from stillroom.core.chat import ChatRequest, Failure, Reply
from stillroom.core.errors import BadInput
from stillroom.teachers.endpoint import client as client_module
from stillroom.teachers.endpoint.breaker import EndpointStopped
from stillroom.teachers.endpoint.client import EndpointClient

Make = Callable[..., Any]
WEB_PAGE = {"body": b"<!doctype html><html><body>Welcome</body></html>", "type": "text/html"}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)


def ask(endpoint: Any, requests: Iterable[ChatRequest], **options: Any) -> tuple[list[Reply | Failure], EndpointClient]:
    """The outcomes in the order of the requests."""
    rows = list(requests)

    async def work() -> tuple[list[Reply | Failure], EndpointClient]:
        async with EndpointClient(endpoint, **options) as client:
            found = {id(request): outcome async for request, outcome in client.ask_each(rows)}
        return [found[id(row)] for row in rows], client

    return asyncio.run(work())


def first_then(*acts: dict[str, Any]) -> Callable[[int, Any], dict[str, Any]]:
    """The first requests go as told, the others well."""
    return lambda number, body: acts[number] if number < len(acts) else {}


def test_answers_come_back_to_their_rows(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"content": body["messages"][0]["content"].upper(), "latency": random.Random(number).random() / 20})
    outcomes, _ = ask(endpoint(server), make_requests(60))
    assert [each.text for each in outcomes] == [f"ROW {i}" for i in range(60)]
    assert all(each.usage is not None and each.attempts == 1 and each.seconds < 5 for each in outcomes)


def test_no_row_waits_for_a_slow_one(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"latency": 2.0 if number == 0 else 0.01})
    start = time.monotonic()
    outcomes = []

    async def work() -> None:
        async with EndpointClient(endpoint(server, max_concurrency=4)) as client:
            async for request, _ in client.ask_each(make_requests(100)):
                outcomes.append((request, time.monotonic() - start))

    asyncio.run(work())
    assert len(outcomes) == 100
    assert outcomes[-2][1] < outcomes[-1][1] - 0.5


@pytest.mark.parametrize(
    "act",
    [
        {"status": 408},
        {"status": 409},
        {"status": 429},
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 429, "headers": {"Retry-After": "Thu, 01 Jan 1970 00:00:10 GMT", "Date": "Thu, 01 Jan 1970 00:00:10 GMT"}},
        {"status": 500},
        {"status": 503, "body": b"<html>busy</html>", "type": "text/html"},
        {"status": 529},
        {"drop": True},
        {"cut": 20},
        {"cut": 0},
        {"body": b'{"choices": [{"mess'},
        {"body": b"[]"},
        {"body": b'{"error": {"message": "overloaded", "code": 503}}'},
        {"body": b"yes", "type": "text/plain"},
        {"fields": {"choices": [{"message": {"content": "y"}, "logprobs": {"content": [{"token": "y", "logprob": float("nan")}]}}]}},
    ],
    ids=str,
)
def test_what_may_pass_is_tried_again(serve: Make, endpoint: Make, make_requests: Make, act: dict[str, Any]) -> None:
    server = serve(first_then(act, act))
    (outcome,), client = ask(endpoint(server, max_concurrency=1), make_requests(1))
    assert isinstance(outcome, Reply)
    assert outcome.attempts == 3
    assert client.counts.retries == 2


@pytest.mark.parametrize(
    ("act", "reason", "status"),
    [
        ({"status": 400, "body": b'{"error": {"message": "bad"}}'}, "bad-request", 400),
        ({"status": 400, "body": b'{"error": {"code": "context_length_exceeded"}}'}, "context-too-long", 400),
        ({"status": 400, "body": b'{"error": {"code": "content_filter"}}'}, "content-filter", 400),
        ({"body": b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}'}, "refused", 200),
        ({"content": ""}, "empty", 200),
    ],
)
def test_a_bad_row_fails_alone_and_at_once(
    serve: Make, endpoint: Make, make_requests: Make, act: dict[str, Any], reason: str, status: int
) -> None:
    server = serve(lambda number, body: act if body["messages"][0]["content"] == "row 7" else {})
    outcomes, _ = ask(endpoint(server), make_requests(40))
    failed = [each for each in outcomes if isinstance(each, Failure)]
    assert [(each.reason, each.status, each.attempts) for each in failed] == [(reason, status, 1)]
    assert outcomes.index(failed[0]) == 7
    assert server.number == 40


def test_a_huge_answer_is_not_read_to_its_end(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"huge": 100 << 20} if number % 2 else {})
    start = time.monotonic()
    outcomes, _ = ask(endpoint(server, max_response_bytes=1 << 20, max_concurrency=2), make_requests(6))
    assert Counter(each.reason for each in outcomes if isinstance(each, Failure)) == {"too-large": 3}
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("told", [True, False], ids=["length", "no length"])
def test_the_cap_is_kept_to_the_byte(serve: Make, endpoint: Make, make_requests: Make, told: bool) -> None:
    whole = b'{"choices": [{"message": {"content": "yes"}}]}'
    bodies = {"row 0": whole, "row 1": whole + b" "}
    way = {} if told else {"drip": 0.0}
    server = serve(lambda number, body: {"body": bodies[body["messages"][0]["content"]], **way})
    good, bad = ask(endpoint(server, max_response_bytes=len(whole)), make_requests(2))[0]
    assert (good.text, bad.reason, bad.attempts) == ("yes", "too-large", 1)


@pytest.mark.parametrize("act", [{"latency": 30.0}, {"drip": 0.2}], ids=["silent", "slow body"])
def test_a_deadline_holds_whatever_the_server_does(serve: Make, endpoint: Make, make_requests: Make, act: dict[str, Any]) -> None:
    server = serve(lambda number, body: act)
    start = time.monotonic()
    (outcome,), _ = ask(endpoint(server, timeout_seconds=0.2, max_attempts=2, max_concurrency=1), make_requests(1))
    assert (outcome.reason, outcome.attempts) == ("timeout", 2)
    assert time.monotonic() - start < 5


def test_after_all_attempts_a_row_fails_with_its_reason(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"status": 500} if body["messages"][0]["content"] == "row 0" else {})
    outcomes, _ = ask(endpoint(server, max_attempts=3), make_requests(30))
    assert (outcomes[0].reason, outcomes[0].status, outcomes[0].attempts) == ("server-error", 500, 3)
    assert all(isinstance(each, Reply) for each in outcomes[1:])


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_waited_for_by_every_row(serve: Make, endpoint: Make, make_requests: Make, status: int) -> None:
    server = serve(first_then({"status": status, "headers": {"Retry-After": "1"}}))
    ask(endpoint(server, max_concurrency=1), make_requests(5))
    assert server.times[1] - server.times[0] > 0.95


def test_no_wait_is_longer_than_ten_minutes(serve: Make, endpoint: Make, make_requests: Make) -> None:
    """A server whose clock or header is wrong may ask for years."""
    server = serve(first_then({"status": 429, "headers": {"Retry-After": "1e9"}}))

    async def work() -> float:
        async with EndpointClient(endpoint(server)) as client:
            row = asyncio.create_task(client.ask(make_requests(1)[0]))
            while not client.counts.retries:
                await asyncio.sleep(0.01)
            row.cancel()
            return client.gate.pace.wait(time.monotonic())

    assert 590 < asyncio.run(work()) <= 600


def test_a_row_that_is_refused_for_ever_fails_in_the_end(
    serve: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refusals are no failed attempts, but they are not borne without end."""
    monkeypatch.setattr(client_module, "_REFUSALS", 5)
    act = {"status": 429, "headers": {"Retry-After": "0"}}
    server = serve(lambda number, body: act if body["messages"][0]["content"] == "row 0" and number < 40 else {})
    outcomes, _ = ask(endpoint(server, max_attempts=2), make_requests(3))
    assert isinstance(outcomes[0], Failure)
    assert (outcomes[0].reason, outcomes[0].attempts) == ("rate-limited", 5)
    assert all(isinstance(each, Reply) for each in outcomes[1:])


def test_what_the_headers_say_is_left_paces_the_requests(serve: Make, endpoint: Make, make_requests: Make) -> None:
    """90 tokens a minute are left, and an answer takes 30 of them: three requests a minute."""
    left = {"x-ratelimit-remaining-tokens": "90", "x-ratelimit-reset-tokens": "60s"}
    used = {"prompt_tokens": 10, "completion_tokens": 20}
    server = serve(lambda number, body: {"fields": {"usage": used}, "headers": left if number == 1 else {}})
    _, client = ask(endpoint(server, max_concurrency=1), make_requests(2))
    assert client.gate.pace.rate(time.monotonic()) == pytest.approx(3 / 60)


@pytest.mark.parametrize("act", [{"status": 429, "headers": {"Retry-After": "0"}}, {"status": 503}, {"latency": 0.5}], ids=str)
def test_refusals_overload_and_timeouts_lower_how_many_are_out(
    serve: Make, endpoint: Make, make_requests: Make, act: dict[str, Any]
) -> None:
    server = serve(first_then(act))
    _, client = ask(endpoint(server, max_concurrency=64, timeout_seconds=0.2), make_requests(1))
    assert not client.gate.window.slow_start
    assert client.gate.window.limit < 8


def test_jitter_is_full_and_grows(serve: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 1.0)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    class Highest(random.Random):
        def uniform(self, a: float, b: float) -> float:
            assert a == 0.0
            return b

    server = serve(lambda number, body: {"status": 500})
    ask(endpoint(server, max_attempts=8), make_requests(1), sleep=sleep, rng=Highest())
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    drawn = sorted(client_module.backoff_seconds(3, random.Random(seed)) for seed in range(200))
    assert drawn[0] < 0.1
    assert drawn[100] == pytest.approx(2.0, abs=0.5)
    assert 3.9 < drawn[-1] < 4.0


# --- what stops a run, with one clear message


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ({"status": 401, "body": b'{"error": {"message": "Incorrect API key"}}'}, r"api_key_env.*Incorrect API key.*no key"),
        ({"status": 403}, "api_key_env.*403"),
        ({"status": 404, "body": b'{"error": {"message": "no such model"}}'}, r"teacher\.model.*no such model.*base_url"),
        ({"status": 429, "body": b'{"error": {"code": "insufficient_quota", "message": "pay"}}'}, "no quota left: pay"),
        ({"status": 307, "headers": {"Location": "https://other/v1"}}, "moved to https://other/v1"),
        (WEB_PAGE, r"teacher\.base_url.*web page.*Welcome"),
    ],
)
def test_a_wrong_setting_stops_the_run_at_once(serve: Make, endpoint: Make, make_requests: Make, act: dict[str, Any], words: str) -> None:
    server = serve(lambda number, body: act)
    with pytest.raises(EndpointStopped, match=words) as stopped:
        ask(endpoint(server, max_concurrency=4), make_requests(500))
    assert "\n" not in str(stopped.value)
    assert server.number < 20


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://no-such-host.invalid/v1", "the host is unknown"),
        ("http://127.0.0.1:9/v1", "no connection"),
        ("https://127.0.0.1:9/v1", "no connection"),
    ],
)
def test_an_unreachable_endpoint_stops_the_run(endpoint: Make, make_requests: Make, address: str, words: str) -> None:
    with pytest.raises(EndpointStopped, match=rf"teacher\.base_url.*{words}"):
        ask(endpoint(address), make_requests(100))


def test_a_certificate_that_nobody_trusts_stops_the_run(endpoint: Make, make_requests: Make, tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem"
    if shutil.which("openssl") is None and os.environ.get("CI") != "true":
        pytest.skip("no openssl to make a certificate with; CI fails here instead")
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def work() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        try:
            for scheme, words in (("https", "certificate is not trusted"), ("http", ".*")):
                async with EndpointClient(endpoint(f"{scheme}://localhost:{port}/v1", max_attempts=2)) as client:
                    with pytest.raises(EndpointStopped, match=words):
                        [each async for each in client.ask_each(make_requests(25))]
        finally:
            await runner.cleanup()

    asyncio.run(work())


def test_a_run_whose_rows_all_fail_is_stopped(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"status": 400, "body": b'{"error": {"message": "unknown parameter"}}'})
    with pytest.raises(EndpointStopped, match=r"20 rows in a row failed for good.*unknown parameter"):
        ask(endpoint(server, max_concurrency=4), make_requests(500))
    assert server.number < 40


def test_an_endpoint_that_goes_down_stops_the_run(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {} if number < 20 else {"status": 500})
    now = [0.0]

    async def no_sleep(seconds: float) -> None:
        await asyncio.sleep(0)

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    with pytest.raises(EndpointStopped, match=r"nothing but failures for .* s, the last server-error 500"):
        ask(endpoint(server, max_attempts=10**6, max_concurrency=4), make_requests(500), clock=clock, sleep=no_sleep)


def test_a_server_that_restarts_costs_no_row(serve: Make, endpoint: Make, make_requests: Make) -> None:
    """Connections that are refused meanwhile are no failed attempts of the rows."""
    first = serve(lambda number, body: {"end": True} if number >= 4 else {})

    def restart() -> None:
        first._thread.join()
        time.sleep(1.0)
        serve(port=first.port)

    again = threading.Thread(target=restart)
    again.start()
    outcomes, _ = ask(endpoint(first, max_attempts=5, max_concurrency=4), make_requests(12))
    again.join()
    assert all(isinstance(each, Reply) for each in outcomes)
    assert max(each.attempts for each in outcomes) > 5


def test_a_single_401_in_the_middle_is_tried_again(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"status": 401} if number == 30 else {})
    outcomes, _ = ask(endpoint(server, max_concurrency=4), make_requests(60))
    assert all(isinstance(each, Reply) for each in outcomes)


@pytest.mark.parametrize(
    "address", ["", "api.example.com", "ftp://x/v1", "http://", "http://x:99999/v1", "https://user:secret@x/v1", "https://x/v1?key=secret"]
)
def test_addresses_that_are_none_are_refused_without_repeating_a_secret(endpoint: Make, address: str) -> None:
    with pytest.raises(BadInput, match=r"teacher\.base_url") as refused:
        endpoint(address)
    assert "secret" not in str(refused.value)


# --- the hidden limit, and how many at once


@pytest.mark.parametrize("told", [None, lambda seconds: {"Retry-After": f"{seconds:.3f}"}], ids=["silent", "Retry-After"])
def test_a_hidden_limit_is_kept(serve: Make, endpoint: Make, make_requests: Make, bucket: Make, told: Any) -> None:
    server = serve(lambda number, body: {"latency": 0.05}, bucket=bucket(50, 50), told=told)
    start = time.monotonic()
    outcomes, client = ask(endpoint(server, max_concurrency=32), make_requests(250))
    assert all(isinstance(each, Reply) for each in outcomes)
    assert client.counts.refusals <= 25
    assert 250 / (time.monotonic() - start) > 35


def test_no_more_at_once_than_allowed(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"latency": 0.02})
    _, client = ask(endpoint(server, max_concurrency=12), make_requests(120))
    assert 6 <= server.most_in_flight <= 12
    assert client.gate.window.limit == 12


def test_requests_are_read_as_they_are_needed(serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"latency": 0.01})
    read = 0

    def rows() -> Iterable[ChatRequest]:
        nonlocal read
        for request in make_requests(1000):
            read += 1
            yield request

    async def work() -> None:
        async with EndpointClient(endpoint(server, max_concurrency=4)) as client:
            async for _ in client.ask_each(rows()):
                break

    asyncio.run(work())
    assert read < 200
