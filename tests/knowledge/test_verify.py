"""Damage of every kind is told, with the file and the remedy; nothing is set aside or served in silence."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stillroom.core.errors import StageFailed
from stillroom.knowledge import shards as shards_module
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify

Make = Callable[..., Any]
REMEDY = "Delete it and run 'stillroom label' again"


@pytest.fixture
def filled(tmp_path: Path, make_answers: Make) -> tuple[Path, list[str], np.ndarray]:
    """A store of one answer shard and one context shard."""
    keys, values, facts = make_answers(40, context="sr1-c")
    with KnowledgeStore(tmp_path) as store:
        store.put_context("sr1-c", ["a", "b"])
        store.put(keys, values, facts)
    return tmp_path, keys, values


def shard(folder: Path, kind: str = "answer") -> Path:
    (path,) = (folder / "shards").glob(f"{kind}-*.parquet")
    return path


def test_a_whole_store_passes(filled: tuple[Path, list[str], np.ndarray]) -> None:
    with KnowledgeStore(filled[0], read_only=True) as store:
        report = verify(store)
    assert (report.answers, report.contexts, report.repeated, report.problems) == (40, 1, 0, ())
    report.require_whole()


@pytest.mark.parametrize("kept", [0, 3, 0.5, -1], ids=["empty", "three bytes", "half", "all but a byte"])
@pytest.mark.parametrize("kind", ["answer", "context"])
def test_a_truncated_shard_is_one_clear_error(filled: tuple[Path, list[str], np.ndarray], kind: str, kept: float) -> None:
    folder, keys, _ = filled
    path = shard(folder, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if 0 < kept < 1 else int(kept)])
    message = f"{re.escape(str(path))}: the shard is damaged.*{REMEDY}"
    with KnowledgeStore(folder) as store:
        for read in (store.missing, store.get, lambda _: len(store), lambda _: list(store), lambda _: store.context("sr1-c")):
            with pytest.raises(StageFailed, match=message):
                read(keys)
        report = verify(store)
        assert any(re.search(message, problem) for problem in report.problems)
        with pytest.raises(StageFailed, match=message):
            report.require_whole()
        assert path.exists()  # deleting it is the user's to do
        path.unlink()
        assert store.missing(keys) == (list(range(40)) if kind == "answer" else [])


def test_a_damaged_byte_is_noticed_or_cannot_matter(filled: tuple[Path, list[str], np.ndarray]) -> None:
    folder, keys, values = filled
    path = shard(folder)
    good = path.read_bytes()
    outcomes = {"refused": 0, "right": 0}
    for place in range(0, len(good), 23):
        bad = bytearray(good)
        bad[place] ^= 0x10
        path.write_bytes(bad)
        with KnowledgeStore(folder, read_only=True) as store:
            assert len(verify(store).problems) == 1  # and not one a row
            assert str(path) in verify(store).problems[0]
            try:
                assert np.array_equal(store.get(keys), values)
                outcomes["right"] += 1
            except StageFailed:
                outcomes["refused"] += 1
    assert min(outcomes.values()) > 5


def test_a_page_that_ends_early_is_noticed() -> None:
    table = pa.table({"key": ["a", "b"]})
    metadata = SimpleNamespace(num_rows=3)
    shard = SimpleNamespace(metadata=metadata, read=lambda names, **_: table.select(names), iter_batches=lambda **_: table.to_batches())
    with pytest.raises(pa.ArrowInvalid, match="2 of 3 rows"):
        shards_module.read_column(shard, "key")
    with pytest.raises(pa.ArrowInvalid, match="2 of 3 rows"):
        list(shards_module.read_batches(shard))


def test_answers_whose_key_is_not_that_of_their_facts_are_told(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(5)
    facts[2] = {**facts[2], "teacher": "sr1-another"}
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, values, facts)
        for _ in range(2):  # in the journal, and in a shard
            report = verify(store)
            assert report.answers == 5
            (problem,) = report.problems
            assert f"the keys of 1 answers, {keys[2]} the first, are not the fingerprints of their facts" in problem
            store.seal()


def test_an_unknown_hashing_rule_is_named(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(5)
    old = [key.replace("sr1-", "sr0-") for key in keys[:2]]
    with KnowledgeStore(tmp_path) as store:
        store.put([*old, *keys[2:]], values, facts)
        store.seal()
        (problem,) = verify(store).problems
    assert "2 answers follow the hashing rule 'sr0'; this version knows 'sr1' alone" in problem
    assert "stillroom label" in problem


def test_a_checksum_of_an_unknown_rule_is_named(filled: tuple[Path, list[str], np.ndarray]) -> None:
    path = shard(filled[0])
    path.rename(path.with_name(path.name.replace("-sr1-", "-sr9-")))
    with KnowledgeStore(filled[0], read_only=True) as store:
        (problem,) = verify(store).problems
        assert len(store) == 40
    assert "the hashing rule of its checksum is 'sr9'; this version knows 'sr1' alone" in problem


def test_a_context_that_is_not_recorded_is_told(tmp_path: Path, make_answers: Make) -> None:
    with KnowledgeStore(tmp_path) as store:
        store.put(*make_answers(5, context="sr1-c"))
        (problem,) = verify(store).problems
        assert "name the context sr1-c, whose rows are not recorded" in problem
        store.put_context("sr1-c", ["a"])
        assert verify(store).problems == ()


def test_a_shard_of_another_format_is_refused_by_name(
    tmp_path: Path, make_answers: Make, shards_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values, facts = make_answers(3)
    with monkeypatch.context() as patch, KnowledgeStore(tmp_path) as store:
        patch.setattr(shards_module, "FORMAT", b"stillroom/knowledge@2")
        store.put(keys, values, facts)
        store.seal()
    message = re.escape(f"{shards_of(tmp_path)[0]}: its format is b'stillroom/knowledge@2'; this version reads b'stillroom/knowledge@1'")
    with KnowledgeStore(tmp_path) as store:
        with pytest.raises(StageFailed, match=message):
            store.get(keys)
        assert re.match(message, verify(store).problems[0])


def test_other_files_and_later_kinds_are_left_alone(filled: tuple[Path, list[str], np.ndarray]) -> None:
    folder, keys, _ = filled
    path = shard(folder)
    later = path.with_name(path.name.replace("answer-", "token-"))
    later.write_bytes(b"of a version to come")
    (folder / "shards" / "notes.parquet").write_bytes(b"the user's")
    with KnowledgeStore(folder) as store:
        assert store.missing(keys) == []
        assert verify(store).problems == ()
    assert later.exists()


def test_a_shard_that_vanished_is_one_clear_error(filled: tuple[Path, list[str], np.ndarray]) -> None:
    folder, keys, _ = filled
    with KnowledgeStore(folder) as store:
        assert store.missing(keys) == []
        shard(folder).unlink()
        with pytest.raises(StageFailed, match=r"cannot read .*answer-.*: No such file"):
            store.get(keys)


@pytest.mark.parametrize("content", [b"not a database " * 500, b""], ids=["other", "empty"])
def test_a_damaged_journal_is_one_clear_error(tmp_path: Path, make_answers: Make, content: bytes) -> None:
    keys, values, facts = make_answers(3)
    dead = KnowledgeStore(tmp_path)
    dead.put(keys, values, facts)
    dead.close(seal=False)
    (journal,) = (tmp_path / "journals").glob("*.sqlite")
    good = journal.read_bytes()
    journal.write_bytes(content)
    message = f"{re.escape(str(journal))}: the journal is damaged. {REMEDY}"
    with pytest.raises(StageFailed, match=message):
        KnowledgeStore(tmp_path)
    with KnowledgeStore(tmp_path, read_only=True) as store, pytest.raises(StageFailed, match=message):
        store.missing(keys)
    journal.write_bytes(good)
    with KnowledgeStore(tmp_path) as store:  # whose lock the failed opening has let go
        assert store.get(keys).tolist() == values.tolist()


def test_a_damaged_put_in_a_journal_is_one_clear_error(tmp_path: Path, make_answers: Make) -> None:
    dead = KnowledgeStore(tmp_path)
    dead.put(*make_answers(3))
    assert dead._own is not None
    dead._own._connection.execute("UPDATE puts SET content = substr(content, 1, 40)")
    dead.close(seal=False)
    with pytest.raises(StageFailed, match="the journal is damaged"):
        KnowledgeStore(tmp_path)


def test_a_row_group_holds_one_context(tmp_path: Path) -> None:
    with KnowledgeStore(tmp_path) as store:
        for i in range(3):
            store.put_context(f"sr1-{i}", ["a"] * i)
    assert pq.read_metadata(shard(tmp_path, "context")).num_row_groups == 3
