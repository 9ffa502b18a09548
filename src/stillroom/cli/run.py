"""`stillroom run`: the whole flow, from the job file to the report."""

from __future__ import annotations

import typer

from stillroom.cli.options import AllowCode, JobFile, Overrides, RunDir


def run(job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None, allow_code: AllowCode = False) -> None:
    """Distil: label, train, evaluate, export, report. Resumes where it stopped."""
    from stillroom.spec.load import load_job

    job = load_job(job_file, overrides or ())
    from stillroom.cli.terminal import Terminal
    from stillroom.pipeline.run import run as run_job

    with Terminal() as terminal:
        result = run_job(job, run_dir=run_dir, allow_code=allow_code, listener=terminal)
    typer.echo("")
    typer.echo(result.words)
    typer.echo(f"Report: {result.folder.report}")
