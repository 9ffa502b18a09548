"""Every kind of fault at once, and SIGKILLs: each row is answered exactly once, or reported with its reason.

600 rows and 3 kills; STILLROOM_CHAOS_ROWS=10000 for the full size, with a kill every 500 rows.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillroom.core.chat import ChatRequest, Failure, Reply, Usage
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.teachers.endpoint.budget import Budget, Prices, Spending
from stillroom.teachers.endpoint.durable import stored_outcomes
from stillroom.teachers.endpoint.ledger import spent_so_far

ROWS = int(os.environ.get("STILLROOM_CHAOS_ROWS", "600"))
KILLS = max(ROWS // 500, 3)
PRICES, BUDGET = Prices(1.0, 10.0), Budget(usd=1e-3 * ROWS, requests=3 * ROWS)

CLIENT = f"""
import sys
from stillroom.core.chat import ChatParameters, ChatRequest
from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.endpoint import client
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.budget import Budget, Prices
from stillroom.teachers.endpoint.durable import ask_all
client._BACKOFF_SECONDS = 0.02
shared = ChatParameters("m", max_tokens=8, top_logprobs=2)
rows = (ChatRequest(({{"role": "user", "content": f"row {{i}}"}},), shared) for i in range({ROWS}))
endpoint = Endpoint(sys.argv[2], max_concurrency=64, timeout_seconds=2.0, max_response_bytes=1 << 16)
with KnowledgeStore(sys.argv[1]) as store:
    ask_all(store, endpoint, rows, prices={PRICES!r}, budget={BUDGET!r})
"""

NAN = {"choices": [{"message": {"content": "y"}, "logprobs": {"content": [{"token": "y", "logprob": float("nan")}]}}]}
PASSING: list[dict[str, Any]] = [
    {"status": 401},
    {"status": 403},
    {"status": 404},
    {"status": 408},
    {"status": 409},
    {"status": 429, "headers": {"Retry-After": "0.05"}},
    {"status": 429, "headers": {"Retry-After": "Thu, 01 Jan 2099 00:00:00 GMT", "Date": "Thu, 01 Jan 2099 00:00:00 GMT"}},
    {"status": 500},
    {"status": 503, "body": b"<html>busy</html>", "type": "text/html"},
    {"drop": True},
    {"cut": 30},
    {"cut": 0},
    {"latency": 2.5},
    {"drip": 0.05},
    {"body": b'{"choices": [{'},
    {"body": b"<!doctype html><html></html>", "type": "text/html"},
    {"body": b"yes", "type": "text/plain"},
    {"body": b'{"error": {"message": "overloaded", "code": 503}}'},
    {"fields": NAN},
]
LASTING: dict[str, dict[str, Any]] = {
    "bad-request": {"status": 400, "body": b'{"error": {"message": "no"}}'},
    "context-too-long": {"status": 400, "body": b'{"error": {"code": "context_length_exceeded"}}'},
    "content-filter": {"status": 400, "body": b'{"error": {"code": "content_filter"}}'},
    "refused": {"body": b'{"choices": [{"message": {"content": null, "refusal": "no"}}]}'},
    "too-large": {"huge": 1 << 22},
}


def lasting(text: str) -> str | None:
    """Why this row fails for good; None for most."""
    chance = random.Random(text)
    return chance.choice(list(LASTING)) if chance.random() < 0.05 else None


class Scene:
    """What the server does, and what it has been asked."""

    def __init__(self) -> None:
        self.chance = random.Random(7)
        self.asked: list[str] = []
        self.bill = Spending()

    def script(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        text = str(body["messages"][0]["content"])
        self.asked.append(text)
        act = LASTING[reason] if (reason := lasting(text)) else self.chance.choice(PASSING) if self.chance.random() < 0.15 else {}
        if not act or act.keys() & {"cut", "drip", "latency"}:
            self.bill += PRICES.of(Usage(len(text) // 4 + 1, len(text.split())))
        return {"latency": 0.01, "content": text.upper(), **act}


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The most memory that a process has held; 0 where the system does not say."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)


@pytest.mark.slow
@pytest.mark.timeout(max(600, ROWS // 5))
def test_every_fault_at_once_and_kills(
    tmp_path: Path, serve: Callable[..., Any], endpoint: Callable[..., Any], make_requests: Callable[..., list[ChatRequest]]
) -> None:
    scene, chance = Scene(), random.Random(1)
    server = serve(scene.script)
    place, rows = endpoint(server), make_requests(ROWS, top_logprobs=2)
    durable: dict[int, set[str]] = {}  # how many requests the server had seen -> the rows that had an outcome then
    kills, memory, starts = 0, 0.0, 0
    while starts < 10 * KILLS:
        starts += 1
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-c", CLIENT, str(tmp_path / "knowledge"), server.base_url], stderr=log)
        goal = len(scene.asked) + chance.randrange(ROWS // KILLS // 2, ROWS // KILLS) if kills < KILLS else None
        while process.poll() is None and (goal is None or len(scene.asked) < goal):
            memory = max(memory, peak_mib(process))
            time.sleep(0.01)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        time.sleep(0.1)  # what the kill left in the sockets arrives
        with KnowledgeStore(tmp_path / "knowledge") as store:
            known = {text_of(row) for row, each in zip(rows, stored_outcomes(store, place, rows), strict=True) if each is not None}
        durable[len(scene.asked)] = known
        if process.returncode == 0:
            break
    assert process.returncode == 0, (tmp_path / "log").read_text()[-2000:]
    assert kills == KILLS
    for seen, known in durable.items():
        assert known.isdisjoint(scene.asked[seen:]), "an answered row was asked again"
    with KnowledgeStore(tmp_path / "knowledge") as store:
        outcomes = list(stored_outcomes(store, place, rows))
        spent = spent_so_far(store)
        assert verify(store).problems == ()
    for row, outcome in zip(rows, outcomes, strict=True):
        text = text_of(row)
        if lasting(text):
            assert isinstance(outcome, Failure)
            assert outcome.reason == lasting(text)
        else:
            assert isinstance(outcome, Reply), (text, outcome)
            assert outcome.text == text.upper()
    assert BUDGET.allows(spent)
    assert scene.bill.picodollars <= spent.picodollars
    assert len(scene.asked) <= spent.requests
    assert memory < 300
    print(json.dumps({"kills": kills, "starts": starts, "requests": len(scene.asked), "memory_mib": memory, "usd": spent.usd}))


def text_of(row: ChatRequest) -> str:
    return str(row.messages[0]["content"])
