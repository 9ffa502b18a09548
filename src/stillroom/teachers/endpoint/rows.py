"""Which rows wait for an outcome, and how the others ended: what every way of asking counts alike."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from stillroom.core.chat import CHAT_FAILURE, ChatRequest, Failure, FailureReason, Reply, failure_facts, from_block, to_block
from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import BlockStore

ROWS_AT_ONCE = 128
_LOOK_AHEAD = 512
"""So many rows are read before the first of them is asked, to be put in order."""
Entry = tuple[str, bytes, dict[str, Any]]
"""Key, block and facts of what goes into the store."""


class Row:
    """The names of a row's outcomes."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self.key = fingerprint("answer", facts)

    @property
    def failure_facts(self) -> dict[str, Any]:
        return failure_facts(self.facts, self.key)

    @property
    def failure_key(self) -> str:
        return fingerprint("answer", self.failure_facts)


def lookup(store: BlockStore, rows: Sequence[Row]) -> list[bytes | None]:
    """The stored answer of each row, or else its stored failure."""
    found: dict[int, bytes] = {}
    for name in ("key", "failure_key"):
        unknown = [i for i in range(len(rows)) if i not in found]
        keys = [getattr(rows[i], name) for i in unknown]
        absent = set(store.missing(keys))
        present = [place for place in range(len(keys)) if place not in absent]
        blocks = store.get_blocks([keys[place] for place in present])
        found.update(zip((unknown[place] for place in present), blocks, strict=True))
    return [found.get(i) for i in range(len(rows))]


class Rows:
    """The rows of one run. An outcome counts once it is durable.

    Attributes:
        answered, asked, failures: as in `Standing`.
    """

    def __init__(self, store: BlockStore, endpoint: str, *, ask_failed_again: bool) -> None:
        self._store, self._endpoint = store, endpoint
        self._heed_failures = not ask_failed_again and any(each.get("question") == CHAT_FAILURE for each in store.questions())
        self._pending: dict[str, int] = {}  # a row's key -> how many rows wait for its outcome: equal requests are asked once
        self._unstored: dict[str, tuple[str, FailureReason | None]] = {}  # key on its way to the store -> the row's key, why it failed
        self._failed: dict[str, FailureReason] = {}  # in this run
        self.answered = self.asked = 0
        self.failures: Counter[FailureReason] = Counter()

    async def missing(
        self, requests: Iterable[ChatRequest], check: Callable[[ChatRequest], None]
    ) -> AsyncIterator[tuple[Row, ChatRequest]]:
        """The rows without a stored outcome, each once, after `check` of its request."""
        rows = iter(requests)
        while chunk := [(Row(request.facts(self._endpoint)), request) for request in islice(rows, _LOOK_AHEAD)]:
            new: dict[str, tuple[Row, ChatRequest]] = {}
            for row, request in chunk:  # before the store is asked: what leaves `_pending` meanwhile is in the store
                if reason := self._failed.get(row.key):
                    self.failures[reason] += 1
                elif row.key in self._pending:
                    self._pending[row.key] += 1
                else:
                    self._pending[row.key] = 1
                    new[row.key] = row, request
            # Rows whose prompts begin alike follow each other, so that a server finds their common beginning in its cache.
            in_order = [row for row, _ in sorted(new.values(), key=lambda pair: pair[1].messages_json)]
            for row in await asyncio.to_thread(self._look_up, in_order):
                check(new[row.key][1])
                yield new[row.key]

    def waits(self, row: Row) -> bool:
        """Whether it has been read and has no outcome yet."""
        return row.key in self._pending

    def entry(self, row: Row, outcome: Reply | Failure) -> Entry:
        """What to store. It counts once `stored` is told its key."""
        reason = outcome.reason if isinstance(outcome, Failure) else None
        key, facts = (row.key, row.facts) if reason is None else (row.failure_key, row.failure_facts)
        self._unstored[key] = row.key, reason
        return key, to_block(outcome), facts

    def stored(self, keys: Iterable[str]) -> None:
        """These are durable now, and count."""
        for key in keys:
            if key in self._unstored:  # no entry of the ledger
                row_key, reason = self._unstored.pop(key)
                self.asked += 1
                self._count(row_key, reason)

    def _look_up(self, rows: list[Row]) -> list[Row]:
        """Count the rows that the store knows; give the others."""
        unknown = [rows[i] for i in self._store.missing([row.key for row in rows])]
        known = {row.key for row in rows} - {row.key for row in unknown}
        failed: dict[str, FailureReason] = {}
        if self._heed_failures:
            for row, block in zip(unknown, lookup(self._store, unknown), strict=True):
                if block is not None and isinstance(outcome := from_block(block), Failure):
                    failed[row.key] = outcome.reason
        for key in known:
            self._count(key, None)
        for key, reason in failed.items():
            self._count(key, reason)
        return [row for row in unknown if row.key not in failed]

    def _count(self, key: str, reason: FailureReason | None) -> None:
        """The rows that wait for `key` have their outcome. None may: an earlier run's batch can bring what this one has not read yet."""
        waiting = self._pending.pop(key, 0)
        if reason is None:
            self.answered += waiting
        else:
            self._failed[key] = reason
            self.failures[reason] += waiting
