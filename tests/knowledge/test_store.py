"""The store's laws: what was put is read back exactly, once, first come first served, by everyone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.knowledge import store as store_module
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify

Make = Callable[..., Any]

finite = st.floats(allow_nan=False, allow_infinity=False, width=64)
answer_arrays = st.one_of(
    hnp.arrays(np.float64, st.integers(1, 20), elements=finite),
    hnp.arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 12)), elements=finite),
    st.integers(900, 1000).flatmap(lambda k: hnp.arrays(np.float64, st.tuples(st.just(2), st.just(k)), elements=finite, fill=finite)),
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=4), inner, max_size=3),
    max_leaves=6,
)


def bits(values: Any) -> bytes:
    """Exact content: -0.0 and 0.0 differ, which == would hide."""
    return np.asarray(values, np.float64).tobytes()


@settings(max_examples=30, deadline=None)
@given(
    values=answer_arrays,
    extra=st.lists(st.fixed_dictionaries({"x": plain, "example": plain}), min_size=20, max_size=20),
    seal=st.booleans(),
)
def test_reading_gives_what_was_written(values: np.ndarray, extra: list[dict[str, Any]], seal: bool) -> None:
    facts = [{**extra[i], "i": i} for i in range(len(values))]
    keys = [fingerprint("answer", f) for f in facts]
    order = list(reversed(range(len(keys))))
    with tempfile.TemporaryDirectory() as folder:
        with KnowledgeStore(folder) as store:
            store.put(keys, values, facts)
            if seal:
                store.seal()
            assert bits(store.get([keys[i] for i in order])) == bits(values[order])
        with KnowledgeStore(folder, read_only=True) as store:
            got = store.get(keys)
            assert got.shape == values.shape
            assert bits(got) == bits(values)
            found = {record.key: record for record in store}
            assert len(store) == len(found) == len(keys)
            for key, value, fact in zip(keys, values, facts, strict=True):
                assert bits(found[key].value) == bits(value)
                # Through the fingerprint, since 1 == True == 1.0 and the key tells them apart.
                assert fingerprint("answer", found[key].facts) == fingerprint("answer", fact) == key
            assert verify(store).problems == ()


@pytest.mark.parametrize("sealed", [False, True])
def test_the_first_answer_wins(tmp_path: Path, make_answers: Make, sealed: bool) -> None:
    keys, values, facts = make_answers(10)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys[:6], values[:6], facts[:6])
        if sealed:
            store.seal()
        store.put(keys, 1 - values, facts)
        assert bits(store.get(keys)) == bits(np.concatenate([values[:6], 1 - values[6:]]))
        assert len(store) == 10
        assert sum(len(table) for _, _, table in store.unsealed()) == (4 if sealed else 10)  # the others were not even written
        twice = make_answers(2, start=50)
        store.put([twice[0][0]] * 2, twice[1], [twice[2][0]] * 2)
        assert bits(store.get(twice[0][:1])) == bits(twice[1][:1])


def test_missing_tells_positions_and_get_refuses_what_is_not_there(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(9)
    with KnowledgeStore(tmp_path) as store:
        assert store.missing(keys) == list(range(9))
        store.put(keys[:3], values[:3], facts[:3])
        store.seal()
        store.put(keys[6:], values[6:], facts[6:])
        assert store.missing(keys) == [3, 4, 5]
        assert store.missing([keys[4], keys[0], keys[4]]) == [0, 2]
        with pytest.raises(KeyError, match=keys[4]):
            store.get([keys[0], keys[4], keys[8]])
        assert store.missing([]) == []
        assert len(store.get([])) == 0
        assert bits(store.get([keys[8], keys[1], keys[8]])) == bits(values[[8, 1, 8]])


@pytest.mark.parametrize(
    "changed",
    [
        {"example": "sr1-other"},
        {"teacher": "sr1-other"},
        {"context": "sr1-other"},
        {"question": "value"},
        {"classes": ["class 1", "class 0", "class 2"]},
        {"classes": ["class 0", "class 1", "class 2", "class 3"]},
        {"seed": 1},
    ],
    ids=lambda changed: "-".join(f"{name}" for name in changed),
)
def test_each_fact_changes_the_key(tmp_path: Path, make_answers: Make, changed: dict[str, Any]) -> None:
    keys, values, facts = make_answers(1)
    (name,) = changed
    assert name in facts[0]
    assert changed[name] != facts[0][name]
    other = fingerprint("answer", {**facts[0], **changed})
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, values, facts)
        assert store.missing([keys[0], other]) == [1]


def test_the_list_above_names_every_fact(make_answers: Make) -> None:
    assert set(make_answers(1)[2][0]) == {"example", "teacher", "context", "question", "classes", "seed"}


def test_equal_facts_of_different_type_stay_apart(tmp_path: Path) -> None:
    facts = [{"example": "e", "seed": seed, "classes": ["a"]} for seed in (1, True, 1.0, "1")]
    keys = [fingerprint("answer", f) for f in facts]
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, np.arange(4.0), facts)
        store.seal()
        assert [type(record.facts["seed"]) for record in sorted(store, key=lambda r: r.value)] == [int, bool, float, str]
        assert verify(store).problems == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num_classes", [3, None])
def test_an_answer_that_is_not_finite_is_refused_with_its_batch(
    tmp_path: Path, make_answers: Make, bad: float, num_classes: int | None
) -> None:
    keys, values, facts = make_answers(5, num_classes)
    values.reshape(5, -1)[3, -1] = bad
    with KnowledgeStore(tmp_path) as store:
        with pytest.raises(StageFailed, match=f"example {facts[3]['example']} .*must be finite. 1 of the 5 answers"):
            store.put(keys, values, facts)
        assert len(store) == 0
        assert store.missing(keys) == [0, 1, 2, 3, 4]


def test_scalars_and_vectors_of_several_widths_share_a_store(tmp_path: Path, make_answers: Make) -> None:
    kinds = [make_answers(7, k, teacher=f"t{k}") for k in (None, 1, 2, 1000)]
    with KnowledgeStore(tmp_path) as store:
        for keys, values, facts in kinds:
            store.put(keys, values, facts)
        for _ in range(2):
            for keys, values, _ in kinds:
                assert store.get(keys).shape == values.shape
                assert bits(store.get(keys)) == bits(values)
            store.seal()
        with pytest.raises(AssertionError, match="different widths"):
            store.get([kinds[2][0][0], kinds[3][0][0]])
        assert len(store) == 28
        assert verify(store).answers == 28


def test_contexts_are_kept_once_and_read_alone(tmp_path: Path) -> None:
    contexts = {f"sr1-c{i}": [f"sr1-{i}{j}" for j in range(i)] for i in range(5)}
    with KnowledgeStore(tmp_path) as store:
        for name, rows in contexts.items():
            store.put_context(name, rows)
        store.put_context("sr1-c3", ["sr1-another"])
        assert {name: store.context(name) for name in contexts} == contexts
        store.seal()
        store.put_context("sr1-c3", ["sr1-another"])
        assert store.unsealed() == []
    with KnowledgeStore(tmp_path, read_only=True) as store:
        assert {name: store.context(name) for name in contexts} == contexts
        assert verify(store).contexts == 5
        with pytest.raises(KeyError, match="sr1-unknown"):
            store.context("sr1-unknown")


def test_a_reader_sees_another_writers_answers_at_once(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(12)
    with KnowledgeStore(tmp_path) as writer, KnowledgeStore(tmp_path, read_only=True) as reader:
        for start in range(0, 12, 4):
            part = slice(start, start + 4)
            writer.put(keys[part], values[part], facts[part])
            assert reader.missing(keys) == list(range(start + 4, 12))
            assert bits(reader.get(keys[: start + 4])) == bits(values[: start + 4])
            assert len(reader) == len(list(reader)) == start + 4
            if start == 4:
                writer.seal()
                assert len(reader) == len(list(reader)) == 8
        with pytest.raises(AssertionError, match="for reading"):
            reader.put(keys, values, facts)


def test_an_iteration_shows_the_store_as_it_was_when_it_began(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(9)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys[:3], values[:3], facts[:3])
        store.seal()
        store.put(keys[3:6], values[3:6], facts[3:6])
        iteration = iter(store)
        seen = [next(iteration).key]
        store.put(keys[6:], values[6:], facts[6:])
        store.seal()
        assert sorted([*seen, *(record.key for record in iteration)]) == sorted(keys[:6])
        assert sorted(record.key for record in store) == sorted(keys)


@pytest.mark.parametrize("moment", ["_refresh_journals", "_catalogue.refresh"])
def test_answers_that_are_sealed_while_a_reader_looks_are_seen(
    tmp_path: Path, make_answers: Make, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    keys, values, facts = make_answers(4)
    with KnowledgeStore(tmp_path) as writer, KnowledgeStore(tmp_path, read_only=True) as reader:
        writer.put(keys, values, facts)
        owner = reader._catalogue if "." in moment else reader
        look = getattr(owner, moment.rpartition(".")[2])

        def look_and_then_seal() -> None:
            look()
            writer.seal()

        monkeypatch.setattr(owner, moment.rpartition(".")[2], look_and_then_seal)
        assert reader.missing(keys) == []
        assert bits(reader.get(keys)) == bits(values)


def test_two_writers_of_one_process_never_answer_a_key_twice(tmp_path: Path, make_answers: Make, shards_of: Make) -> None:
    keys, values, facts = make_answers(8)
    with KnowledgeStore(tmp_path) as one, KnowledgeStore(tmp_path) as two:
        one.put(keys[:5], values[:5], facts[:5])
        two.put(keys, -values, facts)
        assert bits(one.get(keys)) == bits(two.get(keys)) == bits(np.concatenate([values[:5], -values[5:]]))
        one.seal()
        two.put(keys[:5], -values[:5], facts[:5])
        assert len(one) == len(two) == 8
    assert sum(pq.read_metadata(path).num_rows for path in shards_of(tmp_path)) == 8


WRITER = """
import json, sys
import numpy as np
from stillroom.core.fingerprint import fingerprint
from stillroom.knowledge.store import KnowledgeStore
folder, mark = sys.argv[1], float(sys.argv[2])
rng = np.random.default_rng(int(mark))
facts = [{"example": str(i)} for i in rng.permutation(600).tolist()]
keys = [fingerprint("answer", f) for f in facts]
with KnowledgeStore(folder) as store:
    print("ready", flush=True); sys.stdin.readline()
    for start in range(0, 600, 10):
        part = slice(start, start + 10)
        store.put(keys[part], np.full(10, mark), facts[part])
        first = store.get(keys[part])
        assert (store.get(keys[part]) == first).all()
        if rng.random() < 0.05:
            store.seal()
"""


def test_two_processes_write_at_once(tmp_path: Path, shards_of: Make) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), mark], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for mark in ("1", "2")
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    with KnowledgeStore(tmp_path, read_only=True) as store:
        report = verify(store)
        assert (report.answers, report.repeated, report.problems) == (600, 0, ())
        assert {record.value for record in store} == {1.0, 2.0}  # both had their share
    assert sum(pq.read_metadata(path).num_rows for path in shards_of(tmp_path)) == 600


def test_threads_share_a_store(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(120)
    errors: list[BaseException] = []
    patience = sys.getswitchinterval()
    with KnowledgeStore(tmp_path) as store:

        def work(first: int) -> None:
            try:
                for i in range(first, 120, 2):
                    store.put(keys[i : i + 3], values[i : i + 3], facts[i : i + 3])
                    assert bits(store.get(keys[i : i + 1])) == bits(values[i : i + 1])
                    if i % 10 == first:
                        store.seal()
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 1, 0, 1)]
        sys.setswitchinterval(1e-6)  # so that they meet in every line
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(patience)
        assert errors == []
        assert bits(store.get(keys)) == bits(values)
        assert len(store) == len(list(store)) == 120
        assert verify(store).repeated == 0


def test_a_large_journal_is_sealed_by_itself(tmp_path: Path, make_answers: Make, shards_of: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_SEAL_BYTES", 20_000)
    keys, values, facts = make_answers(500)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, values, facts)  # larger than a journal may be: in parts
        assert len(shards_of(tmp_path)) >= 2
        assert bits(store.get(keys)) == bits(values)
        assert len(store) == 500


def test_a_shard_reads_as_plain_parquet(tmp_path: Path, make_answers: Make, shards_of: Make) -> None:
    keys, values, facts = make_answers(4)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, values, facts)
    (path,) = shards_of(tmp_path)
    meta = pq.read_metadata(path)
    assert (meta.metadata[b"format"], meta.metadata[b"kind"]) == (b"stillroom/knowledge@1", b"answer")
    assert {meta.row_group(0).column(i).compression for i in range(meta.num_columns)} == {"ZSTD"}
    rows = {row["key"]: row for row in pq.read_table(path).to_pylist()}
    for key, value, fact in zip(keys, values, facts, strict=True):
        assert rows[key]["answer"] == value.tolist()
        assert {"example": rows[key]["example"], **json.loads(rows[key]["facts"])} == fact


def test_opening_reads_no_values(tmp_path: Path, make_answers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values, facts = make_answers(50)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, values, facts)
    columns: list[object] = []
    read = pq.ParquetFile.read
    monkeypatch.setattr(pq.ParquetFile, "read", lambda self, names=None, **more: columns.append(names) or read(self, names, **more))
    with KnowledgeStore(tmp_path) as store:
        assert columns == []
        assert store.missing(keys) == []
        assert len(store) == 50
        assert columns == [["key"]]
        store.get(keys[:20])
        store.get(keys[20:])
        assert columns == [["key"], ["answer"]]


@pytest.fixture
def remote() -> str:
    import fsspec

    url = "memory://stillroom-test"
    files = fsspec.filesystem("memory")
    if files.exists(url):
        files.rm(url, recursive=True)
    return url


def test_a_url_holds_the_shards_and_this_machine_the_journal(tmp_path: Path, make_answers: Make, remote: str) -> None:
    import fsspec

    keys, values, facts = make_answers(20)
    with KnowledgeStore(remote, journals=tmp_path) as store:
        store.put_context("sr1-c", ["a"])
        store.put(keys[:10], values[:10], facts[:10])
        assert fsspec.filesystem("memory").glob(f"{remote}/**") == []
    dead = KnowledgeStore(remote, journals=tmp_path)
    dead.put(keys, -values, facts)
    dead.close(seal=False)
    with KnowledgeStore(remote, journals=tmp_path, read_only=True) as store:
        assert bits(store.get(keys)) == bits(np.concatenate([values[:10], -values[10:]]))
    with KnowledgeStore(remote, journals=tmp_path) as store:
        assert store.context("sr1-c") == ["a"]
        assert len(list(store)) == len(store) == 20
        assert verify(store).problems == ()
        assert len(store.shards.names()) == 3
        assert store.unsealed() == []


def test_of_two_machines_answers_below_a_url_the_shard_sealed_first_counts(
    tmp_path: Path, make_answers: Make, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values, facts = make_answers(300)
    with KnowledgeStore(remote, journals=tmp_path / "one") as one, KnowledgeStore(remote, journals=tmp_path / "two") as two:
        two.put(keys, -values, facts)
        one.put(keys, values, facts)
        one.seal()
        with monkeypatch.context() as patch:
            patch.setattr(two.shards, "names", list)  # both seal in the same instant: neither sees the other's shard
            two.seal()
    with KnowledgeStore(remote, journals=tmp_path / "three", read_only=True) as store:
        assert bits(store.get(keys)) == bits(values)
        assert len(store) == len(list(store)) == 300
        assert sum(float(record.value[0]) for record in store) > 0
        assert verify(store).repeated == 300


def test_without_a_folder_for_journals_a_url_uses_the_users_cache(
    tmp_path: Path, make_answers: Make, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with KnowledgeStore(remote) as store:
        store.put(*make_answers(1))
        assert len(list(tmp_path.glob("stillroom/journals/*/*.sqlite"))) == 1


def test_a_file_url_is_a_folder(tmp_path: Path, make_answers: Make, shards_of: Make) -> None:
    keys, values, facts = make_answers(3)
    with KnowledgeStore(f"file://{tmp_path}/store/") as store:
        store.put(keys, values, facts)
    assert len(shards_of(tmp_path / "store")) == 1


def test_places_that_cannot_be_stores_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file is a file; a knowledge store is a folder"):
        KnowledgeStore(tmp_path / "file")
    with pytest.raises(BadInput, match="does not exist; run 'stillroom label' first"):
        KnowledgeStore(tmp_path / "nothing", read_only=True)
    with pytest.raises(BadInput, match="is no knowledge store; give the folder that holds 'shards', such as runs/NAME/knowledge"):
        KnowledgeStore(tmp_path, read_only=True)  # the run's folder, say: nothing to verify is not the same as all is well
    with pytest.raises(BadInput, match="'gopher://x/y/shards' cannot be opened: Protocol not known"):
        KnowledgeStore("gopher://x/y")
    with pytest.raises(StageFailed, match="a file stands where a folder is needed"):
        KnowledgeStore(tmp_path / "file" / "below")


def test_a_store_deleted_under_a_writer_starts_anew(tmp_path: Path, make_answers: Make) -> None:
    import shutil

    keys, values, facts = make_answers(4)
    with KnowledgeStore(tmp_path / "s") as store:
        store.put(keys[:2], values[:2], facts[:2])
        shutil.rmtree(tmp_path / "s")
        store.put(keys[2:], values[2:], facts[2:])
        assert store.missing(keys) == [0, 1]
    with KnowledgeStore(tmp_path / "s", read_only=True) as store:
        assert store.missing(keys) == [0, 1]
