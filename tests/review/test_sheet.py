"""Out into a spreadsheet and back: the same text, no formulas, and every bad cell named."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.core.errors import BadInput
from stillroom.review.session import Session
from stillroom.review.sheet import guarded, read_sheet, unguarded, write_sheet


def lines_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def filled(session: Session, path: Path, labels: dict[int, str], delimiter: str = ",") -> Path:
    """The sheet with labels typed into some lines."""
    write_sheet(session, path)
    rows = lines_of(path)
    for number, label in labels.items():
        rows[number + 1][3] = label
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


@given(st.text())
def test_guarding_keeps_the_text_and_leaves_no_formula(text: str) -> None:
    assert unguarded(guarded(text)) == text
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_every_text_survives_the_round_trip_and_none_is_a_formula(session: Session, tmp_path: Path) -> None:
    write_sheet(session, tmp_path / "s.csv")
    header, *rows = lines_of(tmp_path / "s.csv")
    assert header == ["row", "teacher", "confidence", "label", "key", "text"]
    assert [unguarded(row[5]) for row in rows] == [item.cells[0][1] for item in session.items]
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_labels_come_back_whatever_they_look_like(session: Session, tmp_path: Path) -> None:
    typed = {0: "ok", 1: "refund", 2: "=SUM(A1)", 3: "-1", 4: "REFUND ", 5: "Skip"}
    labels, problems = read_sheet(session, filled(session, tmp_path / "s.csv", typed))
    assert (labels, problems) == ({0: "card lost", 1: "refund", 2: "=SUM(A1)", 3: "-1", 4: "refund", 5: None}, [])
    session.decide(labels)
    write_sheet(session, tmp_path / "again.csv")  # with what is decided, which reads back as the same
    assert read_sheet(session, tmp_path / "again.csv") == (labels, [])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_blank_label_says_nothing_whatever_the_separator(session: Session, tmp_path: Path, delimiter: str) -> None:
    labels, problems = read_sheet(session, filled(session, tmp_path / "s.csv", {1: "refund", 2: "  "}, delimiter))
    assert (labels, problems) == ({1: "refund"}, [])


def test_every_bad_cell_is_named_and_the_good_ones_are_read(session: Session, tmp_path: Path) -> None:
    path = filled(session, tmp_path / "s.csv", {0: "refnd", 1: "refund", 2: "zzz", 3: "ok"})
    rows = lines_of(path)
    rows[4][4] = "sr1-gone"
    rows.append([*rows[2][:3], "card arrival", *rows[2][4:]])
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    labels, problems = read_sheet(session, path)
    assert labels == {1: "refund"}
    told = [str(problem) for problem in problems]
    assert len(told) == 4
    assert "line 2, column 'label': = 'refnd' is no label; did you mean 'refund'?" in told[0]
    assert "line 4, column 'label': = 'zzz' is no label; allowed: -1, =SUM(A1), card arrival, card lost, refund." in told[1]
    assert "line 5, column 'key': = 'sr1-gone'" in told[2]
    assert "line 8, column 'label': = 'card arrival', but line 3 says 'refund' of the same row" in told[3]


def test_a_sorted_sheet_with_a_column_more_is_still_read(session: Session, tmp_path: Path) -> None:
    path = filled(session, tmp_path / "s.csv", {0: "refund", 5: "ok"})
    header, *rows = lines_of(path)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["mine", *header], *(["x", *row] for row in reversed(rows))])
    assert read_sheet(session, path) == ({0: "refund", 5: "card lost"}, [])


def test_a_feature_called_label_is_not_taken_for_ours(make: Callable[..., Session], tmp_path: Path) -> None:
    session = make(tmp_path, texts=("x", "y"), columns=("label", "key"))
    path = filled(session, tmp_path / "s.csv", {0: "refund"})
    assert read_sheet(session, path) == ({0: "refund"}, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"row,teacher,label\n1,a,b\n", "lacks columns"),
        (b"", "lacks columns"),
        ("row,teacher,confidence,label,key\n1,\xe9,0.5,x,k\n".encode("latin-1"), "CSV UTF-8"),
    ],
)
def test_what_is_no_sheet_of_ours_is_refused(session: Session, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "s.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_sheet(session, path)
