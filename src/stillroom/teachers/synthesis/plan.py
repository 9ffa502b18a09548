"""Which examples are wanted: every share met exactly up to rounding, and the values of each two axes met together. Pure and seeded."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["ordinary", "hard", "near-miss"]
Codes = NDArray[np.int64]
_TRIED = 30
"""Rows of each side that a swap is sought among."""
_HEADS = 2
"""Label and kind, before the axes."""


@dataclass(frozen=True)
class Cell:
    """What some examples have in common.

    Attributes:
        label: the right answer; None where answers are no labels.
        towards: of a near miss, the label that it could be mistaken for.
        values: of each axis, in the order of the axes.
    """

    kind: Kind
    label: str | None = None
    towards: str | None = None
    values: tuple[str, ...] = ()


@dataclass(frozen=True)
class NearMiss:
    """A pair of labels that inputs should lie between; `share` is of all examples."""

    label: str
    towards: str
    share: float


@dataclass(frozen=True)
class Plan:
    """Cells with how many examples each should get; `axes`: the names of the cells' values."""

    axes: tuple[str, ...]
    wanted: Mapping[Cell, int]

    def pairs_met(self, cells: Iterable[Cell]) -> int:
        """How many pairs of values meet in these cells: of two axes, of an axis and a label, of an axis and a kind."""
        rows = [_traits(cell) for cell in cells]
        return sum(len({(row[i], row[j]) for row in rows}) for i, j in self._pairs())

    @property
    def pairs_possible(self) -> int:
        """The most that could meet, each two columns by themselves; of more columns at once, it may be fewer."""
        rows = [_traits(cell) for cell, count in self.wanted.items() for _ in range(count)]
        counts = [list(Counter(column).values()) for column in zip(*rows, strict=True)]
        return sum(_most_met(counts[i], counts[j]) for i, j in self._pairs())

    def _pairs(self) -> list[tuple[int, int]]:
        """Columns of `_traits` that can meet: all with an axis, label and kind only where there are several."""
        heads = [i for i in range(_HEADS) if len({_traits(cell)[i] for cell in self.wanted}) > 1]
        columns = [*heads, *range(_HEADS, _HEADS + len(self.axes))]
        return [(i, j) for i, j in combinations(columns, 2) if j >= _HEADS]


def make_plan(
    num_examples: int,
    *,
    labels: Mapping[str, float],
    axes: Mapping[str, Mapping[str, float]],
    hard: float = 0.0,
    near_misses: Sequence[NearMiss] = (),
    seed: int = 0,
) -> Plan:
    """Divide the examples over cells.

    The shares of kinds (ordinary, hard, each near miss) and of every axis hold over all examples, those of the labels over the
    ordinary and the hard ones together. Counts are rounded by largest remainders. Which rows then get which value is free: that is
    used to bring together each value with each of another axis, with each label and with each kind, as evenly as greedy choice and
    swaps find it. Deterministic in the seed.

    Args:
        labels, axes: shares by name, which add up to 1; {} for a job without labels.

    Source: largest remainders (Hamilton's method), Balinski & Young 1982; that pairs of values should all be met: covering arrays of
    strength two, Cohen et al. 1997 (IEEE TSE 23:437), here with the shares as margins.
    """
    chance = random.Random(seed)  # noqa: S311
    heads = _heads(num_examples, labels, hard, near_misses, chance)
    chance.shuffle(heads)
    columns = [_codes([head.label for head in heads]), _codes([head.kind for head in heads])]
    values: list[list[str]] = []
    for shares in axes.values():
        counts = apportion(shares, num_examples, chance)
        column = _spread(columns, np.array(list(counts.values())), chance)
        columns.append(column)
        names = list(counts)
        values.append([names[code] for code in column])
    given = list(zip(*values, strict=True)) if values else [()] * num_examples
    found = Counter(replace(head, values=row) for head, row in zip(heads, given, strict=True))
    return Plan(tuple(axes), {cell: found[cell] for cell in sorted(found, key=_order)})


def apportion(shares: Mapping[str, float], total: int, chance: random.Random) -> dict[str, int]:
    """How many of `total` each gets: its share rounded down, and one more for the largest remainders; equal ones draw lots."""
    exact = {name: share * total for name, share in shares.items()}
    # 0.1 * 30 is 3.0000000000000004 and 0.7 * 10 is 6.999999999999999: both are whole.
    counts = {name: int(value + 1e-9) for name, value in exact.items()}
    lots = {name: chance.random() for name in shares}
    by_rest = sorted(shares, key=lambda name: (-round(exact[name] - counts[name], 9), lots[name]))
    for name in by_rest[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


def _heads(total: int, labels: Mapping[str, float], hard: float, near_misses: Sequence[NearMiss], chance: random.Random) -> list[Cell]:
    """One cell without values for each example."""
    shares = {f"near-miss {i}": pair.share for i, pair in enumerate(near_misses)}
    shares |= {"hard": hard, "ordinary": max(1 - hard - sum(shares.values()), 0.0)}
    counts = apportion(shares, total, chance)
    heads = [Cell("near-miss", p.label, p.towards) for i, p in enumerate(near_misses) for _ in range(counts[f"near-miss {i}"])]
    rest = counts["hard"] + counts["ordinary"]
    if not labels or not rest:
        return heads + [Cell("hard")] * counts["hard"] + [Cell("ordinary")] * counts["ordinary"]
    of_label = apportion(labels, rest, chance)
    hard_ones = apportion({label: count / rest for label, count in of_label.items()}, counts["hard"], chance)
    for label, count in of_label.items():
        heads += [Cell("hard", label)] * hard_ones[label] + [Cell("ordinary", label)] * (count - hard_ones[label])
    return heads


def _codes(names: Sequence[str | None]) -> Codes:
    numbers: dict[str | None, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _spread(columns: Sequence[Codes], counts: Codes, chance: random.Random) -> Codes:
    """(n,) codes, `counts[v]` of each v, so that each meets each code of every other column, and as evenly as may be."""
    num_rows, left = int(counts.sum()), counts.astype(float)
    met = [np.zeros((int(other.max()) + 1, len(counts))) for other in columns]
    expected = [np.bincount(other)[:, None] * counts[None, :] / num_rows + 1e-9 for other in columns]
    column = np.zeros(num_rows, np.int64)
    for row in chance.sample(range(num_rows), num_rows):
        crowded = sum(m[o[row]] / e[o[row]] for m, o, e in zip(met, columns, expected, strict=True))
        # Of equally good values the one of which most is left, so that none is left over at the end.
        crowded = np.where(left > 0, np.round(crowded, 9), np.inf)
        best = np.flatnonzero(crowded == crowded.min())
        value = best[np.argmax(left[best] / counts[best])]
        column[row] = value
        left[value] -= 1
        for m, o in zip(met, columns, strict=True):
            m[o[row], value] += 1
    _swap_for_pairs(column, columns, met, chance)
    return column


def _swap_for_pairs(column: Codes, columns: Sequence[Codes], met: Sequence[NDArray[np.float64]], chance: random.Random) -> None:
    """Exchange the values of two rows wherever more pairs are met then; the counts of the values stay.

    With one other column whose margins allow every pair, every pair is met: where two values do not meet, each has as many rows as the
    other column has values, so each meets another value twice, and exchanging these two rows gains.
    """
    for other, table in zip(columns, met, strict=True):
        for code, value in np.argwhere(table == 0).tolist():
            if table[code, value] or not (table[code] > 1).any() or not (table[:, value] > 1).any():
                continue
            spare = table[other, column] > 1
            here = _some(np.flatnonzero((other == code) & spare), chance)
            there = _some(np.flatnonzero((column == value) & spare), chance)
            gains = {(a, b): _gain(a, b, column, columns, met) for a in here for b in there}
            best = max(gains, key=gains.__getitem__, default=None)
            if best is not None and gains[best] > 0:
                _swap(*best, column, columns, met)


def _some(rows: Codes, chance: random.Random) -> list[int]:
    found: list[int] = rows.tolist()
    return found if len(found) <= _TRIED else chance.sample(found, _TRIED)


def _gain(a: int, b: int, column: Codes, columns: Sequence[Codes], met: Sequence[NDArray[np.float64]]) -> int:
    """How many more pairs are met once rows a and b have exchanged their values."""
    before = sum(_num_met(a, b, column, o, m) for o, m in zip(columns, met, strict=True))
    _swap(a, b, column, columns, met)
    after = sum(_num_met(a, b, column, o, m) for o, m in zip(columns, met, strict=True))
    _swap(a, b, column, columns, met)
    return after - before


def _num_met(a: int, b: int, column: Codes, other: Codes, table: NDArray[np.float64]) -> int:
    """Of the (up to four) pairs that an exchange touches, those that are met."""
    touched = {(other[row], value) for row in (a, b) for value in (column[a], column[b])}
    return sum(bool(table[pair]) for pair in touched)


def _swap(a: int, b: int, column: Codes, columns: Sequence[Codes], met: Sequence[NDArray[np.float64]]) -> None:
    for change in (-1, 1):
        for o, m in zip(columns, met, strict=True):
            for row in (a, b):
                m[o[row], column[row]] += change
        if change < 0:
            column[a], column[b] = column[b], column[a]


def _most_met(counts: Sequence[int], others: Sequence[int]) -> int:
    """The most different pairs that rows can have, whose values on either side occur so often.

    Source: the largest flow through unit capacities; Gale 1957 (Pac. J. Math. 7:1073), Ryser 1957 (Can. J. Math. 9:371).
    """
    falling = sorted(counts, reverse=True)
    return min(sum(falling[k:]) + sum(min(other, k) for other in others) for k in range(len(counts) + 1))


def _traits(cell: Cell) -> tuple[str | None, ...]:
    return (cell.label, cell.kind, *cell.values)


def _order(cell: Cell) -> tuple[str, ...]:
    return (cell.label or "", cell.kind, cell.towards or "", *cell.values)
