"""`stillroom label`, `train`, `evaluate`, `export`, `report`: one stage, and those before it that are not done."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stillroom.cli.options import AllowCode, DryRun, JobFile, Overrides, RunDir

if TYPE_CHECKING:
    from stillroom.pipeline.run import Run


def label(
    job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None, allow_code: AllowCode = False, dry_run: DryRun = False
) -> None:
    """Ask the teacher; keep its answers in the knowledge store."""
    if dry_run:
        from stillroom.cli.dry_run import dry_run as tell_costs

        tell_costs(job_file, overrides, run_dir)
    else:
        _until("label", job_file, overrides, run_dir, allow_code)


def train(job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None, allow_code: AllowCode = False) -> None:
    """Train the students and their controls."""
    _until("train", job_file, overrides, run_dir, allow_code)


def evaluate(job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None, allow_code: AllowCode = False) -> None:
    """Measure every arm on the test split."""
    _until("evaluate", job_file, overrides, run_dir, allow_code)


def export(job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None, allow_code: AllowCode = False) -> None:
    """Export the student, and check that the export agrees with it."""
    _until("export", job_file, overrides, run_dir, allow_code)


def report(job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None, allow_code: AllowCode = False) -> None:
    """Write report.html and model-card.md."""
    _until("report", job_file, overrides, run_dir, allow_code)


def walk(stage: str, job_file: Path, overrides: list[str] | None, run_dir: Path | None, allow_code: bool) -> Run | None:
    """The run, walked up to `stage`; None in a process that only helped another one."""
    from stillroom.spec.load import load_job

    job = load_job(job_file, overrides or ())
    from stillroom.cli.terminal import Terminal
    from stillroom.pipeline.processes import leads
    from stillroom.pipeline.run import run as run_job

    with Terminal() if leads() else nullcontext() as terminal:
        result = run_job(job, run_dir=run_dir, allow_code=allow_code, listener=terminal, until=stage)
    return result if leads() else None


def _until(stage: str, job_file: Path, overrides: list[str] | None, run_dir: Path | None, allow_code: bool) -> None:
    result = walk(stage, job_file, overrides, run_dir, allow_code)
    if result is not None:
        typer.echo(f"{stage}: done, in {result.folder.path}")
