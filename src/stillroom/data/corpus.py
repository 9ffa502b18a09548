"""From a language job's `data` section to token sequences: for training, for the test, and for other domains."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from stillroom.core.errors import BadInput, Problem, nearest
from stillroom.core.token_records import Corpus, Sequences
from stillroom.data.conversations import conversation
from stillroom.data.hub import read_split
from stillroom.data.sequences import MarkedText, completion, plain_text, tokenise
from stillroom.data.sources import FORMATS, TEXT_FORMATS, check_files, read_table

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase

    from stillroom.spec.data import DataSpec

T = TypeVar("T")
PLACES = {"file": ("data.source.train", "data.source.test"), "hub": ("data.source.split", "data.source.test_split")}
"""What names the examples, and the held-out ones, by the kind of the source."""
_SPLIT = 11
"""Keeps the split's random numbers apart from others drawn from the job's seed."""


def build_corpus(spec: DataSpec, tokenizer: PreTrainedTokenizerBase, *, max_length: int, seed: int) -> Corpus:
    """Read, check, split and tokenise the documents of a language job.

    Deterministic: the same files, section, tokenizer, length and seed give the same sequences in the same parts. Documents
    are split, not sequences: the parts of a long one stay together.

    Raises:
        BadInput: what is wrong with the files, the columns, the rows or the template, each with its place and a remedy.
    """
    train_place, test_place = PLACES[spec.source.kind]
    documents = _documents(spec, tokenizer)
    notes: list[str] = []
    everything = documents.pop(train_place)
    if (limit := spec.source.limit if spec.source.kind == "file" else None) is not None and limit < len(everything):
        notes.append(f"A trial on part of the data: {limit} of the {len(everything)} documents of {train_place} (data.source.limit).")
        everything = drawn(everything, limit, seed)
    parts = split(everything, documents.pop(test_place, None), spec, seed)
    others = {place.rpartition(".")[2]: drawn(texts, spec.other_documents, seed) for place, texts in documents.items()}

    def tokenised(part: str, texts: list[MarkedText]) -> Sequences:
        sequences, losses = tokenise(texts, tokenizer, max_length=max_length, place=f"data ({part} documents)")
        notes.extend(f"{part}: {note}" for note in losses.notes(max_length))
        return sequences

    own = {part: tokenised(part, texts) for part, texts in parts.items() if texts}
    far = {name: tokenised(name, texts) for name, texts in others.items()}
    known = {document.text for document in parts["train"]}
    for what, texts in {"Test documents": parts["test"], **{f"Documents of {name}": texts for name, texts in others.items()}}.items():
        if num_known := sum(document.text in known for document in texts):
            notes.append(f"{what} that are training documents too: {num_known}; what is measured may flatter every arm.")
    return Corpus(own["train"], own["test"], own.get("validation"), far, tuple(document.halves for document in parts["test"]), tuple(notes))


def read_documents(path: Path, spec: DataSpec, tokenizer: PreTrainedTokenizerBase, *, place: str) -> list[MarkedText]:
    """The documents of a further file, in the shape of the job's own.

    Raises:
        BadInput: the file, its columns or a row, as `build_corpus`.
    """
    if problems := check_files({place: path}, formats=(*FORMATS, *TEXT_FORMATS)):
        raise BadInput(problems)
    return _from_file(path, place, spec, tokenizer)


def read_prompts(path: Path, spec: DataSpec, *, place: str) -> list[Any]:
    """What stands in the column that the job's prompts are in: its messages, its prompts, or else its texts. Of a plain text, what
    blank lines divide.

    Raises:
        BadInput: the file or the column.
    """
    if problems := check_files({place: path}, formats=(*FORMATS, *TEXT_FORMATS)):
        raise BadInput(problems)
    if path.name.lower().endswith(TEXT_FORMATS):
        return [document.text for document in _plain_documents(path, place)]
    table, column = read_table(path, place=place), spec.messages or spec.prompt or spec.text or "text"
    if column not in table.columns:
        raise BadInput.at(place, f"{path} has no column {column!r}; {nearest(column, table.columns)}")
    return [listed(cell) if spec.messages else text_of(cell, f"{place}, row {row}") for row, cell in enumerate(table[column], start=1)]


def _documents(spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[MarkedText]]:
    """The documents by the place that names them."""
    files = {place: Path(path) for place, path in _named_files(spec) if path is not None}
    if problems := check_files(files, formats=(*FORMATS, *TEXT_FORMATS)):
        raise BadInput(problems)
    found = {}
    for place, table, name in hub_tables(spec):
        found[place] = _from_table(table, name, place, spec, tokenizer)
    return found | {place: _from_file(path, place, spec, tokenizer) for place, path in files.items()}


def _from_file(path: Path, place: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> list[MarkedText]:
    if path.name.lower().endswith(TEXT_FORMATS):
        return _plain_documents(path, place)
    return _from_table(read_table(path, place=place), str(path), place, spec, tokenizer)


def _named_files(spec: DataSpec) -> Iterator[tuple[str, str | None]]:
    if spec.source.kind == "file":
        yield from zip(PLACES["file"], (spec.source.train, spec.source.test), strict=True)
    yield from ((f"data.other_domains.{name}", path) for name, path in spec.other_domains.items())


def hub_tables(spec: DataSpec) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """(place, rows, what they are called)."""
    source = spec.source
    if source.kind != "hub":
        return
    for place, part in zip(PLACES["hub"], (source.split, source.test_split), strict=True):
        if part is not None:
            table = read_split(source.id, split=part, subset=source.subset, revision=source.revision, place=place)
            yield place, table, f"{source.id} ({part})"


def _from_table(table: pd.DataFrame, name: str, place: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> list[MarkedText]:
    columns = [column for column in (spec.text, spec.prompt, spec.completion, spec.messages) if column]
    if missing := [column for column in columns if column not in table.columns]:
        raise BadInput([Problem(place, f"{name} has no column {column!r}; {nearest(column, table.columns)}") for column in missing])
    return list(_rows(table, place, spec, tokenizer))


def _rows(table: pd.DataFrame, place: str, spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> Iterator[MarkedText]:
    for number, row in enumerate(table.to_dict("records"), start=1):
        where = f"{place}, row {number}"
        if spec.messages:
            yield conversation(listed(row[spec.messages]), tokenizer, place=where)
        elif spec.prompt:
            assert spec.completion, "checked by the job"
            yield completion(text_of(row[spec.prompt], where), text_of(row[spec.completion], where))
        else:
            assert spec.text, "checked by the job"
            yield plain_text(text_of(row[spec.text], where))


def _plain_documents(path: Path, place: str) -> list[MarkedText]:
    """A plain text's documents: what blank lines divide."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            blocks = _blocks(file)
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise BadInput.at(place, f"cannot read {path}: {error}; it must be a whole UTF-8 text.") from error
    if not blocks:
        raise BadInput.at(place, f"{path} holds no text; an empty part can be neither trained nor measured on.")
    return [plain_text(block) for block in blocks]


def _blocks(lines: Any) -> list[str]:
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return ["".join(block).strip("\n") for block in blocks if block]


def listed(cell: Any) -> Any:
    """A cell without NumPy."""
    # Parquet hands lists over as arrays.
    return cell.tolist() if isinstance(cell, np.ndarray) else cell


def text_of(cell: Any, where: str) -> str:
    """A cell as text; "" where it is blank.

    Raises:
        BadInput: it is something else.
    """
    if isinstance(cell, str):
        return cell
    if cell is None or cell != cell:
        return ""
    raise BadInput.at(where, f"holds {cell!r}, no text; name the columns with text in data.")


def split(everything: Sequence[T], test: list[T] | None, spec: DataSpec, seed: int) -> dict[str, list[T]]:
    """The documents of the parts "train", "test" and "validation", in their order; the last may be empty.

    Raises:
        BadInput: shares that leave a part empty.
    """
    num_test = 0 if test is not None else round(spec.split.test * len(everything))
    num_validation = round(spec.split.validation * (len(everything) - num_test))
    if test is None and not num_test:
        remedy = f"give {PLACES[spec.source.kind][1]}, or a larger data.split.test"
        raise BadInput.at(
            "data.split.test", f"= {spec.split.test} of {len(everything)} documents leaves no document for the test; {remedy}."
        )
    if num_test + num_validation >= len(everything):
        raise BadInput.at("data.split", f"leaves none of {len(everything)} documents for training; take smaller shares.")
    order = _order(len(everything), seed)
    cuts = {
        "test": order[:num_test],
        "validation": order[num_test : num_test + num_validation],
        "train": order[num_test + num_validation :],
    }
    parts = {part: [everything[row] for row in np.sort(rows)] for part, rows in cuts.items()}
    return parts if test is None else {**parts, "test": test}


def drawn(documents: list[T], limit: int, seed: int) -> list[T]:
    """So many of them, in their order."""
    return [documents[row] for row in np.sort(_order(len(documents), seed)[:limit])]


def _order(num: int, seed: int) -> NDArray[np.intp]:
    return np.random.default_rng([seed, _SPLIT]).permutation(num)
