"""Prompts that a teacher answers, with the data's own answers where it has any, and the texts that a student learns from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom.core.errors import BadInput, Problem, nearest
from stillroom.data.conversations import chat_prompt, conversation
from stillroom.data.corpus import PLACES, drawn, hub_tables, listed, split, text_of
from stillroom.data.sequences import MarkedText, completion
from stillroom.data.sources import check_files, read_table

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedTokenizerBase

    from stillroom.spec.data import DataSpec

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Exchange:
    """What is asked, and what could be answered.

    Attributes:
        messages: up to the answer; of a prompt one message of the user's.
        gold: the data's own answer; "" where it has none.
        row: the data's row as plain data (JSON).
        place: names the row in messages.
        is_chat: messages came from the data, and the tokenizer's chat template writes them.
    """

    messages: tuple[Message, ...]
    gold: str
    row: Mapping[str, Any]
    place: str
    is_chat: bool = False

    @property
    def question(self) -> str:
        """What the user says last."""
        return next((str(turn["content"]) for turn in reversed(self.messages) if turn["role"] == "user"), "")

    def learnt(self, answer: str, tokenizer: PreTrainedTokenizerBase) -> MarkedText:
        """The exchange as a student reads it, with this answer, which alone is learnt.

        Raises:
            BadInput: as `conversations.conversation`.
        """
        if not self.is_chat:
            return completion(before_answer(self.question), answer.strip())
        whole = conversation([*self.messages, {"role": "assistant", "content": answer}], tokenizer, place=self.place)
        return replace(whole, spans=whole.spans[-1:])

    def prompt(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The text after which a student answers.

        Raises:
            BadInput: as `conversations.chat_prompt`.
        """
        return chat_prompt(self.messages, tokenizer, place=self.place) if self.is_chat else before_answer(self.question)


@dataclass(frozen=True)
class Exchanges:
    """The exchanges of a job, in the order of its rows. `notes`: findings that a reader of the report must see."""

    train: tuple[Exchange, ...]
    test: tuple[Exchange, ...]
    validation: tuple[Exchange, ...] = ()
    notes: tuple[str, ...] = ()


def before_answer(prompt: str) -> str:
    """A prompt as a student reads it: an answer begins on a line of its own, so that no token holds the end of one and the beginning
    of the other."""
    return f"{prompt.rstrip()}\n"


def read_exchanges(spec: DataSpec, *, seed: int) -> Exchanges:
    """Read, check and split the rows of a job whose teacher answers prompts: the same rows in the same parts for the same seed.

    Raises:
        BadInput: the files, their columns, a row without a prompt, rows of which some have an answer and some have none.
    """
    train_place, test_place = PLACES[spec.source.kind]
    found = {place: _exchanges(table, name, place, spec) for place, table, name in _tables(spec)}
    _require_all_or_none([each for exchanges in found.values() for each in exchanges])
    everything, notes = found[train_place], []
    if (limit := spec.source.limit if spec.source.kind == "file" else None) is not None and limit < len(everything):
        notes.append(f"A trial on part of the data: {limit} of the {len(everything)} rows of {train_place} (data.source.limit).")
        everything = drawn(everything, limit, seed)
    parts = split(everything, found.get(test_place), spec, seed)
    known = {json.dumps(each.messages) for each in parts["train"]}
    if num_known := sum(json.dumps(each.messages) in known for each in parts["test"]):
        notes.append(f"Test prompts that are training prompts too: {num_known}; what is measured may flatter every arm.")
    return Exchanges(tuple(parts["train"]), tuple(parts["test"]), tuple(parts["validation"]), tuple(notes))


def read_answered(path: Path, spec: DataSpec, *, place: str) -> list[Exchange]:
    """The exchanges of a further file, in the shape of the job's own; each needs its answer.

    Raises:
        BadInput: the file, its columns, or a row.
    """
    if problems := check_files({place: path}):
        raise BadInput(problems)
    found = _exchanges(read_table(path, place=place), str(path), place, spec)
    if lacking := [each for each in found if not each.gold]:
        raise BadInput.at(lacking[0].place, "has no answer: how well an answer is foreseen needs one; `stillroom write` writes them.")
    return found


def _tables(spec: DataSpec) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """(place, rows, what they are called)."""
    if spec.source.kind != "file":
        yield from hub_tables(spec)
        return
    named = zip(PLACES["file"], (spec.source.train, spec.source.test), strict=True)
    files = {place: Path(path) for place, path in named if path is not None}
    if problems := check_files(files):
        raise BadInput(problems)
    for place, path in files.items():
        yield place, read_table(path, place=place), str(path)


def _exchanges(table: pd.DataFrame, name: str, place: str, spec: DataSpec) -> list[Exchange]:
    columns = [column for column in (spec.prompt, spec.completion, spec.messages) if column]
    if missing := [column for column in columns if column not in table.columns]:
        raise BadInput([Problem(place, f"{name} has no column {column!r}; {nearest(column, table.columns)}") for column in missing])
    return [_exchange(row, f"{place}, row {number}", spec) for number, row in enumerate(table.to_dict("records"), start=1)]


def _exchange(cells: Mapping[Any, Any], place: str, spec: DataSpec) -> Exchange:
    row = {str(name): _plain(cell) for name, cell in cells.items()}
    if spec.messages:
        return _conversation(row, row[spec.messages], place)
    assert spec.prompt, "checked by the job"
    prompt = text_of(row[spec.prompt], place)
    if not prompt.strip():
        raise BadInput.at(place, "has no prompt: there is nothing to answer; remove the row.")
    return Exchange(({"role": "user", "content": prompt},), _gold(row[spec.completion]) if spec.completion else "", row, place)


def _conversation(row: Mapping[str, Any], turns: Any, place: str) -> Exchange:
    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in turns
    ):
        raise BadInput.at(place, f"holds {str(turns)[:60]!r}; data.messages must be a list of messages with 'role' and 'content'.")
    has_answer = bool(turns) and turns[-1]["role"] == "assistant"
    asked = tuple({"role": turn["role"], "content": turn["content"]} for turn in (turns[:-1] if has_answer else turns))
    if not asked or asked[-1]["role"] == "assistant":
        raise BadInput.at(place, "has nothing that the teacher could answer; before an answer stands what the user says.")
    return Exchange(asked, turns[-1]["content"].strip() if has_answer else "", row, place, is_chat=True)


def _gold(cell: Any) -> str:
    """An answer as text: of a number or a record, as JSON Lines may hold it, its JSON."""
    return "" if cell is None else cell.strip() if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False)


def _require_all_or_none(exchanges: Sequence[Exchange]) -> None:
    lacking = [each for each in exchanges if not each.gold]
    if lacking and len(lacking) < len(exchanges):
        reason = f"has no answer, as {len(lacking)} of {len(exchanges)} rows; either all have one, or none"
        raise BadInput.at(lacking[0].place, f"{reason}: remove those rows, or leave data.completion out.")


def _plain(cell: Any) -> Any:
    """A cell as JSON can hold it."""
    cell = listed(cell)
    if isinstance(cell, dict):
        return {str(name): _plain(part) for name, part in cell.items()}
    if isinstance(cell, list):
        return [_plain(part) for part in cell]
    if cell is None or isinstance(cell, str | bool | int):
        return cell
    if isinstance(cell, float):
        return None if cell != cell else cell
    return cell.item() if hasattr(cell, "item") else str(cell)
