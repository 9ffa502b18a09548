"""The journal: where an answer is durable before it is in a shard. One SQLite file a writer, deleted once sealed.

A row of the journal is one `put`: an Arrow table in its stream format, laid out like the shards. The file
"<name>.lock" beside it is held for as long as its writer lives, whatever ends the writer.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from stillroom.core import files
from stillroom.core.errors import StageFailed
from stillroom.knowledge.shards import ANSWER, CONTEXT, answer_values

_SUFFIX = ".sqlite"
_BUSY_SECONDS = 30.0
_SYSTEM_ERRORS = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS, sqlite3.SQLITE_IOERR: errno.EIO}


class Journal:
    """One journal, its own or another writer's, and what has been read of it so far.

    Attributes:
        tables: what was put, oldest first, as (kind, table).
        answers: key -> (values, row): row `row` of `values` is its answer.
        contexts: context -> the keys of its rows.
        num_bytes: the size of `tables`.
    """

    def __init__(self, path: Path, *, lock: FileLock | None = None) -> None:
        """Open the journal at `path`; `lock`, held, makes it this writer's own, to append to.

        Raises:
            StageFailed: the file is damaged or cannot be read; or it has been sealed and deleted in the meantime.
        """
        self.path = path
        self.tables: list[tuple[str, pa.Table]] = []
        self.answers: dict[str, tuple[NDArray[Any], int]] = {}
        self.contexts: dict[str, list[str]] = {}
        self.num_bytes = 0
        self._last = 0
        self._lock = lock
        with _sqlite_errors(path):
            self._connection = _open_writable(path) if lock else _open_readable(path)

    @classmethod
    def create(cls, folder: Path) -> Journal:
        """A new, empty journal of this process."""
        path = folder / f"{uuid.uuid4().hex}{_SUFFIX}"
        lock = _lock_of(path)
        draft = path.with_suffix(".tmp")
        with files.writing(folder):
            lock.acquire(timeout=0)
        try:
            with _sqlite_errors(path):
                connection = sqlite3.connect(draft, isolation_level=None)
                try:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("CREATE TABLE puts (number INTEGER PRIMARY KEY, kind TEXT NOT NULL, content BLOB NOT NULL)")
                finally:
                    connection.close()
                draft.rename(path)  # a reader sees it with its table, or not at all; the log's first sync covers the folder
                return cls(path, lock=lock)
        except BaseException:
            _unlink(draft)
            lock.release()
            raise

    def append(self, kind: str, table: pa.Table) -> None:
        """Store a table; durable when this returns."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        with _sqlite_errors(self.path):
            self._connection.execute("INSERT INTO puts (kind, content) VALUES (?, ?)", (kind, memoryview(sink.getvalue())))
        self.update()

    def update(self) -> None:
        """Read what has been put since the last time."""
        with _sqlite_errors(self.path):
            rows = self._connection.execute("SELECT number, kind, content FROM puts WHERE number > ? ORDER BY number", (self._last,))
            for number, kind, content in rows:
                try:
                    table = pa.ipc.open_stream(content).read_all()
                except pa.ArrowException as error:
                    raise StageFailed(_damaged(self.path)) from error
                self._add(kind, table)
                self.num_bytes += len(content)
                self._last = number

    def _add(self, kind: str, table: pa.Table) -> None:
        self.tables.append((kind, table))
        if kind == ANSWER:
            values = answer_values(table["answer"])
            for row, key in enumerate(table["key"].to_pylist()):
                self.answers.setdefault(key, (values, row))
        elif kind == CONTEXT:
            for context, rows in zip(table["context"].to_pylist(), table["rows"].to_pylist(), strict=True):
                self.contexts.setdefault(context, rows)

    def close(self) -> None:
        """Let go of the file; what it holds stays."""
        self._connection.close()
        if self._lock is not None:
            self._lock.release()

    def delete(self) -> None:
        """Close and remove the journal: what it held is in shards."""
        self._connection.close()
        with files.writing(self.path):
            _unlink(self.path)
            if self._lock is not None:
                self._lock.release()
                _unlink(_lock_path(self.path))


def journal_paths(folder: Path) -> list[Path]:
    """The journals in `folder`, of living and dead writers."""
    return sorted(folder.glob(f"*{_SUFFIX}"))


def abandoned_journals(folder: Path) -> Iterator[Journal]:
    """The journals whose writers are dead, now owned by this process. Only under the store's lock.

    Also removes what a writer left that was killed while it made or deleted its journal.
    """
    for path in journal_paths(folder):
        lock = _lock_of(path)
        with files.writing(folder):
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue  # alive
        try:
            journal = Journal(path, lock=lock)
        except BaseException:
            lock.release()
            raise
        yield journal
    for leftover in folder.glob("*.*"):
        if not (folder / f"{leftover.name.partition('.')[0]}{_SUFFIX}").exists():
            _unlink(leftover)


def _unlink(path: Path) -> None:
    """Remove a file, and what SQLite keeps beside it. The file itself goes first: without it the others mean nothing."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock_of(path: Path) -> FileLock:
    return FileLock(_lock_path(path), thread_local=False)


def _open_writable(path: Path) -> sqlite3.Connection:
    # The store's own lock keeps its threads apart.
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA synchronous = FULL")  # in WAL mode: the log is on disk before an INSERT returns
    return connection


def _open_readable(path: Path) -> sqlite3.Connection:
    try:
        return _connect_readable(path)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or not path.exists():
            raise
    # A write-ahead log cannot be read in a folder where SQLite may not make its "-shm" file. Nobody writes there,
    # so a copy elsewhere shows the same.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            if (source := path.with_name(path.name + suffix)).exists():
                shutil.copyfile(source, copy.with_name(copy.name + suffix))
        connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        original = sqlite3.connect(copy)
        original.backup(connection)
        original.close()
        return connection


def _connect_readable(path: Path) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT max(number) FROM puts").fetchone()  # connecting alone touches nothing
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's refusals into one clear error."""
    with files.writing(path):
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not hasattr(error, "sqlite_errorcode"):
                raise  # not SQLite's: a wrong call of ours
            code = error.sqlite_errorcode & 0xFF  # the primary code of an extended one
            if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR):  # the last: its table is not there
                raise StageFailed(_damaged(path)) from error
            # `writing` knows the remedy for the system's errors.
            raise OSError(_SYSTEM_ERRORS.get(code, 0), str(error)) from error


def _damaged(path: Path) -> str:
    return f"{path}: the journal is damaged. Delete it and run 'stillroom label' again: only its answers are asked anew."
