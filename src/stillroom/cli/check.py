"""`stillroom check`: is the job right, before anything heavy starts?"""

from __future__ import annotations

import typer

from stillroom.cli.options import JobFile, Overrides


def check(job_file: JobFile, overrides: Overrides = None) -> None:
    """Check a job file: its keys, its files, its terms."""
    from stillroom.pipeline.terms import check_job, missing_key
    from stillroom.spec.load import load_job

    job = load_job(job_file, overrides or ())
    for note in [*check_job(job).notes, *missing_key(job)]:
        typer.echo(f"note: {note}")
    typer.echo(f"{job_file}: right. {job.task}; teacher {job.teacher.kind}, student {job.student.kind}.")
