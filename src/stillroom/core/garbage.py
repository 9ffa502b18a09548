"""Python's garbage collector while many small objects live."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_RARELY = (10_000, 20, 50)


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Cycles are looked for less often in the block: of many requests to an endpoint the search took a seventh of the processor's time."""
    before = gc.get_threshold()
    if before[0]:  # 0: the user wants none at all
        gc.set_threshold(*map(max, before, _RARELY))
    try:
        yield
    finally:
        gc.set_threshold(*before)
