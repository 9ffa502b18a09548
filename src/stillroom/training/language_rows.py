"""Token sequences in batches: one a row, padded; or several a row, packed.

A row is a tuple of example numbers; what stands in it is looked up when its batch is put together. So a position's label
and the teacher's answer are found by example, whatever shuffled, packed or divided the examples in between.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import needs_extra
from stillroom.core.token_records import TokenExample

with needs_extra("torch", "training a language model"):
    import torch
    from torch import Tensor
    from torch.utils.data import Dataset, Sampler

Row = tuple[int, ...]


class TokenRows(Dataset[Row]):
    """Rows of examples; `rows[3]` is the row of example 3 alone, `rows[3, 8]` that of 3 and 8.

    Args:
        packed: whether positions begin anew at each example of a row, by which transformers keeps them apart.
        padding: the token behind a row that is shorter than its batch.
        read: read(numbers, num_asked) -> further columns of a batch, for the examples with these numbers and so many asked positions.
    """

    def __init__(
        self,
        examples: Sequence[TokenExample],
        *,
        packed: bool = False,
        padding: int = 0,
        read: Callable[[Sequence[int], Sequence[int]], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.examples, self.packed, self.padding, self.read = examples, packed, padding, read
        self.lengths = [len(example) for example in examples]
        self.num_asked = [int(example.asked.sum()) for example in examples]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, row: int | Row) -> Row:
        return row if isinstance(row, tuple) else (row,)

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """A batch of B rows, S positions and N asked positions in the order of rows, examples, positions.

        Returns:
            input_ids (B, S); position_ids (B, S) if packed; places (N,) of the asked positions among the B * S; labels
            (N,) the tokens that follow them; and what `read` adds.
        """
        width = max(1, *(sum(self.lengths[number] for number in row) for row in rows))
        input_ids = np.full((len(rows), width), self.padding, np.int64)
        position_ids = np.zeros((len(rows), width), np.int64)
        places, labels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for i, row in enumerate(rows):
            start = 0
            for number in row:
                example = self.examples[number]
                input_ids[i, start : start + len(example)] = example.token_ids
                position_ids[i, start : start + len(example)] = np.arange(len(example))
                asked = np.flatnonzero(example.asked)
                places.append(i * width + start + asked)
                labels.append(example.token_ids[asked + 1])
                start += len(example)
            position_ids[i, start:] = np.arange(width - start)  # what is left is an example of its own, which nobody asks
        batch = {"input_ids": input_ids, "places": np.concatenate(places), "labels": np.concatenate(labels)}
        if self.packed:
            batch["position_ids"] = position_ids
        numbers = [number for row in rows for number in row]
        further = {} if self.read is None else self.read(numbers, [self.num_asked[number] for number in numbers])
        return {**{name: torch.from_numpy(values) for name, values in batch.items()}, **further}

    def in_order(self, batch_size: int, num_processes: int) -> list[list[Row]]:
        """Every example once, alone in its row, in batches of like length; as many batches for each process."""
        order = np.argsort(self.lengths, kind="stable").tolist()
        batches: list[list[Row]] = [
            [(number,) for number in order[start : start + batch_size]] for start in range(0, len(order), batch_size)
        ]
        return batches + [[()]] * (-len(batches) % num_processes)


class PackedRows(Sampler[Row]):
    """Every example once an epoch, in rows of at most `max_length` tokens; the order depends on seed and epoch alone.

    How long the examples of each row are is planned once, so that every epoch has the same number of rows; each epoch
    deals the examples anew, each to a place of its own length.
    """

    def __init__(self, lengths: Sequence[int], max_length: int, seed: int) -> None:
        self.lengths, self.seed, self.epoch = np.asarray(lengths), seed, 0
        self.plan = best_fit(sorted(lengths, reverse=True), max_length)

    def __len__(self) -> int:
        return len(self.plan)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[Row]:
        rng = np.random.default_rng([self.seed, self.epoch])
        dealt = rng.permutation(len(self.lengths))
        longest_first = dealt[np.argsort(-self.lengths[dealt], kind="stable")]
        for row in rng.permutation(len(self.plan)):
            yield tuple(rng.permutation(longest_first[self.plan[row]]).tolist())


class FilledBatches(Sampler[Any]):
    """The rows of another sampler, and empty ones until every process has as many full batches as the others.

    accelerate would repeat the first examples instead, which would then count twice.
    """

    def __init__(self, rows: Any, multiple: int) -> None:
        self.rows, self.multiple = rows, multiple

    def __len__(self) -> int:
        return -(-len(self.rows) // self.multiple) * self.multiple

    def set_epoch(self, epoch: int) -> None:
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        yield from self.rows
        yield from [()] * (len(self) - len(self.rows))


def best_fit(lengths: Sequence[int], max_length: int) -> list[NDArray[np.intp]]:
    """Which of `lengths`, longest first, share a row: each joins the fullest row that still has room for it.

    Source: Krell et al. 2021, "Efficient sequence packing without cross-contamination", section 3.1, arXiv:2107.02027.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}  # from the tokens that are free to the rows that have so many
    rooms: list[int] = []  # its keys, ascending
    for slot, length in enumerate(lengths):
        found = bisect_left(rooms, length)
        if found == len(rooms):
            room, row = max_length, len(rows)
            rows.append([])
        else:
            room = rooms[found]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[found]
        rows[row].append(slot)
        left = room - length
        if left and left not in with_room:
            insort(rooms, left)
        if left:
            with_room.setdefault(left, []).append(row)
    return [np.array(row, np.intp) for row in rows]
