"""Folds for out-of-fold labelling: whoever answers a row has never been fitted on it, nor on a copy of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from stillroom.core.records import Batch, Task
    from stillroom.data.splits import SplitKind

_PLACE = "labelling.folds"


@dataclass(frozen=True, eq=False)
class Fold:
    """Positions in a batch, ascending: fit a teacher on `fit_rows`, let it answer `answer_rows`."""

    fit_rows: NDArray[np.intp]
    answer_rows: NDArray[np.intp]


def make_folds(batch: Batch, *, task: Task, num_folds: int, kind: SplitKind, seed: int, classes: Sequence[str] = ()) -> list[Fold]:
    """Divide labelled examples into folds.

    random and group: every row is answered once; copies of a row, or the rows of a group, share a fold, and the folds keep
    the proportions of the classes. time: the rows are cut into num_folds + 1 blocks by time; each block but the first is
    answered after fitting on all earlier ones, so the first has no answer. In every kind, copies of an answered row are left
    out of the fit.

    Args:
        batch: n examples with a target, and with `groups` or `times` where `kind` needs them.
        task: classification stratifies (random, group).
        num_folds: how many, at least 2; each is one fit of the teacher.
        kind: what must not be divided.
        seed: draws the folds (random, group).
        classes: class names in code order, for errors.

    Raises:
        BadInput: fewer members of a class, fewer groups or fewer moments than folds; a fit on no row or on one class.
    """
    assert batch.target is not None
    classified = task == "classification"
    if kind == "time":
        assert batch.times is not None
        block_of = _time_blocks(batch.times, num_folds + 1) - 1
    else:
        units = batch.keys if kind == "random" else batch.groups
        assert units is not None
        strata = batch.target.astype(np.int64) if classified else np.zeros(len(batch), dtype=np.int64)
        if classified:
            _check_members(batch, strata, num_folds, kind, classes)
        _check_units(units, "different rows" if kind == "random" else "groups", num_folds)
        block_of = deal(units, strata, num_folds, seed)
    folds = []
    for fold in range(num_folds):
        answer = block_of == fold
        fit = (block_of < fold) if kind == "time" else ~answer
        # Copies in another group or at another time: the teacher would have seen the very row that it answers.
        fit &= ~np.isin(batch.keys, batch.keys[answer])
        _check_fit(batch.target[fit], fold, classified)
        folds.append(Fold(np.flatnonzero(fit), np.flatnonzero(answer)))
    return folds


def deal(units: NDArray[Any], strata: NDArray[np.int64], num_folds: int, seed: int) -> NDArray[np.intp]:
    """(n,) the fold of each row. Large units first, each to the fold that holds least of its classes, then of all rows.

    Args:
        units: (n,) rows of one unit share a fold.
        strata: (n,) class codes, which the folds hold in equal shares; all 0 for none.
    """
    _, unit_of, sizes = np.unique(units, return_inverse=True, return_counts=True)
    pairs, counts = np.unique(np.column_stack([unit_of, strata]), axis=0, return_counts=True)
    content: list[list[tuple[int, int]]] = [[] for _ in sizes]  # (stratum, rows) of each unit
    for (unit, stratum), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        content[unit].append((stratum, count))
    totals = np.bincount(strata).tolist()
    held = [[0] * num_folds for _ in totals]
    rows = [0] * num_folds
    fold_of = np.empty(len(sizes), dtype=np.intp)
    shuffled = np.random.default_rng([seed, *b"folds"]).permutation(len(sizes))
    for unit in shuffled[np.argsort(-sizes[shuffled], kind="stable")].tolist():
        load = [sum(held[stratum][f] * count / totals[stratum] for stratum, count in content[unit]) for f in range(num_folds)]
        fold = min(range(num_folds), key=list(zip(load, rows, strict=True)).__getitem__)
        fold_of[unit] = fold
        for stratum, count in content[unit]:
            held[stratum][fold] += count
            rows[fold] += count
    return fold_of[unit_of]


def _check_units(units: NDArray[Any], name: str, num_folds: int) -> None:
    found = len(np.unique(units))
    if found < num_folds:
        remedy = f"set it to at most {found}" if found > 1 else "split by another column, or add rows"
        raise BadInput.at(_PLACE, f"= {num_folds}, but the training data has only {found} {name}; {remedy}.")


def _time_blocks(times: NDArray[Any], num_blocks: int) -> NDArray[np.intp]:
    """(n,) the block of each row, 0 the earliest; about equally many rows a block, rows of one moment in one block."""
    moments, moment_of, counts = np.unique(times, return_inverse=True, return_counts=True)
    if len(moments) < num_blocks:
        remedy = f"set it to at most {len(moments) - 1}" if len(moments) > 2 else "use a split by another column"
        have = f"the training rows have {len(moments)} different times"
        raise BadInput.at(_PLACE, f"= {num_blocks - 1}, but {have}; forward chaining needs one more than folds. {remedy.capitalize()}.")
    rows_before = np.cumsum(counts) - counts
    # The moment that each block but the first starts with: the nearest to an equal share that leaves every block a moment.
    first = [int(np.abs(rows_before - len(times) * i / num_blocks).argmin()) for i in range(1, num_blocks)]
    for i in range(num_blocks - 1):
        first[i] = min(max(first[i], first[i - 1] + 1 if i else 1), len(moments) - (num_blocks - 1 - i))
    return np.searchsorted(first, np.arange(len(moments)), side="right")[moment_of]


def _check_members(batch: Batch, strata: NDArray[np.int64], num_folds: int, kind: SplitKind, classes: Sequence[str]) -> None:
    """Copies of a row are one member where copies share a fold."""
    few = []
    for code in np.unique(strata):
        members = len(np.unique(batch.keys[strata == code])) if kind == "random" else int((strata == code).sum())
        if members < num_folds:
            few.append((members, repr(classes[code]) if classes else str(code)))
    if not few:
        return
    named = ", ".join(f"{name} ({members})" for members, name in sorted(few)[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
    least = min(few)[0]
    remedy = (
        f"set it to at most {least}, merge these classes, or add rows of them" if least > 1 else "merge these classes, or add rows of them"
    )
    raise BadInput.at(_PLACE, f"= {num_folds}, but some classes have fewer different training rows: {named}; {remedy}.")


def _check_fit(target: NDArray[Any], fold: int, classified: bool) -> None:
    if not len(target):
        found = "no row"
    elif classified and len(np.unique(target)) < 2:
        found = "one class only"
    else:
        return
    raise BadInput.at(_PLACE, f"the teacher of fold {fold + 1} would be fitted on {found}; set fewer folds, or split by another column.")
