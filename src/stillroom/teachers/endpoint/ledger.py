"""What a store has paid for, kept in the store itself: signed entries, each in one commit with the answers that it paid for.

Under a budget, an attempt's most is entered before it is sent, and the difference to its cost afterwards. What a killed run leaves is
therefore never less than what was spent. An entry is one JSON list of integers: requests, prompt tokens, completion tokens, picodollars.
"""

from __future__ import annotations

import uuid
from typing import Any

from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import BlockStore
from stillroom.teachers.endpoint.budget import NOTHING, Spending

SPENDING = "chat spending"
_AT_ONCE = 256


class Ledger:
    """The entries of one writer, numbered without gaps."""

    def __init__(self) -> None:
        self._writer, self._number = uuid.uuid4().hex, 0

    def entry(self, change: Spending) -> tuple[str, bytes, dict[str, Any]]:
        """Key, block and facts of the next entry."""
        self._number += 1
        return numbered_entry(self._writer, self._number - 1, change)


def numbered_entry(writer: str, number: int, change: Spending) -> tuple[str, bytes, dict[str, Any]]:
    """Key, block and facts of one entry; made again, it counts once."""
    facts = _facts(writer, number)
    return fingerprint("answer", facts), change.to_block(), facts


def spent_so_far(store: BlockStore) -> Spending:
    """The sum over all entries of all writers."""
    total = NOTHING
    for question in store.questions():
        if question.get("question") == SPENDING:
            for change in _entries(store, question["writer"]):
                total += change
    return total


def _entries(store: BlockStore, writer: str) -> list[Spending]:
    found: list[Spending] = []
    while True:
        keys = [fingerprint("answer", _facts(writer, len(found) + i)) for i in range(_AT_ONCE)]
        present = keys[: min(store.missing(keys), default=_AT_ONCE)]
        found += map(Spending.from_block, store.get_blocks(present))
        if len(present) < _AT_ONCE:
            return found


def _facts(writer: str, number: int) -> dict[str, Any]:
    return {"question": SPENDING, "writer": writer, "example": str(number)}
