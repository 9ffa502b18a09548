"""What lies in the shards: sorted keys, 52 bytes an answer, and no values until they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from stillroom.knowledge.shards import (
    ANSWER,
    CONTEXT,
    Record,
    ShardFolder,
    answer_values,
    holds_blocks,
    kind_of,
    open_shard,
    read_batches,
    read_column,
    read_rows,
    records,
    write_shard,
)


class KeyIndex:
    """Keys numbered in the order in which they were added; of equal keys, the first counts. Immutable."""

    def __init__(self) -> None:
        self._keys: NDArray[np.bytes_] = np.empty(0, "S1")
        self._numbers: NDArray[np.int64] = np.empty(0, np.int64)

    def __len__(self) -> int:
        """The number of different keys."""
        return int((self._keys[1:] != self._keys[:-1]).sum()) + min(len(self._keys), 1)

    def with_keys(self, keys: Sequence[str]) -> KeyIndex:
        """This index and more keys, which get the next numbers."""
        merged = np.concatenate([self._keys, np.array(keys, "S")])
        numbers = np.concatenate([self._numbers, np.arange(len(self._keys), len(merged))])
        order = np.argsort(merged, kind="stable")  # stable: linear on the sorted runs that shards are, and the first stays first
        index = KeyIndex()
        index._keys, index._numbers = merged[order], numbers[order]
        return index

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """The number of each key, -1 for one that is not there."""
        found = np.full(len(keys), -1, np.int64)
        if len(keys) and len(self._keys):
            wanted = np.array(keys, "S")
            order = np.argsort(wanted)  # neighbours in the queries are neighbours in memory
            places = self._keys.searchsorted(wanted[order]).clip(max=len(self._keys) - 1)
            found[order] = np.where(self._keys[places] == wanted[order], self._numbers[places], -1)
        return found


class Catalogue:
    """The shards of a folder. Every answer has a number, counted on from shard to shard.

    Every method may raise StageFailed: a shard is damaged or cannot be read.
    """

    def __init__(self, folder: ShardFolder) -> None:
        self._folder = folder
        self._known: set[str] = set()
        self._index = KeyIndex()
        self._answer_shards: list[str] = []
        self._starts = [0]  # the number of each answer shard's first row, and of the first row of the next one
        self._contexts: dict[str, tuple[str, int]] = {}  # -> shard, row group
        self._last_read: tuple[int, NDArray[np.float64]] | None = None

    def refresh(self) -> None:
        """Take in the shards that have come since the last time."""
        for name in self._folder.names():
            if name in self._known:
                continue
            with open_shard(self._folder, name) as shard:
                if kind_of(name) == ANSWER:
                    self._index = self._index.with_keys(read_column(shard, "key").to_pylist())
                    self._answer_shards.append(name)
                    self._starts.append(self._starts[-1] + shard.metadata.num_rows)
                else:
                    for group, context in enumerate(read_column(shard, "context").to_pylist()):
                        self._contexts.setdefault(context, (name, group))
            self._known.add(name)

    def add(self, tables: Iterable[tuple[str, pa.Table]]) -> None:
        """Write tables, as (kind, table), to shards: what is in none yet, each key once. Refreshed before and after."""
        by_type: dict[pa.DataType, list[pa.Table]] = {}
        contexts = []
        for kind, table in tables:
            if kind == ANSWER:
                by_type.setdefault(table.schema.field("answer").type, []).append(table)
            elif not self.has_context(table["context"][0].as_py()):
                contexts.append(table)
        for same_type in by_type.values():
            whole = pa.concat_tables(same_type).unify_dictionaries()
            keys, rows = np.unique(whole["key"].to_numpy().astype("U"), return_index=True)  # sorted, and the first of equals
            rows = rows[self.find(keys.tolist()) < 0]
            if len(rows):
                write_shard(self._folder, ANSWER, whole.take(rows))
        if contexts:
            write_shard(self._folder, CONTEXT, pa.concat_tables(contexts))
        self.refresh()

    def __len__(self) -> int:
        """The number of answers."""
        return len(self._index)

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """The number of each key's answer, -1 where there is none."""
        return self._index.find(keys)

    def values(self, numbers: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.intp], NDArray[Any]]]:
        """The answers with these numbers, shard by shard: positions in `numbers`, and their answers. -1 is passed over."""
        shard_of = np.searchsorted(self._starts, numbers, side="right") - 1
        for shard in np.unique(shard_of[numbers >= 0]).tolist():
            rows = np.flatnonzero(shard_of == shard)
            yield rows, self._read_values(shard, numbers[rows] - self._starts[shard])

    def records(self) -> Iterator[Record]:
        """Every answer that is known now, once, whatever is added later."""
        return self._records(list(self._answer_shards), list(self._starts), self._index)

    def has_context(self, context: str) -> bool:
        return context in self._contexts

    def context(self, context: str) -> list[str]:
        """The row keys of a context. Raises KeyError for an unknown one."""
        name, group = self._contexts[context]
        with open_shard(self._folder, name) as shard:
            rows: list[str] = shard.read_row_group(group)["rows"][0].as_py()
        return rows

    def questions(self) -> list[str]:
        """The facts that answers share, as JSON, each once."""
        found: dict[str, None] = {}
        for name in self._answer_shards:
            with open_shard(self._folder, name) as shard:
                found.update(dict.fromkeys(read_column(shard, "facts").unique().to_pylist()))
        return list(found)

    def _read_values(self, shard: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        if self._last_read is None or self._last_read[0] != shard:  # kept: batches of one shard follow each other
            with open_shard(self._folder, self._answer_shards[shard]) as file:
                if holds_blocks(file.schema_arrow.field("answer").type):  # large, and read in no order
                    return answer_values(read_rows(file, "answer", rows))
                self._last_read = shard, answer_values(read_column(file, "answer"))
        return self._last_read[1][rows]

    def _records(self, shards: list[str], starts: list[int], index: KeyIndex) -> Iterator[Record]:
        for name, start in zip(shards, starts, strict=False):
            with open_shard(self._folder, name) as shard:
                for batch in read_batches(shard):
                    counts = index.find(batch["key"].to_pylist()) == np.arange(start, start + len(batch))
                    start += len(batch)
                    yield from records([batch.filter(pa.array(counts))])
