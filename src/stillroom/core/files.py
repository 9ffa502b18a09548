"""Writing to disk so that a reader sees the whole file or none of it, whatever kills the writer."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stillroom.core.errors import StageFailed

_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again, it resumes.",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again, it resumes.",
    errno.EROFS: "the folder is read-only; choose another with --run.",
    errno.EACCES: "no permission to write; choose another folder with --run.",
    errno.EPERM: "no permission to write; choose another folder with --run.",
    errno.EEXIST: "a file stands where a folder is needed; choose another with --run.",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another folder with --run.",
}


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Turn the operating system's refusal to write at `path` into one clear error.

    Raises:
        StageFailed: with the path, the reason and the remedy.
    """
    try:
        yield
    except OSError as error:
        reason = _REMEDIES.get(error.errno or 0, f"{error.strerror or error}.")
        raise StageFailed(f"cannot write {path}: {reason}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, durably and in one step."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # The process id keeps two writers of one run apart; the loser's file is whole, and replaced whole.
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with draft.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` for UTF-8 text."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_bytes` for JSON; NaN and infinity, which JSON lacks, are refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder that appears at `path` only when the block has ended without an error.

    Yields a draft folder beside `path`. An older folder at `path` is replaced.
    """
    draft, old = (path.with_name(f".{path.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        try:
            yield draft
            for file in draft.rglob("*"):
                if file.is_file():
                    with file.open("rb") as handle:
                        os.fsync(handle.fileno())
            if path.is_dir():
                path.rename(old)  # aside in one step: killed while it is deleted, half of it would pass for the whole
            draft.rename(path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
