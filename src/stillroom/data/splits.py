"""Setting rows aside: for the test, for validation, for the pool of unlabelled examples, or beyond a limit.

Each purpose draws from a random stream of its own, so that asking for a pool does not move a test row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stillroom.core.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.core.records import Batch

SplitKind = Literal["random", "group", "time"]


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of the rows of each part, ascending; every row is in one part."""

    train: NDArray[np.intp]
    unlabeled: NDArray[np.intp]
    validation: NDArray[np.intp]
    test: NDArray[np.intp]


def split_rows(
    batch: Batch, strata: NDArray[np.int64], *, kind: SplitKind, test: float, validation: float, unlabeled: float, seed: int
) -> Split:
    """Divide the rows of a batch.

    random: copies of a row stay together. group: the rows of a group stay together. time: training rows come first, then
    the pool, the validation and the test rows; rows of one moment stay together.

    Args:
        batch: n examples, with `groups` or `times` where `kind` needs them.
        strata: (n,) codes whose proportions every part keeps (random, group): the classes; all 0 for a regression.
        kind: what must not be divided.
        test: share of all rows; 0 for none.
        validation: share of the rows that the test leaves; 0 for none.
        unlabeled: the same, for the pool.
        seed: draws the rows (random, group).

    Raises:
        BadInput: a part would be empty.
    """

    def aside(rows: NDArray[np.intp], share: float, of: int, place: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        if share == 0:
            return rows[:0], rows
        num_rows = max(1, round(share * of))
        if kind == "time":
            assert batch.times is not None
            chosen = _latest(batch.times[rows], num_rows, place)
        else:
            units = batch.keys if kind == "random" else batch.groups
            assert units is not None
            chosen = set_aside(units[rows], strata[rows], num_rows, seed=seed, place=place)
        return rows[chosen], rows[~chosen]

    test_rows, rest = aside(np.arange(len(batch)), test, len(batch), "data.split.test")
    num_left = len(rest)
    validation_rows, rest = aside(rest, validation, num_left, "data.split.validation")
    pool_rows, train_rows = aside(rest, unlabeled, num_left, "data.unlabeled_share")
    return Split(train=train_rows, unlabeled=pool_rows, validation=validation_rows, test=test_rows)


def limited(strata: NDArray[np.int64], limit: int, *, seed: int, place: str) -> NDArray[np.intp]:
    """(min(n, limit),) ascending positions of a sample that keeps the proportions of `strata`, and each stratum while there is room."""
    if len(strata) <= limit:
        return np.arange(len(strata))
    return np.flatnonzero(~set_aside(np.arange(len(strata)), strata, len(strata) - limit, seed=seed, place=place))


def set_aside(units: NDArray[Any], strata: NDArray[np.int64], num_rows: int, *, seed: int, place: str) -> NDArray[np.bool_]:
    """(n,) bool: a stratified random sample of whole units, as near to `num_rows` rows as they allow.

    At least one unit is chosen and one left; of each stratum one unit is left as long as there are others to choose.

    Args:
        units: (n,) names; rows of one unit stay together.
        strata: (n,) codes; a unit belongs to the stratum of most of its rows.
        num_rows: how many rows to choose.
        seed: with `place`, draws the sample.
        place: the key that asks for it, named by the error.

    Raises:
        BadInput: there is one unit only.
    """
    _, unit_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        what = f"its {len(units)} rows are all of one kind (one group, or copies of one row)" if len(units) > 1 else "only one row is left"
        raise BadInput.at(place, f"cannot divide the rows, {what}: one side would be empty. Add rows, or set another share or kind.")
    order = _spread(_majority(unit_of, strata), sizes, np.random.default_rng([seed, *place.encode()]))
    reached = np.cumsum(sizes[order])[:-1]
    chosen = np.zeros(len(sizes), dtype=np.bool_)
    chosen[order[: int(np.abs(reached - num_rows).argmin()) + 1]] = True
    return chosen[unit_of]


def _spread(strata: NDArray[np.int64], sizes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.intp]:
    """A random order of units in which every stretch from the start holds the strata in proportion, one unit of each coming last."""
    shuffled = rng.permutation(len(sizes))
    place = np.empty(len(sizes))
    for stratum in np.unique(strata):
        members = shuffled[strata[shuffled] == stratum]
        # Where in its stratum a unit lies, in (0, 1]. One random offset a stratum, else small strata would round all one way.
        place[members] = (np.cumsum(sizes[members]) - sizes[members] * rng.random()) / sizes[members].sum()
        place[members[-1]] = 1 + rng.random()
    return np.argsort(place, kind="stable")


def _majority(unit_of: NDArray[np.intp], strata: NDArray[np.int64]) -> NDArray[np.int64]:
    """(units,) the stratum of most rows of each unit."""
    pairs, counts = np.unique(np.column_stack([unit_of, strata]), axis=0, return_counts=True)
    majority = np.empty(int(unit_of.max()) + 1, dtype=np.int64)
    ascending = np.argsort(counts, kind="stable")
    majority[pairs[ascending, 0]] = pairs[ascending, 1]  # the last assignment, of the largest count, stays
    return majority


def _latest(times: NDArray[Any], num_rows: int, place: str) -> NDArray[np.bool_]:
    """(n,) bool: the latest rows, about `num_rows`, none of them as early as a row that is left."""
    first = np.sort(times)[-min(num_rows, len(times))] if len(times) else None
    chosen = times >= first
    if chosen.all():
        chosen = times > first
    if not chosen.any():
        raise BadInput.at(place, "cannot divide the rows, all have the same time: one side would be empty. Name another column.")
    return np.asarray(chosen)
