"""`stillroom predict`: the student of a run answers for a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Rows to predict: CSV, TSV, Parquet or JSONL.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; default: CSV to standard output.")] = None,
) -> None:
    """Predict for the rows of a file, with probabilities for a classification.

    Of a language model: how surprising each text is to it, nats_per_token (the mean of -log q of the next token), over so many
    tokens; of prompts with completions and of conversations, the answers. `stillroom write` has it write.
    """
    from stillroom.pipeline.predict import predict_file

    text = predict_file(run_dir, file)
    if out is None:
        typer.echo(text, nl=False)
    else:
        from stillroom.core.files import write_text

        write_text(out, text)
