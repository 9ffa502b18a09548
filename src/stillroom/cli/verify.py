"""`stillroom verify`: are the stored answers whole, and is each under its right key?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(store: Annotated[Path, typer.Argument(metavar="STORE", help="A knowledge store, such as runs/NAME/knowledge.")]) -> None:
    """Re-derive every key of a knowledge store and check every shard."""
    from stillroom.knowledge.store import KnowledgeStore
    from stillroom.knowledge.verify import verify as verify_store

    with KnowledgeStore(store, read_only=True) as opened:
        report = verify_store(opened)
    typer.echo(str(report))
