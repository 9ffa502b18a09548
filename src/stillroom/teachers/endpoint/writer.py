"""Many answers, one commit: what has arrived in a few milliseconds is stored together, in a thread, so that the disk stalls nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from stillroom.core.protocols import BlockStore
from stillroom.teachers.endpoint.budget import NOTHING, Spending
from stillroom.teachers.endpoint.ledger import Ledger

_GATHER_SECONDS, _GATHER_SECONDS_WAITED_FOR = 0.03, 0.004
"""How long a commit waits for company; the latter where somebody waits for it. A commit costs about as much as storing 200 answers."""
_MOST_WAITING = 4096
"""More answers than these on their way to the disk hold the flow up: they are memory, and a kill would lose them."""


@dataclass
class _Batch:
    """What goes in one commit."""

    keys: list[str] = field(default_factory=list)
    blocks: list[bytes] = field(default_factory=list)
    facts: list[dict[str, Any]] = field(default_factory=list)
    change: Spending = NOTHING
    waiting: list[asyncio.Future[None]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.keys or self.waiting or self.change != NOTHING)


class GroupWriter:
    """Puts answers and changes of the ledger into a store. `run` does the work, until `close`."""

    def __init__(self, store: BlockStore, durable: Callable[[list[str]], None]) -> None:
        """`durable` is told the keys of every commit once they count."""
        self._store, self._durable = store, durable
        self._ledger, self._batch = Ledger(), _Batch()
        self._arrived = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, "stillroom-writer")
        self._storing: tuple[Future[None], _Batch] | None = None

    async def put(self, key: str, block: bytes, facts: dict[str, Any]) -> None:
        """Take an answer in; it counts once `durable` has been told."""
        self._batch.keys.append(key)
        self._batch.blocks.append(block)
        self._batch.facts.append(facts)
        self._arrived.set()
        if len(self._batch.keys) >= _MOST_WAITING:
            await self.commit()

    def record(self, change: Spending) -> None:
        """Take a change of the ledger in: it goes with the next commit."""
        self._batch.change += change
        self._arrived.set()

    async def commit(self) -> None:
        """Wait until what was taken in before is durable."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batch.waiting.append(done)
        self._arrived.set()
        await done

    def close(self) -> None:
        """Let `run` end when everything is durable."""
        self._closing = True
        self._arrived.set()

    async def run(self) -> None:
        """Commit after commit.

        Raises:
            StageFailed: the store cannot be written.
        """
        while self._batch or not self._closing:
            self._arrived.clear()
            if not self._batch:
                await self._arrived.wait()
                continue
            if not self._closing:
                await asyncio.sleep(_GATHER_SECONDS_WAITED_FOR if self._batch.waiting else _GATHER_SECONDS)
            batch, self._batch = self._batch, _Batch()
            self._storing = self._thread.submit(self._store_batch, batch), batch
            # Shielded: a cancelled future would take a batch with it that the thread has not begun.
            await asyncio.shield(asyncio.wrap_future(self._storing[0]))
            self._storing = None
            self._tell(batch)

    def finish(self) -> None:
        """After `run` was cancelled: store what had arrived, and let the thread go."""
        self._thread.shutdown(wait=True)
        if self._storing is not None and self._storing[0].exception() is None:
            self._tell(self._storing[1])
        if self._batch:
            batch, self._batch = self._batch, _Batch()
            self._store_batch(batch)
            self._tell(batch)

    def _store_batch(self, batch: _Batch) -> None:
        if batch.change != NOTHING:
            key, block, facts = self._ledger.entry(batch.change)
            batch.keys.append(key)
            batch.blocks.append(block)
            batch.facts.append(facts)
        if batch.keys:
            self._store.put_blocks(batch.keys, batch.blocks, batch.facts)

    def _tell(self, batch: _Batch) -> None:
        self._durable(batch.keys)
        for future in batch.waiting:
            if not future.done():
                future.set_result(None)
