"""The sample as a CSV file for a spreadsheet, and back."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

from stillroom.core.errors import BadInput, Problem, nearest
from stillroom.core.files import write_bytes
from stillroom.review.session import Session

COLUMNS = ("row", "teacher", "confidence", "label", "key")
"""What the sheet has before the features. `label` is the reviewer's to fill in; `key` says which answer a line is about."""
ACCEPT, SKIP = "ok", "skip"
_GUARD = "'"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", _GUARD)


def guarded(text: str) -> str:
    """A cell that no spreadsheet takes for a formula. `unguarded` gives the text back."""
    return _GUARD + text if text.startswith(_FORMULA) else text


def unguarded(cell: str) -> str:
    """The text of a cell; one that a person has typed, without a guard, is itself."""
    return cell[1:] if cell.startswith(_GUARD) else cell


def write_sheet(session: Session, path: Path) -> None:
    """The sample, with this reviewer's labels so far.

    Raises:
        StageFailed: the file cannot be written.
    """
    decided = session.decided()
    content = io.StringIO()
    # Quoted throughout: a cell's line breaks, separators and blanks then survive any spreadsheet.
    writer = csv.writer(content, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    features = [name for name, _ in session.items[0].cells] if session.items else []
    writer.writerow([*COLUMNS, *map(guarded, features)])
    for number, item in enumerate(session.items):
        label = (SKIP if (given := decided[number]) is None else given) if number in decided else ""
        facts = [str(number + 1), item.teacher, f"{max(item.probs):.3f}", label, item.answer]
        writer.writerow([guarded(cell) for cell in (*facts, *(text for _, text in item.cells))])
    write_bytes(path, content.getvalue().encode("utf-8-sig"))  # without the mark Excel reads another encoding


def read_sheet(session: Session, path: Path) -> tuple[dict[int, str | None], list[Problem]]:
    """What a filled sheet says: number in the sample -> label, None for skipped; and every cell that says nothing clear.

    A blank label says nothing. "ok" accepts the teacher's answer and "skip" skips, where no label is called so.

    Raises:
        BadInput: the file is missing, no CSV in UTF-8, or lacks a column.
    """
    numbers: dict[str, list[int]] = {item.answer: [] for item in session.items}
    for i, item in enumerate(session.items):
        numbers[item.answer].append(i)
    labels: dict[int, str | None] = {}
    problems: list[Problem] = []
    lines: dict[int, int] = {}
    for line, cells in _lines(path):
        place, said = f"{path}, line {line}", unguarded(cells["label"])
        if not said.strip():
            continue
        number = _number(cells, numbers)
        if number is None:
            remedy = "of no row of this sample; leave the column as it was written, and the file with the run that wrote it."
            problems.append(Problem(f"{place}, column 'key'", f"= {cells['key']!r} is {remedy}"))
            continue
        try:
            label = _label(session, number, said)
        except ValueError as error:
            problems.append(Problem(f"{place}, column 'label'", str(error)))
            continue
        if number in labels and labels[number] != label:
            earlier = f"line {lines[number]} says {labels[number] or SKIP!r} of the same row"
            problems.append(Problem(f"{place}, column 'label'", f"= {said!r}, but {earlier}; keep one of them."))
            continue
        labels[number], lines[number] = label, line
    return labels, problems


def _number(cells: Mapping[str, str], numbers: Mapping[str, list[int]]) -> int | None:
    """Which row of the sample a line is about. Rows that share an answer are told apart by the column `row`, where it is whole."""
    found = numbers.get(unguarded(cells["key"]).strip(), [])
    named = unguarded(cells["row"]).strip()
    if len(found) > 1:
        return next((number for number in found if str(number + 1) == named), None)
    return found[0] if found else None


def _label(session: Session, number: int, said: str) -> str | None:
    if said in session.classes:
        return said
    said = said.strip()
    if said.lower() in (ACCEPT, SKIP):
        return session.items[number].teacher if said.lower() == ACCEPT else None
    folded = [name for name in session.classes if name.strip().casefold() == said.casefold()]
    if len(folded) == 1:
        return folded[0]
    raise ValueError(f"= {said!r} is no label; {nearest(said, session.classes)} Or {ACCEPT!r} accepts the teacher's, {SKIP!r} skips.")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line of the sheet, cells of our columns); the header is line 1, and a cell with line breaks is within its line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise BadInput.at("--import", f"no such file: {path}.") from None
    except OSError as error:
        raise BadInput.at("--import", f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise BadInput.at(str(path), "is not in UTF-8; save it as 'CSV UTF-8'.") from None
    for separator in ",;\t":  # spreadsheets of many countries write semicolons
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        header = [name.strip() for name in next(rows, [])]
        if set(COLUMNS) <= set(header):
            break
    else:
        missing = ", ".join(repr(name) for name in COLUMNS if name not in header)
        raise BadInput.at(f"{path}, line 1", f"lacks columns; those of a sheet of ours are {', '.join(COLUMNS)}, and {missing} is missing.")
    places = {name: header.index(name) for name in COLUMNS}  # the first of a name: features stand behind ours
    try:
        for line, cells in enumerate(rows, start=2):
            yield line, {name: cells[place] if place < len(cells) else "" for name, place in places.items()}
    except csv.Error as error:
        raise BadInput.at(str(path), f"is no CSV: {error}. Save it anew from the spreadsheet.") from None
