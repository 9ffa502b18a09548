"""predictor.json: what a saved predictor is, so that a folder alone says how to load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stillroom.core.errors import BadInput
from stillroom.core.files import write_json
from stillroom.core.records import Column

MANIFEST = "predictor.json"
SCHEMA = "stillroom/predictor@1"


def write_manifest(folder: Path, *, kind: str, classes: Sequence[str], columns: Sequence[Column] = (), **facts: Any) -> None:
    """Write `folder`/predictor.json: the kind, the classes in column order, the feature columns, and facts of that kind."""
    content = {"schema": SCHEMA, "kind": kind, "classes": list(classes), "columns": [asdict(column) for column in columns]}
    write_json(folder / MANIFEST, {**content, **facts})


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `folder`/predictor.json; "classes" as a tuple of str, "columns" as a tuple of `Column`.

    Raises:
        BadInput: there is none, it is not JSON, or of another schema.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput.at(str(folder), f"is no saved predictor: it has no {MANIFEST}.") from None
    except ValueError:
        raise BadInput.at(str(path), "is not valid JSON; save the predictor again.") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise BadInput.at(str(path), f"has schema {schema!r}; this version reads {SCHEMA!r}.")
    try:
        classes = tuple(str(name) for name in content["classes"])
        columns = tuple(Column(**column) for column in content["columns"])
        return {**content, "kind": str(content["kind"]), "classes": classes, "columns": columns}
    except (KeyError, TypeError):
        raise BadInput.at(str(path), "lacks 'kind', 'classes' or 'columns'; save the predictor again.") from None
