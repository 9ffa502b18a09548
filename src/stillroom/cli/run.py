"""`stillroom run`: the whole flow, from the job file to the report."""

from __future__ import annotations

import typer

from stillroom.cli.options import AllowCode, JobFile, Overrides, RunDir
from stillroom.cli.stages import walk


def run(job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None, allow_code: AllowCode = False) -> None:
    """Distil: label, train, evaluate, export, report. Resumes where it stopped."""
    result = walk("report", job_file, overrides, run_dir, allow_code)
    if result is not None:
        typer.echo("")
        typer.echo(result.words)
        typer.echo(f"Report: {result.folder.report}")
