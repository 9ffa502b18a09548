"""What kind of values a column holds, and bringing a table's cells into that form."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from stillroom.core.errors import BadInput, Problem, nearest
from stillroom.core.records import Column, ColumnKind

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHOLE_NUMBER = re.compile(r"(0|-?[1-9][0-9]*)\.0")
_TEXT_WORDS = 3.0
"""A column of words is text, not categories, where its cells average this many words and over half of them differ."""
_ID_SHARE = 0.95
"""A column of words looks like an identifier where this share of its cells differ."""
_ID_ROWS = 20
"""With fewer rows, all-different cells say nothing."""
_ID_NAME = re.compile(r"(^|[_\s-])(?i:id|uuid|guid|key|index)$|[a-z](Id|ID)$")


def coerce(frame: pd.DataFrame, columns: Sequence[Column], *, place: str) -> pd.DataFrame:
    """The feature columns of a table, in the order of `columns` and typed as `Column` says; other columns are ignored.

    Args:
        frame: n rows with whatever index; cells as a file, a database or a user gave them.
        columns: the features that a model was, or will be, fitted on.
        place: what errors name, such as "data.source.test".

    Returns:
        n rows: float64 with NaN, or object columns of str and None; index 0..n-1.

    Raises:
        BadInput: absent columns, cells of a numeric column that are no finite number; all of them at once.
    """
    frame = frame.rename(columns=str)
    names = list(frame.columns)
    problems = [Problem(place, f"no column {c.name!r}; {nearest(c.name, names)}") for c in columns if c.name not in names]
    problems += [Problem(place, f"two columns are called {c.name!r}; rename one.") for c in columns if names.count(c.name) > 1]
    if problems:
        raise BadInput(problems)
    problems = [problem for column in columns for problem in _cell_problems(frame[column.name], column.kind, place)]
    if problems:
        raise BadInput(problems)
    typed = {column.name: _typed(frame[column.name], column.kind) for column in columns}
    return pd.DataFrame(typed, index=pd.RangeIndex(len(frame)))


def infer_columns(frame: pd.DataFrame, *, numeric: Collection[str] = (), categorical: Collection[str] = ()) -> tuple[Column, ...]:
    """The kind of every column: as declared, else from its cells."""

    def kind(name: str) -> ColumnKind:
        if name in numeric:
            return "numeric"
        return "categorical" if name in categorical else infer_kind(frame[name])

    return tuple(Column(name, kind(name)) for name in frame.columns)


def infer_kind(column: pd.Series[Any]) -> ColumnKind:
    """numeric where every present cell is a number (or none is present); text where cells are sentences; else categorical."""
    _, bad = numbers(column)
    if not bad.any():
        return "numeric"
    present = [cell for cell in cells(column) if cell is not None]
    mean_words = sum(len(cell.split()) for cell in present) / len(present)
    return "text" if mean_words >= _TEXT_WORDS and len(set(present)) > len(present) / 2 else "categorical"


def cells(column: pd.Series[Any], *, verbatim: bool = False) -> NDArray[Any]:
    """(n,) object array: each cell as a str, None where it is missing or blank.

    Equal categories must come out equal from every format: "1" (CSV), 1 (Parquet) and 1.0 (an integer column in which
    something is missing) are all "1", and white space around a cell is dropped; `verbatim` keeps a string as it is.
    """
    values, where = _distinct(column)
    out = np.empty(len(values), dtype=object)
    out[:] = [_cell(value, verbatim) for value in values]
    return out[where]


def numbers(column: pd.Series[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n,) float64 with NaN for missing cells, and (n,) bool: cells that are present and no number.

    True and False are no numbers, whichever format they come from.
    """
    if is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), np.zeros(len(column), dtype=np.bool_)
    distinct, where = _distinct(column)
    texts = [_cell(value, verbatim=False) for value in distinct]
    missing = np.array([text is None or text.lower() == "nan" for text in texts], dtype=np.bool_)
    read = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
    # Before 3.1 pandas missed the last bit now and then, and a row its key: pandas tells what is a number, Python which.
    values = np.array([value if np.isnan(value) else float(str(text)) for text, value in zip(texts, read.tolist(), strict=True)])
    return values[where], (np.isnan(values) & ~missing)[where]


def nested(column: pd.Series[Any]) -> str | None:
    """Which cells hold a list, an object or bytes, each no single value: "row 3: a list is no single value"; None if none does."""
    if column.dtype != object:
        return None
    values = column.tolist()
    odd = np.array([isinstance(value, list | dict | tuple | set | bytes | np.ndarray) for value in values], dtype=np.bool_)
    if not odd.any():
        return None
    kind = type(values[int(odd.argmax())]).__name__.replace("ndarray", "list")
    return f"{rows_named(odd)}: a {kind} is no single value"


def rows_named(rows: NDArray[np.bool_]) -> str:
    """ "row 3", "rows 3, 7, 9", "rows 3, 7, 9 and 12 more": where a mask is true, counted from 1."""
    where = [int(row) + 1 for row in np.flatnonzero(rows)]
    more = f" and {len(where) - 3} more" if len(where) > 3 else ""
    return f"row{'s' if len(where) > 1 else ''} {', '.join(map(str, where[:3]))}{more}"


def column_notes(frame: pd.DataFrame, features: pd.DataFrame, columns: Sequence[Column], declared: Collection[str]) -> Iterator[str]:
    """What a reader should know about columns that were kept although they look useless, or were read in a doubtful way.

    Args:
        frame: the table as read.
        features: the same rows, typed as `columns` says.
        columns: the features.
        declared: names of columns whose kind the user has given, which is not doubted.
    """
    found: dict[str, list[str]] = {}
    for column in columns:
        values = features[column.name].dropna()
        if values.empty:
            found.setdefault("have no value in any row; they are kept, but can teach nothing", []).append(column.name)
        elif values.nunique() == 1 and len(values) == len(features):
            found.setdefault("hold one value in every row; they are kept, but can teach nothing", []).append(column.name)
        elif column.name not in declared and (doubt := _doubt(frame[column.name], column)):
            found.setdefault(doubt, []).append(column.name)
        elif _looks_like_an_id(column, values):
            found.setdefault("look like identifiers (values hardly repeat); list them under data.ignore if so", []).append(column.name)
    for finding, names in found.items():
        yield f"Columns that {finding}: {', '.join(names)}."


def _typed(column: pd.Series[Any], kind: ColumnKind) -> pd.Series[Any]:
    if kind == "numeric":
        return pd.Series(numbers(column)[0])
    # dtype=object: pandas' own string type would turn None into NaN.
    return pd.Series(cells(column, verbatim=kind == "text"), dtype=object)


def _distinct(column: pd.Series[Any]) -> tuple[list[Any], NDArray[np.intp]]:
    """Values and where each row's value is among them. Cells of text files repeat, so that each is looked at once."""
    if isinstance(column.dtype, pd.StringDtype):
        where, values = pd.factorize(column)
        return [*values.tolist(), None], where  # the code of a missing cell is -1: the last
    return column.tolist(), np.arange(len(column))


def _cell(value: Any, verbatim: bool) -> str | None:
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text or verbatim:
            return value if text else None
        return text[:-2] if text.endswith(".0") and _WHOLE_NUMBER.fullmatch(text) else text
    if isinstance(value, float | np.floating):
        number = float(value)
        if np.isnan(number):
            return None
        return str(int(number)) if number.is_integer() else repr(number)
    return value.isoformat() if isinstance(value, date) else str(value)


def _cell_problems(column: pd.Series[Any], kind: ColumnKind, place: str) -> Iterator[Problem]:
    where = f"column {column.name!r}"
    if found := nested(column):
        yield Problem(place, f"{where}, {found}; spread it over columns, or ignore it.")
        return
    if kind != "numeric":
        return
    values, bad = numbers(column)
    if bad.any():
        cell = cells(column)[int(bad.argmax())]
        remedy = "mend it, name it under data.source.missing_values, or list the column under data.categorical."
        yield Problem(place, f"{where}, {rows_named(bad)}: {cell!r} is not a number; {remedy}")
    elif np.isinf(values).any():
        remedy = "clip it, or name it under data.source.missing_values."
        yield Problem(place, f"{where}, {rows_named(np.isinf(values))}: an infinite number; {remedy}")


def _looks_like_an_id(column: Column, values: pd.Series[Any]) -> bool:
    if len(values) < _ID_ROWS or column.kind == "text":
        return False
    if column.kind == "categorical":
        return bool(values.nunique() >= _ID_SHARE * len(values))
    # Measurements may all differ too; whole numbers that all differ are ids if they are called so or just count the rows.
    array = values.to_numpy()
    whole_and_different = bool((array == np.floor(array)).all()) and values.nunique() == len(values)
    return whole_and_different and (bool(_ID_NAME.search(column.name)) or bool((np.diff(array) == 1).all()))


def _doubt(column: pd.Series[Any], read_as: Column) -> str | None:
    """Codes that may have lost their leading zeros; numbers that became categories because of a few cells."""
    if column.dtype.kind in "iuf":
        return None
    if read_as.kind == "numeric":
        padded = any(cell is not None and re.fullmatch(r"0[0-9]+", cell) for cell in cells(column))
        return "are read as numbers but hold cells such as 007; list them under data.categorical if these are codes" if padded else None
    values, bad = numbers(column)
    if read_as.kind == "text" or np.isfinite(values).sum() <= bad.sum():
        return None
    odd = sorted({str(cell) for cell in cells(column)[bad]})
    some = ", ".join(map(repr, odd[:3])) + (", ..." if len(odd) > 3 else "")
    remedy = "name these under data.source.missing_values if they mean 'missing'"
    return f"are read as categories, since a few cells are no numbers ({some}); {remedy}"
