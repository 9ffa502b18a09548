"""`stillroom schema`: the job file's JSON Schema, so that editors complete it."""

from __future__ import annotations

import json

import typer


def schema() -> None:
    """Print the JSON Schema of the job file."""
    from stillroom.spec.job import Job

    content = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Job.model_json_schema(), "title": "Stillroom job"}
    typer.echo(json.dumps(content, indent=2))
