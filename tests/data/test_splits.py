"""Splits are partitions that keep copies, groups and moments together, and the classes in proportion."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stillroom.core.errors import BadInput
from stillroom.core.records import Batch
from stillroom.data.splits import limited, set_aside, split_rows

PARTS = ("train", "unlabeled", "validation", "test")


def examples(keys: NDArray[Any], groups: NDArray[Any] | None = None, times: NDArray[Any] | None = None) -> Batch:
    return Batch(pd.DataFrame(index=range(len(keys))), keys.astype(str), groups=groups, times=times)


def divide(batch: Batch, strata: NDArray[Any] | None = None, **how: Any) -> dict[str, NDArray[np.intp]]:
    how = {"kind": "random", "test": 0.25, "validation": 0.0, "unlabeled": 0.0, "seed": 0, **how}
    split = split_rows(batch, np.zeros(len(batch), dtype=np.int64) if strata is None else strata, **how)
    return {part: getattr(split, part) for part in PARTS}


@settings(max_examples=80, deadline=None)
@given(
    units=st.lists(st.integers(0, 12), min_size=10, max_size=60),
    kind=st.sampled_from(["random", "group", "time"]),
    shares=st.tuples(st.floats(0.05, 0.5), st.floats(0, 0.3), st.floats(0, 0.3)),
    seed=st.integers(0, 5),
)
def test_parts_are_a_partition_of_whole_units_and_repeatable(units: list[int], kind: Any, shares: Any, seed: int) -> None:
    names = np.array(units)
    assume(len(set(units)) > 8)
    keys = names if kind == "random" else np.arange(len(names))
    batch = examples(keys, groups=names.astype(str), times=names.astype(float))
    how = dict(zip(("test", "validation", "unlabeled"), shares, strict=True))
    strata = np.arange(len(names)) % 3
    try:
        parts = divide(batch, strata, kind=kind, seed=seed, **how)
    except BadInput as refused:
        parts, reason = {}, str(refused)
    if not parts:
        assert "one side would be empty" in reason
        assert np.bincount(names).max() > len(names) / 5, "refused although no unit is large"
        return
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(names)))
    units_of = [set(names[rows]) for rows in parts.values()]
    assert sum(map(len, units_of)) == len(set(units))  # no unit in two parts
    assert len(parts["train"]) > 0
    assert len(parts["test"]) > 0
    again = divide(batch, strata, kind=kind, seed=seed, **how)
    assert all(np.array_equal(parts[part], again[part]) for part in PARTS)
    if kind == "time":
        order = [names[parts[part]] for part in PARTS if len(parts[part])]
        assert all(earlier.max() < later.min() for earlier, later in itertools.pairwise(order))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    share=st.floats(0.05, 0.6),
    seed=st.integers(0, 5),
)
def test_shares_are_exact_and_classes_in_proportion(sizes: list[int], share: float, seed: int) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    n = len(strata)
    assume(n >= 2 and n - max(1, round(share * n)) >= len(sizes))
    test = divide(examples(np.arange(n)), strata, test=share, seed=seed)["test"]
    assert len(test) == max(1, round(share * n))
    in_test = np.bincount(strata[test], minlength=len(sizes))
    assert (in_test < np.array(sizes)).all()  # each class keeps a training row
    # One row of rounding a class, and what other classes could not give since they keep a row.
    assert (np.abs(in_test - share * np.array(sizes)) <= 2 + len(sizes) * share).all()


def test_every_row_is_equally_likely_to_be_tested() -> None:
    strata = np.repeat([0, 1, 2], [60, 30, 10])
    hits = np.zeros(100)
    for seed in range(600):
        hits[divide(examples(np.arange(100)), strata, seed=seed)["test"]] += 1
    # 25 % of 600 draws, standard error below 11; small classes must not be rounded all one way.
    assert np.abs(hits - 150).max() < 50
    for stratum in range(3):
        assert hits[strata == stratum].mean() == pytest.approx(150, abs=6)


def test_asking_for_a_pool_or_for_validation_moves_no_test_row() -> None:
    batch, strata = examples(np.arange(200)), np.arange(200) % 4
    alone = divide(batch, strata)["test"]
    with_pool = divide(batch, strata, unlabeled=0.5)
    with_both = divide(batch, strata, unlabeled=0.3, validation=0.2)
    np.testing.assert_array_equal(alone, with_pool["test"])
    np.testing.assert_array_equal(alone, with_both["test"])
    assert [len(with_both[part]) for part in PARTS] == [75, 45, 30, 50]  # shares of the 150 rows that the test leaves
    assert not np.array_equal(alone, divide(batch, strata, seed=1)["test"])


def test_no_moment_is_divided_and_the_test_is_the_latest() -> None:
    times = np.array([3, 1, 2, 3, 3, 1, 2, 2], dtype=float)
    parts = divide(examples(np.arange(8), times=times), kind="time", test=0.25)
    assert times[parts["test"]].tolist() == [3, 3, 3]
    # Where the latest moment is more than the share and all the rest one moment, the later one is still the test.
    parts = divide(examples(np.arange(4), times=np.array([5.0, 5, 5, 9])), kind="time", test=0.75)
    assert parts["test"].tolist() == [3]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kind": "time", "times": np.zeros(9)}, "data.split.test: cannot divide the rows, all have the same time"),
        ({"kind": "group", "groups": np.array(["a"] * 9)}, "data.split.test: cannot divide the rows, its 9 rows are all of one kind"),
        ({"kind": "random", "keys": np.array(["a"] * 9)}, "data.split.test: cannot divide the rows, its 9 rows are all of one kind"),
        ({"kind": "random", "keys": np.array(["a"])}, "data.split.test: cannot divide the rows, only one row is left"),
        ({"kind": "random", "keys": np.array(["a", "b"]), "validation": 0.5}, "data.split.validation: cannot divide the rows, only one"),
        ({"kind": "time", "times": np.array([1.0, 2, 3]), "unlabeled": 0.9, "validation": 0.5}, "data.unlabeled_share: cannot divide"),
    ],
)
def test_an_empty_side_is_refused(how: dict[str, Any], message: str) -> None:
    keys = how.pop("keys", np.arange(len(how.get("times", how.get("groups", np.arange(9))))))
    batch = examples(keys, how.pop("groups", None), how.pop("times", None))
    with pytest.raises(BadInput) as caught:
        divide(batch, **how)
    assert str(caught.value).startswith(message)


def test_large_groups_come_as_near_to_the_share_as_they_can() -> None:
    groups = np.repeat(np.arange(20), np.arange(20) + 1)
    chosen = [set_aside(groups, np.zeros(210, dtype=np.int64), 52, seed=seed, place="x").sum() for seed in range(200)]
    assert np.abs(np.array(chosen) - 52).max() <= 10  # half of the largest group
    assert set_aside(np.array([0, 0, 0, 1]), np.zeros(4, dtype=np.int64), 1, seed=0, place="x").sum() in (1, 3)


def test_a_group_counts_to_the_class_of_most_of_its_rows() -> None:
    groups = np.repeat(np.arange(20), 5)
    mostly = np.arange(20) % 2
    strata = mostly[groups]
    strata[(np.arange(100) % 5 == 0) & (mostly[groups] == 1)] = 0  # one row of each group of class 1 is of class 0
    for seed in range(5):
        chosen = set_aside(groups, strata, 50, seed=seed, place="x")
        assert np.bincount(mostly[np.unique(groups[chosen])]).tolist() == [5, 5]


def test_the_largest_share_leaves_a_row() -> None:
    parts = divide(examples(np.arange(2)), test=0.9)
    assert (len(parts["train"]), len(parts["test"])) == (1, 1)


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6), limit=st.integers(1, 120), seed=st.integers(0, 3))
def test_a_limit_is_exact_and_keeps_the_classes(sizes: list[int], limit: int, seed: int) -> None:
    strata = np.repeat(np.arange(len(sizes)), sizes)
    kept = limited(strata, limit, seed=seed, place="x")
    assert len(kept) == min(limit, len(strata))
    assert (np.diff(kept) > 0).all()
    if limit >= len(sizes):
        assert set(strata[kept]) == set(range(len(sizes)))
    if limit >= 4 * len(sizes) and len(strata) > limit:
        share = limit / len(strata)
        assert (np.abs(np.bincount(strata[kept]) - share * np.array(sizes)) <= 2 + len(sizes) * (1 - share)).all()
