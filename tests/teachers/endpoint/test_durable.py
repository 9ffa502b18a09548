"""Asking with the real store: nothing twice, nothing lost, nothing above the budget, no key anywhere."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillroom.core.chat import CHAT, ChatParameters, ChatRequest, Failure, Reply, Usage, to_block
from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.teachers.endpoint import client as client_module
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.breaker import EndpointStopped
from stillroom.teachers.endpoint.budget import Budget, Prices, Spending
from stillroom.teachers.endpoint.client import EndpointClient
from stillroom.teachers.endpoint.durable import ask_all, ask_all_async, stored_outcomes
from stillroom.teachers.endpoint.ledger import SPENDING, numbered_entry, spent_so_far
from stillroom.teachers.endpoint.meter import Meter
from stillroom.teachers.endpoint.standing import Standing
from stillroom.teachers.endpoint.writer import GroupWriter

Make = Callable[..., Any]
PRICES = Prices(prompt=1.0, completion=10.0)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "knowledge") as store:
        yield store


def text(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"])


def test_what_is_stored_is_not_asked_again(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"content": text(body).upper()})
    rows, place = make_requests(300), endpoint(server)
    first = ask_all(store, place, rows[:200], prices=PRICES)
    assert (first.total, first.answered, first.asked, first.failed) == (200, 200, 200, 0)
    second = ask_all(store, place, rows, prices=PRICES)
    assert (second.total, second.answered, second.asked) == (300, 300, 100)
    assert server.number == 300
    assert spent_so_far(store).requests == second.spent.requests == 300, "both runs count"
    assert [each.text for each in stored_outcomes(store, place, rows) if isinstance(each, Reply)] == [f"ROW {i}" for i in range(300)]
    assert list(stored_outcomes(store, place, make_requests(1, temperature=1.0))) == [None]
    assert verify(store).problems == ()


def test_equal_requests_are_asked_once_and_samples_are_not_equal(
    store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make
) -> None:
    server = serve(lambda number, body: {"latency": 0.01})
    (row,) = make_requests(1)
    twins = [row] * 300 + [ChatRequest(row.messages, row.parameters, sample=i) for i in range(3)]  # sample 0 is the row itself
    ended = ask_all(store, endpoint(server), twins)
    assert server.number == 3
    assert (ended.answered, ended.asked) == (303, 3)


def test_one_percent_of_bad_rows_costs_no_good_answer(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    """Elsewhere 17 refused rows of 2,000 took 783 good answers with them."""
    bad = {f"row {i}" for i in range(0, 600, 100)}
    server = serve(lambda number, body: {"status": 400, "body": b'{"error": "no"}'} if text(body) in bad else {})
    rows, place = make_requests(600), endpoint(server)
    ended = ask_all(store, place, rows)
    assert (ended.answered, ended.failed, dict(ended.failures)) == (594, 6, {"bad-request": 6})
    outcomes = list(stored_outcomes(store, place, rows))
    assert {f"row {i}" for i, each in enumerate(outcomes) if isinstance(each, Failure)} == bad
    again = ask_all(store, place, rows)
    assert (server.number, again.asked, dict(again.failures)) == (600, 0, {"bad-request": 6})
    server.script = lambda number, body: {}
    mended = ask_all(store, place, rows, ask_failed_again=True)
    assert (server.number, mended.asked, mended.answered, mended.failed) == (606, 6, 600, 0)
    assert all(isinstance(each, Reply) for each in stored_outcomes(store, place, rows))
    assert verify(store).problems == ()


def test_a_stopped_run_keeps_what_it_has(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {} if number < 50 else {"status": 401})
    rows, place = make_requests(400), endpoint(server, max_concurrency=4)
    with pytest.raises(EndpointStopped, match="api_key_env"):
        ask_all(store, place, rows)
    server.script = lambda number, body: {}
    assert ask_all(store, place, rows).asked == 350


def test_a_batch_that_its_thread_has_not_begun_survives_the_end(store: KnowledgeStore) -> None:
    """A run that is stopped takes the writer's task with it, but no answer that had arrived."""
    told: list[str] = []

    async def work() -> None:
        writer, free = GroupWriter(store, told.extend), threading.Event()
        writer._thread.submit(free.wait)  # keeps the thread busy: the batch behind it waits
        running = asyncio.create_task(writer.run())
        facts = {"question": "chat", "row": 1}
        key = fingerprint("answer", facts)
        await writer.put(key, to_block(Failure("timeout", "slow", None, 1)), facts)
        while writer._batch:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        free.set()
        writer.finish()
        assert (told, store.missing([key])) == ([key], [])

    asyncio.run(work())


def test_what_had_arrived_survives_a_stop_before_its_commit(store: KnowledgeStore) -> None:
    facts = {"question": "chat", "row": 1}
    key = fingerprint("answer", facts)

    async def work() -> None:
        writer = GroupWriter(store, lambda keys: None)
        running = asyncio.create_task(writer.run())
        await writer.put(key, to_block(Failure("timeout", "slow", None, 1)), facts)
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert store.missing([key]) == [0]
        writer.finish()

    asyncio.run(work())
    assert store.missing([key]) == []


def test_an_answer_and_what_it_cost_share_a_commit(
    store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[set[str]] = []
    put = store.put_blocks

    def spy(keys: Any, blocks: Any, facts: Any) -> None:
        commits.append({each["question"] for each in facts})
        put(keys, blocks, facts)

    monkeypatch.setattr(store, "put_blocks", spy)
    ask_all(store, endpoint(serve(lambda number, body: {"latency": 0.05})), make_requests(60), prices=PRICES)
    assert commits
    assert all(each == {CHAT, SPENDING} for each in commits)


def test_a_store_that_cannot_be_written_ends_the_run(
    store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise StageFailed("the disk is full")

    monkeypatch.setattr(store, "put_blocks", full)
    with pytest.raises(StageFailed, match="the disk is full"):
        ask_all(store, endpoint(serve()), make_requests(5000))


def test_cancelled_it_keeps_what_came(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"latency": 0.01})
    rows, place = make_requests(5000), endpoint(server, max_concurrency=8)

    async def work() -> None:
        task = asyncio.create_task(ask_all_async(store, place, rows))
        while sum(server.answered.values()) < 50:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(work())
    known = sum(each is not None for each in stored_outcomes(store, place, rows))
    assert sum(server.answered.values()) - known <= 8


def test_the_garbage_collector_is_rare_while_it_asks(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    before, heard = gc.get_threshold(), set()
    place = endpoint(serve(lambda number, body: {}))
    ask_all(store, place, make_requests(5), listen=lambda standing: heard.add(gc.get_threshold()[0] > before[0]))
    assert heard == {True}
    assert gc.get_threshold() == before


def test_the_standing_is_live(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    heard: list[Standing] = []
    server = serve(lambda number, body: {"latency": 0.05, **({"status": 500} if number == 3 else {})})
    ended = ask_all(store, endpoint(server, max_concurrency=8), make_requests(150), prices=PRICES, listen=heard.append)
    assert len(heard) > 2
    assert [each.done for each in heard] == sorted(each.done for each in heard)
    assert heard[-1].done == ended.done == 150
    assert ended.retries == 1
    assert ended.spent == spent_so_far(store)
    assert ended.spent.requests == 151
    assert any(each.seconds_left for each in heard)
    assert "150 of 150 rows" in str(ended)


class PromptCache:
    """A server's prefix cache that has room for a few system prompts, the least recently used leaving first."""

    def __init__(self, room: int) -> None:
        self.room, self.hits, self.known = room, 0, OrderedDict[str, None]()

    def script(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        prompt = text(body)
        self.hits += prompt in self.known
        self.known[prompt] = None
        self.known.move_to_end(prompt)
        if len(self.known) > self.room:
            self.known.popitem(last=False)
        return {"content": str(body["messages"][1]["content"]).upper()}


@pytest.mark.parametrize("prompts", [1, 16])
def test_prompts_that_begin_alike_follow_each_other(
    store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make, prompts: int
) -> None:
    """In the order of the rows, sixteen prompts in turn would never be found in a cache that holds six."""
    cache = PromptCache(6)
    shared = make_requests(1)[0].parameters
    rows = [
        ChatRequest(({"role": "system", "content": f"prompt {i % prompts}"}, {"role": "user", "content": f"row {i}"}), shared)
        for i in range(480)
    ]
    place = endpoint(serve(cache.script), max_concurrency=8)
    ask_all(store, place, iter(rows))
    assert cache.hits >= 480 - 2 * prompts
    assert [each.text for each in stored_outcomes(store, place, rows) if isinstance(each, Reply)] == [f"ROW {i}" for i in range(480)]


# --- money


@pytest.mark.parametrize("budget", [Budget(requests=60), Budget(tokens=2000), Budget(usd=0.004)], ids=["requests", "tokens", "usd"])
def test_a_budget_is_never_exceeded_and_ends_the_run_resumably(
    store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make, budget: Budget
) -> None:
    chance = random.Random(0)
    acts: list[dict[str, Any]] = [{}, {}, {}, {"status": 500}, {"drop": True}, {"cut": 10}]
    server = serve(lambda number, body: {"latency": 0.005, "content": "word " * chance.randrange(1, 9), **chance.choice(acts)})
    rows, place = make_requests(400), endpoint(server, max_concurrency=8)
    for _ in range(3):  # resuming does not spend more
        ended = ask_all(store, place, rows, prices=PRICES, budget=budget)
        assert ended.budget_reached
        assert ended.spent == spent_so_far(store)
        assert budget.allows(ended.spent)
    spent = cost_of(server)
    assert budget.allows(spent)
    assert server.number == ended.spent.requests
    if budget.requests:
        assert server.number == budget.requests
    before = ended.answered
    server.script = lambda number, body: {}
    assert before >= 3
    more = ask_all(store, place, rows, prices=PRICES, budget=Budget(usd=100.0))
    assert (more.answered, more.asked, more.budget_reached) == (400, 400 - before - more.failed, False)


def test_an_answer_that_is_none_is_paid_for(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    fields = {"choices": [{"message": {"content": None, "refusal": "no"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    ended = ask_all(store, endpoint(serve(lambda number, body: {"fields": fields})), make_requests(2), prices=PRICES)
    assert (dict(ended.failures), ended.spent) == ({"refused": 2}, PRICES.of(Usage(14, 6), requests=2))
    assert ended.spent == spent_so_far(store)


def test_what_may_have_been_run_is_paid_for_at_its_most(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve(lambda number, body: {"latency": 1.0})
    (row,) = make_requests(1)
    ended = ask_all(store, endpoint(server, timeout_seconds=0.2, max_attempts=2), [row], prices=PRICES)
    most = PRICES.of(Usage(len(row.body()) + 256, 8))
    assert (ended.spent, dict(ended.failures)) == (most + most, {"timeout": 1})
    assert Meter(PRICES, Budget(usd=1.0)).most(row, len(row.body())) == most


def test_the_ledger_counts_every_entry_of_every_writer(store: KnowledgeStore) -> None:
    entries = [numbered_entry(writer, i, Spending(requests=1)) for writer in "ab" for i in range(300)]
    keys, blocks, facts = zip(*[*entries, *entries[:5]], strict=True)  # made again, an entry counts once
    store.put_blocks(keys, blocks, facts)
    assert spent_so_far(store) == Spending(requests=600)


def cost_of(server: Any) -> Spending:
    """What the server would bill at least: every prompt that it has read."""
    seen = Spending()
    for body in server.bodies:
        seen += Spending(requests=1, prompt_tokens=len(text(body)) // 4 + 1)
    return seen


@pytest.mark.parametrize("wrong", [{"usd": 0.0}, {"requests": 0}, {"tokens": -5}, {"usd": float("nan")}])
def test_a_budget_of_nothing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match=rf"budget\.{next(iter(wrong))}"):
        Budget(**wrong)  # type: ignore[arg-type]


def test_a_budget_that_cannot_be_kept_is_refused(store: KnowledgeStore, serve: Make, endpoint: Make, make_requests: Make) -> None:
    server = serve()
    with pytest.raises(BadInput, match="max_tokens"):
        ask_all(store, endpoint(server), make_requests(3, max_tokens=None), prices=PRICES, budget=Budget(tokens=100))
    with pytest.raises(BadInput, match="prices"):
        ask_all(store, endpoint(server), make_requests(3), budget=Budget(usd=1.0))
    assert server.number == 0


def test_the_meter_lets_nothing_begin_that_might_exceed() -> None:
    async def work() -> None:
        meter = Meter(PRICES, Budget(tokens=100))
        await meter.reserve(Spending(1, 60, 20))
        second = asyncio.create_task(meter.reserve(Spending(1, 50, 0)))
        await asyncio.sleep(0.01)
        assert not second.done()  # 80 are out, of which some may come back
        meter.settle(Spending(1, 60, 20), Spending(1, 10, 5))
        await second
        assert (meter.spent.tokens, meter.reserved.tokens) == (15, 50)
        third = asyncio.create_task(meter.reserve(Spending(1, 90, 0)))
        await asyncio.sleep(0.01)
        assert not third.done()
        meter.settle(Spending(1, 50, 0), Spending(1, 50, 0))
        with pytest.raises(Exception, match=r"^$") as ended:
            await third
        assert type(ended.value).__name__ == "BudgetReached"

    asyncio.run(work())


def test_a_killed_run_counts_what_was_out(tmp_path: Path, serve: Make) -> None:
    """Under a budget, what is sent is entered before it is sent: after a SIGKILL the ledger says at least what the server has seen."""
    server = serve(lambda number, body: {"latency": 30.0 if number >= 20 else 0.0})
    script = f"""
from stillroom.core.chat import ChatParameters, ChatRequest
from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.budget import Budget, Prices
from stillroom.teachers.endpoint.durable import ask_all
p = ChatParameters("m", max_tokens=8)
rows = [ChatRequest(({{"role": "user", "content": f"row {{i}}"}},), p) for i in range(200)]
endpoint = Endpoint({server.base_url!r}, max_concurrency=4)
ask_all(KnowledgeStore({str(tmp_path)!r}), endpoint, rows, prices=Prices(1, 10), budget=Budget(usd=1))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    while server.in_flight < 4 or server.number < 24:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    with KnowledgeStore(tmp_path) as store:
        spent = spent_so_far(store)
    assert 24 <= spent.requests <= 24 + 40
    assert spent.prompt_tokens > 4 * 256  # those that were out count at their most


INTERRUPTED = """
import sys
from stillroom.core.chat import ChatParameters, ChatRequest
from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint import durable
durable.PARTING_SECONDS = 600.0
p = ChatParameters("m", max_tokens=8)
rows = [ChatRequest(({"role": "user", "content": f"row {i}"},), p) for i in range(200)]
with KnowledgeStore(sys.argv[1]) as store:
    durable.ask_all(store, Endpoint(sys.argv[2], max_concurrency=6), rows, listen=lambda standing: print(standing, flush=True))
"""


def interrupted(folder: Path, server: Any) -> subprocess.Popen[str]:
    """A run that gets Ctrl-C while slow requests are out, behind 20 quick ones; up to 6 may be, sooner or later."""
    listening = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731 - a background suite ignores it
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(folder), server.base_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=listening,
    )  # fmt: skip
    while server.number < 23:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    return process


def test_an_interrupted_run_keeps_what_it_had_sent(tmp_path: Path, serve: Make, endpoint: Make) -> None:
    server = serve(lambda number, body: {"latency": 5.0 if number >= 20 else 0.0})  # on a busy machine the interrupt takes its time
    out, err = interrupted(tmp_path, server).communicate(timeout=60)
    assert "KeyboardInterrupt" in err
    assert "waiting for what was sent" in out
    sent = server.number
    assert 23 <= sent == sum(server.answered.values()) <= 32
    p = ChatParameters("m", max_tokens=8)
    rows = [ChatRequest(({"role": "user", "content": f"row {i}"},), p) for i in range(200)]
    server.script = lambda number, body: {}
    with KnowledgeStore(tmp_path) as store:
        ended = ask_all(store, Endpoint(server.base_url), rows)
    assert (ended.answered, ended.asked, max(server.answered.values())) == (200, 200 - sent, 1)


def test_a_second_interrupt_waits_for_nothing(tmp_path: Path, serve: Make) -> None:
    server = serve(lambda number, body: {"latency": 300.0 if number >= 20 else 0.0})
    process = interrupted(tmp_path, server)
    assert process.stdout is not None
    while "waiting for what was sent" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)  # not the 300 seconds that the answers take, nor the 600 that it would wait
    with KnowledgeStore(tmp_path) as store:
        assert len(list(store)) >= 20


# --- secrets


def test_the_key_is_in_the_header_and_nowhere_else(
    tmp_path: Path, serve: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = "sk-verysecret-0123456789"
    monkeypatch.setenv("ENDPOINT_KEY", key)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {key}"}}).encode()
    acts = [{"status": 400, "body": echo}, {"status": 500, "body": echo}, {"body": echo}, {"content": f"your key is {key}"}, {"drop": True}]
    server = serve(lambda number, body: acts[number % 5])
    place = endpoint(server, api_key_env="ENDPOINT_KEY", max_attempts=2, max_concurrency=3)
    said: list[str] = []
    caplog.set_level("DEBUG")
    with KnowledgeStore(tmp_path / "knowledge") as store:
        ended = ask_all(store, place, make_requests(15), listen=lambda standing: said.append(repr(standing)))
        said += [repr(each) for each in stored_outcomes(store, place, make_requests(15))] + [repr(record) for record in store]
        server.script = lambda number, body: {"status": 401, "body": echo}
        with pytest.raises(EndpointStopped) as stopped:
            ask_all(store, place, make_requests(30, temperature=0.5))
    said += [repr(ended), str(stopped.value), repr(stopped.value.__cause__), repr(place), caplog.text, repr(EndpointClient(place))]
    assert "[key]" in str(stopped.value)
    assert all(headers["Authorization"] == f"Bearer {key}" for headers in server.headers)
    assert not [each for each in said if key in each]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("before", "after"),
    [("/", "\\/"), ("<", "\\u003c"), ("<", "\\u003C"), ("+", "%2b"), ("/", "\\\\\\/"), ("", "")],
    ids=["php", "go", "java", "address", "JSON in JSON", "plain"],
)
def test_a_key_that_is_sent_back_escaped_is_blacked_out(
    before: str, after: str, tmp_path: Path, serve: Make, endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "sk-ab/cd+ef<gh/ij"
    monkeypatch.setenv("ENDPOINT_KEY", key)
    written = key.replace(before, after) if before else key
    body = f'{{"error": {{"message": "Bad key {written}"}}}}'.encode()
    acts = [{"status": 400, "body": body}, {"body": body}, {"body": f'{{"choices": [{{"message": {{"content": "{written}"}}}}]}}'.encode()}]
    server = serve(lambda number, body: acts[number % 3])
    place = endpoint(server, api_key_env="ENDPOINT_KEY", max_attempts=1, max_concurrency=1)
    with KnowledgeStore(tmp_path / "knowledge") as store:
        ask_all(store, place, make_requests(3))
        said = [repr(each) for each in stored_outcomes(store, place, make_requests(3))]
        server.script = lambda number, body: {"status": 302, "headers": {"Location": f"https://other/login?key={written}"}}
        with pytest.raises(EndpointStopped) as stopped:
            ask_all(store, place, make_requests(30, temperature=0.5))
    said += [str(stopped.value), repr(stopped.value.__cause__), repr(stopped.value.__context__)]
    assert sum("[key]" in each for each in said) >= 4
    assert not [each for each in said if key in each or re.search(r"gh\W+ij", each)]


def test_a_key_beside_bytes_that_are_no_text_is_blacked_out(endpoint: Make, make_requests: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", "sk-abcdef")

    async def move(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: https://other/\xff?key=sk-abcdef\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(move, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with EndpointClient(endpoint(f"http://127.0.0.1:{port}/v1", api_key_env="ENDPOINT_KEY")) as client:
                await client.ask(make_requests(1)[0])

    with pytest.raises(EndpointStopped, match=r"moved to https://other/\?\?key=\[key\];"):
        asyncio.run(work())


@pytest.mark.parametrize("value", [None, "", "two words", "naïve", "line\nbreak"])
def test_a_key_that_is_missing_or_none_is_refused_without_being_shown(
    endpoint: Make, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    monkeypatch.delenv("ENDPOINT_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("ENDPOINT_KEY", value)
    with pytest.raises(BadInput, match=r"api_key_env.*ENDPOINT_KEY") as refused:
        EndpointClient(endpoint("http://127.0.0.1:1/v1", api_key_env="ENDPOINT_KEY"))
    assert not value or value not in str(refused.value)


def test_verify_finds_a_damaged_answer(store: KnowledgeStore, make_requests: Make) -> None:
    (row,) = make_requests(1)
    store.put_blocks([row.key("host/v1")], [b'{"format": "stillroom/chat@1", "attem'], [row.facts("host/v1")])
    (problem,) = verify(store).problems
    assert "stored answer is damaged" in problem


def test_how_a_run_stands_fits_in_a_line_and_names_no_price_that_nobody_gave() -> None:
    standing = Standing(12_345, 1200, 2, retries=3, spent=Spending(1205, 80_000, 4_000), rate=2.0)
    assert str(standing) == "1,202 of 12,345 rows, 2.0/s, 2 failed, 3 retries, 84,000 tokens, 93 min left"
    assert ", 84,000 tokens, 0.0250 USD, " in str(replace(standing, spent=Spending(1205, 80_000, 4_000, 25 * 10**9)))
