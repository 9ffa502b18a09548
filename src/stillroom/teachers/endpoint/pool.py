"""Many rows at once, each on its own: no batch waits for its slowest row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
_LOOK_AHEAD = 32


async def for_each(rows: Iterable[T] | AsyncIterable[T], work: Callable[[T], Awaitable[bool]], num_workers: int) -> bool:
    """Do `work` on every row, `num_workers` at a time; `rows` is read as it is needed.

    An error of one row cancels the others and is raised. A row whose work returns False lets no further row begin.

    Returns:
        Whether every row's work returned True.
    """
    waiting: asyncio.Queue[T | None] = asyncio.Queue(_LOOK_AHEAD)
    going_on = True

    async def feed() -> None:
        async for row in _each(rows):
            if not going_on:
                break
            await waiting.put(row)
        for _ in range(num_workers):
            await waiting.put(None)

    async def worker() -> None:
        nonlocal going_on
        while (row := await waiting.get()) is not None:
            if going_on and not await work(row):
                going_on = False  # rows that wait are still taken, so that the feeder finds a place and sees it

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(feed())
            for _ in range(num_workers):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # the one that ended the others
    return going_on


async def _each(rows: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
    if isinstance(rows, AsyncIterable):
        async for row in rows:
            yield row
    else:
        for row in rows:
            yield row
