"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="The job file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the job: objective.temperature=4.")
]
RunDir = Annotated[Path | None, typer.Option("--run", metavar="DIR", help="The run's folder; default runs/NAME.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Ask an endpoint about a sample, which is kept, and tell what all rows will take."),
]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the job import Python objects of yours.")]
