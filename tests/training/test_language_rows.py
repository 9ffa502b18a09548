from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillroom.core.token_records import TokenExample
from stillroom.training.language_rows import FilledBatches, PackedRows, TokenRows, best_fit

EXAMPLES = [
    TokenExample(np.array([10, 11, 12]), np.array([True, True, False])),
    TokenExample(np.array([20, 21]), np.array([True, False])),
    TokenExample(np.array([30, 31, 32, 33]), np.array([False, False, True, False])),
]


def places_and_answers(numbers: Sequence[int], num_asked: Sequence[int]) -> dict[str, torch.Tensor]:
    """Columns that say whose answer stands in each row: example and number of the answer in it."""
    return {"whose": torch.tensor([(n, i) for n, asked in zip(numbers, num_asked, strict=True) for i in range(asked)])}


def test_a_packed_batch_holds_every_label_and_answer_at_its_place() -> None:
    rows = TokenRows(EXAMPLES, packed=True, padding=99, read=places_and_answers)
    batch = rows.collate([rows[2, 0], rows[1]])
    assert batch["input_ids"].tolist() == [[30, 31, 32, 33, 10, 11, 12], [20, 21, 99, 99, 99, 99, 99]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4]]
    assert batch["places"].tolist() == [2, 4, 5, 7]
    assert batch["input_ids"].flatten()[batch["places"]].tolist() == [32, 10, 11, 20]
    assert batch["labels"].tolist() == [33, 11, 12, 21]
    assert batch["whose"].tolist() == [[2, 0], [0, 0], [0, 1], [1, 0]]


def test_a_padded_batch_has_no_positions_and_an_empty_row_asks_nothing() -> None:
    rows = TokenRows(EXAMPLES)
    batch = rows.collate([rows[1], ()])
    assert set(batch) == {"input_ids", "places", "labels"}
    assert batch["input_ids"].tolist() == [[20, 21], [0, 0]]
    assert batch["labels"].tolist() == [21]
    nothing = rows.collate([(), ()])
    assert nothing["input_ids"].shape == (2, 1)
    assert len(nothing["labels"]) == 0


@given(st.lists(st.integers(1, 20), min_size=1, max_size=200), st.integers(20, 40))
def test_packing_loses_nothing_and_is_tight(lengths: list[int], max_length: int) -> None:
    lengths = sorted(lengths, reverse=True)
    rows = best_fit(lengths, max_length)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(lengths)))
    sums = [sum(lengths[slot] for slot in row) for row in rows]
    assert max(sums) <= max_length
    # No two rows could have been one: that is what "fits nowhere else" means.
    assert all(a + b > max_length for a, b in zip(sorted(sums), sorted(sums)[1:], strict=False))


def test_epochs_are_complete_dealt_anew_and_shaped_by_seed_and_epoch_alone() -> None:
    lengths = np.random.default_rng(0).integers(1, 30, 300).tolist()
    sampler, epochs = PackedRows(lengths, 32, seed=5), []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]
    assert list(PackedRows(lengths, 32, seed=6)) != epochs[0]
    for rows in epochs:
        assert len(rows) == len(sampler)
        assert sorted(number for row in rows for number in row) == list(range(300))
        assert all(sum(lengths[number] for number in row) <= 32 for row in rows)
        assert sum(lengths) > 0.95 * 32 * len(rows), "hardly any padding"
    first, second = ({frozenset(row) for row in rows} for rows in epochs[:2])
    assert len(first & second) < 0.6 * len(first), "other company in every epoch"


def test_what_is_missing_to_full_batches_is_empty() -> None:
    packed = PackedRows([5] * 10, 5, seed=0)
    filled = FilledBatches(packed, 4)
    filled.set_epoch(3)
    assert packed.epoch == 3
    rows = list(filled)
    assert len(rows) == len(filled) == 12
    assert rows[10:] == [(), ()]
    assert rows[:10] == list(packed)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_validation_is_each_example_once_in_as_many_batches_for_each_process(processes: int) -> None:
    batches = TokenRows(EXAMPLES).in_order(2, processes)
    assert [number for batch in batches for row in batch for number in row] == [1, 0, 2]
    assert len(batches) % processes == 0
