"""The run directory: where each thing lies, which stages are done, and that only one process works in it."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.files import write_json, writing

STAGES = ("label", "train", "evaluate", "export", "report")


@dataclass(frozen=True)
class RunFolder:
    """Names every path of a run, and reads and writes the stages' records.

    Attributes:
        writes: False in a process that helps another one to train: it reads what that one has written, and writes no stage itself.
    """

    path: Path
    writes: bool = True

    @property
    def job(self) -> Path:
        return self.path / "job.yaml"

    @property
    def evidence(self) -> Path:
        return self.path / "evidence.json"

    @property
    def details(self) -> Path:
        return self.path / "details.json"

    @property
    def lineage(self) -> Path:
        return self.path / "lineage.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def card(self) -> Path:
        return self.path / "model-card.md"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions.npz"

    @property
    def knowledge(self) -> Path:
        return self.path / "knowledge"

    @property
    def responses(self) -> Path:
        """What a teacher behind an endpoint wrote to each training prompt, and what became of it."""
        return self.path / "responses.jsonl"

    @property
    def generated(self) -> Path:
        """Examples that were written for the job, the plan with its coverage, their quality."""
        return self.path / "generated"

    @property
    def decisions(self) -> Path:
        """What people have said about the teacher's answers."""
        return self.path / "review" / "decisions.jsonl"

    @property
    def teacher(self) -> Path:
        return self.path / "teacher"

    @property
    def student(self) -> Path:
        """The student that ships: the one of the first seed, chosen before anything was measured."""
        return self.path / "student"

    @property
    def work(self) -> Path:
        """Checkpoints of unfinished trainings; safe to delete once the run is done."""
        return self.path / "work"

    def export(self, kind: str) -> Path:
        return self.path / "exports" / kind

    def arm(self, arm: str, index: int) -> Path:
        """The model of an arm and a seed's index."""
        named = {("teacher", 0): self.teacher, ("student", 0): self.student}
        return named.get((arm, index)) or self.path / "arms" / f"{arm}-{index}"

    def record(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"

    def count(self, piece: str) -> Path:
        """The seconds of work on a stage or an arm so far, see `stillroom.pipeline.clock`."""
        return self.path / "stages" / f"{piece}.seconds"

    def done(self, stage: str, inputs: str, *made: Path) -> dict[str, Any] | None:
        """What the stage recorded when it ended, if it ended with these inputs and all that it made is still there; else None."""
        content = read_record(self.record(stage))
        return content if content.get("inputs") == inputs and all(path.exists() for path in made) else None

    def begin(self, stage: str) -> None:
        """Before a stage replaces its results: from here on the old record vouches for nothing, should this attempt be killed
        half-way and the job changed back. What it counted stays."""
        if content := read_record(self.record(stage)):
            write_json(self.record(stage), {**content, "inputs": ""})

    def finish(self, stage: str, inputs: str, **results: Any) -> dict[str, Any]:
        """Record that the stage has ended with these inputs, and what it found."""
        content = {"inputs": inputs, **results}
        write_json(self.record(stage), content)
        return content

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out of this run, but those that only help. The lock goes with the process, however it ends.

        Raises:
            BadInput: another process is at work here.
            StageFailed: the folder cannot be written.
        """
        if not self.writes:
            yield
            return
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BadInput.at(
                    str(self.path), "another process works on this run; wait for it, or choose another folder with --run."
                ) from None
            self._sweep()
            yield
        finally:
            os.close(handle)

    def _sweep(self) -> None:
        """Remove what killed processes had half written; under the lock nobody else is writing here."""
        for draft in (path for folder in ("", "arms", "exports", "stages") for path in (self.path / folder).glob(".*.tmp")):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def read_record(path: Path) -> dict[str, Any]:
    """A record of ours; {} where there is none, or what is there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def open_run(path: Path) -> RunFolder:
    """A finished or unfinished run that is there already.

    Raises:
        BadInput: no run in this folder.
    """
    folder = RunFolder(path)
    if not folder.job.is_file():
        raise BadInput.at(str(path), "is no run: it has no job.yaml. Give the folder that `stillroom run` wrote, such as runs/NAME.")
    return folder


def require(path: Path, stage: str) -> Path:
    """`path`, which the stage named has written.

    Raises:
        StageFailed: it is not there.
    """
    if not path.exists():
        raise StageFailed(f"{path} is missing; run `stillroom {stage}` on the job first.")
    return path
