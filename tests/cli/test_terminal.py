"""What a run says while it goes on, on a terminal and in a log file."""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from stillroom.cli import terminal as module
from stillroom.cli.terminal import Terminal
from stillroom.core.duration import duration


def speaking(*, every: float = 0.05, is_terminal: bool = False) -> tuple[Terminal, io.StringIO]:
    said = io.StringIO()
    return Terminal(Console(file=said, force_terminal=is_terminal, width=120), said_every_seconds=every), said


def until(holds: Callable[[], bool]) -> None:
    """Wait for what a thread will do, as long as a busy machine may take."""
    give_up = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < give_up, "it never came"
        time.sleep(0.01)


def test_a_log_file_is_told_now_and_then_how_far_the_work_is() -> None:
    terminal, said = speaking()
    began = time.monotonic()

    def lines() -> list[str]:
        return [line.strip() for line in said.getvalue().splitlines() if "of 400" in line]

    with terminal:
        terminal.stage("label", resumed=False)
        told = terminal.task("asking the teacher, 5 folds")
        told(0, 400)
        time.sleep(0.02)
        told(100, 400)
        until(lambda: len(lines()) >= 2)
        for _ in range(50):
            told(100, 400)
    spoken = said.getvalue()
    assert len(lines()) <= (time.monotonic() - began) / 0.05 + 1, "every 0.05 s, however often the work reports"
    assert "s: asking the teacher, 5 folds: 100 of 400, " in lines()[-1]
    assert lines()[-1].endswith(" left")
    time.sleep(0.12)
    assert said.getvalue() == spoken, "it goes on speaking after the run"


def test_work_that_reports_nothing_is_still_heard_of() -> None:
    terminal, said = speaking()
    with terminal:
        until(lambda: "reading the data goes on" in said.getvalue())
        terminal.stage("label", resumed=False)
        terminal.task("asking the teacher")  # a fit of an hour: no news before the first answer
        until(lambda: "asking the teacher: begun 0 s ago" in said.getvalue())
        terminal.stage("evaluate", resumed=False)
        until(lambda: "evaluate goes on" in said.getvalue())


def test_a_short_run_says_nothing_of_the_kind() -> None:
    terminal, said = speaking(every=30.0)
    with terminal:
        terminal.stage("label", resumed=False)
        terminal.task("asking the teacher")(10, 10)
    assert len(said.getvalue().splitlines()) == 1


def test_what_an_earlier_attempt_did_is_no_sign_of_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    task = module._Task("training", began=0.0)
    now[0] = 20.0  # loading the checkpoint
    task.tell(1500, 2000)
    assert task.state() == "1500 of 2000"
    now[0] = 30.0
    task.tell(1510, 2000)
    assert task.state() == "1510 of 2000, 1.0/s, about 8 min left"


def test_finished_and_abandoned_work_leaves_the_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN_AFTER_SECONDS", 0.0)
    terminal, _ = speaking(is_terminal=True)
    with terminal:
        finished, abandoned = terminal.task("first"), terminal.task("second")
        finished(3, 3)
        assert [task.description for task in terminal._bars.tasks] == ["second"]
        terminal.stage("train", resumed=False)
        assert terminal._bars.tasks == []
        abandoned(1, 2)  # late news harms nobody
        finished(3, 3)


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5400, "90 min"), (12_000, "3 h 20 min")])
def test_durations_are_read_at_a_glance(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_work_that_knows_more_than_counts_is_told_in_its_own_words() -> None:
    terminal, said = speaking()
    with terminal:
        told = terminal.task("asking the teacher")
        told(3, 10, "3 of 10 rows, 1.5/s, 0 failed, 2 retries, 77 tokens, 0.0001 USD, 5 s left")
        until(lambda: "asking the teacher: 3 of 10 rows, 1.5/s, 0 failed, 2 retries, 77 tokens, 0.0001 USD, 5 s left" in said.getvalue())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_cut_off_on_a_narrow_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHOWN_AFTER_SECONDS", 0.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=width, record=True)
    terminal = Terminal(console)
    words = "1,117 of 4,978 rows, 176.3/s, 0 failed, 12 retries, 827,025 tokens, 0.1247 USD, 22 s left"
    terminal.task("asking the teacher")(1117, 4978, words)
    console.print(*terminal._bars.get_renderables())
    shown = console.export_text()
    assert [word for word in words.split() if word not in shown] == []
