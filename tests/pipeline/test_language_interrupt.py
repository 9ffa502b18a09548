"""Ctrl-C in the middle of a language model's job: exit code 130, a message that says how to go on, and the same command does."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stillroom.cli import main
from stillroom.cli.terminal import Terminal
from stillroom.core.protocols import Progress
from stillroom.models.causal import save_causal

JOB = """
task: language-model
seed: 3
data: {source: {kind: file, train: words.txt}, split: {validation: 0.1}}
teacher: {kind: huggingface, model: ./teacher, licence: MIT}
student: {kind: huggingface, layers: 1}
labelling: {batch_tokens: 30, tokens_number: 8}
training: {num_train_epochs: 2, learning_rate: 0.01, per_device_train_batch_size: 4, max_length: 24, arguments: {save_steps: 1}}
evaluation: {seeds: 1, cost: false, resamples: 100, prompts: 2, new_tokens: 4}
"""
TASKS = ("asking the teacher", "training the student, seed 3", "training the control, seed 3", "reading the test documents with every arm")


class Hand:
    """Presses Ctrl-C half-way through a task, and notes what is told of every task."""

    def __init__(self) -> None:
        self.task, self.told = "", dict[str, list[int]]()

    def watch(self, name: str, told: Progress) -> Progress:
        def tell(done: int, total: int) -> None:
            self.told.setdefault(name, []).append(done)
            told(done, total)
            if name == self.task and 2 * done >= total:
                self.task = ""
                os.kill(os.getpid(), signal.SIGINT)

        return tell


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    found, task = Hand(), Terminal.task
    monkeypatch.setattr(Terminal, "task", lambda terminal, name: found.watch(name, task(terminal, name)))
    return found


@pytest.fixture
def ctrl_c_works() -> Any:
    """Also where these tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_works")
def test_every_stage_can_be_interrupted_and_goes_on_where_it_was(
    tiny_causal: Callable[..., tuple[Any, Any]],
    tmp_path: Path,
    hand: Hand,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save_causal(*tiny_causal("llama", attention_dropout=0.1), tmp_path / "teacher")
    rng = random.Random(0)
    (tmp_path / "words.txt").write_text("\n\n".join(" ".join(f"w{rng.randrange(26)}" for _ in range(12)) for _ in range(30)))
    (tmp_path / "job.yaml").write_text(JOB)

    def run(name: str, interrupted_in: str = "") -> tuple[int, str]:
        hand.task, hand.told = interrupted_in, {}
        monkeypatch.setattr(sys, "argv", ["stillroom", "run", str(tmp_path / "job.yaml"), "--run", str(tmp_path / name)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not hand.task, "there was time to press it"
        return int(ended.value.code or 0), capfd.readouterr().err

    assert run("undisturbed")[0] == 0
    whole = hand.told
    assert whole.keys() >= set(TASKS)
    last: dict[str, int] = {}
    for task in TASKS:
        code, err = run("stopped", task)
        assert code == 130, err
        assert err.endswith("interrupted; what was finished is kept, and the same command goes on from there.\n")
        assert "Traceback" not in err
        for name, reached in last.items():  # begun before: at most the piece that was at work is done again
            assert hand.told.get(name, [reached])[0] >= reached, name
        last = {task: hand.told[task][-1]} if task != TASKS[-1] else {}  # the test is read as a whole, or not at all
    assert run("stopped")[0] == 0
    assert hand.told.keys() == {TASKS[-1]}, "what is done is not done again"
    for made in ("student/model.safetensors", "arms/control-0/model.safetensors", "evidence.json"):
        assert (tmp_path / "stopped" / made).read_bytes() == (tmp_path / "undisturbed" / made).read_bytes(), made
