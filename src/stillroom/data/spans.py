"""The spans of a sequence-labelling job: as positions in a text, or as a tag for each word."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stillroom.core.errors import BadInput
from stillroom.core.spans import OUTSIDE, Span, Word, spans_of_tags

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PREFIXES = "BIELSU"


def join_words(column: pd.Series[Any], *, place: str) -> pd.Series[Any]:
    """Lists of words as texts: the words with single spaces between them.

    Raises:
        BadInput: a cell that is no list of words.
    """
    rows = [" ".join(_words(cell, f"{place}, row {row}")) for row, cell in enumerate(column, start=1)]
    return pd.Series(rows, dtype=object, name=column.name)


def read_spans(frame: pd.DataFrame, target: str, *, texts: Sequence[Any], tokens: str | None, place: str) -> NDArray[Any]:
    """(n,) object array: the spans of each row, in the order of the text.

    Beside a text: a list of {"start", "end", "label"}, characters from 0, the end excluded; [] where there are none. Beside words: a tag
    for each of them, B-LABEL, I-LABEL or O (IOB1, BIOES and BILOU too). In CSV either is JSON.

    Args:
        texts: as the student reads them.
        tokens: the column of lists of words; None where the target tells positions in the texts.

    Raises:
        BadInput: names the row: a span out of range, empty, without a label or over another; no tag, or another number of them than words.
    """

    def spans(row: int, words: Any, cell: Any) -> tuple[Span, ...]:
        where = f"{place}, row {row}"
        if tokens is None:
            return _spans(words, _listed(cell, where, target), f"{where}, {target!r}")
        return _tagged(_words(words, where), _listed(cell, where, target), f"{where}, {target!r}")

    named = texts if tokens is None else frame[tokens]
    rows = (spans(row, *cells) for row, cells in enumerate(zip(named, frame[target], strict=True), start=1))
    return np.fromiter(rows, dtype=object, count=len(frame))


def labels_of(spans: Iterable[Sequence[Span]]) -> tuple[str, ...]:
    """The different labels, by the alphabet."""
    return tuple(sorted({span.label for each in spans for span in each}))


def check_labels(spans: Iterable[Sequence[Span]], labels: tuple[str, ...], *, part: str) -> None:
    """Raises BadInput where rows have a label that no training row has."""
    if unknown := [label for label in labels_of(spans) if label not in labels]:
        found = f"the {part} rows have the label {', '.join(map(repr, unknown[:10]))}, which no training row has"
        raise BadInput.at("data.target", f"{found} (training: {', '.join(labels[:10])}); add training rows of it, or remove the spans.")


def _spans(text: str, cell: list[Any], where: str) -> tuple[Span, ...]:
    found = sorted(_span(text, item, where) for item in cell)
    for first, second in pairwise(found):
        if second.start < first.end:
            raise BadInput.at(where, f"{tuple(second)} begins before {tuple(first)} ends; spans must not overlap: keep one of them.")
    return tuple(found)


def _span(text: str, item: Any, where: str) -> Span:
    try:
        start, end, label = item["start"], item["end"], item["label"]
    except (TypeError, KeyError):
        raise BadInput.at(where, f"holds {item!r}; a span is written {{start: 0, end: 3, label: NAME}}.") from None
    if not all(_is_whole(number) for number in (start, end)) or not isinstance(label, str) or not label.strip():
        raise BadInput.at(where, f"holds {item!r}: start and end must be whole numbers, and label a name.")
    if not 0 <= start < end <= len(text):
        reason = f"the span {start} to {end} does not lie in the text, whose {len(text)} characters are counted from 0 (end excluded)"
        raise BadInput.at(where, f"{reason}; correct it. Bytes or UTF-16 units are no characters.")
    return Span(int(start), int(end), label.strip())


def _tagged(words: list[str], tags: list[Any], where: str) -> tuple[Span, ...]:
    if len(tags) != len(words):
        raise BadInput.at(where, f"has {len(tags)} tags for {len(words)} words; give each word one.")
    for tag in tags:
        if not isinstance(tag, str) or (tag != OUTSIDE and not (tag[:1] in _PREFIXES and tag[1:2] == "-" and tag[2:])):
            raise BadInput.at(where, f"holds {tag!r}; a tag is O, B-NAME or I-NAME (write the names of tags, not their numbers).")
    places: list[Word] = []
    for word in words:
        start = places[-1][1] + 1 if places else 0
        places.append((start, start + len(word)))
    return spans_of_tags(places, tags)


def _words(cell: Any, where: str) -> list[str]:
    words = _listed(cell, where, "the words")
    if bad := [word for word in words if not _is_text(word) or not word.strip()]:
        raise BadInput.at(where, f"holds {bad[0]!r} as a word; words are texts that are not blank.")
    return words


def _listed(cell: Any, where: str, what: str) -> list[Any]:
    """A list, as JSON Lines, Parquet (an array) or CSV (JSON) give it."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError:
            raise BadInput.at(where, f"{what} is {cell[:60]!r}, no list; write it as JSON.") from None
    if isinstance(cell, np.ndarray):
        cell = cell.tolist()
    if not isinstance(cell, list):
        raise BadInput.at(where, f"{what} is {cell!r}, no list; write [] where there is nothing.")
    return cell


def _is_text(cell: Any) -> bool:
    return isinstance(cell, str)


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
