"""The scripted server, and requests to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import batch_server as batches
import pytest
import scripted_server as scripted

from stillroom.core.chat import ChatParameters, ChatRequest
from stillroom.teachers.endpoint.address import Endpoint


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """serve(script, ...) starts a server, which ends with the test."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(scripted.Server(*args, **kwargs))


@pytest.fixture
def serve_batches() -> Iterator[Callable[..., Any]]:
    """As `serve`, a server that has the batch API, too."""
    with ExitStack() as stack:
        yield lambda *args, **kwargs: stack.enter_context(batches.BatchServer(*args, **kwargs))


@pytest.fixture
def bucket() -> type:
    return scripted.Bucket  # type: ignore[no-any-return]


@pytest.fixture
def make_requests() -> Callable[..., list[ChatRequest]]:
    """make(num, **parameters) -> requests whose texts are "row 0", "row 1", ..."""

    def make(num: int, **parameters: Any) -> list[ChatRequest]:
        shared = ChatParameters(**{"model": "m", "max_tokens": 8, **parameters})
        return [ChatRequest(({"role": "user", "content": f"row {i}"},), shared) for i in range(num)]

    return make


@pytest.fixture
def endpoint() -> Callable[..., Endpoint]:
    """endpoint(server, **settings), patient for 5 seconds only."""

    def make(server: Any, **settings: Any) -> Endpoint:
        return Endpoint(server if isinstance(server, str) else server.base_url, **{"timeout_seconds": 5.0, **settings})

    return make
