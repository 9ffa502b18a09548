"""Kinds, cells and coercion: nothing is dropped, nothing is guessed silently."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.core.errors import BadInput
from stillroom.core.fingerprint import row_fingerprints
from stillroom.core.records import Column
from stillroom.data.columns import cells, coerce, column_notes, infer_columns, infer_kind, numbers

SENTENCES = ["how do I pay", "where is my card now", "please close the account", "I lost it"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", " 2.5", "-3e4", None], "numeric"),
        (["1", "nan", ""], "numeric"),
        ([None, None], "numeric"),
        ([1, 2], "numeric"),
        (["1", "?"], "categorical"),
        (["0x1A", "1_000"], "categorical"),
        ([True, False], "categorical"),
        ([True, None, False], "categorical"),
        (["True", "False"], "categorical"),
        (["2026-01-31", "2026-02-01"], "categorical"),
        (pd.to_datetime(["2026-01-31", None]), "categorical"),
        (["no known savings yet", "no known savings yet", "less than that", "less than that"], "categorical"),
        (SENTENCES, "text"),
        ([*SENTENCES, None, ""], "text"),
        ([decimal.Decimal("1.50"), decimal.Decimal("2")], "numeric"),
    ],
)
@pytest.mark.parametrize("dtype", [None, "object", "string"])
def test_kinds_are_inferred_from_cells(values: Any, kind: str, dtype: str | None) -> None:
    assert infer_kind(pd.Series(values, dtype=dtype)) == kind


def test_declared_kinds_win() -> None:
    frame = pd.DataFrame({"sex": [0, 1], "age": ["1", "?"]})
    assert infer_columns(frame, categorical=("sex",), numeric=("age",)) == (Column("sex", "categorical"), Column("age", "numeric"))


def test_equal_categories_are_equal_from_every_dtype() -> None:
    for column in (
        pd.Series(["1", "20", None]),
        pd.Series([" 1", "20 ", "  "], dtype="string"),
        pd.Series([1.0, 20.0, np.nan]),
        pd.Series(["1.0", "20.0", ""]),
        pd.Series([1, 20, None], dtype="Int64"),
        pd.Series([1, 20, None], dtype=object),
        pd.Series(["1", "20", None], dtype="category"),
        pd.Series(["1", 20, pd.NA], dtype=object),
    ):
        assert cells(column).tolist() == ["1", "20", None]


def test_what_differs_stays_different() -> None:
    mixed: list[Any] = ["00202", "1.020", "1.0.0", "v1.0", 1.5, True, 1, datetime.date(2026, 1, 31), "NaN", "1e5"]
    want = ["00202", "1.020", "1.0.0", "v1.0", "1.5", "True", "1", "2026-01-31", "NaN", "1e5"]
    assert cells(pd.Series(mixed, dtype=object)).tolist() == want
    assert cells(pd.Series([" a ", "1.0", " "]), verbatim=True).tolist() == [" a ", "1.0", None]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.none() | st.floats(allow_infinity=False) | st.text(max_size=4) | st.integers(-(2**53), 2**53) | st.booleans(), max_size=8)
)
def test_one_row_is_read_as_the_whole_table_is(values: list[Any]) -> None:
    column = pd.Series(values, dtype=object)
    texts, (parsed, bad) = cells(column), numbers(column)
    for i in range(len(values)):
        assert cells(column[i : i + 1])[0] == texts[i]
        one, one_bad = numbers(column[i : i + 1])
        np.testing.assert_array_equal((one[0], one_bad[0]), (parsed[i], bad[i]))
    as_text = pd.Series(texts, dtype="string")  # what a file of these cells gives
    assert cells(as_text).tolist() == texts.tolist()
    np.testing.assert_array_equal(numbers(as_text)[0], parsed)
    np.testing.assert_array_equal(numbers(as_text)[1], bad)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_numbers_survive_text_to_the_last_bit(values: list[float]) -> None:
    np.testing.assert_array_equal(numbers(pd.Series([repr(v) for v in values], dtype="string"))[0], values)


COLUMNS = (Column("age", "numeric"), Column("job", "categorical"), Column("note", "text"))


def test_coerce_orders_types_and_keeps_missing_values() -> None:
    frame = pd.DataFrame({"extra": [9, 9], "note": [" kept as is ", None], "job": [3.0, None], "age": [None, "41"]}, index=[7, 7])
    out = coerce(frame, COLUMNS, place="here")
    assert list(out.columns) == ["age", "job", "note"]
    assert list(out.index) == [0, 1]
    assert [str(dtype) for dtype in out.dtypes] == ["float64", "object", "object"]
    np.testing.assert_array_equal(out["age"], [np.nan, 41.0])
    assert out["job"].tolist() == ["3", None]
    assert out["note"].tolist() == [" kept as is ", None]


def test_coerce_twice_is_coerce_once_and_no_rows_are_legal() -> None:
    frame = pd.DataFrame({"age": ["1", ""], "job": ["a", ""], "note": ["x", ""]})
    once = coerce(frame, COLUMNS, place="here")
    pd.testing.assert_frame_equal(once, coerce(once, COLUMNS, place="here"))
    assert row_fingerprints(once) == row_fingerprints(coerce(once, COLUMNS, place="here"))
    assert len(coerce(frame[:0], COLUMNS, place="here")) == 0


def test_coerce_names_every_absent_column_with_the_nearest() -> None:
    with pytest.raises(BadInput) as caught:
        coerce(pd.DataFrame({"aeg": [1], "job": ["a"]}), COLUMNS, place="FILE.csv")
    messages = [str(p) for p in caught.value.problems]
    assert messages == ["FILE.csv: no column 'age'; did you mean 'aeg'?", "FILE.csv: no column 'note'; allowed: aeg, job."]


def test_coerce_names_column_row_and_cell_of_what_is_no_number() -> None:
    columns = (Column("a", "numeric"), Column("b", "numeric"), Column("c", "numeric"))
    frame = pd.DataFrame({"a": ["1", "x", "", "y"], "b": ["1", "2", "3", "inf"], "c": ["nan", "", None, "4"]})
    with pytest.raises(BadInput) as caught:
        coerce(frame, columns, place="here")
    first, second = (p.message for p in caught.value.problems)
    assert first.startswith("column 'a', rows 2, 4: 'x' is not a number; ")
    assert second.startswith("column 'b', row 4: an infinite number; ")


def test_coerce_refuses_nested_cells_and_doubled_columns() -> None:
    with pytest.raises(BadInput, match=r"column 'job', row 2: a list is no single value"):
        coerce(pd.DataFrame({"job": ["a", ["b"]]}), COLUMNS[1:2], place="here")
    with pytest.raises(BadInput, match="two columns are called 'job'"):
        coerce(pd.DataFrame([["a", "b"]], columns=["job", "job"]), COLUMNS[1:2], place="here")


def noted(frame: pd.DataFrame, declared: tuple[str, ...] = ()) -> str:
    columns = infer_columns(frame, categorical=declared)
    return "\n".join(column_notes(frame, coerce(frame, columns, place="here"), columns, declared))


def test_useless_and_doubtful_columns_are_noted() -> None:
    n = 40
    table: dict[str, Any] = {
        "flat": ["x"] * n,
        "gone": [""] * n,
        "customerID": [f"{i * 37}-Q" for i in range(n)],
        "patient_id": [(i * 7919) % 1009 for i in range(n)],
        "instant": range(5, 5 + n),
        "zip": [f"0{i % 3}" for i in range(n)],
        "pressure": ["?", "?", *map(str, range(n - 2))],
        "fine": [i % 7 for i in range(n)],
        "measured": [i * 0.37 for i in range(n)],
        "paid": [(i * 7919) % 1009 for i in range(n)],  # whole and all different, as an amount may be
        "all_differ": [(i * 7919) % 1009 for i in range(n)],
        "half": ["x", None] * (n // 2),
    }
    lines = noted(pd.DataFrame(table)).splitlines()
    by_names = {line.rsplit(": ", 1)[1].rstrip("."): line for line in lines}
    assert set(by_names) == {"flat", "gone", "customerID, patient_id, instant", "zip", "pressure"}
    assert "one value" in by_names["flat"]
    assert "no value" in by_names["gone"]
    assert "identifiers" in by_names["customerID, patient_id, instant"]
    assert "007" in by_names["zip"]
    assert "'?'" in by_names["pressure"]


def test_what_the_user_declared_is_not_doubted() -> None:
    frame = pd.DataFrame({"zip": ["01", "02", "1"], "grade": ["1", "2", "x"]})
    assert "grade" in noted(frame)
    assert "zip" in noted(frame)
    assert noted(frame, declared=("zip", "grade")) == ""
