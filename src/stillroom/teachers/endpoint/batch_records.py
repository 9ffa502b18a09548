"""What a store knows of its batches, so that a killed run finds them again.

For each uploaded file, three blocks of JSON, each once: "uploaded" (its rows and the most that they can cost; in one commit with the entry
of the ledger that reserves it, and before the vendor is told to begin), "created" (the batch's name), "ended" (what came of it; in one
commit with the entry that settles it).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from stillroom.core.chat import Usage
from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import BlockStore
from stillroom.teachers.endpoint.budget import Spending
from stillroom.teachers.endpoint.ledger import numbered_entry
from stillroom.teachers.endpoint.rows import Entry, Row

BATCH = "chat batch"
_FORMAT = "stillroom/batch@1"


@dataclass(frozen=True)
class Uploaded:
    """A file of requests at the vendor's.

    Attributes:
        rows: by their keys, each with the most tokens that it can take.
        most: the most that all can cost.
        since: when it was uploaded, by the vendor's clock.
    """

    file: str
    rows: dict[str, tuple[Row, Usage]]
    most: Spending
    since: int


class BatchRecords:
    """The batches of one endpoint in one store."""

    def __init__(self, store: BlockStore, endpoint: str) -> None:
        self._store, self._endpoint = store, endpoint

    def unfinished(self) -> list[str]:
        """The files whose batches have not ended yet."""
        names = self._files()
        return [names[i] for i in self._store.missing([self._key(name, "ended") for name in names])]

    def found(self) -> Counter[str]:
        """Over all batches that have ended: how many there were, and what was wrong with their results, as in `Standing.batches`."""
        files = self._files()
        absent = set(self._store.missing([self._key(file, "ended") for file in files]))
        total: Counter[str] = Counter(ended=len(files) - len(absent))
        for place, file in enumerate(files):
            if place not in absent:
                facts = self._get(file, "ended")
                total.update({name: facts[name] for name in ("duplicates", "unknown", "silent")})
        return total

    def uploaded(self, file: Uploaded) -> None:
        """Record a file and reserve what its batch may cost. Durable when this returns.

        Raises:
            StageFailed: the vendor has given the file's name before; its rows would be taken for those of the other file.
        """
        if not self._store.missing([self._key(file.file, "uploaded")]):
            raise StageFailed(f"teacher.batch: {self._endpoint} gave two files the name {file.file!r}. Set teacher.batch: false.")
        questions, rows = _folded(file.rows.values())
        content = {"questions": questions, "rows": rows, "most": astuple(file.most), "since": file.since}
        self._put(file.file, "uploaded", content, [numbered_entry(self._ledger(file), 0, file.most)])

    def created(self, file: str, batch: str) -> None:
        self._put(file, "created", {"batch": batch})

    def ended(self, file: Uploaded, cost: Spending, facts: dict[str, Any]) -> None:
        """Record what came of a batch, and settle what was reserved for it."""
        self._put(file.file, "ended", facts, [numbered_entry(self._ledger(file), 1, cost - file.most)])

    def read(self, file: str) -> Uploaded:
        """What `uploaded` was given."""
        content = self._get(file, "uploaded")
        rows = {}
        for place, example, *most in content["rows"]:
            row = Row({**content["questions"][place], "example": example})
            rows[row.key] = row, Usage(*most)
        return Uploaded(file, rows, Spending(*content["most"]), content["since"])

    def batch(self, file: str) -> str | None:
        """The name of a file's batch, where it is known."""
        return None if self._store.missing([self._key(file, "created")]) else str(self._get(file, "created")["batch"])

    def _ledger(self, file: Uploaded) -> str:
        """Under what the cost of a file's batch is entered; endpoints that share a store may give files the same names."""
        return f"batch {self._endpoint} {file.file}"

    def _files(self) -> list[str]:
        known = [each for each in self._store.questions() if each.get("question") == BATCH and each["endpoint"] == self._endpoint]
        return sorted({str(each["file"]) for each in known})

    def _facts(self, file: str, stage: str) -> dict[str, Any]:
        return {"question": BATCH, "endpoint": self._endpoint, "file": file, "example": stage}

    def _key(self, file: str, stage: str) -> str:
        return fingerprint("answer", self._facts(file, stage))

    def _put(self, file: str, stage: str, content: dict[str, Any], further: Sequence[Entry] = ()) -> None:
        block = json.dumps({"format": _FORMAT, **content}).encode()
        entries = [(self._key(file, stage), block, self._facts(file, stage)), *further]
        keys, blocks, facts = zip(*entries, strict=True)
        self._store.put_blocks(keys, blocks, facts)

    def _get(self, file: str, stage: str) -> dict[str, Any]:
        (block,) = self._store.get_blocks([self._key(file, stage)])
        content: dict[str, Any] = json.loads(block)
        if (found := content.get("format")) != _FORMAT:
            raise StageFailed(f"a stored batch has the format {found!r}; this version reads {_FORMAT!r}. Update stillroom.")
        return content


def _folded(rows: Iterable[tuple[Row, Usage]]) -> tuple[list[dict[str, Any]], list[list[Any]]]:
    """The facts that rows share, once; and of each row which of them it has, its own fact and the most tokens that it can take."""
    places: dict[str, int] = {}
    questions: list[dict[str, Any]] = []
    folded = []
    for row, most in rows:
        shared = {name: value for name, value in row.facts.items() if name != "example"}
        place = places.setdefault(fingerprint(shared), len(questions))
        if place == len(questions):
            questions.append(shared)
        folded.append([place, row.facts["example"], most.prompt_tokens, most.completion_tokens])
    return questions, folded
