"""A scripted model that writes, and the server that it stands behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from scripted_writer import descriptions, writes


@pytest.fixture(scope="session")
def serve() -> Any:
    """`with serve(script) as server`: the scripted server."""
    from scripted_server import Server  # not every test here needs aiohttp

    return Server


@pytest.fixture(name="writes")
def _writes() -> Callable[..., Any]:
    return writes


@pytest.fixture(name="descriptions")
def _descriptions() -> Callable[..., Any]:
    return descriptions
