"""What the files of results of a batch say about its rows. No network."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from stillroom.core.chat import Reply
from stillroom.teachers.endpoint.wire import AttemptFailed, parse_reply, refusal


@dataclass
class Results:
    """What has been read so far.

    Attributes:
        keys: of the batch's rows.
        answered: the keys of the rows that have a valid answer; the first one counts.
        failures: of rows that have none.
        duplicates, unknown: lines about a row that had been spoken of already; lines about no row, or that cannot be read.
    """

    keys: Collection[str]
    max_line_bytes: int
    answered: set[str] = field(default_factory=set)
    failures: dict[str, AttemptFailed] = field(default_factory=dict)
    duplicates: int = 0
    unknown: int = 0

    def replies(self, file: BinaryIO) -> Iterator[tuple[str, Reply]]:
        """The valid answers of a file, each row's first; the rest is counted."""
        while line := file.readline(self.max_line_bytes + 1):
            if len(line) > self.max_line_bytes:
                while line and not line.endswith(b"\n"):
                    line = file.readline(1 << 16)
                self.unknown += 1
            elif line.strip():
                yield from self._line(line)

    def silent(self) -> list[str]:
        """The rows that no line speaks of."""
        return [key for key in self.keys if key not in self.answered and key not in self.failures]

    def _line(self, line: bytes) -> Iterator[tuple[str, Reply]]:
        try:
            content = json.loads(line)
            key = content["custom_id"]
            known = key in self.keys
        except (ValueError, RecursionError, KeyError, TypeError):
            known = False
        if not known:
            self.unknown += 1
            return
        self.duplicates += key in self.answered or key in self.failures
        if key in self.answered:
            return
        try:
            reply = read_result(content)
        except AttemptFailed as failed:
            self.failures.setdefault(key, failed)
        else:
            self.failures.pop(key, None)
            self.answered.add(key)
            yield key, reply


def read_result(content: dict[str, Any]) -> Reply:
    """One line of a file of results. Raises AttemptFailed where it holds no answer."""
    response, error = content.get("response"), content.get("error")
    if not isinstance(response, dict):
        # The vendor never ran it: the batch expired or was cancelled, or the vendor itself failed.
        failed = refusal(500, json.dumps({"error": error or "neither a response nor an error"}).encode(), {}, 0.0)
        failed.status = None
        raise failed
    status, body = response.get("status_code"), json.dumps(response.get("body")).encode()
    if not isinstance(status, int) or not 200 <= status < 300:
        raise refusal(status if isinstance(status, int) and status >= 300 else 500, body, {}, 0.0)
    choices, usage, model = parse_reply(body, "application/json", status, 0.0)
    return Reply(choices, usage, model)
