"""Reading tables: scikit-learn's bundled sets, CSV, TSV, JSON Lines and Parquet.

Rows are counted from 1 in messages, without the header. Light to import: pandas is loaded when a table is read.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from stillroom.core.errors import BadInput, Problem

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".jsonl", ".jsonl.gz", ".parquet")
TEXT_FORMATS = (".txt", ".txt.gz")
"""Plain texts, which a language model reads beside the formats of tables."""
TAGGED_FORMATS = (".conll", ".conll.gz")
"""CoNLL's columns, which sequence labelling reads beside the formats of tables."""
TOKENS, TAGS = "tokens", "tags"
"""How the columns of such a file are called."""

BUNDLED_TARGET = "target"
"""How the column to predict is called in every bundled set."""

_ROWS_AT_ONCE = 50_000
_LARGEST_CELL = 2**31 - 1
_EXACT = 2**53
"""Beyond it float64 skips whole numbers, so that two identifiers would become one."""


def formats_of(task: str) -> tuple[str, ...]:
    """How the names of a job's files may end."""
    more = {"language-model": TEXT_FORMATS, "sequence-labelling": TAGGED_FORMATS}
    return (*FORMATS, *more.get(task, ()))


def check_files(files: Mapping[str, Path], formats: Sequence[str] = FORMATS) -> list[Problem]:
    """What is wrong with the files of a source, by the place that names each: absent, a folder, of no known format."""
    return [Problem(place, problem) for place, path in files.items() if (problem := _file_problem(path, formats))]


def read_table(path: Path, *, place: str, missing_values: Sequence[str] = (), formats: Sequence[str] = FORMATS) -> pd.DataFrame:
    """The table in a file, as it stands: cells of text formats are strings, blank where nothing is written.

    Args:
        path: a file whose name ends as one of `formats` does.
        place: what errors name, such as "data.source.train".
        missing_values: cells that mean "missing"; they become blank.

    Raises:
        BadInput: no such file, of no known format, damaged, ragged, without rows, with a column name given twice.
    """
    if problem := _file_problem(path, formats):
        raise BadInput.at(place, problem)
    with _readable(path, place):
        frame = _read(path, place)
    if not len(frame):
        raise BadInput.at(place, f"{path} holds no rows; an empty split can be neither trained nor measured on.")
    if twice := sorted(set(frame.columns[frame.columns.duplicated()])):
        raise BadInput.at(place, f"{path} has two columns called {', '.join(map(repr, twice))}; rename one.")
    return _with_blanks(frame, missing_values)


def bundled_table(name: str) -> pd.DataFrame:
    """One of scikit-learn's bundled sets, in its own units, with the column `BUNDLED_TARGET` last; classes by name."""
    from sklearn import datasets

    # diabetes comes scaled by the mean and deviation of all its rows, the test rows included; ask for the raw units.
    raw = {"scaled": False} if name == "diabetes" else {}
    bunch = getattr(datasets, f"load_{name}")(as_frame=True, **raw)
    frame: pd.DataFrame = bunch.data.copy()
    names = bunch.get("target_names")
    frame[BUNDLED_TARGET] = bunch.target if names is None else [str(names[code]) for code in bunch.target]
    return frame


def _file_problem(path: Path, formats: Sequence[str] = FORMATS) -> str | None:
    if not path.exists():
        return f"no such file: {path}. Correct the path, or the environment variable it is made of."
    if path.is_dir():
        return f"{path} is a folder; name the file in it."
    if not path.name.lower().endswith(tuple(formats)):
        return f"{path.name} is of no known format; allowed: {', '.join(formats)}."
    return None


@contextmanager
def _readable(path: Path, place: str) -> Iterator[None]:
    """Turn what damaged files raise into one clear error."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput.at(place, f"{path} is a damaged gzip file ({error}); copy it again.") from error
    except UnicodeDecodeError as error:
        raise BadInput.at(place, f"{path} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8.") from error
    except OSError as error:
        raise BadInput.at(place, f"cannot read {path}: {error.strerror or error}.") from error


def _read(path: Path, place: str) -> pd.DataFrame:
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _parquet(path, place)
    # utf-8-sig: spreadsheets put a byte-order mark before the first column's name.
    opened = gzip.open if name.endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        if name.removesuffix(".gz").endswith(".jsonl"):
            return _json_lines(file, path, place)
        if name.removesuffix(".gz").endswith(".conll"):
            return _tagged_lines(file, path, place)
        return _delimited(file, "\t" if name.removesuffix(".gz").endswith(".tsv") else ",", path, place)


def _delimited(file: TextIO, delimiter: str, path: Path, place: str) -> pd.DataFrame:
    """pandas pads short rows, renames doubled columns and joins rows across an unclosed quote, all silently; so csv, strictly."""
    import pandas as pd

    reader = csv.reader(file, delimiter=delimiter, strict=True)
    limit = csv.field_size_limit(_LARGEST_CELL)  # csv's own, 128 KiB, is less than a long document
    try:
        header = next(reader, None)
        if header is None:
            raise BadInput.at(place, f"{path} is empty; it needs a header and rows.")
        _check_delimiter(header, delimiter, path, place)
        names = [name.strip() or f"Unnamed: {i}" for i, name in enumerate(header)]
        rows = _whole_rows(reader, len(names), path, place)
        blocks = [pd.DataFrame(columns=names, dtype="string")]
        while block := list(islice(rows, _ROWS_AT_ONCE)):
            blocks.append(pd.DataFrame(block, columns=names, dtype="string"))
    except csv.Error as error:
        raise BadInput.at(place, f"{path}, line {reader.line_num}: {error}; mend the quotes or copy the file again.") from error
    finally:
        csv.field_size_limit(limit)
    return pd.concat(blocks, ignore_index=True)


def _whole_rows(reader: Any, width: int, path: Path, place: str) -> Iterator[list[str]]:
    for row in reader:
        if row and len(row) != width:
            cells = f"{path}, line {reader.line_num} has {len(row)} cells, the header {width}"
            raise BadInput.at(place, f"{cells}; quote cells that hold the separator, or copy the file again if it is cut off.")
        if row:  # a blank line is no row
            yield row


def _check_delimiter(header: list[str], delimiter: str, path: Path, place: str) -> None:
    others = [other for other in ",;\t|" if other != delimiter and len(header) == 1 and other in header[0]]
    if others:
        message = f"{path} has one column, {header[0]!r}: its cells seem to be divided by {others[0]!r}"
        raise BadInput.at(place, f"{message}; .csv means commas and .tsv tabs, so write it anew as one of them.")


def _json_lines(file: TextIO, path: Path, place: str) -> pd.DataFrame:
    import pandas as pd

    records: list[dict[str, Any]] = []
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_once_each)
            if "\\u" in line:
                json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            reason = "one half of a surrogate pair, which is no character; write both halves, or the character itself"
            raise BadInput.at(place, f"{path}, line {number} holds {reason}.") from error
        except (ValueError, RecursionError) as error:  # besides broken syntax: a doubled key, thousands of digits or brackets
            reason = getattr(error, "msg", str(error))
            raise BadInput.at(place, f"{path}, line {number} is not JSON ({reason}); each line must be one object.") from error
        if not isinstance(record, dict):
            raise BadInput.at(place, f"{path}, line {number} holds a {type(record).__name__}; each line must be one object.")
        records.append(record)
    frame = pd.DataFrame(records)
    for name in frame.select_dtypes("float").columns:
        if frame[name].abs().max() >= _EXACT:  # whole numbers beside a missing one: pandas has made fractions of them
            frame[name] = pd.Series([record.get(name) for record in records], dtype=object)
    return frame


def _tagged_lines(file: TextIO, path: Path, place: str) -> pd.DataFrame:
    """A row a sentence: its words, the first column, and their tags, the last one. Blank lines divide sentences."""
    import pandas as pd

    sentences: list[list[tuple[str, str]]] = [[]]
    for number, line in enumerate(file, start=1):
        fields = line.split()
        if not fields:
            sentences.append([])
        elif len(fields) == 1:
            raise BadInput.at(place, f"{path}, line {number} holds {fields[0]!r} alone; a line is a word and, last, its tag.")
        elif fields[0] != "-DOCSTART-":
            sentences[-1].append((fields[0], fields[-1]))
    return pd.DataFrame([dict(zip((TOKENS, TAGS), map(list, zip(*each, strict=True)), strict=True)) for each in sentences if each])


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} given twice")
    return record


def _parquet(path: Path, place: str) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    whole_numbers = {pa.int64(): pd.Int64Dtype(), pa.uint64(): pd.UInt64Dtype()}  # else fractions, where one is missing: see _EXACT
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read()
        table.validate(full=True)
        frame: pd.DataFrame = table.to_pandas(types_mapper=whole_numbers.get)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BadInput.at(place, f"{path} is not a whole Parquet file ({reason}); copy or write it again.") from error
    # A named index is a column that pandas set aside; an unnamed one only counts rows.
    frame = frame.reset_index(drop=all(name is None for name in frame.index.names))
    return frame.rename(columns=str)


def _with_blanks(frame: pd.DataFrame, missing_values: Sequence[str]) -> pd.DataFrame:
    if not missing_values:
        return frame
    import pandas as pd

    from stillroom.data.columns import cells

    # Through `cells` on both sides, so that -999 also names the -999.0 of a Parquet column.
    blank = set(cells(pd.Series(list(missing_values), dtype=object)))
    masks = {name: [cell in blank for cell in cells(frame[name])] for name in frame.columns}
    return frame.mask(pd.DataFrame(masks, index=frame.index))
