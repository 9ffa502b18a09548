"""The user's checker: whatever it does, one verdict or one reason a check, and no process left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stillroom.core.errors import BadInput
from stillroom.teachers.checkers import Check
from stillroom.teachers.user_code import CodeChecker

CODE = """
import os, subprocess, sys, time
from neighbour import WANTED
def right(answer, example):
    print("this is no reply", flush=True)
    return answer == example["wanted"] + WANTED
def misbehave(answer, example):
    if answer == "loop":
        while True: pass
    if answer == "swallow":
        while True:
            try: time.sleep(100)
            except BaseException: pass
    if answer == "child":
        open(example["file"], "w").write(str(subprocess.Popen(["sleep", "100"]).pid))
        time.sleep(100)
    if answer == "memory":
        return len(bytearray(700 << 20)) > 0  # above the 512 MiB, below what a machine has
    if answer == "exit": sys.exit(3)
    if answer == "gone": os._exit(4)
    if answer == "crash": os.kill(os.getpid(), 11)
    if answer == "raise": raise RuntimeError("two\\nlines")
    if answer == "number": return 1
    if answer == "secret": return os.environ.get("SECRET_KEY") is None
    return True
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("checks")
    (made / "mine.py").write_text(CODE)
    (made / "neighbour.py").write_text("WANTED = '!'")
    return made


@pytest.fixture(scope="module")
def checker(folder: Path) -> Iterator[CodeChecker]:
    with CodeChecker("mine:misbehave", folder, allow_code=True, timeout_seconds=1.0, memory_bytes=1 << 29) as made:
        yield made


def test_it_is_asked_with_the_answer_and_the_example(folder: Path) -> None:
    with CodeChecker("mine:right", folder, allow_code=True) as check:
        assert check("ä\n!", {"wanted": "ä\n"}) == Check(True)
        process = check._process
        assert check("a", {"wanted": "b"}) == Check(False, "mine:right says no")
        assert check("x" * 1_000_000, {"wanted": "b"}).passed is False
        assert check._process is process, "one process serves many checks"
    assert process is not None
    assert process.returncode is not None, "and is gone afterwards"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("loop", "took more than 1 seconds and was killed"),
        ("swallow", "took more than 1 seconds and was killed"),
        ("memory", "ran out of its 512 MiB of memory"),
        ("exit", "raised SystemExit: 3"),
        ("gone", "ended its process (exit code 4)"),
        ("crash", "was killed by SIGSEGV"),
        ("raise", "raised RuntimeError: two lines"),
        ("number", "returned int, not True or False"),
    ],
)
def test_a_failure_is_one_line_and_the_next_check_works(checker: CodeChecker, answer: str, reason: str) -> None:
    assert checker(answer, {}) == Check(False, f"mine:misbehave {reason}")
    assert checker("fine", {}) == Check(True)


def test_what_it_started_is_killed_with_it(checker: CodeChecker, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    assert "took more than" in checker("child", {"file": str(file)}).reason
    deadline = time.monotonic() + 5
    while Path(f"/proc/{file.read_text()}/stat").exists() and time.monotonic() < deadline:
        if ") Z " in Path(f"/proc/{file.read_text()}/stat").read_text():
            break
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_no_key_can_be_read_by_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "k")
    assert os.environ["SECRET_KEY"]
    with CodeChecker("mine:misbehave", folder, allow_code=True) as check:
        assert check("secret", {}).passed


@pytest.mark.parametrize(
    ("path", "allow", "expected"),
    [
        ("mine:right", False, "add --allow-code"),
        ("mine", True, "write 'module:function'"),
        ("mine:wrong", True, "cannot be used: its import raised AttributeError"),
        ("nowhere:right", True, "cannot be used: its import raised ModuleNotFoundError: No module named 'nowhere'"),
    ],
)
def test_what_cannot_be_used_is_one_clear_error(folder: Path, path: str, allow: bool, expected: str) -> None:
    with pytest.raises(BadInput, match=f"checker.object: = '{path}'.*{expected}"), CodeChecker(path, folder, allow_code=allow) as check:
        check("a", {})
