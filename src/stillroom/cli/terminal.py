"""What a person sees while a run goes on: stages, findings, and how far the work is."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from stillroom.core.duration import duration
from stillroom.pipeline.progress import Told

SHOWN_AFTER_SECONDS = 2.0
SAID_EVERY_SECONDS = 30.0
"""Where nobody sees a bar move: in a log file, a line now and then."""


class Terminal:
    """A `stillroom.pipeline.progress.Listener`: moving bars on a terminal, plain lines where the output is none."""

    def __init__(self, console: Console | None = None, *, said_every_seconds: float = SAID_EVERY_SECONDS) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._bars = _Bars(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=10),
            TextColumn("{task.fields[state]}", table_column=Column()),  # wraps: what is cut off on a narrow terminal is the money
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._open: dict[TaskID, _Task] = {}
        self._stage, self._began = "reading the data", time.monotonic()
        self._every, self._ended = said_every_seconds, Event()
        self._speaker = Thread(target=self._speak, daemon=True)

    def __enter__(self) -> Terminal:
        if self._console.is_terminal:
            self._bars.start()
        else:
            self._speaker.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        if self._console.is_terminal:
            self._bars.stop()

    def stage(self, name: str, resumed: bool) -> None:
        for key in list(self._open):
            self._close(key)
        self._stage = name
        seconds = time.monotonic() - self._began
        self._console.print(f"[bold]{name}[/bold] {'(done already)' if resumed else ''}[dim]{seconds:7.1f} s[/dim]", soft_wrap=True)

    def say(self, message: str) -> None:
        self._console.print(f"  {message}", markup=False, soft_wrap=True)

    def task(self, description: str) -> Told:
        task, key = _Task(description), self._bars.add_task(description, total=None, state="")
        self._open[key] = task

        def told(done: int, total: int, state: str = "") -> None:
            if key not in self._open:
                return
            task.tell(done, total, state)
            self._bars.update(key, completed=done, total=total, state=task.state())
            if done >= total:
                self._close(key)

        return told

    def _close(self, key: TaskID) -> None:
        del self._open[key]
        self._bars.remove_task(key)

    def _speak(self) -> None:
        while not self._ended.wait(self._every):
            news = "; ".join(f"{task.description}: {task.state()}" for task in tuple(self._open.values()))
            self.say(f"{duration(time.monotonic() - self._began)}: {news or f'{self._stage} goes on'}")


class _Bars(Progress):
    """Only what takes long enough to be read."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table([task for task in self.tasks if (task.elapsed or 0) >= SHOWN_AFTER_SECONDS])


@dataclass
class _Task:
    """How far a piece of work is. What was done before, by an earlier attempt, is no sign of its pace."""

    description: str
    began: float = field(default_factory=time.monotonic)
    first: int = 0
    done: int = 0
    total: int | None = None
    words: str = ""

    def tell(self, done: int, total: int, words: str = "") -> None:
        if self.total is None:
            self.first, self.began = done, time.monotonic()
        self.done, self.total, self.words = done, total, words

    def state(self) -> str:
        """Counts, pace and time left, in words: the work's own, where it has any."""
        if self.words:
            return self.words
        seconds = time.monotonic() - self.began
        if self.total is None:
            return f"begun {duration(seconds)} ago"
        counts = f"{self.done} of {self.total}"
        if self.done == self.first or seconds <= 0:
            return counts
        rate = (self.done - self.first) / seconds
        pace = f"{rate:.1f}/s" if rate >= 0.1 else f"{duration(1 / rate)} each"
        return f"{counts}, {pace}, about {duration((self.total - self.done) / rate)} left"
