"""An asker of a scripted server, and answers as the server words them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import scripted_server as scripted

from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.endpoint import client as client_module
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.durable import Asker


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """serve(script) starts a server, which ends with the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(scripted.Server(*args, **kwargs))


@pytest.fixture
def asker(tmp_path: Path) -> Iterator[Callable[..., Asker]]:
    """asker(server, ...): all of a test share one store."""
    with KnowledgeStore(tmp_path / "knowledge") as store:
        yield lambda server, **settings: Asker(store, Endpoint(server.base_url, timeout_seconds=5.0), **settings)


def answer(content: str | None, finish_reason: str = "stop", **fields: Any) -> dict[str, Any]:
    """What a script returns so that the server answers with this message."""
    logprobs = fields.pop("logprobs", None)
    message = {"role": "assistant", "content": content, **fields}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": logprobs}
    return {"fields": {"choices": [choice]}}


@pytest.fixture(name="answer")
def _answer() -> Callable[..., dict[str, Any]]:
    return answer
