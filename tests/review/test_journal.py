"""A decision is there once it is made, whole, whatever happens next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stillroom.core.errors import StageFailed
from stillroom.core.review import Decision, corrections, opinions, standing
from stillroom.review.journal import DecisionJournal


def decision(row: int = 0, label: str | None = "b", reviewer: str = "Ann", at: str = "2026-11-25T10:00:00+00:00") -> Decision:
    return Decision("sr1-s", 7, row, f"sr1-e{row}", f"sr1-a{row}", "a", label, reviewer, at)


def test_what_is_appended_is_what_is_read(tmp_path: Path) -> None:
    journal = DecisionJournal(tmp_path / "review" / "decisions.jsonl")
    assert journal.decisions() == []
    made = [decision(0), decision(1, None), decision(2, "ü\n\u2028", 'A "B" \u00e9')]
    journal.append(made[:1])
    journal.append(made[1:])
    assert journal.decisions() == made


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_line_that_was_cut_off_is_no_decision_and_harms_no_other(tmp_path: Path, cut: int) -> None:
    journal = DecisionJournal(tmp_path / "d.jsonl")
    journal.append([decision(0), decision(1)])
    content = journal.path.read_bytes()
    journal.path.write_bytes(content[:-cut])
    assert journal.decisions() == [decision(0)]
    journal.append([decision(2)])
    assert journal.decisions() == [decision(0), decision(2)]


def test_a_line_of_somebody_else_s_is_named(tmp_path: Path) -> None:
    journal = DecisionJournal(tmp_path / "d.jsonl")
    journal.append([decision(0)])
    with journal.path.open("a") as file:
        file.write('{"label": "b"}\n')
    with pytest.raises(StageFailed, match="line 2"):
        journal.decisions()


def test_killed_at_any_moment_no_acknowledged_decision_is_lost(tmp_path: Path) -> None:
    """A process that says each decision aloud once it is kept, and is killed while it writes on."""
    code = (
        "import sys; from pathlib import Path; from stillroom.core.review import Decision; from stillroom.review.journal import *\n"
        "journal = DecisionJournal(Path(sys.argv[1])); first = int(sys.argv[2])\n"
        "for row in range(first, first + 10**6):\n"
        "    journal.append([Decision('s', 0, row, 'e', 'a', 't', 'x' * 500, 'r', 'now')]); print(row, flush=True)\n"
    )
    journal, said = DecisionJournal(tmp_path / "d.jsonl"), -1
    for attempt in range(3):
        arguments = [sys.executable, "-c", code, str(journal.path), str(said + 1)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(5 + 3 * attempt):
                said = int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
            rest = process.stdout.read().split("\n")
        said = max([said, *(int(line) for line in rest[:-1])])
        rows = [d.row for d in journal.decisions()]
        assert set(range(said + 1)) <= set(rows)


def test_a_full_disk_leaves_whole_decisions_and_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = DecisionJournal(tmp_path / "d.jsonl")
    journal.append([decision(0)])
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:10]))
    with pytest.raises(StageFailed, match="disk is full"):
        journal.append([decision(1)])
    monkeypatch.undo()
    assert journal.decisions() == [decision(0)]
    assert journal.path.read_bytes().endswith(b"}\n")


def test_the_last_word_counts() -> None:
    said = [decision(0, "b"), decision(0, "c", "Bob"), decision(0, "a"), decision(1, "b"), decision(1, None), decision(2, None)]
    assert [d.label for d in standing(said).values()] == ["c", "a", None, None]
    assert {key: d.label for key, d in opinions(said).items()} == {("sr1-s", 0): "a"}
    assert corrections(said) == []
    assert [d.label for d in corrections(said[:2])] == ["c"]
    assert [d.label for d in corrections([*said, decision(1, "c", "Bob")])] == ["c"]
