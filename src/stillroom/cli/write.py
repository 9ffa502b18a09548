"""`stillroom write`: the language model of a run goes on with texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def write(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    prompts: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]...", help="Texts to go on with; what a user says, where the run is a chat's.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", help="Prompts in the job's column of prompts, messages or texts; or a plain text's blocks.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(help="At most so many tokens a text.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time; above, tokens are sampled.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample from the likeliest tokens with this share of the probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    arm: Annotated[str, typer.Option(help="Who writes: student, control, teacher; student@NAME, teacher@NAME.")] = "student",
    out: Annotated[
        Path | None, typer.Option("--out", help='Write JSON lines of "prompt" and "text" there; default: print the texts.')
    ] = None,
) -> None:
    """Have a language model's student go on with texts, or answer where it has learnt conversations."""
    from stillroom.cli.terminal import Terminal
    from stillroom.pipeline.predict import write_file

    settings = {"new_tokens": new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    with Terminal() as terminal:
        written = write_file(run_dir, prompts or [], file, arm=arm, listener=terminal, **settings)
    if out is None:
        typer.echo("\n\n".join(line["text"].strip("\n") for line in written))
    else:
        from stillroom.core.files import write_text

        write_text(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in written))
