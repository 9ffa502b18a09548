"""Checkpoints that a killed training resumes from: only whole ones, and only those of the very same training."""

from __future__ import annotations

import shutil
from pathlib import Path

from stillroom.core.files import write_text

_MARK = "stillroom-whole"
"""Written when all else of a checkpoint is on disk. It holds the fingerprint of the training."""


def newest_whole(folder: Path, training: str) -> Path | None:
    """The checkpoint to resume from. All that are torn or of another training are deleted.

    Args:
        training: the fingerprint of everything that shapes the weights.
    """
    whole = []
    for checkpoint in _by_step(folder):
        mark = checkpoint / _MARK
        if mark.is_file() and mark.read_text(encoding="utf-8") == training:
            whole.append(checkpoint)
        else:
            shutil.rmtree(checkpoint, ignore_errors=True)
    return whole[-1] if whole else None


def mark_whole(checkpoint: Path, training: str) -> None:
    """Say that a checkpoint is whole."""
    write_text(checkpoint / _MARK, training)


def keep_newest(folder: Path, limit: int | None, *, best: str | None = None) -> None:
    """Delete all but the newest `limit` whole checkpoints, and the best. None keeps all."""
    if limit is None:
        return
    for checkpoint in _by_step(folder)[:-limit]:
        if best is None or checkpoint.resolve() != Path(best).resolve():
            # Unmarked first: killed half-way, it must not pass for whole.
            (checkpoint / _MARK).unlink(missing_ok=True)
            shutil.rmtree(checkpoint)


def _by_step(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))
