"""Files of requests and results on this machine. They have no name: what users' texts say is not left behind, whatever ends the run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import BinaryIO, Self

from stillroom.core import files


class ScratchFile:
    """A file that is gone when it is closed, or the process is.

    Raises:
        StageFailed: it cannot be made; from `append`, it cannot be written.
    """

    def __init__(self) -> None:
        self._place = Path(tempfile.gettempdir())
        with files.writing(self._place):
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, content: bytes) -> None:
        with files.writing(self._place):
            self._file.seek(0, os.SEEK_END)
            while content:
                content = content[self._file.write(content) :]

    def clear(self) -> None:
        self._file.truncate(0)

    def reader(self) -> BinaryIO:
        """A reader from the beginning, to be closed; one at a time."""
        self._file.seek(0)
        return os.fdopen(os.dup(self._file.fileno()), "rb")
