"""From a job's `data` section to a `Dataset`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stillroom.core.errors import BadInput, Problem, for_each, nearest
from stillroom.core.fingerprint import row_fingerprints
from stillroom.core.records import Batch, Column, Dataset, Task
from stillroom.data.columns import cells, coerce, column_notes, infer_columns, nested, numbers, rows_named
from stillroom.data.sources import BUNDLED_TARGET, bundled_table, check_files, formats_of, read_table
from stillroom.data.spans import check_labels, join_words, labels_of, read_spans
from stillroom.data.splits import limited, split_rows
from stillroom.data.targets import class_names, encode, read_labels, read_values

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.spec.data import DataSpec
    from stillroom.spec.job import JobTask

_TRAIN, _TEST, _POOL = "data.source.train", "data.source.test", "data.source.unlabeled"


def build_dataset(spec: DataSpec, *, task: JobTask, seed: int) -> Dataset:
    """Read, check, type and split the examples of a job.

    Deterministic: the same files, section and seed give the same rows in the same parts.

    Raises:
        BadInput: what is wrong with the section, the files, the cells or the target, each with its place and a remedy.
    """
    tables = _read_tables(spec, task)
    target = spec.target or BUNDLED_TARGET
    if problems := list(_column_problems(spec, tables, target, task)):
        raise BadInput(problems)
    kinds: dict[str, Task] = {"tabular-regression": "regression", "sequence-labelling": "spans"}
    kind_of_task = kinds.get(task, "classification")
    columns = _feature_columns(spec, tables[_TRAIN], target, task)

    def batch(place: str) -> Batch:
        return _batch(tables[place], columns, spec, target, kind_of_task, place)

    batches = dict(zip(tables, for_each(batch, tables), strict=True))
    _check_times_alike(spec, batches)
    notes = list(column_notes(tables[_TRAIN], batches[_TRAIN].features, columns, (*spec.numeric, *spec.categorical)))
    notes += _unread_notes(spec, tables, columns, target)
    batches, limit_notes = _limit(spec, batches, kind_of_task, seed)
    notes += limit_notes
    dataset = _divide(spec, batches, columns, kind_of_task, seed)
    return replace(dataset, notes=(*notes, *_row_notes(spec, batches[_TRAIN], dataset)))


def _read_tables(spec: DataSpec, task: JobTask) -> dict[str, pd.DataFrame]:
    source = spec.source
    if source.kind == "sklearn":
        return {_TRAIN: bundled_table(source.name)}
    assert source.kind == "file", "checked by the job"
    named = {_TRAIN: source.train, _TEST: source.test, _POOL: source.unlabeled}
    paths = {place: Path(name) for place, name in named.items() if name is not None}
    formats = formats_of(task)
    if problems := check_files(paths, formats):
        raise BadInput(problems)

    def read(place: str) -> pd.DataFrame:
        return read_table(paths[place], place=place, missing_values=source.missing_values, formats=formats)

    return dict(zip(paths, for_each(read, paths), strict=True))


def _column_problems(spec: DataSpec, tables: dict[str, pd.DataFrame], target: str, task: JobTask) -> Iterator[Problem]:
    """Columns that the section names and a table lacks, or that it names for two ends."""
    names = list(tables[_TRAIN].columns)
    roles: dict[str, tuple[str, ...]] = {
        "data.target": (target,),
        "data.text": (spec.text,) if spec.text else (),
        "data.tokens": (spec.tokens,) if spec.tokens else (),
        "data.split.column": (spec.split.column,) if spec.split.column else (),
        "data.categorical": spec.categorical,
        "data.numeric": spec.numeric,
        "data.ignore": spec.ignore,
    }
    for role, wanted in roles.items():
        for name in wanted:
            if name not in names:
                yield Problem(role, f"= {name!r} is no column of the training rows; {nearest(name, names)}")
            elif role != "data.target" and name == target:
                yield Problem(role, f"names {name!r}, the target; a target is not a feature.")
    for role in ("data.text", "data.tokens"):
        for name in {*roles[role]} & {*roles["data.split.column"], *spec.ignore}:
            yield Problem(role, f"= {name!r} is also a split or ignored column; keep one role.")
    if task == "text-classification":
        for role in ("data.categorical", "data.numeric"):
            if roles[role]:
                yield Problem(role, "has no use with task: text-classification, which reads data.text alone; remove it.")
    if _TEST in tables:
        for role in ("data.target", "data.split.column"):
            yield from (Problem(_TEST, f"no column {name!r} ({role})") for name in roles[role] if name not in tables[_TEST].columns)


def _feature_columns(spec: DataSpec, frame: pd.DataFrame, target: str, task: JobTask) -> tuple[Column, ...]:
    if (name := spec.text or spec.tokens) is not None:
        return (Column(name, "text"),)
    others = {target, spec.split.column, *spec.ignore}
    features = frame[[name for name in frame.columns if name not in others]]
    if features.empty:
        raise BadInput.at("data.ignore", "leaves no feature column; a student needs at least one.")
    return infer_columns(features, numeric=spec.numeric, categorical=spec.categorical)


def _batch(frame: pd.DataFrame, columns: tuple[Column, ...], spec: DataSpec, target: str, task: Task, place: str) -> Batch:
    """A table as a batch. The target holds class names here, codes only when the training rows, and so the classes, are known."""
    texts = frame if spec.tokens is None else frame.assign(**{spec.tokens: join_words(frame[spec.tokens], place=place)})
    features = coerce(texts, columns, place=place)
    if (named := spec.text or spec.tokens) is not None:
        _check_text(features[named], place)
    values: NDArray[Any] | None = None
    if place != _POOL and task == "spans":
        values = read_spans(frame, target, texts=features.iloc[:, 0].tolist(), tokens=spec.tokens, place=place)
    elif place != _POOL:
        values = read_labels(frame[target], place=place) if task == "classification" else read_values(frame[target], place=place)
    groups, times = None, None
    if spec.split.column in frame.columns:
        column = frame[spec.split.column]
        groups = _groups(column, place) if spec.split.kind == "group" else None
        times = _times(column, place) if spec.split.kind == "time" else None
    return Batch(features, np.array(row_fingerprints(features)), values, groups, times)


def _check_text(texts: pd.Series[Any], place: str) -> None:
    missing = texts.isna().to_numpy()
    if missing.any():
        raise BadInput.at(
            place, f"text column {texts.name!r}, {rows_named(missing)}: no text; remove these rows, or write something there."
        )
    _, wordy = numbers(texts)
    if not wordy.any():
        example = f"column {texts.name!r} of {place} holds only numbers, such as {texts.iloc[0]!r}"
        raise BadInput.at("data.text", f"{example}; name the column with the text, or use a tabular task.")


def _groups(column: pd.Series[Any], place: str) -> NDArray[np.str_]:
    if found := nested(column):
        raise BadInput.at(place, f"group column {column.name!r}, {found}; name each group by one word or number.")
    names = cells(column)
    missing = np.array([name is None for name in names], dtype=np.bool_)
    if missing.any():
        raise BadInput.at(
            place, f"group column {column.name!r}, {rows_named(missing)}: no group; name one, a new one where it stands alone."
        )
    return names.astype(np.str_)


def _times(column: pd.Series[Any], place: str) -> NDArray[Any]:
    """(n,) float64 where every cell is a number, else datetime64 from ISO 8601."""
    values, words = numbers(column)
    times: NDArray[Any] = values
    missing, bad = np.isnan(values) & ~words, np.isinf(values)
    if words.any():
        texts = pd.Series(cells(column), dtype=object)
        parsed = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce").dt.tz_localize(None)
        bad = parsed.isna().to_numpy() & ~missing
        times = parsed.to_numpy()
    if bad.any():
        cell = cells(column)[int(bad.argmax())]
        allowed = "allowed: numbers, or dates as 2026-01-31 or 2026-01-31T12:00"
        raise BadInput.at(place, f"time column {column.name!r}, {rows_named(bad)}: {cell!r} is no time; {allowed}.")
    if missing.any():
        raise BadInput.at(place, f"time column {column.name!r}, {rows_named(missing)}: no time; fill it in, or remove these rows.")
    return times


def _check_times_alike(spec: DataSpec, batches: dict[str, Batch]) -> None:
    def written(batch: Batch) -> str:
        return "numbers" if batch.times is not None and batch.times.dtype.kind == "f" else "dates"

    wanted = written(batches[_TRAIN])
    odd = [place for place, batch in batches.items() if batch.times is not None and written(batch) != wanted]
    if odd:
        found = f"time column {spec.split.column!r} holds {written(batches[odd[0]])} here, but {wanted} in {_TRAIN}"
        raise BadInput(Problem(place, f"{found}; write them alike, else nobody can tell which row is later.") for place in odd)


def _limit(spec: DataSpec, batches: dict[str, Batch], task: Task, seed: int) -> tuple[dict[str, Batch], list[str]]:
    limit = spec.source.limit if spec.source.kind == "file" else None
    if limit is None:
        return batches, []
    kept, notes = {}, []
    for place, batch in batches.items():
        kept[place] = batch.take(limited(_strata(batch, task), limit, seed=seed, place=place))
        if len(batch) > limit:
            notes.append(f"A trial on part of the data: {limit} of the {len(batch)} rows of {place} (data.source.limit).")
    return kept, notes


def _strata(batch: Batch, task: Task) -> NDArray[np.int64]:
    if task != "classification" or batch.target is None:
        return np.zeros(len(batch), dtype=np.int64)
    return np.unique(batch.target.astype(np.str_), return_inverse=True)[1].astype(np.int64)


def _divide(spec: DataSpec, batches: dict[str, Batch], columns: tuple[Column, ...], task: Task, seed: int) -> Dataset:
    everything = batches[_TRAIN]
    split = split_rows(
        everything,
        _strata(everything, task),
        kind=spec.split.kind,
        test=0.0 if _TEST in batches else spec.split.test,
        validation=spec.split.validation,
        unlabeled=spec.unlabeled_share,
        seed=seed,
    )
    train, validation, pool = (everything.take(rows) for rows in (split.train, split.validation, split.unlabeled))
    test = batches[_TEST] if _TEST in batches else everything.take(split.test)
    pool = batches[_POOL] if _POOL in batches else pool.without_target()
    classes: tuple[str, ...] = ()
    if task == "classification":
        classes = class_names(_targets(train))
        train, validation, test = (
            replace(batch, target=encode(_targets(batch), classes, part=part))
            for part, batch in (("training", train), ("validation", validation), ("test", test))
        )
    if task == "spans":
        classes = labels_of(_targets(train))
        for part, batch in (("validation", validation), ("test", test)):
            check_labels(_targets(batch), classes, part=part)
    _check_two_targets(train, classes, task)
    shared = int(np.isin(test.keys, np.concatenate([train.keys, pool.keys])).sum())
    return Dataset(task, classes, columns, train, test, validation if len(validation) else None, pool if len(pool) else None, shared)


def _check_two_targets(train: Batch, classes: tuple[str, ...], task: Task) -> None:
    """Raises BadInput where there is nothing to learn."""
    if task == "spans":
        if not classes:
            raise BadInput.at("data.target", f"has no span in any of the {len(train)} training rows; there is nothing to learn.")
    elif len(np.unique(_targets(train))) < 2:
        found = f"has one class, {classes[0]!r}," if classes else f"is {_targets(train)[0]} in every row"
        raise BadInput.at("data.target", f"{found} among the {len(train)} training rows; there is nothing to learn. Check the column.")


def _targets(batch: Batch) -> NDArray[Any]:
    assert batch.target is not None
    return batch.target


def _unread_notes(spec: DataSpec, tables: dict[str, pd.DataFrame], columns: tuple[Column, ...], target: str) -> Iterator[str]:
    used = {target, spec.split.column, *spec.ignore, *(column.name for column in columns)}
    if unread := [name for name in tables[_TRAIN].columns if name not in used]:
        yield f"Columns that are not read, since a text task reads data.text alone: {', '.join(unread)}."
    if _POOL in tables and target in tables[_POOL].columns:
        yield f"{_POOL} has the target {target!r}; it is not read."


def _row_notes(spec: DataSpec, everything: Batch, dataset: Dataset) -> Iterator[str]:
    yield from _copy_notes(spec, everything)
    test = dataset.test
    if dataset.shared_rows:
        share = f"{dataset.shared_rows} of {len(test)} ({dataset.shared_rows / len(test):.1%})"
        yield f"Test rows with exactly the features of a training or pool row: {share}; what is measured may flatter every arm."
    if dataset.unlabeled is not None and (known := int(np.isin(dataset.unlabeled.keys, dataset.train.keys).sum())):
        yield f"Pool rows with exactly the features of a training row, whose labels are known: {known} of {len(dataset.unlabeled)}."
    learnt = {"training": dataset.train, "pool": dataset.unlabeled}
    for part, batch in learnt.items():
        if batch is None:
            continue
        if test.groups is not None and batch.groups is not None and (both := np.isin(test.groups, batch.groups).sum()):
            yield f"Test rows of a group that the {part} rows also hold: {both} of {len(test)}."
        if test.times is not None and batch.times is not None and (late := (batch.times >= test.times.min()).sum()):
            yield f"Rows of the {part} part that are not earlier than the first test row: {late} of {len(batch)}."
    if dataset.task != "regression":
        seen = labels_of(_targets(test)) if dataset.task == "spans" else [dataset.classes[code] for code in set(_targets(test).tolist())]
        what = "Labels" if dataset.task == "spans" else "Classes"
        if absent := [name for name in dataset.classes if name not in seen]:
            yield f"{what} without a test row, on which nothing is measured: {', '.join(map(repr, absent))}."


def _copy_notes(spec: DataSpec, everything: Batch) -> Iterator[str]:
    """Rows with equal features, and whether they also have equal targets."""
    targets = _targets(everything)
    _, first, copy_of = np.unique(everything.keys, return_index=True, return_inverse=True)
    copies = len(everything) - len(first)
    if not copies:
        return
    differ = int((targets != targets[first][copy_of]).sum())
    with_other = f", {differ} of them with another target" if differ else ""
    kept = " Copies are kept in one part and one fold." if spec.split.kind == "random" else ""
    yield f"Labelled rows with exactly the features of an earlier one: {copies} of {len(everything)}{with_other}.{kept}"
