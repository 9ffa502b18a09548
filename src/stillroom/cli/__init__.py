"""The command line: parse, call the pipeline, print, exit code. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys

import typer

from stillroom.cli import check, generate, init, predict, review, run, schema, stages, verify, write
from stillroom.core.errors import StillroomError

app = typer.Typer(
    name="stillroom",
    help="Distil a teacher into a small student, with evidence that it was worth it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
INTERRUPTED = 130
RESUMING = ("run", "generate", "label", "train", "evaluate", "export", "report")


def _version(wanted: bool) -> None:
    if wanted:
        from stillroom import __version__

        typer.echo(f"stillroom {__version__}")
        raise typer.Exit


@app.callback()
def _stillroom(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version.")) -> None:
    """Distil a teacher into a small student, with evidence that it was worth it."""


app.command("run")(run.run)
app.command("check")(check.check)
app.command("generate")(generate.generate)
app.command("label")(stages.label)
app.command("train")(stages.train)
app.command("evaluate")(stages.evaluate)
app.command("export")(stages.export)
app.command("report")(stages.report)
app.command("predict")(predict.predict)
app.command("write")(write.write)
app.command("review")(review.review)
app.command("verify")(verify.verify)
app.command("init")(init.init)
app.command("schema")(schema.schema)


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 wrong job or call, 3 refused by policy, 130 interrupted."""
    try:
        code = app(standalone_mode=False)
    except StillroomError as error:
        typer.echo(f"{'refused' if error.exit_code == 3 else 'error'}: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)  # a wrong call, in click's words
        if show is None:
            raise
        show()
        code = getattr(error, "exit_code", 2)
    if code == INTERRUPTED:  # typer turns a Ctrl-C inside a command into this code
        kept = "; what was finished is kept, and the same command goes on from there" if sys.argv[1:2] and sys.argv[1] in RESUMING else ""
        typer.echo(f"\ninterrupted{kept}.", err=True)
        # If it came while a string was run (so dataclasses are made), Python would end by the signal; the next string clears that.
        exec("")  # noqa: S102
    sys.exit(code)
