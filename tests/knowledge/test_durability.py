"""Killed, out of space, or not allowed to write: nothing that was put is lost, nothing is doubled, and the error is clear."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.knowledge import catalogue
from stillroom.knowledge.journal import Journal
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify

Make = Callable[..., Any]


def run(script: str, *arguments: object) -> str:
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows_in(shards: list[Path]) -> int:
    return sum(pq.read_metadata(path).num_rows for path in shards)


# One process forks a writer, kills it at a random moment of its work, and notes what it had reported as put; twenty
# times over one store, so that each writer also takes over from a dead one. A third of the puts is followed by a seal.
KILLED = """
import json, os, random, signal, sys, time
import numpy as np, pandas
from stillroom.core.fingerprint import fingerprint
from stillroom.knowledge.store import KnowledgeStore

key_of = {str(i): fingerprint("answer", {"example": str(i)}) for i in range(20_000)}

def work(folder, seed, report):
    chance = random.Random(seed)
    store = KnowledgeStore(folder)
    facts = [{"example": example} for example in key_of]
    chance.shuffle(facts)
    for start in range(0, len(facts), 7):
        part = facts[start : start + 7]
        store.put([key_of[f["example"]] for f in part], np.array([float(f["example"]) for f in part]), part)
        os.write(report, "".join(f["example"] + "\\n" for f in part).encode())
        if chance.random() < 0.3:
            store.seal()

chance, reported = random.Random(1), []
for attempt in range(20):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        work(sys.argv[1], attempt, writing)
        os._exit(1)
    os.close(writing)
    os.set_blocking(reading, True)
    heard = os.read(reading, 1)  # its first answers are stored
    time.sleep(chance.uniform(0, 0.12))
    os.kill(child, signal.SIGKILL)
    while block := os.read(reading, 1 << 16):
        heard += block
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.close(reading)
    reported += heard.decode().rpartition("\\n")[0].split("\\n")
print(json.dumps(reported))
"""


def test_a_writer_killed_at_any_moment_loses_nothing_and_doubles_nothing(tmp_path: Path, shards_of: Make) -> None:
    reported = set(json.loads(run(KILLED, tmp_path)))
    assert len(reported) > 200
    keys = {example: fingerprint("answer", {"example": example}) for example in reported}

    def check(store: KnowledgeStore) -> int:
        assert store.missing(list(keys.values())) == []
        assert store.get(list(keys.values())).tolist() == [float(example) for example in keys]
        assert verify(store).problems == ()
        records = [record.key for record in store]
        assert len(records) == len(set(records)) == len(store)
        return len(store)

    with KnowledgeStore(tmp_path, read_only=True) as store:  # with the journal of the last one as it was left
        before = check(store)
    with KnowledgeStore(tmp_path) as store:
        assert check(store) == before
        assert verify(store).repeated == 0
        assert store.unsealed() == []
    assert rows_in(shards_of(tmp_path)) == before
    assert [path.name for path in (tmp_path / "journals").iterdir()] == ["lock"]
    assert list((tmp_path / "shards").glob(".*")) == []


def test_a_put_waits_for_the_disk(tmp_path: Path, make_answers: Make) -> None:
    """No test can cut the power; this holds the two settings under which SQLite promises to survive it."""
    with KnowledgeStore(tmp_path) as store:
        store.put(*make_answers(1))
        assert store._own is not None
        settings = [store._own._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        assert settings == ["wal", 2]


def test_a_dead_writers_journal_is_sealed_by_the_next(tmp_path: Path, make_answers: Make, shards_of: Make) -> None:
    keys, values, facts = make_answers(5)
    dead, alive = KnowledgeStore(tmp_path), KnowledgeStore(tmp_path)
    dead.put(keys[:3], values[:3], facts[:3])
    dead.put_context("sr1-c", ["a"])
    alive.put(keys[3:], values[3:], facts[3:])
    dead.close(seal=False)
    with KnowledgeStore(tmp_path) as store:
        assert rows_in(shards_of(tmp_path)) == 3 + 1
        assert [path for path, _, _ in store.unsealed()] == [alive._own and alive._own.path]  # the living one's is its own
        assert store.context("sr1-c") == alive.context("sr1-c") == ["a"]
        assert store.get(keys).tolist() == alive.get(keys).tolist() == values.tolist()
        assert len(store) == len(alive) == 5
    alive.close()


def test_what_killed_writers_left_half_made_is_cleared(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(2)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, values, facts)
        store.seal()
        store.put(*make_answers(2, start=5))
        (living,) = (path.stem for path in (tmp_path / "journals").glob("*.sqlite"))
        remains = [tmp_path / "shards" / ".answer-x.parquet.7.tmp"]
        remains += [tmp_path / "journals" / name for name in ("ab.tmp", "ab.lock", "cd.sqlite-wal", "cd.sqlite-shm", "cd.lock")]
        for path in remains:
            path.write_bytes(b"half")
        with KnowledgeStore(tmp_path) as other:
            assert [path for path in remains if path.exists()] == []
            assert len(other) == 4
        assert {path.name.partition(".")[0] for path in (tmp_path / "journals").iterdir()} == {"lock", living}


def test_an_error_in_the_block_leaves_the_journal_to_the_next(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(2)

    def label() -> None:
        with KnowledgeStore(tmp_path) as store:
            store.put(keys, values, facts)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label()
    assert len(list((tmp_path / "journals").glob("*.sqlite"))) == 1
    with KnowledgeStore(tmp_path) as store:
        assert store.missing(keys) == []


@pytest.mark.parametrize("crash_at", ["before the shard", "between", "half deleted"])
def test_a_crash_while_sealing_doubles_nothing(
    tmp_path: Path, make_answers: Make, shards_of: Make, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    keys, values, facts = make_answers(6)
    more = make_answers(4, None, start=10)
    crashed = KnowledgeStore(tmp_path)
    crashed.put(keys, values, facts)
    crashed.put(*more)
    crashed.put_context("sr1-c", ["a", "b"])

    def crash(*_: object) -> None:
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        if crash_at == "before the shard":
            patch.setattr(catalogue, "write_shard", crash)
        elif crash_at == "between":
            patch.setattr(Journal, "delete", crash)
        else:  # the second of three shards
            written, real = [], catalogue.write_shard
            patch.setattr(catalogue, "write_shard", lambda *a: crash() if written else (written.append(1), real(*a)))
        with pytest.raises(RuntimeError, match="killed here"):
            crashed.close()
    with KnowledgeStore(tmp_path, read_only=True) as store:
        assert len(store) == len(list(store)) == 10
        assert store.get(keys).tolist() == values.tolist()
        assert store.get(more[0]).tolist() == more[1].tolist()
    with KnowledgeStore(tmp_path) as store:
        assert len(store) == len(list(store)) == 10
        assert store.context("sr1-c") == ["a", "b"]
        assert verify(store) == verify(KnowledgeStore(tmp_path, read_only=True))
        assert (verify(store).repeated, verify(store).problems) == (0, ())
    assert rows_in(shards_of(tmp_path)) == 10 + 1


def test_a_journal_that_could_not_be_deleted_is_no_harm(tmp_path: Path, make_answers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, values, facts = make_answers(6)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys, values, facts)
        saved = {path: path.read_bytes() for path in (tmp_path / "journals").iterdir()}
    for path, content in saved.items():
        path.write_bytes(content)  # a power cut undid the deletion
    with KnowledgeStore(tmp_path) as store:
        assert (len(store), verify(store).repeated) == (6, 0)


# ulimit -f: the system refuses to let a file grow past the limit, in the middle of a write, as a full disk does.
FULL = """
import json, resource, sys
import numpy as np
from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.knowledge.store import KnowledgeStore
stored, store = [], KnowledgeStore(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
def put(i):
    facts = [{"example": str(i)}]
    store.put([fingerprint("answer", facts[0])], np.full((1, 500), float(i)), facts)
try:
    for i in range(1000):
        put(i)
        stored.append(i)
except StageFailed as error:
    message = str(error)
assert store.missing([fingerprint("answer", {"example": str(i)}) for i in stored]) == []
if sys.argv[2] == "goes on":
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for i in range(i, i + 50):
        put(i)
        stored.append(i)
    store.close()
print(json.dumps([message, stored]))
"""


@pytest.mark.parametrize("then", ["goes on", "ends"])
def test_a_file_that_may_not_grow_is_one_clear_error(tmp_path: Path, then: str) -> None:
    message, stored = json.loads(run(FULL, tmp_path, then))
    assert len(stored) > 10
    assert message.startswith(f"cannot write {tmp_path}/journals/")
    assert "disk" in message
    with KnowledgeStore(tmp_path) as store:
        assert store.get([fingerprint("answer", {"example": str(i)}) for i in stored])[:, 0].tolist() == stored
        assert len(store) in (len(stored), len(stored) + 1)  # a refused answer may have arrived all the same
        report = verify(store)
        assert (report.repeated, report.problems) == (0, ())


def test_a_full_database_says_so(tmp_path: Path, make_answers: Make) -> None:
    keys, values, facts = make_answers(3000)
    with KnowledgeStore(tmp_path) as store:
        store.put(keys[:1], values[:1], facts[:1])
        assert store._own is not None
        store._own._connection.execute("PRAGMA max_page_count = 10")
        with pytest.raises(StageFailed, match=r"cannot write .*\.sqlite: the disk is full; free some space and run the same command again"):
            store.put(keys, values, facts)
        assert store.missing(keys[:2]) == [1]
        store._own._connection.execute("PRAGMA max_page_count = 100000")
        store.put(keys, values, facts)
        assert store.get(keys).tolist() == values.tolist()


def test_a_disk_that_is_full_at_sealing_loses_nothing(
    tmp_path: Path, make_answers: Make, shards_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, values, facts = make_answers(3)
    store = KnowledgeStore(tmp_path)
    store.put(keys, values, facts)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for _ in range(2):
            with pytest.raises(StageFailed, match=r"cannot write .*/shards/answer-.*: the disk is full; free some space"):
                store.seal()
        assert store.get(keys).tolist() == values.tolist()
        assert shards_of(tmp_path) == []
        assert list((tmp_path / "shards").iterdir()) == []
        with pytest.raises(StageFailed, match="the disk is full"):
            store.close()
    with KnowledgeStore(tmp_path) as store:
        assert store.get(keys).tolist() == values.tolist()
    assert rows_in(shards_of(tmp_path)) == 3


# Root may write anywhere, so the script lays root's rights down once everything is imported.
READ_ONLY = """
import os, sys
import numpy as np, pandas, pyarrow.parquet
from stillroom.core.errors import StageFailed
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
if os.geteuid() == 0:
    os.setegid(65534); os.seteuid(65534)
try:
    KnowledgeStore(sys.argv[1])
except StageFailed as error:
    print(error)
with KnowledgeStore(sys.argv[1], read_only=True) as store:
    print(len(store), len(list(store)), verify(store).problems)
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.mark.parametrize("unsealed", [False, True])
def test_a_read_only_folder_is_one_clear_error_and_can_be_read(public_folder: Path, make_answers: Make, unsealed: bool) -> None:
    folder = public_folder / "store"
    with KnowledgeStore(folder) as store:
        store.put(*make_answers(5))
    if unsealed:
        dead = KnowledgeStore(folder)
        dead.put(*make_answers(4, start=10))
        (journal,) = (folder / "journals").glob("*.sqlite")
        log = journal.with_name(journal.name + "-wal").read_bytes()
        dead.close(seal=False)
        journal.with_name(journal.name + "-wal").write_bytes(log)  # as a killed writer leaves it
    for path in [*folder.rglob("*"), folder]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        message, found = run(READ_ONLY, folder).splitlines()
    finally:
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o755)
    assert message.startswith(f"cannot write {folder}")
    assert "no permission to write" in message
    assert found == ("9 9 ()" if unsealed else "5 5 ()")


def test_a_store_held_by_another_process_is_one_clear_error(tmp_path: Path, make_answers: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from stillroom.knowledge import store as store_module

    monkeypatch.setattr(store_module, "_LOCK_SECONDS", 0.05)
    keys, values, facts = make_answers(2)
    with KnowledgeStore(tmp_path) as one, KnowledgeStore(tmp_path) as two:
        with one._exclusive(), pytest.raises(StageFailed, match="another process has held the store"):
            two.put(keys, values, facts)
        two.put(keys, values, facts)
        assert np.array_equal(two.get(keys), values)
