"""The knowledge store: a folder of immutable shards, and a journal for each writer at work.

    <location>/shards/answer-<time>-<checksum>.parquet      sealed answers
    <location>/shards/context-<time>-<checksum>.parquet     the rows that answering teachers had been fitted on
    <location>/journals/<writer>.sqlite                     answers that are not sealed yet

An answer lives in a journal from the moment `put` returns, then in a shard; in between, for an instant, in both, where
it counts once. Writers of one machine take turns under one lock, so that no key is answered twice. Below a URL, writers
on several machines may both answer a key; the shard sealed first counts.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from stillroom.core import files
from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.knowledge.catalogue import Catalogue
from stillroom.knowledge.journal import Journal, abandoned_journals, journal_paths
from stillroom.knowledge.shards import ANSWER, CONTEXT, Record, answer_table, context_table, records, shard_folder

_SEAL_BYTES = 64 << 20
"""A journal of this size is sealed: it bounds memory, and makes shards that are worth a file."""

_LOCK_SECONDS = 120.0
_POLL_SECONDS = 0.002


class KnowledgeStore:
    """Durable answers by key; implements `core.protocols.AnswerStore`. Safe to use from several threads and processes."""

    def __init__(self, location: str | Path, *, read_only: bool = False, journals: Path | None = None) -> None:
        """Open the store, or start one. A writer first seals the journals of writers that are dead.

        Args:
            location: a folder, or any fsspec URL.
            read_only: take no lock, write nothing.
            journals: the local folder of the journals; absent: inside a local store, in the user's cache folder for a URL.

        Raises:
            BadInput: a read-only location that is no store, a URL of an unknown kind.
            StageFailed: the folder cannot be written, or a file in it is damaged.
        """
        self.location = str(location).rstrip("/") or "/"
        self.read_only = read_only
        self.shards, local = shard_folder(self.location)
        if read_only and local is not None and not local.exists():
            raise BadInput.at("store", f"{local} does not exist; run 'stillroom label' first.")
        if read_only and local is not None and not any((local / part).is_dir() for part in ("shards", "journals")):
            raise BadInput.at("store", f"{local} is no knowledge store; give the folder that holds 'shards', such as runs/NAME/knowledge.")
        self._journal_folder = journals or (local / "journals" if local else _cache_folder() / "journals" / fingerprint(self.location))
        self._threads = RLock()
        self._processes = FileLock(self._journal_folder / "lock", thread_local=False)
        self._own: Journal | None = None
        self._journals: dict[Path, Journal] = {}  # of every writer, the own one among them
        self._catalogue = Catalogue(self.shards)
        if not read_only:
            self._adopt()

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions in `keys` that have no stored answer yet."""
        with self._threads:
            self._refresh()
            return self._absent(keys)

    def put(self, keys: Sequence[str], values: NDArray[np.float64], facts: Sequence[dict[str, Any]]) -> None:
        """Store one answer a key, durable when this returns; a key that is there already keeps its first answer.

        Args:
            values: (n, K) float64, or (n,) for scalar answers.
            facts: what each key is the fingerprint of: key == fingerprint("answer", facts).

        Raises:
            StageFailed: an answer is not finite (none is stored), or it cannot be written (what was stored stays).
        """
        values = np.ascontiguousarray(values, np.float64)
        assert len(keys) == len(values) == len(facts), f"{len(keys)} keys, {len(values)} answers, {len(facts)} facts"
        assert values.ndim == 1 or (values.ndim == 2 and values.shape[1]), f"answers have shape {values.shape}"
        _refuse_non_finite(values, keys, facts)
        self._put(keys, values, facts, values[:1].nbytes)

    def put_blocks(self, keys: Sequence[str], blocks: Sequence[bytes], facts: Sequence[dict[str, Any]]) -> None:
        """`put` for answers that are bytes."""
        assert len(keys) == len(blocks) == len(facts), f"{len(keys)} keys, {len(blocks)} blocks, {len(facts)} facts"
        self._put(keys, np.array([*blocks, None], object)[:-1], facts, max(map(len, blocks), default=0))

    def get(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """The answers in the order of `keys`: (n, K), or (n,) where answers are scalars.

        Raises:
            KeyError: a key has no answer.
            StageFailed: a shard is damaged.
        """
        answers = np.empty(0)
        for rows, values in self._get(keys):
            if not len(answers):
                answers = np.empty((len(keys), *values.shape[1:]))
            assert answers.shape[1:] == values.shape[1:], "the keys ask for answers of different widths"
            answers[rows] = values
        return answers

    def get_blocks(self, keys: Sequence[str]) -> list[bytes]:
        """`get` for answers that are bytes."""
        blocks = [b""] * len(keys)
        for rows, values in self._get(keys):
            for row, block in zip(rows.tolist(), values, strict=True):
                assert isinstance(block, bytes), "the keys ask for numbers"
                blocks[row] = block
        return blocks

    def questions(self) -> list[dict[str, Any]]:
        """What the store's answers answer: their facts but for the example, each combination once."""
        with self._threads:
            self._refresh()
            texts = dict.fromkeys(self._catalogue.questions())
            for journal in self._journals.values():
                for kind, table in journal.tables:
                    if kind == ANSWER:
                        texts.update(dict.fromkeys(table["facts"].unique().to_pylist()))
            return [json.loads(text) for text in texts]

    def put_context(self, context: str, rows: Sequence[str]) -> None:
        """Record durably what a fingerprint in the facts stands for: the keys of the rows that a teacher was fitted on, or words. Call it
        before the answers are put."""
        with self._exclusive():
            self._refresh(look_far=False)
            if not self._catalogue.has_context(context) and all(context not in journal.contexts for journal in self._journals.values()):
                self._append(CONTEXT, context_table(context, rows))

    def context(self, context: str) -> list[str]:
        """The row keys recorded for a context. Raises KeyError for an unknown one."""
        with self._threads:
            self._refresh()
            for journal in self._journals.values():
                if context in journal.contexts:
                    return journal.contexts[context]
            return self._catalogue.context(context)

    def __len__(self) -> int:
        """The number of answers: keys, each counted once."""
        with self._threads:
            self._refresh()
            return len(self._catalogue) + len(self._unsealed_keys())

    def __iter__(self) -> Iterator[Record]:
        """Every answer once, as of the beginning of the iteration."""
        with self._threads:
            self._refresh()
            sealed, unsealed = self._catalogue.records(), self._unsealed_keys()
            tables = [table for journal in self._journals.values() for kind, table in journal.tables if kind == ANSWER]
        yield from sealed
        for record in records(batch for table in tables for batch in table.to_batches()):
            if record.key in unsealed:
                unsealed.remove(record.key)
                yield record

    def unsealed(self) -> list[tuple[Path, str, pa.Table]]:
        """What lies in the journals: (file, kind, table), oldest first in each file."""
        with self._threads:
            self._refresh_journals()
            return [(path, kind, table) for path, journal in self._journals.items() for kind, table in journal.tables]

    def seal(self) -> None:
        """Move this writer's journal into shards.

        Raises:
            StageFailed: they cannot be written; the journal stays, and nothing is lost.
        """
        with self._exclusive():
            if self._own is not None:
                self._refresh()
                self._seal(self._own)
                self._own = None

    def close(self, *, seal: bool = True) -> None:
        """Seal, and let go of every file; the store cannot be used afterwards. Without `seal` the next writer does it."""
        try:
            if seal and not self.read_only:
                self.seal()
        finally:
            with self._threads:
                for journal in self._journals.values():
                    journal.close()
                self._journals, self._own = {}, None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # After an error, a full disk among them, the journal stays as it is: sealing might fail too and hide the cause.
        self.close(seal=kind is None)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """The store's lock: no other writer of this machine writes."""
        assert not self.read_only, "the store was opened for reading"
        with self._threads:
            with files.writing(self._journal_folder):
                self._journal_folder.mkdir(parents=True, exist_ok=True)
                try:
                    self._processes.acquire(timeout=_LOCK_SECONDS, poll_interval=_POLL_SECONDS)
                except Timeout:
                    raise StageFailed(f"{self.location}: another process has held the store for {_LOCK_SECONDS:g} s; end it.") from None
            try:
                yield
            finally:
                self._processes.release()

    def _adopt(self) -> None:
        """Seal what dead writers left."""
        with self._exclusive():
            self.shards.tidy()
            for journal in abandoned_journals(self._journal_folder):
                try:
                    self._refresh()
                    self._seal(journal)
                finally:
                    journal.close()

    def _put(self, keys: Sequence[str], values: NDArray[Any], facts: Sequence[dict[str, Any]], num_bytes: int) -> None:
        """Append what is new; an answer takes at most `num_bytes`."""
        assert all(key.isascii() for key in keys), "keys are fingerprints"
        first: dict[str, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        names = list(first)
        rows_at_once = _SEAL_BYTES // (256 + num_bytes) + 1
        with self._exclusive():
            self._refresh(look_far=False)
            fresh = [first[names[i]] for i in self._absent(names)]
            for start in range(0, len(fresh), rows_at_once):
                rows = fresh[start : start + rows_at_once]
                self._append(ANSWER, answer_table([keys[i] for i in rows], values[rows], [facts[i] for i in rows]))

    def _get(self, keys: Sequence[str]) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
        """The answers, part by part: positions in `keys`, and their answers. Raises KeyError."""
        with self._threads:
            self._refresh()
            if absent := self._absent(keys):
                raise KeyError(keys[absent[0]])
            numbers = self._catalogue.find(keys)
            yield from self._catalogue.values(numbers)
            yield from self._unsealed_values(keys, np.flatnonzero(numbers < 0))

    def _append(self, kind: str, table: pa.Table) -> None:
        if self._own is None:
            self._own = Journal.create(self._journal_folder)
            self._journals[self._own.path] = self._own
        self._own.append(kind, table)
        if self._own.num_bytes >= _SEAL_BYTES:
            self.seal()

    def _seal(self, journal: Journal) -> None:
        """Move a journal into shards. Killed in between, the next sealing finds every key in a shard and writes none twice.
        Only under the store's lock, refreshed."""
        journal.update()
        self._catalogue.add(journal.tables)
        self._journals.pop(journal.path).close()  # the same object, or the view that this process had of a dead writer's
        journal.delete()

    def _refresh(self, *, look_far: bool = True) -> None:
        """Take in what other writers have done. Journals come first: what leaves one is in a shard before.

        `look_far` False spares the listing of a remote folder: what it would tell matters only once answers are read or sealed.
        """
        self._refresh_journals()
        if look_far or self.shards.cheap_to_list:
            self._catalogue.refresh()

    def _refresh_journals(self) -> None:
        paths = set(journal_paths(self._journal_folder))
        for path in self._journals.keys() - paths:
            self._journals.pop(path).close()
        if self._own is not None and self._own.path not in paths:
            self._own = None  # somebody has deleted the store under our hands
        for path in paths:
            try:
                if path not in self._journals:
                    self._journals[path] = Journal(path)
                self._journals[path].update()
            except StageFailed:
                if path.exists():
                    raise  # else: sealed and deleted while it was read

    def _absent(self, keys: Sequence[str]) -> list[int]:
        absent: list[int] = np.flatnonzero(self._catalogue.find(keys) < 0).tolist()
        for journal in self._journals.values():
            absent = [i for i in absent if keys[i] not in journal.answers]
        return absent

    def _unsealed_keys(self) -> set[str]:
        """The keys that are in a journal alone."""
        keys = list({key for journal in self._journals.values() for key in journal.answers})
        return {key for key, number in zip(keys, self._catalogue.find(keys), strict=True) if number < 0}

    def _unsealed_values(self, keys: Sequence[str], wanted: NDArray[np.intp]) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
        """The answers to the keys at positions `wanted`, put by put: positions in `keys`, and their answers."""
        puts: dict[int, tuple[NDArray[Any], list[int], list[int]]] = {}
        for i in wanted.tolist():
            values, row = next(journal.answers[keys[i]] for journal in self._journals.values() if keys[i] in journal.answers)
            _, positions, rows = puts.setdefault(id(values), (values, [], []))
            positions.append(i)
            rows.append(row)
        for values, positions, rows in puts.values():
            yield np.array(positions, np.intp), values[rows]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stillroom"


def _refuse_non_finite(values: NDArray[np.float64], keys: Sequence[str], facts: Sequence[dict[str, Any]]) -> None:
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))
    if len(bad):
        example, answer = facts[bad[0]].get("example", keys[bad[0]]), np.array2string(values[bad[0]], threshold=6)
        raise StageFailed(
            f"the teacher's answer to example {example} is {answer}: an answer must be finite. {len(bad)} of the {len(values)} answers of "
            f"this batch are not; none of the batch was stored. Mend the teacher, or drop these examples."
        )
