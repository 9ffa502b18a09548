"""The user's own checker: a Python function, run in a process of its own with limits on its time and memory.

The limits guard a run against mistakes: endless loops, memory without bound, exits, crashes of C code, prints. They are no wall
against hostile code, which can still read and write files; so it runs only where the job's runner allows code.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from stillroom.core.errors import BadInput
from stillroom.teachers.checkers import Check

_MIB = 1 << 20
_START_SECONDS = 60.0
"""To start Python and import the user's module; its checks have a limit of their own."""
_WORKER = Path(__file__).with_name("user_code_worker.py")


class CodeChecker:
    """check(answer, example) by the user's function `function(answer: str, example: dict) -> bool`; a context manager.

    One fresh interpreter (`python -I`, an empty environment so that no key can be read from it, a temporary working directory)
    serves check after check, from one thread; after a failure that ends it, the next check starts another.

    Args:
        path: "module:function", looked for in `folder` first.
        folder: the job file's.
        allow_code: whether the job's runner allows code.
        timeout_seconds: wall time of one check; above it the process group is killed.
        memory_bytes: address space of the process (RLIMIT_AS), Python's own included.

    Raises:
        BadInput: code is not allowed; `path` is not "module:function"; at the start or the first check: it cannot be imported.
    """

    def __init__(
        self,
        path: str,
        folder: Path,
        *,
        allow_code: bool,
        timeout_seconds: float = 5.0,
        memory_bytes: int = 1024 * _MIB,
        place: str = "checker.object",
    ) -> None:
        if not allow_code:
            raise BadInput.at(place, f"= {path!r} is your own Python, which a file may not start by itself; add --allow-code to run it.")
        module, _, name = path.partition(":")
        if not module or not name.isidentifier():
            raise BadInput.at(place, f"= {path!r} names no function; write 'module:function'.")
        self._path, self._place, self._seconds = path, place, timeout_seconds
        self._setting = json.dumps([module, name, str(folder.resolve()), memory_bytes, timeout_seconds])
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="stillroom-check-")

    def __enter__(self) -> CodeChecker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Import the user's module now, and not at the first check only."""
        if self._process is None:
            self._start()

    def close(self) -> None:
        """End the process."""
        self._kill()
        self._folder.cleanup()

    def __call__(self, answer: str, example: Mapping[str, Any]) -> Check:
        """The function's verdict; whatever goes wrong in it is a refusal with its reason.

        Args:
            example: plain data (JSON).
        """
        process = self._process or self._start()
        kind, value = self._ask(process, [answer, example], self._seconds)
        if kind == "verdict":
            return Check(value, "" if value else f"{self._path} says no")
        return Check(False, f"{self._path} {' '.join(str(value).split())[:300]}")

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._folder.name,
            env={"PATH": os.defpath},
            start_new_session=True,
        )
        kind, value = self._ask(self._process, json.loads(self._setting), _START_SECONDS)
        if kind != "ready":
            self._kill()
            raise BadInput.at(self._place, f"= {self._path!r} cannot be used: its import {' '.join(str(value).split())[:300]}")
        return self._process

    def _ask(self, process: subprocess.Popen[bytes], message: object, seconds: float) -> tuple[str, Any]:
        """One line there, one back; where none comes, the process is gone afterwards."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(message).encode() + b"\n")
            process.stdin.flush()
            line = _line_within(process.stdout, seconds)
        except OSError:
            line = b""
        if line:
            kind, value = json.loads(line)
            return kind, value
        if line is None:
            self._kill()
            return "failed", f"took more than {seconds:g} seconds and was killed"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.0)  # it is ending; its own exit code says why
        self._kill()
        code = process.returncode
        return "failed", f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended its process (exit code {code})"

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # what the user's code may have started goes too
        process.wait()
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()


def _line_within(stream: IO[bytes], seconds: float) -> bytes | None:
    """A line without buffering; b"" at the end of the stream, None where the line is not whole in time."""
    deadline, line = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as waiting:  # select.select() would fail beside 1,024 open connections
        waiting.register(stream, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not waiting.select(max(0.0, deadline - time.monotonic())):
                return None
            piece = os.read(stream.fileno(), 1 << 16)
            if not piece:
                return b""
            line += piece
    return line
