"""`stillroom review`: people look at a sample of the teacher's answers."""

from __future__ import annotations

from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillroom.cli.options import AllowCode

if TYPE_CHECKING:
    from stillroom.pipeline.review import Review


def review(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    rows: Annotated[int, typer.Option(help="Rows of the sample; a larger one begins with the smaller.")] = 100,
    reviewer: Annotated[str | None, typer.Option(help="Your name, as it is kept with what you decide; default: the user's.")] = None,
    port: Annotated[int, typer.Option(min=0, help="Of the page; default: a free one.")] = 0,
    csv: Annotated[Path | None, typer.Option("--csv", help="Instead of a page: write the sample there, for a spreadsheet.")] = None,
    filled: Annotated[Path | None, typer.Option("--import", metavar="FILE", help="Read a filled sheet back.")] = None,
    allow_code: AllowCode = False,
) -> None:
    """Accept or correct a sample of the teacher's answers, on a page for this machine alone or in a spreadsheet."""
    from stillroom.cli.terminal import Terminal
    from stillroom.core.errors import BadInput
    from stillroom.pipeline.review import Review

    if csv is not None and filled is not None:
        raise BadInput.at("--csv", "and --import: give one of them.")
    with Terminal() as terminal:
        opened = Review(run_dir, reviewer=_name(reviewer), num_rows=rows, allow_code=allow_code, listener=terminal)
    if csv is not None:
        opened.write_sheet(csv)
        typer.echo(f"{len(opened.session.items)} rows: {csv}. Fill in the column 'label': a label, 'ok' for the teacher's, or 'skip'.")
        typer.echo(f"Then: stillroom review {run_dir} --import {csv}")
        return
    if filled is None:
        _serve(opened, port)
    else:
        kept = opened.read_sheet(filled)
        typer.echo(f"{kept} {'decision is' if kept == 1 else 'decisions are'} new.")
    _conclude(opened, run_dir)


def _name(reviewer: str | None) -> str:
    if reviewer is not None:
        return reviewer
    try:
        return getuser()
    except (OSError, KeyError):  # a container without names
        return "reviewer"


def _serve(opened: Review, port: int) -> None:
    from stillroom.review.server import ReviewServer

    with ReviewServer(opened.session, port=port) as server:
        try:
            typer.echo(f"Open {server.url}")
            typer.echo("Only this machine can, and only with the whole address. Every decision is kept at once; end with Ctrl-C.")
            server.serve_forever()
        except KeyboardInterrupt:
            typer.echo("")


def _conclude(opened: Review, run_dir: Path) -> None:
    from stillroom.report.review import review_words

    found, session = opened.conclude(), opened.session
    decided = len(session.decided())
    typer.echo(f"{decided} of {len(session.items)} rows are decided by {session.reviewer}.")
    for sentence in [] if found is None else review_words(found):
        typer.echo(sentence)
    if decided < len(session.items):
        typer.echo("The same command goes on from there.")
    if found is not None:
        again = f"{run_dir}/job.yaml --run {run_dir}"
        typer.echo(f"Into the report: stillroom report {again}")
        if found.num_wrong:
            typer.echo(f"Into the students too: stillroom run {again} --set labelling.corrections=use")
