"""Immutable Parquet shards: how answers are laid out, and the folder, local or remote, that holds them.

A shard's name is "<kind>-<time of sealing>-<footer's CRC>-<checksum>.parquet": names sort by age, and the checksum of the
bytes is recorded without a second file that could disagree. A reader holds the footer against its CRC and every page that
it needs against the page's own, `verify` the whole file against the checksum. Unknown kinds are left alone.
"""

from __future__ import annotations

import io
import json
import re
import time
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stillroom.core import files
from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint

FORMAT = b"stillroom/knowledge@1"
ANSWER, CONTEXT = "answer", "context"
_NAME = re.compile(rf"({ANSWER}|{CONTEXT})-[0-9a-f]{{16}}-([0-9a-f]{{8}})-(\w+-[0-9a-f]+)\.parquet")
_ROWS_PER_GROUP = 1 << 16
_BLOCK_GROUP_BYTES = 1 << 18
"""Blocks are read one here, one there, in a trainer's order: a row group is what one of them costs to read."""
_THREADS = False
"""A column at a time leaves Arrow's threads nothing to do, and a process that ends right behind a read may die of them:
apache/arrow#34314."""
_CONTEXT_SCHEMA = pa.schema([("context", pa.string()), ("rows", pa.list_(pa.string()))])


@dataclass(frozen=True, eq=False)
class Record:
    """A stored answer: (K,) float64, one float or a block of bytes, and the facts that its key was made of."""

    key: str
    value: NDArray[np.float64] | float | bytes
    facts: dict[str, Any]


class ShardFolder(Protocol):
    """Where shards lie. `cheap_to_list` is False where a listing goes over the network."""

    cheap_to_list: bool

    def names(self) -> list[str]: ...
    def path(self, name: str) -> str: ...
    def open(self, name: str) -> IO[bytes]: ...
    def write(self, name: str, content: bytes) -> None: ...
    def tidy(self) -> None:
        """Remove the drafts of writers that were killed. Called only while no other writer of this machine is writing."""
        ...


class LocalFolder:
    """Shards in a folder of this machine."""

    cheap_to_list = True

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def open(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("rb")

    def write(self, name: str, content: bytes) -> None:
        files.write_bytes(self._folder / name, content)

    def tidy(self) -> None:
        for draft in self._folder.glob(".*.tmp"):
            draft.unlink(missing_ok=True)


class RemoteFolder:
    """Shards below an fsspec URL."""

    cheap_to_list = False

    def __init__(self, url: str) -> None:
        import fsspec

        try:
            self._files, self._root = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:  # no such protocol, or its package is not installed
            raise BadInput.at("store", f"{url!r} cannot be opened: {error}") from error
        self._url = url.rstrip("/")

    def names(self) -> list[str]:
        self._files.invalidate_cache()
        try:
            found = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        return sorted(filter(_NAME.fullmatch, (path.rstrip("/").rpartition("/")[2] for path in found)))

    def path(self, name: str) -> str:
        return f"{self._url}/{name}"

    def open(self, name: str) -> IO[bytes]:
        file: IO[bytes] = self._files.open(f"{self._root}/{name}", "rb")
        return file

    def write(self, name: str, content: bytes) -> None:
        draft = f"{self._root}/.{name}.{uuid.uuid4().hex}.tmp"
        with files.writing(self.path(name)):
            self._files.makedirs(self._root, exist_ok=True)
            self._files.pipe_file(draft, content)
            self._files.mv(draft, f"{self._root}/{name}")

    def tidy(self) -> None:
        pass  # a draft may be another machine's, still growing


def shard_folder(location: str) -> tuple[ShardFolder, Path | None]:
    """The shards of the store at `location`, and the store's folder if it is on this machine.

    Raises:
        BadInput: a file stands there, or the URL's protocol is unknown.
    """
    scheme, mark, rest = location.partition("://")
    if mark and scheme not in ("file", "local"):
        return RemoteFolder(f"{location}/shards"), None
    folder = Path(rest if mark else location)
    if folder.exists() and not folder.is_dir():
        raise BadInput.at("store", f"{folder} is a file; a knowledge store is a folder.")
    return LocalFolder(folder / "shards"), folder


def answer_table(keys: Sequence[str], values: NDArray[Any], facts: Sequence[Mapping[str, Any]]) -> pa.Table:
    """One row an answer. `values` is (n, K) or (n,), or (n,) objects: bytes. The facts that rows share are stored once."""
    examples, codes, shared = _split_facts(facts)
    flat = pa.array(values.ravel(), pa.large_binary() if values.dtype.hasobject else None)
    answers = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    columns = {
        "key": pa.array(keys, pa.string()),
        "example": pa.array(examples, pa.string()),
        "facts": pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(shared, pa.string())),
        "answer": answers,
    }
    return pa.table(columns)


def context_table(context: str, rows: Sequence[str]) -> pa.Table:
    """The keys of the rows that a teacher was fitted on, under the fingerprint of that context."""
    return pa.table({"context": [context], "rows": [list(rows)]}, schema=_CONTEXT_SCHEMA)


def answer_values(column: pa.ChunkedArray | pa.Array) -> NDArray[Any]:
    """(n, K) or (n,) float64, or (n,) bytes, out of the "answer" column."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if holds_blocks(whole.type):
        return np.array([*whole.to_pylist(), None], object)[:-1]  # with None, no array is ever made of the bytes themselves
    if not pa.types.is_fixed_size_list(whole.type):
        return np.asarray(whole)
    return np.asarray(whole.flatten()).reshape(len(whole), whole.type.list_size)


def holds_blocks(answer: pa.DataType) -> bool:
    """Are the answers of this type blocks of bytes?"""
    return bool(pa.types.is_large_binary(answer))


def records(batches: Iterable[pa.RecordBatch]) -> Iterator[Record]:
    """The rows of answer tables."""
    for batch in batches:
        shared = [json.loads(text) for text in batch["facts"].dictionary.to_pylist()]
        values = answer_values(batch["answer"])
        columns = (batch["key"], batch["example"], batch["facts"].indices)
        for key, example, code, value in zip(*(column.to_pylist() for column in columns), values, strict=True):
            facts = dict(shared[code]) if example is None else {"example": example, **shared[code]}
            yield Record(key, float(value) if values.ndim == 1 and not isinstance(value, bytes) else value, facts)


def write_shard(folder: ShardFolder, kind: str, table: pa.Table) -> None:
    """Write `table` as one shard, whole or not at all."""
    sink = io.BytesIO()
    blocks = kind == ANSWER and holds_blocks(table.schema.field("answer").type)
    pq.write_table(
        table.replace_schema_metadata({b"format": FORMAT, b"kind": kind.encode()}),
        sink,
        compression={**dict.fromkeys(table.column_names, "ZSTD"), "answer": "NONE"} if blocks else "zstd",  # blocks are dense
        use_dictionary=["facts"],  # keys, examples and answers hardly ever repeat
        write_page_checksum=True,
        # A context is read alone, so each has its own row group.
        row_group_size=1 if kind == CONTEXT else _rows_for(_BLOCK_GROUP_BYTES, table) if blocks else _ROWS_PER_GROUP,
    )
    content = sink.getvalue()
    footer = zlib.crc32(_footer(io.BytesIO(content)))
    folder.write(f"{kind}-{time.time_ns():016x}-{footer:08x}-{fingerprint(content)}.parquet", content)


def _rows_for(num_bytes: int, table: pa.Table) -> int:
    """How many rows of `table` make about `num_bytes`."""
    return max(num_bytes * len(table) // max(int(table.nbytes), 1), 1)


@contextmanager
def open_shard(folder: ShardFolder, name: str) -> Iterator[pq.ParquetFile]:
    """A shard for reading; the footer, and every page that is read, are held against their checksums.

    Raises:
        StageFailed: the file is truncated, altered or cannot be read; names it and the remedy.
    """
    with _reading(folder.path(name)), folder.open(name) as file:
        if f"{zlib.crc32(_footer(file)):08x}" != _NAME.sub(r"\2", name):
            raise StageFailed(_damaged(folder.path(name)))
        shard = pq.ParquetFile(file, page_checksum_verification=True)
        if (found := (shard.schema_arrow.metadata or {}).get(b"format")) != FORMAT:
            raise StageFailed(f"{folder.path(name)}: its format is {found!r}; this version reads {FORMAT!r}. Update stillroom.")
        yield shard


def read_column(shard: pq.ParquetFile, name: str) -> pa.ChunkedArray:
    """A whole column of an open shard."""
    values = shard.read([name], use_threads=_THREADS)[name]
    _check_rows(shard, len(values))
    return values


def read_rows(shard: pq.ParquetFile, name: str, rows: NDArray[np.int64]) -> pa.ChunkedArray:
    """Some rows of a column, in any order; only the row groups that they lie in are read."""
    sizes = [shard.metadata.row_group(group).num_rows for group in range(shard.metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    groups, group_of = np.unique(ends.searchsorted(rows, side="right"), return_inverse=True)
    values = shard.read_row_groups(groups.tolist(), [name], use_threads=_THREADS)[name]
    starts = np.cumsum([0, *(sizes[group] for group in groups)])
    if len(values) != starts[-1]:
        raise pa.ArrowInvalid(f"{len(values)} of {starts[-1]} rows")
    firsts = (ends - sizes)[groups]  # of each group that is read, in the shard
    return values.take(pa.array(starts[group_of] + rows - firsts[group_of]))


def read_batches(shard: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """The rows of an open shard, a few thousand at a time."""
    num_rows = 0
    for batch in shard.iter_batches(batch_size=4096, use_threads=_THREADS):
        num_rows += len(batch)
        yield batch
    _check_rows(shard, num_rows)


def check_bytes(folder: ShardFolder, name: str) -> None:
    """Hold a shard's bytes against the checksum in its name. Raises StageFailed."""
    with _reading(folder.path(name)), folder.open(name) as file:
        found = fingerprint(file.read())
    if found != checksum_of(name):
        raise StageFailed(_damaged(folder.path(name)))


def kind_of(name: str) -> str:
    """The kind that a shard's name records."""
    return _NAME.sub(r"\1", name)


def checksum_of(name: str) -> str:
    """The checksum of its bytes that a shard's name records."""
    return _NAME.sub(r"\3", name)


def _check_rows(shard: pq.ParquetFile, found: int) -> None:
    # The header of a page has no checksum, and when damaged may say that the page ends early.
    if found != shard.metadata.num_rows:
        raise pa.ArrowInvalid(f"{found} of {shard.metadata.num_rows} rows")


def _footer(file: IO[bytes]) -> bytes:
    """The footer of a Parquet file, with its length and the closing mark, as far as there is one."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - 8, 0))
    length = int.from_bytes(file.read(4), "little")
    file.seek(max(size - 8 - length, 0))
    return file.read()


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's; pyarrow's own carry no number
            raise StageFailed(f"cannot read {path}: {error.strerror or error}.") from error
        raise StageFailed(_damaged(path)) from error


def _damaged(path: str) -> str:
    return (
        f"{path}: the shard is damaged: cut short or altered. Delete it and run 'stillroom label' again; only its answers are asked anew."
    )


def _split_facts(facts: Sequence[Mapping[str, Any]]) -> tuple[list[str | None], list[int], list[str]]:
    """The example of each row, the number of its other facts, and those as JSON, each once."""
    examples: list[str | None] = []
    codes: list[int] = []
    numbers: dict[str, int] = {}
    last: tuple[object, ...] | None = None
    code = -1
    for row in facts:
        rest = dict(row)
        example = rest.pop("example") if isinstance(rest.get("example"), str) else None
        # Identity, not equality, lets a row skip the encoding: 1 == True, but their fingerprints differ.
        identity = (*rest, *map(id, rest.values()))
        if identity != last:
            text = json.dumps(rest, sort_keys=True, allow_nan=False)
            code, last = numbers.setdefault(text, len(numbers)), identity
        examples.append(example)
        codes.append(code)
    return examples, codes, list(numbers)
