"""`stillroom generate`: the teacher writes examples from the job's specification."""

from __future__ import annotations

import typer

from stillroom.cli.options import JobFile, Overrides, RunDir
from stillroom.cli.stages import walk


def generate(job_file: JobFile, overrides: Overrides = None, run_dir: RunDir = None) -> None:
    """Have the teacher write examples of the job, as `generation` asks for them.

    In a text classification `stillroom run` does so first, and they join the pool. Of a language model they are prompts: name the file
    in data.source, with data.prompt: text, to have them answered.
    """
    result = walk("generate", job_file, overrides, run_dir, allow_code=False)
    if result is not None:
        from stillroom.report.generated import summary

        typer.echo("\n".join(summary(result.generated, result.confidence)))
        typer.echo(f"Examples: {result.folder.generated / 'examples.jsonl'}")
