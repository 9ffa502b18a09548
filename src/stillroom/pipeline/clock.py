"""How long a piece of work took, over all the attempts that it needed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

NOTED_EVERY_SECONDS = 1.0
"""A kill loses at most this much of the count."""


@contextmanager
def counted(path: Path, inputs: str) -> Iterator[Callable[[], float]]:
    """Count the seconds of the block. Yields a function: the seconds so far, those of earlier attempts with `inputs` included.

    The count is kept at `path` from a thread, since nothing else runs before a SIGKILL. It is no more than a figure: where it cannot be
    written, the work goes on.
    """
    before, began, ended = _noted(path, inputs), time.monotonic(), Event()

    def seconds() -> float:
        return before + time.monotonic() - began

    def note() -> None:
        while not ended.wait(NOTED_EVERY_SECONDS):
            _note(path, inputs, seconds())

    thread = Thread(target=note, daemon=True)
    thread.start()
    try:
        yield seconds
    finally:
        ended.set()
        thread.join()
        _note(path, inputs, seconds())


def _noted(path: Path, inputs: str) -> float:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return float(content["seconds"]) if content["inputs"] == inputs else 0.0
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _note(path: Path, inputs: str, seconds: float) -> None:
    # Whole or not at all, but without the wait for the disk that `stillroom.core.files` makes.
    draft = path.with_name(f".{path.name}.tmp")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps({"inputs": inputs, "seconds": seconds}), encoding="utf-8")
        draft.replace(path)
