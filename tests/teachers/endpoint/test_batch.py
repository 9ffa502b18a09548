"""The batch API against a real server on loopback: nothing twice, nothing lost, whatever vendor and kills do."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from stillroom.core.chat import ChatRequest, Reply
from stillroom.core.errors import BadInput, StageFailed
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.teachers.endpoint import batch as batch_module
from stillroom.teachers.endpoint import client as client_module
from stillroom.teachers.endpoint.batch import ask, ask_batch
from stillroom.teachers.endpoint.batch_api import BatchApi
from stillroom.teachers.endpoint.batch_files import ScratchFile
from stillroom.teachers.endpoint.batch_results import Results, read_result
from stillroom.teachers.endpoint.breaker import EndpointStopped
from stillroom.teachers.endpoint.budget import BATCH_PRICE_FACTOR, Budget, Prices
from stillroom.teachers.endpoint.durable import ask_all, stored_outcomes
from stillroom.teachers.endpoint.ledger import spent_so_far
from stillroom.teachers.endpoint.standing import Standing
from stillroom.teachers.endpoint.wire import AttemptFailed

Make = Callable[..., Any]
PRICES = Prices(prompt=1.0, completion=10.0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)
    monkeypatch.setattr(batch_module, "_POLL_SECONDS", 0.01)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "knowledge") as store:
        yield store


def text(body: dict[str, Any]) -> str:
    return str(body["messages"][-1]["content"])


def upper(number: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"content": text(body).upper()}


def replies(store: KnowledgeStore, place: Any, rows: list[ChatRequest]) -> list[str | None]:
    return [each.text if isinstance(each, Reply) else None for each in stored_outcomes(store, place, rows)]


def test_a_batch_brings_what_asking_one_by_one_brings(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, tmp_path: Path
) -> None:
    server = serve_batches(upper)
    rows, place = make_requests(120), endpoint(server)
    heard: list[Standing] = []
    ended = ask(store, place, rows + rows[:30], batch=True, prices=PRICES, listen=heard.append)
    assert (ended.total, ended.answered, ended.asked, ended.failed) == (150, 150, 120, 0)
    assert replies(store, place, rows) == [f"ROW {i}" for i in range(120)]
    assert (len(server.batches), max(server.asked.values())) == (1, 1)
    assert ask(store, place, rows, batch=False).asked == 0  # one by one, the same keys
    assert verify(store).problems == ()
    with KnowledgeStore(tmp_path / "other") as other:
        alone = ask_all(other, place, rows, prices=PRICES)
    assert ended.spent == spent_so_far(store)
    assert (ended.spent.requests, ended.spent.tokens) == (alone.spent.requests, alone.spent.tokens)
    assert ended.spent.usd == pytest.approx(alone.spent.usd * BATCH_PRICE_FACTOR)
    assert "0 batches out" in str(ended)
    assert [each.done for each in heard] == sorted(each.done for each in heard)


def test_limits_make_many_batches(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_MOST_REQUESTS", 30)
    monkeypatch.setattr(batch_module, "_AT_ONCE", 3)
    out = []
    server = serve_batches(upper, act=lambda number: {"looks": 1 + number % 3})
    rows, place = make_requests(100), endpoint(server)
    ask_batch(store, place, iter(rows), listen=lambda standing: out.append(standing.batches and standing.batches.out))
    assert [len(content.splitlines()) for name, content in server.files.items() if name.startswith("file-")][:3] == [30, 30, 30]
    assert len(server.batches) == 4
    assert replies(store, place, rows) == [f"ROW {i}" for i in range(100)]
    monkeypatch.setattr(batch_module, "_MOST_REQUESTS", 1000)
    monkeypatch.setattr(batch_module, "_MOST_BYTES", 2000)
    ask_batch(store, place, make_requests(40, temperature=1.0))
    sizes = [len(server.files[each["input_file_id"]]) for each in list(server.batches.values())[4:]]
    assert len(sizes) > 3
    assert max(sizes) <= 2000


def mess(lines: list[bytes]) -> list[bytes]:
    """Row 0's line is missing, row 1's is there twice with different answers, row 2's is broken at first; and strangers."""
    other = lines[1].replace(b"ROW 1", b"OTHER")
    stranger = lines[3].replace(b'"custom_id": "', b'"custom_id": "x')
    broken = lines[2].replace(b'"choices"', b'"chosen"')
    return [lines[1], other, broken, lines[2], stranger, b"{", b"[1]", b"", *lines[3:]]


def test_results_with_missing_repeated_and_unknown_rows(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make
) -> None:
    server = serve_batches(upper, act=lambda number: {"lines": mess} if number == 0 else {})
    rows, place = make_requests(20), endpoint(server)
    ended = ask_batch(store, place, rows, prices=PRICES)
    assert replies(store, place, rows) == [f"ROW {i}" for i in range(20)]
    assert ended.batches is not None
    assert (ended.batches.ended, ended.batches.duplicates, ended.batches.unknown, ended.batches.silent) == (2, 2, 3, 1)
    assert server.asked == {f"row {i}": 1 + (i == 0) for i in range(20)}
    outcomes = list(stored_outcomes(store, place, rows))
    assert [each.attempts for each in outcomes if each] == [2] + [1] * 19
    # Two words a row, row 1's other answer left out; and row 0 in the first batch, which may have been run, at its most.
    assert (ended.spent.requests, ended.spent.completion_tokens) == (21, 2 * 20 + 8)
    assert ended.spent == spent_so_far(store)


@pytest.mark.parametrize("status", ["expired", "cancelled", "failed"])
def test_what_a_batch_leaves_is_asked_again(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, status: str
) -> None:
    server = serve_batches(upper, act=lambda number: {"status": status, "run": 0.5} if number == 0 else {})
    rows, place = make_requests(40), endpoint(server)
    ended = ask_batch(store, place, rows, prices=PRICES)
    assert replies(store, place, rows) == [f"ROW {i}" for i in range(40)]
    first = 0 if status == "failed" else 20  # what ran is kept
    assert sorted(server.asked[f"row {i}"] for i in range(40)) == [1] * first + [2] * (40 - first)
    assert ended.spent == spent_so_far(store)
    assert ended.spent.completion_tokens == 80  # two words a row: nothing is paid that was not run


def test_bad_rows_fail_alone_with_their_reason(store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make) -> None:
    bad: dict[str, dict[str, Any]] = {
        "row 3": {"status": 400, "body": b'{"error": {"code": "context_length_exceeded"}}'},
        "row 4": {"body": b'{"choices": [{"message": {"content": null, "refusal": "no"}}], "usage": {"prompt_tokens": 7}}'},
        "row 5": {"status": 500, "body": b"{}"},
    }
    server = serve_batches(lambda number, body: bad.get(text(body), upper(number, body)))
    rows, place = make_requests(30), endpoint(server, max_attempts=3)
    ended = ask_batch(store, place, rows)
    assert dict(ended.failures) == {"context-too-long": 1, "refused": 1, "server-error": 1}
    assert (ended.answered, server.asked["row 3"], server.asked["row 5"]) == (27, 1, 3)
    again = ask_batch(store, place, rows)
    assert (again.asked, dict(again.failures), len(server.batches)) == (0, dict(ended.failures), 3)
    bad.clear()
    assert ask_batch(store, place, rows, ask_failed_again=True).answered == 30


@pytest.mark.parametrize(
    "route",
    ["POST /v1/files", "GET /v1/batches", "POST /v1/batches", "GET /v1/batches/{name}", "GET /v1/files/{name}/content"],
)
def test_killed_anywhere_it_submits_nothing_twice(
    tmp_path: Path, serve_batches: Make, endpoint: Make, make_requests: Make, route: str
) -> None:
    """A SIGKILL while the answer of `route` is on its way; the vendor has done its part."""
    server = serve_batches(upper)
    server.stop_at = route
    script = f"""
from stillroom.core.chat import ChatParameters, ChatRequest
from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.endpoint import batch
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.budget import Budget, Prices
batch._POLL_SECONDS = 0.01
shared = ChatParameters("m", max_tokens=8)
rows = [ChatRequest(({{"role": "user", "content": f"row {{i}}"}},), shared) for i in range(50)]
batch.ask_batch(KnowledgeStore({str(tmp_path)!r}), Endpoint({server.base_url!r}), rows, prices={PRICES!r}, budget=Budget(usd=0.05))
"""
    (scratch := tmp_path / "scratch").mkdir()
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(scratch)})
    while not server.routes[route]:
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.05)
    process.kill()
    process.wait()
    assert not list(scratch.iterdir()), "texts are left behind"
    server.stop_at = None
    rows, place = make_requests(60), endpoint(server)
    with KnowledgeStore(tmp_path) as store:
        ended = ask_batch(store, place, rows, prices=PRICES, budget=Budget(usd=0.05))
        assert replies(store, place, rows) == [f"ROW {i}" for i in range(60)]
        assert ended.answered == 60
        assert set(server.asked.values()) == {1}
        assert ended.spent == spent_so_far(store)
        assert ended.spent.requests == 60
        assert verify(store).problems == ()


def test_a_batch_whose_creation_was_answered_by_an_error_is_not_made_twice(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make
) -> None:
    """Other programs make batches, too: it is looked for on all pages since the upload, and on none before."""
    server = serve_batches(upper, act=lambda number: {"lost": True, "others": 5} if number == 2 else {})
    place = endpoint(server)
    for i in range(4):
        before = server.routes["GET /v1/batches"]
        ask_batch(store, place, make_requests(5, temperature=0.1 * i))
        assert server.routes["GET /v1/batches"] - before == (4 if i == 2 else 1)  # two batches a page
    assert server.routes["POST /v1/batches"] == 4
    assert set(server.asked.values()) == {4}


def test_control_requests_are_tried_again(store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve_batches(upper, fault=lambda route, number: (503, 429, 500)[number] if number < 3 else None)
    rows, place = make_requests(10), endpoint(server)
    ended = ask_batch(store, place, rows)
    assert replies(store, place, rows) == [f"ROW {i}" for i in range(10)]
    assert len(server.batches) == 1
    assert ended.retries >= 12


def test_a_budget_is_kept_and_reaching_it_is_resumable(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make
) -> None:
    server = serve_batches(lambda number, body: {"content": "word " * 12})
    rows, place, budget = make_requests(50), endpoint(server), Budget(tokens=900)
    for _ in range(2):
        ended = ask_batch(store, place, rows, prices=PRICES, budget=budget)
        assert ended.budget_reached
        assert budget.allows(ended.spent)
        assert ended.spent == spent_so_far(store)
    assert 0 < ended.answered < 50
    assert len(server.batches) > 3  # what comes cheaper than feared makes room for more
    more = ask_batch(store, place, rows, prices=PRICES, budget=Budget(tokens=100_000))
    assert (more.answered, more.budget_reached, set(server.asked.values())) == (50, False, {1})
    with pytest.raises(BadInput, match="max_tokens"):
        ask_batch(store, place, make_requests(1, max_tokens=None), budget=budget)


# --- what stops a run


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda route, number: 404, r"teacher\.batch: .*404.*offers no batch API"),
        (lambda route, number: 400, r"teacher\.batch: .*bad-request 400"),
        (lambda route, number: 401, r"teacher\.api_key_env"),
    ],
)
def test_a_server_without_the_api_or_a_wrong_key_stops_the_run(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, fault: Any, words: str
) -> None:
    server = serve_batches(fault=fault)
    with pytest.raises(EndpointStopped, match=words) as stopped:
        ask_batch(store, endpoint(server), make_requests(5))
    assert "\n" not in str(stopped.value)
    assert sum(server.routes.values()) == 1


def test_a_batch_of_another_account_stops_the_run(store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve_batches(act=lambda number: {"gone": True})
    with pytest.raises(EndpointStopped, match="not of the account"):
        ask_batch(store, endpoint(server), make_requests(5))


def test_batches_that_bring_nothing_stop_the_run(store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve_batches(act=lambda number: {"status": "failed", "errors": "the model 'm' takes no batches"})
    with pytest.raises(EndpointStopped, match=r"3 batches in a row brought nothing, the last failed \(the model 'm' takes no batches\)"):
        ask_batch(store, endpoint(server), make_requests(5))
    assert len(server.batches) == 3
    every = serve_batches(lambda number, body: {"status": 400, "body": b'{"error": {"message": "no such parameter"}}'})
    with pytest.raises(EndpointStopped, match=r"20 rows in a row failed for good.*no such parameter"):
        ask_batch(store, endpoint(every), make_requests(60))


def test_a_full_queue_is_waited_for(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A vendor fails batches beyond what an account may have in its queue; those that are in it are no reason to stop."""
    monkeypatch.setattr(batch_module, "_MOST_REQUESTS", 10)
    full = {"status": "failed", "errors": "Enqueued token limit reached"}
    server = serve_batches(upper, act=lambda number: {"looks": 12} if number == 0 else full if number < 6 else {})
    rows, place = make_requests(60), endpoint(server)
    ask_batch(store, place, rows)
    assert replies(store, place, rows) == [f"ROW {i}" for i in range(60)]


def test_a_queue_of_one_batch_costs_no_row_its_answer(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused before it was begun has not been tried, however often."""
    monkeypatch.setattr(batch_module, "_MOST_REQUESTS", 2)
    servers: list[Any] = []

    def act(number: int) -> dict[str, Any]:
        taken = [each for each in servers[0].batches.values() if each["act"].get("status") != "failed"]
        busy = any(each["status"] not in ("completed", "failed") for each in taken)
        return {"status": "failed", "errors": "Enqueued token limit reached"} if busy else {"looks": 2}

    servers.append(serve_batches(upper, act=act))
    rows, place = make_requests(30), endpoint(servers[0], max_attempts=2)
    ended = ask_batch(store, place, rows)
    assert (ended.answered, ended.failed, servers[0].number) == (30, 0, 30)
    assert len(servers[0].batches) < 60  # 15 that were run, and not many more that were refused for each


def test_a_long_batch_opens_no_file_a_look(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[ScratchFile] = []

    class Counted(ScratchFile):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr(batch_module, "ScratchFile", Counted)
    ask_batch(store, endpoint(serve_batches(upper, act=lambda number: {"looks": 25})), make_requests(5))
    assert len(made) == 2  # its requests, and its results


def test_two_endpoints_of_one_store_may_give_files_the_same_names(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make
) -> None:
    for _ in range(2):
        ask_batch(store, endpoint(serve_batches(upper)), make_requests(10), prices=PRICES)
    assert spent_so_far(store).requests == 20


def test_no_wait_that_a_server_asks_for_is_endless(endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def send() -> str:
        if not slept:
            raise AttemptFailed("rate-limited", "slow down", status=429, retry=True, wait=999_999.0)
        return "sent"

    monkeypatch.setattr("stillroom.teachers.endpoint.batch_api.asyncio.sleep", sleep)
    assert asyncio.run(BatchApi(endpoint("http://127.0.0.1:1/v1"))._patiently(send)) == "sent"
    assert slept == [600.0]


# --- secrets and pieces


def test_the_key_is_in_the_header_and_nowhere_else(
    tmp_path: Path,
    serve_batches: Make,
    endpoint: Make,
    make_requests: Make,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = "sk-verysecret-0123456789"
    monkeypatch.setenv("ENDPOINT_KEY", key)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    caplog.set_level("DEBUG")
    acts = [{"content": f"your key is {key}"}, {"status": 400, "body": json.dumps({"error": key}).encode()}]
    server = serve_batches(lambda number, body: acts[number % 2])
    place = endpoint(server, api_key_env="ENDPOINT_KEY")
    seen: list[bytes] = []
    replies_of = Results.replies

    def spy(self: Results, file: BinaryIO) -> Any:
        seen.append(file.read())
        return replies_of(self, io.BytesIO(seen[-1]))

    monkeypatch.setattr(Results, "replies", spy)
    with KnowledgeStore(tmp_path / "knowledge") as store:
        rows = make_requests(16)
        ended = ask_batch(store, place, rows)
        said = [repr(each) for each in [*stored_outcomes(store, place, rows), *store, ended]]
    assert all(headers["Authorization"] == f"Bearer {key}" for headers in server.batch_headers)
    assert any("[key]" in each for each in said)
    assert not [each for each in [*said, caplog.text] if key in each]
    assert not [content for content in seen if key.encode() in content]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_a_key_across_two_parts_of_a_file_is_blacked_out(endpoint: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    from stillroom.teachers.endpoint.transport import Transport

    monkeypatch.setenv("ENDPOINT_KEY", "sk-abcdef")

    class Response:
        content = property(lambda self: self)

        async def iter_any(self) -> Any:
            for part in (b"x sk-ab", b"cdef y sk", b"-abc", b"def", b" sk-abc"):
                yield part

    async def read() -> bytes:
        transport = Transport(endpoint("http://127.0.0.1:1/v1", api_key_env="ENDPOINT_KEY"))
        return b"".join([part async for part in transport.parts(Response())])  # type: ignore[arg-type]

    assert asyncio.run(read()) == b"x [key] y [key] sk-abc"


def test_a_line_beyond_the_cap_is_skipped_and_its_row_is_silent() -> None:
    body = {"choices": [{"message": {"content": "y"}}]}
    lines = [json.dumps({"custom_id": name, "response": {"status_code": 200, "body": body}}).encode() for name in "abc"]
    lines[1] = lines[1][:-1] + b', "x": "' + b" " * 300_000 + b'"}'
    results = Results({"a", "b", "c"}, 1000)
    assert [key for key, _ in results.replies(io.BytesIO(b"\n".join(lines)))] == ["a", "c"]
    assert (results.unknown, results.silent()) == (1, ["b"])


@pytest.mark.parametrize(
    ("content", "reason", "retry"),
    [
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, "server-error", True),
        ({}, "server-error", True),
        ({"response": {"status_code": 429, "body": {"error": {"message": "slow down"}}}}, "rate-limited", True),
        ({"response": {"status_code": "200", "body": {}}}, "server-error", True),
        ({"response": {"status_code": 200, "body": "text"}}, "malformed", True),
        ({"response": {"status_code": 200, "body": {"error": {"message": "overloaded", "code": 503}}}}, "server-error", True),
        ({"response": {"status_code": 400, "body": {"error": {"code": "content_filter"}}}}, "content-filter", False),
    ],
)
def test_a_line_without_an_answer(content: dict[str, Any], reason: str, retry: bool) -> None:
    with pytest.raises(AttemptFailed) as caught:
        read_result(content)
    assert (caught.value.reason, caught.value.retry) == (reason, retry)


def test_two_files_of_one_name_are_refused(store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve_batches(upper)
    ask_batch(store, endpoint(server), make_requests(3))
    server.files.clear()
    with pytest.raises(StageFailed, match="gave two files the name 'file-0'"):
        ask_batch(store, endpoint(server), make_requests(6))


def test_a_file_of_results_is_read_up_to_its_cap(store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve_batches(upper, act=lambda number: {"lines": lambda lines: [*lines, b" " * 200_000]})
    with pytest.raises(EndpointStopped, match="a file of more than 8000 bytes"):
        ask_batch(store, endpoint(server, max_response_bytes=4000), make_requests(2))


def test_the_disk_that_is_full_is_named(
    store: KnowledgeStore, serve_batches: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.TemporaryFile", lambda buffering: Path("/dev/full").open("r+b", buffering))  # noqa: SIM115
    with pytest.raises(StageFailed, match=r"cannot write /tmp.*: the disk is full"):
        ask_batch(store, endpoint(serve_batches(upper)), make_requests(2))
