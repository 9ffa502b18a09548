"""What reviewers have decided: one line of JSON each, appended, never changed. The last word on a row counts."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from stillroom.core.errors import StageFailed
from stillroom.core.files import writing
from stillroom.core.review import Decision


class DecisionJournal:
    """Durable decisions, by one process or several at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, decisions: Sequence[Decision]) -> None:
        """Add decisions; durable when this returns. Killed before, the file holds a whole number of them: a line that was cut off
        is none, and the next append removes it.

        Raises:
            StageFailed: the file cannot be written.
        """
        lines = "".join(json.dumps(asdict(decision), ensure_ascii=False) + "\n" for decision in decisions).encode()
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)  # goes with the handle, however the process ends
                _cut_torn_line(handle)
                before = os.fstat(handle).st_size
                try:
                    if os.write(handle, lines) != len(lines):
                        raise OSError(28, "No space left on device")
                except OSError:
                    os.ftruncate(handle, before)
                    raise
                os.fsync(handle)
            finally:
                os.close(handle)

    def decisions(self) -> list[Decision]:
        """All of them, oldest first.

        Raises:
            StageFailed: a line is none of ours.
        """
        if not self.path.is_file():
            return []
        *lines, _torn = self.path.read_bytes().split(b"\n")
        return [_decision(line, f"{self.path}, line {number}") for number, line in enumerate(lines, start=1)]


def _cut_torn_line(handle: int) -> None:
    size = os.fstat(handle).st_size
    if size and os.pread(handle, 1, size - 1) != b"\n":
        os.ftruncate(handle, os.pread(handle, size, 0).rfind(b"\n") + 1)


def _decision(line: bytes, place: str) -> Decision:
    try:
        content = json.loads(line)
        return Decision(**{field.name: content[field.name] for field in fields(Decision)})
    except (ValueError, KeyError, TypeError):
        raise StageFailed(
            f"{place}: is no decision of a review; the file was altered. Mend or delete this line, the others are whole."
        ) from None
