"""Out-of-fold means: never fitted on the row, nor on a copy of it, nor on its group, nor on its future."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillroom.core.errors import BadInput
from stillroom.core.records import Batch
from stillroom.data.folds import Fold, make_folds


def labelled(target: Any, keys: Any = None, groups: Any = None, times: Any = None) -> Batch:
    target = np.asarray(target)
    keys = np.arange(len(target)) if keys is None else np.asarray(keys)
    groups = None if groups is None else np.asarray(groups).astype(str)
    return Batch(pd.DataFrame(index=range(len(target))), keys.astype(str), target, groups, None if times is None else np.asarray(times))


def folds_of(batch: Batch, **how: Any) -> list[Fold]:
    how = {"task": "classification", "num_folds": 5, "kind": "random", "seed": 0, **how}
    return make_folds(batch, **how)


def check_no_row_is_seen(batch: Batch, folds: list[Fold]) -> None:
    for fold in folds:
        assert not set(batch.keys[fold.fit_rows]) & set(batch.keys[fold.answer_rows])
        assert (np.diff(fold.fit_rows) > 0).all()
        assert (np.diff(fold.answer_rows) > 0).all()


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(5, 23), min_size=2, max_size=6), num_folds=st.integers(2, 5), seed=st.integers(0, 9))
def test_folds_partition_the_rows_and_hold_every_class_alike(counts: list[int], num_folds: int, seed: int) -> None:
    batch = labelled(np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts)))
    folds = folds_of(batch, num_folds=num_folds, seed=seed)
    assert len(folds) == num_folds
    assert sorted(np.concatenate([f.answer_rows for f in folds])) == list(range(len(batch)))
    check_no_row_is_seen(batch, folds)
    for fold in folds:
        assert sorted([*fold.fit_rows, *fold.answer_rows]) == list(range(len(batch)))
    per_class = np.array([np.bincount(batch.target[f.answer_rows], minlength=len(counts)) for f in folds])  # type: ignore[index]
    assert np.ptp(per_class, axis=0).max() <= 1
    assert np.ptp(per_class.sum(axis=1)) <= len(counts)
    again = folds_of(batch, num_folds=num_folds, seed=seed)
    assert all(np.array_equal(a.answer_rows, b.answer_rows) for a, b in zip(folds, again, strict=True))


def test_another_seed_gives_other_folds() -> None:
    batch = labelled(np.arange(100) % 2)
    assert not np.array_equal(folds_of(batch)[0].answer_rows, folds_of(batch, seed=1)[0].answer_rows)


@settings(max_examples=60, deadline=None)
@given(keys=st.lists(st.integers(0, 30), min_size=40, max_size=80).filter(lambda keys: len(set(keys)) >= 3), seed=st.integers(0, 9))
def test_copies_share_a_fold(keys: list[int], seed: int) -> None:
    batch = labelled(np.random.default_rng(seed).normal(size=len(keys)), keys=keys)
    folds = folds_of(batch, task="regression", num_folds=3, seed=seed)
    check_no_row_is_seen(batch, folds)
    held = [set(batch.keys[f.answer_rows]) for f in folds]
    assert sum(map(len, held)) == len(set(keys))
    assert sum(len(f.answer_rows) for f in folds) == len(keys)
    largest = np.bincount(keys).max()
    assert np.ptp([len(f.answer_rows) for f in folds]) <= largest


def test_an_interpolating_teacher_gains_nothing_from_copies() -> None:
    # Each row thrice, all with the same random label. 1-nearest-neighbour knows a row whose copy it has seen.
    rng = np.random.default_rng(0)
    rows = np.repeat(rng.normal(size=(300, 3)), 3, axis=0)
    target = np.repeat(rng.integers(0, 2, 300), 3)
    batch = labelled(target, keys=[row.tobytes().hex() for row in rows])

    def accuracy(folds: list[Fold]) -> float:
        right = 0
        for fold in folds:
            distance = ((rows[fold.answer_rows, None] - rows[None, fold.fit_rows]) ** 2).sum(axis=-1)
            right += int((target[fold.fit_rows][distance.argmin(axis=1)] == target[fold.answer_rows]).sum())
        return right / len(rows)

    apart = labelled(target)  # the same rows under keys of their own: what a splitter that ignores copies does
    assert accuracy(folds_of(apart)) > 0.9
    assert abs(accuracy(folds_of(batch)) - 0.5) < 0.1


def test_groups_are_never_divided_and_classes_stay_balanced() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 600)
    target = (rng.random(600) < 0.1 + 0.5 * (groups % 2)).astype(np.int64)
    batch = labelled(target, groups=groups)
    folds = folds_of(batch, kind="group")
    assert sorted(np.concatenate([f.answer_rows for f in folds])) == list(range(600))
    for fold in folds:
        assert not set(groups[fold.fit_rows]) & set(groups[fold.answer_rows])
        assert target[fold.answer_rows].mean() == pytest.approx(target.mean(), abs=0.04)
        assert len(fold.answer_rows) == pytest.approx(120, abs=12)


def test_rare_classes_and_left_over_rows_are_dealt_evenly() -> None:
    target = np.zeros(800, dtype=np.int64)
    target[[0, 20, 40, 60, 80, 100, 120, 140, 160, 180]] = 1  # one row of the first ten groups of twenty
    folds = folds_of(labelled(target, groups=np.arange(800) // 20), kind="group")
    assert [target[f.answer_rows].sum() for f in folds] == [2] * 5
    six_of_six = folds_of(labelled(np.arange(36) % 6))
    assert np.ptp([len(f.answer_rows) for f in six_of_six]) <= 3
    sizes = np.repeat(np.arange(9), np.arange(9) + 1)  # dealt smallest first, these would come out as 12, 15 and 18
    by_size = folds_of(labelled(np.ones(45), groups=sizes), task="regression", kind="group", num_folds=3)
    assert np.ptp([len(f.answer_rows) for f in by_size]) <= 2


def test_copies_in_other_groups_are_left_out_of_the_fit() -> None:
    groups, keys = np.arange(40) // 4, np.arange(40) % 13
    batch = labelled(np.arange(40) % 2, keys=keys, groups=groups)
    folds = folds_of(batch, kind="group")
    check_no_row_is_seen(batch, folds)
    for fold in folds:
        assert not set(groups[fold.fit_rows]) & set(groups[fold.answer_rows])
        copies = np.isin(keys, keys[fold.answer_rows])
        assert len(fold.fit_rows) == 40 - copies.sum()


@settings(max_examples=100, deadline=None)
@given(times=st.lists(st.integers(0, 40), min_size=40, max_size=90).filter(lambda times: len(set(times)) > 10), num_folds=st.integers(2, 5))
def test_time_folds_look_only_back(times: list[int], num_folds: int) -> None:
    batch = labelled(np.zeros(len(times)), times=np.array(times, dtype=float), keys=np.arange(len(times)) % 37)
    folds = folds_of(batch, task="regression", kind="time", num_folds=num_folds)
    when = np.array(times)
    assert len(folds) == num_folds
    check_no_row_is_seen(batch, folds)
    for fold in folds:
        assert when[fold.fit_rows].max() < when[fold.answer_rows].min()
    answered = np.concatenate([f.answer_rows for f in folds])
    assert len(set(answered)) == len(answered)
    # The first block, and only it, has no answer.
    first = when < when[answered].min()
    assert first.any()
    assert set(answered) == set(np.flatnonzero(~first))


def test_time_blocks_are_about_equal_and_dates_sort() -> None:
    days = np.datetime64("2026-01-01") + np.random.default_rng(0).permutation(120).astype("timedelta64[D]")
    batch = labelled(np.arange(120) % 2, times=days)
    folds = folds_of(batch, kind="time")
    assert [len(f.answer_rows) for f in folds] == [20] * 5
    assert [len(f.fit_rows) for f in folds] == [20, 40, 60, 80, 100]
    crowded: NDArray[Any] = np.array([1.0] * 90 + [2, 3, 4, 5, 6])  # one moment holds most rows
    assert [len(f.answer_rows) for f in folds_of(labelled(np.arange(95) % 2, times=crowded), kind="time")] == [1] * 5


def test_too_few_members_of_a_class_name_class_count_folds_and_remedy() -> None:
    batch = labelled([0] * 20 + [1] * 4 + [2] * 3)
    with pytest.raises(BadInput) as caught:
        folds_of(batch, classes=("common", "rare", "rarest"))
    want = "labelling.folds: = 5, but some classes have fewer different training rows: 'rarest' (3), 'rare' (4); set it to at most 3, "
    assert str(caught.value).startswith(want)
    assert len(folds_of(batch, num_folds=3)) == 3


def test_copies_are_one_member() -> None:
    batch = labelled([0] * 20 + [1] * 6, keys=[*range(20), 90, 90, 90, 90, 90, 91])
    with pytest.raises(BadInput, match=r"1 \(2\)"):
        folds_of(batch)


@pytest.mark.parametrize(
    ("batch", "how", "message"),
    [
        (labelled(np.ones(9), keys=[0] * 6 + [1] * 3), {"task": "regression"}, "= 5, but the training data has only 2 different rows"),
        (
            labelled(np.arange(20) % 2, groups=np.arange(20) % 3),
            {"kind": "group"},
            "= 5, but the training data has only 3 groups; set it to at most 3",
        ),
        (labelled(np.arange(20) % 2, groups=[0] * 20), {"kind": "group"}, "only 1 groups; split by another column"),
        (labelled(np.arange(20) % 2, times=np.arange(20) // 5), {"kind": "time"}, "= 5, but the training rows have 4 different times"),
        (labelled([0] * 15 + [1] * 15, times=np.arange(30)), {"kind": "time"}, "the teacher of fold 1 would be fitted on one class only"),
        (labelled([0, 1] * 5, groups=np.arange(10) // 2, keys=[0, 1] * 5), {"kind": "group"}, "would be fitted on no row"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(batch: Batch, how: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        folds_of(batch, **how)
    assert str(caught.value).startswith("labelling.folds: ")
    assert message in str(caught.value)
