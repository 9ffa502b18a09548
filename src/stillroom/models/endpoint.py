"""The saved form of a teacher behind an endpoint: what it was, and no way to ask it. Its answers are the knowledge store's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from stillroom.core.errors import BadInput
from stillroom.core.records import Column
from stillroom.models.manifest import read_manifest, write_manifest


def write_reference(
    folder: Path, *, endpoint: str, model: str, served: Sequence[str], classes: Sequence[str] = (), columns: Sequence[Column] = ()
) -> None:
    """Write `folder`/predictor.json.

    Args:
        endpoint: host and path of the server.
        model: as the job names it.
        served: what the server called it in its answers.
    """
    write_manifest(folder, kind="endpoint", classes=classes, columns=columns, endpoint=endpoint, model=model, served=list(served))


def load(folder: Path) -> NoReturn:
    """Refuse: a prediction must not send a person's rows to a server and spend money unasked.

    Raises:
        BadInput: says who the teacher was, and where its answers are.
    """
    facts = read_manifest(folder)
    raise BadInput.at(
        str(folder),
        f"is no model: the teacher {facts['model']!r} answered at {facts['endpoint']}; its answers are in the run's knowledge store and in "
        "predictions.npz. Load the student, or ask the endpoint yourself.",
    )
