"""The plan's laws: shares exact up to rounding, pairs met wherever the number allows, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from itertools import product

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from stillroom.teachers.synthesis.plan import Cell, NearMiss, Plan, apportion, make_plan


def shares(sizes: list[int]) -> dict[str, float]:
    return {f"v{i}": size / sum(sizes) for i, size in enumerate(sizes)}


def even(number: int) -> dict[str, float]:
    return shares([1] * number)


def rows(plan: Plan) -> list[Cell]:
    return [cell for cell, count in plan.wanted.items() for _ in range(count)]


def most_pairs(first: Counter[str | None], second: Counter[str]) -> int:
    """By augmenting paths: a pair holds one row of each side at most."""
    table = np.zeros((len(first) + len(second) + 2,) * 2, np.int32)
    table[0, 1 : len(first) + 1] = list(first.values())
    table[1 : len(first) + 1, len(first) + 1 : -1] = 1
    table[len(first) + 1 : -1, -1] = list(second.values())
    return int(maximum_flow(csr_array(table), 0, len(table) - 1).flow_value)


@pytest.mark.parametrize("total", [1, 7, 10, 30, 100, 999])
def test_largest_remainders_leave_no_share_off_by_one(total: int) -> None:
    for given in (even(3), shares([7, 2, 1]), shares([1, 1, 1, 1, 1, 5]), {"a": 0.1, "b": 0.7, "c": 0.2}, {"a": 0.0, "b": 1.0}):
        counts = apportion(given, total, random.Random(0))
        assert sum(counts.values()) == total
        assert all(abs(counts[name] - share * total) < 1 for name, share in given.items())
        rests = {name: share * total % 1 for name, share in given.items()}
        up = [rests[name] for name in given if counts[name] > given[name] * total + 1e-6]
        down = [rests[name] for name in given if counts[name] < given[name] * total - 1e-6]
        assert not up or not down or min(up) >= max(down) - 1e-6
    assert apportion({"a": 0.1, "b": 0.7, "c": 0.2}, 10, random.Random(0)) == {"a": 1, "b": 7, "c": 2}


def test_a_tie_is_drawn_and_not_always_won_by_the_first() -> None:
    winners = {max(counts, key=counts.__getitem__) for seed in range(20) if (counts := apportion(even(3), 1, random.Random(seed)))}
    assert winners == {"v0", "v1", "v2"}


@pytest.mark.parametrize("total", [12, 50, 333])
def test_every_margin_holds_at_once(total: int) -> None:
    labels, tone, length = shares([5, 3, 2]), shares([8, 1, 1]), even(4)
    near = [NearMiss("v0", "v1", 0.1), NearMiss("v2", "v0", 0.05)]
    plan = make_plan(total, labels=labels, axes={"tone": tone, "length": length}, hard=0.25, near_misses=near, seed=3)
    found = rows(plan)
    assert len(found) == total
    for place, wanted in enumerate((tone, length)):
        counts = Counter(cell.values[place] for cell in found)
        assert all(abs(counts[value] - share * total) < 1 for value, share in wanted.items())
    kinds = Counter(cell.kind for cell in found)
    assert abs(kinds["hard"] - 0.25 * total) < 1
    assert abs(kinds["near-miss"] - 0.15 * total) < 2, "each pair is rounded by itself"
    assert {(cell.label, cell.towards) for cell in found if cell.kind == "near-miss"} <= {("v0", "v1"), ("v2", "v0")}
    rest = [cell for cell in found if cell.kind != "near-miss"]
    of_label = Counter(cell.label for cell in rest)
    assert all(abs(of_label[label] - share * len(rest)) < 1 for label, share in labels.items())
    hard = Counter(cell.label for cell in rest if cell.kind == "hard")
    assert all(abs(hard[label] - of_label[label] * kinds["hard"] / len(rest)) < 1 for label in labels)


@pytest.mark.parametrize("seed", range(40))
def test_of_two_columns_every_pair_meets_that_can(seed: int) -> None:
    chance = random.Random(seed)
    labels, axis = (shares([chance.randint(1, 6) for _ in range(chance.randint(2, 9))]) for _ in range(2))
    plan = make_plan(chance.randint(2, 120), labels=labels, axes={"a": axis}, seed=seed)
    found = rows(plan)
    of_label, of_value = Counter(cell.label for cell in found), Counter(cell.values[0] for cell in found)
    met = {(cell.label, cell.values[0]) for cell in found}
    if min(of_label.values()) >= len(of_value) and min(of_value.values()) >= len(of_label):
        assert met == set(product(of_label, of_value)), "the margins allow every pair"
    assert len(met) == plan.pairs_met(found)
    assert plan.pairs_possible == most_pairs(of_label, of_value)
    assert len(met) >= 0.9 * plan.pairs_possible, "where not all can meet, nearly as many as can"


def test_exactly_as_many_examples_as_pairs_are_enough() -> None:
    for seed in range(10):
        plan = make_plan(35, labels=even(5), axes={"a": even(7)}, seed=seed)
        assert set(plan.wanted.values()) == {1}
        assert len(plan.wanted) == 35


def test_of_many_columns_every_pair_meets_where_there_is_room() -> None:
    axes = {"topic": even(8), "tone": shares([6, 3, 1]), "length": even(4)}
    plan = make_plan(600, labels=even(12), axes=axes, hard=0.2, seed=1)
    assert plan.pairs_possible == 12 * 15 + 2 * 15 + 8 * 3 + 8 * 4 + 3 * 4
    assert plan.pairs_met(plan.wanted) == plan.pairs_possible


def test_values_are_spread_evenly_over_labels_too() -> None:
    plan = make_plan(240, labels=even(6), axes={"tone": even(4)}, seed=5)
    counts = Counter((cell.label, cell.values[0]) for cell in rows(plan))
    assert set(counts.values()) <= {9, 10, 11}


def test_it_is_the_seeds_alone() -> None:
    made = [make_plan(60, labels=even(4), axes={"a": even(5), "b": even(3)}, hard=0.3, seed=seed) for seed in (1, 1, 2)]
    assert list(made[0].wanted.items()) == list(made[1].wanted.items())
    assert made[0].wanted != made[2].wanted


def test_without_labels_or_axes() -> None:
    assert make_plan(7, labels={}, axes={}).wanted == {Cell("ordinary"): 7}
    plan = make_plan(10, labels={}, axes={"tone": {"calm": 1.0, "never": 0.0}}, hard=0.5)
    assert plan.wanted == {Cell("hard", values=("calm",)): 5, Cell("ordinary", values=("calm",)): 5}
    assert make_plan(4, labels=even(2), axes={}, near_misses=[NearMiss("v0", "v1", 1.0)]).wanted == {Cell("near-miss", "v0", "v1"): 4}
