"""The count of seconds survives whatever ends an attempt."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stillroom.pipeline import clock
from stillroom.pipeline.clock import counted

SLEEPER = """
import sys, time
from pathlib import Path
from stillroom.pipeline import clock
clock.NOTED_EVERY_SECONDS = 0.05
with clock.counted(Path(sys.argv[1]), "a"):
    print("begun", flush=True)
    time.sleep(60)
"""


def _interrupted_after(seconds: float) -> None:
    time.sleep(seconds)
    raise KeyboardInterrupt


def test_attempts_add_up_and_changed_inputs_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "stages" / "label.seconds"
    with pytest.raises(KeyboardInterrupt), counted(path, "a"):
        _interrupted_after(0.1)
    with counted(path, "a") as seconds:
        time.sleep(0.1)
        assert 0.2 <= seconds() < 5
    with counted(path, "b") as seconds:
        assert seconds() < 0.1


def test_a_killed_attempt_counts(tmp_path: Path) -> None:
    path = tmp_path / "label.seconds"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", SLEEPER, str(path)], stdout=subprocess.PIPE, env=environment)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with counted(path, "a") as seconds:
        assert 0.5 <= seconds() < 10


@pytest.mark.parametrize("content", ["", "[]", '{"inputs": "a"}', '{"inputs": "a", "seconds": null}'])
def test_a_damaged_count_is_no_reason_to_stop(tmp_path: Path, content: str) -> None:
    path = tmp_path / "label.seconds"
    path.write_text(content)
    with counted(path, "a") as seconds:
        assert seconds() < 5


def test_a_place_that_cannot_be_written_is_no_reason_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "NOTED_EVERY_SECONDS", 0.01)
    (tmp_path / "file").write_text("")
    with counted(tmp_path / "file" / "label.seconds", "a") as seconds:
        time.sleep(0.05)
        assert seconds() > 0
