"""`stillroom verify`: are the stored answers whole, and is each under its right key?"""

from __future__ import annotations

from typing import Annotated

import typer


def verify(store: Annotated[str, typer.Argument(metavar="STORE", help="A knowledge store, such as runs/NAME/knowledge.")]) -> None:
    """Re-derive every key of a knowledge store and check every shard."""
    from stillroom.knowledge.store import KnowledgeStore
    from stillroom.knowledge.verify import verify as verify_store

    with KnowledgeStore(store, read_only=True) as opened:
        report = verify_store(opened)
    typer.echo(f"{report.answers} answers, {report.contexts} contexts, {report.repeated} repeated, {len(report.problems)} problems")
    report.require_whole()
