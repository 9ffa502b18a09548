"""Reading is the inverse of writing in every format, and a damaged file gives one clear error, never a shorter table."""

from __future__ import annotations

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn import datasets

from stillroom.core.errors import BadInput
from stillroom.core.fingerprint import row_fingerprints
from stillroom.core.records import Column
from stillroom.data.columns import cells, coerce, infer_columns
from stillroom.data.sources import FORMATS, bundled_table, check_files, read_table

TABLE = pd.DataFrame(
    {
        "whole": [1.0, None, 3.0, -4.0],
        "real": [0.1, 1e-30, None, 12345678.9],
        "word": ["a, b", 'say "x"', None, "ü\nzwei"],
        "code": ["007", "1.0.2", "7", None],
    }
)


def write(frame: pd.DataFrame, path: Path) -> Path:
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        frame.to_parquet(path, index=False)
    elif name.endswith(".jsonl"):
        frame.to_json(path, orient="records", lines=True, double_precision=15)
    else:
        frame.to_csv(path, index=False, sep="\t" if name.endswith(".tsv") else ",")
    return path


def parquet_bytes(names: list[str]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_arrays([pa.array([1, 2])] * len(names), names=names), sink)
    return sink.getvalue()


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_gives_the_same_table_and_the_same_keys(ending: str, tmp_path: Path) -> None:
    frame = read_table(write(TABLE, tmp_path / f"t{ending}"), place="here")
    columns = infer_columns(frame, categorical=("code",))
    assert [c.kind for c in columns] == ["numeric", "numeric", "categorical", "categorical"]
    features = coerce(frame, columns, place="here")
    np.testing.assert_array_equal(features["real"].to_numpy(), TABLE["real"].to_numpy())
    np.testing.assert_array_equal(features["whole"].to_numpy(), TABLE["whole"].to_numpy())
    assert features["word"].tolist() == ["a, b", 'say "x"', None, "ü\nzwei"]
    assert features["code"].tolist() == ["007", "1.0.2", "7", None]
    assert row_fingerprints(features) == row_fingerprints(coerce(TABLE, columns, place="memory"))


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.CSV"
    path.write_bytes("\ufeffid,n\r\n1, 2 \r\n\r\n3,4\r\n".encode())
    frame = coerce(read_table(path, place="here"), [Column("id", "numeric"), Column("n", "numeric")], place="here")
    assert frame.to_dict("list") == {"id": [1.0, 3.0], "n": [2.0, 4.0]}


def test_long_tables_keep_every_row_in_order(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"  # more rows than are parsed at once
    path.write_text("n\n" + "\n".join(map(str, range(120_001))) + "\n")
    assert read_table(path, place="here")["n"].tolist() == [str(i) for i in range(120_001)]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_identifiers_keep_their_last_digit_beside_a_missing_one(ending: str, tmp_path: Path) -> None:
    """Beyond 2**53 a float skips whole numbers: pandas makes floats of them where one is missing, and two of them one."""
    ids = [None, *range(2**53, 2**53 + 9)]
    path = tmp_path / f"t{ending}"
    if ending == ".parquet":
        parquet.write_table(pa.table({"id": pa.array(ids, pa.int64()), "other": pa.array([1.5] * 10)}), path)
    elif ending == ".jsonl":
        path.write_text("\n".join(json.dumps({"other": 1.5} if i is None else {"id": i, "other": 1.5}) for i in ids))
    else:
        path.write_text("id,other\n" + "".join(f"{'' if i is None else i},1.5\n" for i in ids))
    read = read_table(path, place="here")
    assert cells(read["id"]).tolist() == [None, *map(str, ids[1:])]
    assert infer_columns(read[["id", "other"]]) == (Column("id", "numeric"), Column("other", "numeric"))


def test_a_cell_may_hold_a_long_document(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    long = "word " * 50_000
    (tmp_path / "t.csv").write_text(f"text,y\n{long},a\n")
    assert read_table(tmp_path / "t.csv", place="here")["text"].tolist() == [long]
    assert csv.field_size_limit() == before


def test_a_named_index_of_a_parquet_file_is_a_column(tmp_path: Path) -> None:
    TABLE.set_index("code").to_parquet(tmp_path / "named.parquet")
    TABLE.set_axis([5, 6, 7, 8]).to_parquet(tmp_path / "plain.parquet")
    assert "code" in read_table(tmp_path / "named.parquet", place="here").columns
    assert list(read_table(tmp_path / "plain.parquet", place="here").columns) == list(TABLE.columns)


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "empty": ("t.csv", b"", "is empty"),
    "empty gz": ("t.csv.gz", gzip.compress(b""), "is empty"),
    "header only": ("t.csv", b"a,b\n", "holds no rows"),
    "no json rows": ("t.jsonl", b"\n", "holds no rows"),
    "short row": ("t.csv", b"a,b\n1,2\n3\n", "line 3 has 1 cells, the header 2"),
    "long row": ("t.csv", b"a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, the header 2"),
    "unclosed quote": ("t.csv", b'a,b\n1,"2\n3,4\n', "line 3: unexpected end of data"),
    "two names": ("t.csv", b"a,b,a\n1,2,3\n", "two columns called 'a'"),
    "two names in parquet": ("t.parquet", parquet_bytes(["a", "b", "a"]), "two columns called 'a'"),
    "two names in json": ("t.jsonl", b'{"a": 1}\n{"a": 2, "b": 3, "a": 4}\n', "line 2 is not JSON (key 'a' given twice)"),
    "no json": ("t.jsonl", b'{"a": 1}\n{"a": 2}\n{"a": [}\n', "line 3 is not JSON"),
    "half a character": ("t.jsonl", b'{"a": "\\ud83d\\ude00"}\n{"a": "\\ud83d"}\n', "line 2 holds one half of a surrogate pair"),
    "thousands of digits": ("t.jsonl", b'{"a": %s}\n' % (b"9" * 5000), "line 1 is not JSON (Exceeds the limit"),
    "thousands of brackets": ("t.jsonl", b"[" * 100_000, "line 1 is not JSON (maximum recursion depth"),
    "latin-1": ("t.csv", "a\nü\n".encode("latin-1"), "is not UTF-8"),
    "semicolons": ("t.csv", b"a;b\n1;2\n", "divided by ';'"),
    "no gzip": ("t.csv.gz", b"a,b\n1,2\n", "damaged gzip"),
    "no object": ("t.jsonl", b'{"a": 1}\n[1]\n', "line 2 holds a list"),
    "no parquet": ("t.parquet", b"PAR1 but not really", "not a whole Parquet file"),
    "format": ("t.xlsx", b"", "allowed: .csv"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_clear_line(case: str, tmp_path: Path) -> None:
    name, content, message = BROKEN[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_table(tmp_path / name, place="data.source.train")
    (problem,) = caught.value.problems
    assert problem.place == "data.source.train"
    assert message in problem.message
    assert name in problem.message
    assert "\n" not in problem.message


@pytest.mark.parametrize("ending", [".csv.gz", ".jsonl.gz", ".parquet"])
def test_a_file_cut_off_anywhere_is_never_a_shorter_table(ending: str, tmp_path: Path) -> None:
    whole = write(pd.concat([TABLE] * 50), tmp_path / f"whole{ending}").read_bytes()
    cut = tmp_path / f"cut{ending}"
    for size in np.linspace(1, len(whole) - 1, 25, dtype=int):
        cut.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"damaged gzip|not a whole Parquet"):
            read_table(cut, place="here")


@pytest.mark.parametrize("ending", [".csv.gz", ".parquet"])
def test_a_flipped_byte_gives_a_table_or_one_clear_error(ending: str, tmp_path: Path) -> None:
    path = write(pd.concat([TABLE] * 50), tmp_path / f"t{ending}")
    whole, right = path.read_bytes(), read_table(path, place="here")
    errors = 0
    for at in range(12, len(whole) - 4, max(1, len(whole) // 60)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read = read_table(path, place="here")
        except BadInput:
            errors += 1
        else:
            [cells(read[name]) for name in read.columns]
            if ending == ".csv.gz":  # gzip carries a checksum; Parquet need not, so there a wrong number cannot be seen
                pd.testing.assert_frame_equal(read, right)
    assert errors > 10


def test_every_absent_file_is_named_with_its_whole_path(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    problems = check_files({"a": tmp_path / "absent.csv", "b": tmp_path / "folder.csv", "c": write(TABLE, tmp_path / "there.csv")})
    assert [(p.place, str(tmp_path) in p.message) for p in problems] == [("a", True), ("b", True)]
    assert "no such file" in problems[0].message
    assert "folder" in problems[1].message
    with pytest.raises(BadInput, match="no such file"):
        read_table(tmp_path / "absent.csv", place="here")


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_missing_values_are_blanked_in_every_format(ending: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"n": [1, -999, 3], "w": ["a", " ? ", "b?"], "b": [True, False, True]})
    read = read_table(write(frame, tmp_path / f"t{ending}"), place="here", missing_values=("?", "-999.0"))
    columns = infer_columns(read)
    assert [c.kind for c in columns] == ["numeric", "categorical", "categorical"]
    typed = coerce(read, columns, place="here")
    np.testing.assert_array_equal(typed["n"], [1, np.nan, 3])
    assert typed["w"].tolist() == ["a", None, "b?"]
    assert typed["b"].tolist() == ["True", "False", "True"]


def test_bundled_sets_have_honest_names_and_units() -> None:
    loaders: dict[str, Any] = {"breast_cancer": datasets.load_breast_cancer, "wine": datasets.load_wine, "iris": datasets.load_iris}
    for name, load in loaders.items():
        bunch, table = load(), bundled_table(name)
        np.testing.assert_array_equal(table.drop(columns="target").to_numpy(), bunch.data)
        assert list(table.columns) == [*bunch.feature_names, "target"]
        assert table["target"].tolist() == [str(bunch.target_names[code]) for code in bunch.target]
    assert bundled_table("breast_cancer")["target"].value_counts().to_dict() == {"benign": 357, "malignant": 212}
    digits = bundled_table("digits")
    assert list(digits.columns[[0, 9, 63]]) == ["pixel_0_0", "pixel_1_1", "pixel_7_7"]
    assert sorted(digits["target"].unique()) == list("0123456789")
    diabetes = bundled_table("diabetes")
    assert diabetes["age"].between(19, 79).all()  # years, not deviations from the mean of all rows, test rows included
    assert diabetes["target"].dtype == np.float64


def test_checking_files_loads_nothing_heavy() -> None:
    code = "import sys, json, stillroom.data.sources; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"pandas", "numpy", "sklearn", "pyarrow"} & set(json.loads(done.stdout))
