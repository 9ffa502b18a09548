"""`stillroom label JOB --dry-run`: what labelling will take, before it is taken."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stillroom.cli.terminal import Terminal
from stillroom.core.duration import duration

if TYPE_CHECKING:
    from stillroom.teachers.tasks.estimate import Estimate, Range


def dry_run(job_file: Path, overrides: list[str] | None, run_dir: Path | None) -> None:
    """Print requests, tokens, money and time of the whole labelling, each with its interval."""
    from stillroom.pipeline.dry_run import estimate_labelling
    from stillroom.spec.load import load_job

    job = load_job(job_file, overrides or ())
    with Terminal() as terminal:
        estimate = estimate_labelling(job, run_dir=run_dir, listener=terminal)
    teacher = job.teacher
    typer.echo(words(estimate, priced=getattr(teacher, "prices", None) is not None, batch=getattr(teacher, "batch", False)))


def words(estimate: Estimate, *, priced: bool, batch: bool = False) -> str:
    """The estimate as lines, each figure with its interval."""
    found = [
        ("requests", _counts(estimate.requests)),
        ("tokens of prompts", _counts(estimate.prompt_tokens)),
        ("tokens of answers", _counts(estimate.completion_tokens)),
        ("US dollars", _money(estimate.usd) if priced else "unknown: the job names no teacher.prices"),
        ("time", "as long as the vendor's batches take, a day at most each" if batch else _time(estimate.seconds)),
    ]
    sample = f"from a sample of {estimate.sampled} that was asked and is kept"
    head = f"{estimate.rows:,} rows, those of the test split among them, {sample}:"
    time = "" if batch else "; of the time, from full concurrency to the sample's own rate"
    tail = f"In brackets 95 % intervals over the choice of the sample{time}."
    if batch and priced:
        tail += "\nThe money is what batches cost, half of teacher.prices; the sample was asked one by one, at all of it."
    return "\n".join([head, *(f"  {name:18} {value}" for name, value in found), tail, _usable(estimate)])


def _usable(estimate: Estimate) -> str:
    """How many of the sample's answers can be used."""
    again = f", {estimate.asked_again} questions asked again for it" if estimate.asked_again else ""
    usable = estimate.sampled - estimate.given_up
    if not estimate.given_up:
        return f"All {usable} of the sample have an answer that can be used{again}."
    return f"{usable} of {estimate.sampled} have an answer that can be used{again}; the others have none: {estimate.complaint}"


def _counts(found: Range) -> str:
    return f"{found.mean:,.0f}  ({found.low:,.0f} to {found.high:,.0f})"


def _money(found: Range) -> str:
    return f"{found.mean:.4g}  ({found.low:.4g} to {found.high:.4g})"


def _time(found: Range) -> str:
    return f"{duration(found.mean)}  ({duration(found.low)} to {duration(found.high)})"
