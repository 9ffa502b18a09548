"""The whole flow: one job in, a run directory out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.core.errors import BadInput, nearest
from stillroom.core.files import write_text
from stillroom.core.generated import Generated
from stillroom.core.records import Evidence
from stillroom.pipeline.folder import STAGES, RunFolder
from stillroom.pipeline.generate import GENERATE, generate_examples
from stillroom.pipeline.generated import read_generated
from stillroom.pipeline.processes import check_processes, leads, parting
from stillroom.pipeline.progress import Listener, Silence
from stillroom.pipeline.terms import check_job
from stillroom.pipeline.work import family
from stillroom.spec.job import Job
from stillroom.spec.load import dump_job, load_job

if TYPE_CHECKING:
    from stillroom.pipeline.predict import StudentPredictor


@dataclass(frozen=True)
class Run:
    """A run: its folder, and what was found."""

    folder: RunFolder

    @cached_property
    def evidence(self) -> Evidence:
        """Every measure with its interval, and the verdict."""
        return Evidence.from_json(json.loads(self.folder.evidence.read_text(encoding="utf-8")))

    @property
    def generated(self) -> Generated:
        """What was generated for the job, and how good it is."""
        return read_generated(self.folder)

    @property
    def confidence(self) -> float:
        """The level of every interval."""
        return load_job(self.folder.job).evaluation.confidence

    @cached_property
    def student(self) -> StudentPredictor:
        """The student that ships: `predict` and `predict_proba`."""
        from stillroom.pipeline.predict import load

        return load(self.folder.path)

    @property
    def words(self) -> str:
        """The verdict in words."""
        from stillroom.report.words import verdict_words

        return verdict_words(self.evidence, self.confidence)


def run(
    job: Job | str | Path,
    *,
    run_dir: Path | str | None = None,
    overrides: Sequence[str] = (),
    allow_code: bool = False,
    listener: Listener | None = None,
    until: str = "report",
) -> Run:
    """Distil: walk the stages up to `until`, each resuming where it stopped.

    Started in several processes (torchrun, accelerate launch), the first one does so; the others help to train, and return then.

    Args:
        job: a job, or the path of a job file.
        run_dir: the run's folder; default runs/NAME in the working directory.
        overrides: "key.path=value" each, for a job file.
        allow_code: let the job import Python objects of the user's.
        listener: who is told what goes on; default nobody.
        until: the last stage: generate (where the job has that section), label, train, evaluate, export or report.

    Raises:
        BadInput, PolicyRefused, MissingExtra, StageFailed: with place, value and remedy. What was finished is kept.
    """
    if not isinstance(job, Job):
        job = load_job(Path(job), overrides)
    elif overrides:
        raise BadInput.at("overrides", "go with a job file; use job.model_copy(update=...) for a Job.")
    if until not in (GENERATE, *STAGES):
        raise BadInput.at("until", f"= {until!r} is no stage; {nearest(until, (GENERATE, *STAGES))}")
    check_job(job)
    check_processes(job)
    folder = RunFolder(Path(run_dir) if run_dir is not None else Path("runs") / (job.name or "job"), writes=leads())
    if not folder.writes:
        listener, until = None, until if until == GENERATE else min(until, "train", key=STAGES.index)
    with folder.locked(), parting():
        if folder.writes:
            write_text(folder.job, dump_job(job))
        if until == GENERATE:
            generate_examples(job, folder, listener or Silence())
        else:
            if job.generation is not None and job.task == "language-model" and folder.writes:
                (listener or Silence()).say(
                    "generation: prompts are written by `stillroom generate` alone; this run learns from data.source."
                )
            work = family(job, "work").open_work(job, folder, listener or Silence(), allow_code)
            getattr(family(job, until), until)(work)
    return Run(replace(folder, path=folder.path.absolute()))
