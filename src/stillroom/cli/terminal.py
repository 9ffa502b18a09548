"""What a person sees while a run goes on: stages, findings, and progress on what takes over two seconds."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stillroom.core.protocols import Progress as Told

SHOWN_AFTER_SECONDS = 2.0


class Terminal:
    """A `stillroom.pipeline.progress.Listener` on a terminal; plain lines where the output is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
        )
        self._progress = Progress(
            *columns,
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._started = time.monotonic()

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def stage(self, name: str, resumed: bool) -> None:
        seconds = time.monotonic() - self._started
        self._console.print(f"[bold]{name}[/bold] {'(done already)' if resumed else ''}[dim]{seconds:7.1f} s[/dim]", soft_wrap=True)

    def say(self, message: str) -> None:
        self._console.print(f"  {message}", markup=False, soft_wrap=True)

    def task(self, description: str) -> Told:
        started = time.monotonic()
        shown: list[TaskID] = []

        def told(done: int, total: int) -> None:
            seconds = time.monotonic() - started
            if not shown and seconds < SHOWN_AFTER_SECONDS:
                return
            rate = f"{done / max(seconds, 1e-9):.1f}/s"
            if not shown:
                shown.append(self._progress.add_task(description, total=total, rate=rate))
            self._progress.update(shown[0], completed=done, total=total, rate=rate, visible=done < total)

        return told
