"""`stillroom init`: a commented job file to start from."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from stillroom.core.errors import BadInput, nearest

TEACHERS = {
    "tabular-classification": "extra-trees",
    "tabular-regression": "extra-trees",
    "text-classification": "sentence-transformers/all-MiniLM-L6-v2",
}
STUDENTS = {"tabular-classification": "logistic-regression", "tabular-regression": "decision-tree", "text-classification": "teacher-layers"}


def init(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The job file to write.")] = Path("job.yaml"),
    task: Annotated[str | None, typer.Option(help="tabular-classification, tabular-regression or text-classification.")] = None,
    data: Annotated[str | None, typer.Option(help="The file of labelled rows: CSV, TSV, Parquet or JSONL.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict.")] = None,
    text: Annotated[str | None, typer.Option(help="The text column (text-classification).")] = None,
    teacher: Annotated[str | None, typer.Option(help="An estimator's name, or for text a model's folder or hub id.")] = None,
    student: Annotated[str | None, typer.Option(help="An estimator's name, or for text 'teacher-layers'.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented job file, asking what it needs."""
    if out.exists() and not force:
        raise BadInput.at(str(out), "exists already; choose another name, or give --force to replace it.")
    task = task or _ask("task", "Task (tabular-classification, tabular-regression, text-classification)", "tabular-classification")
    if task not in TEACHERS:
        raise BadInput.at("--task", f"= {task!r} is not a task; {nearest(task, TEACHERS)}")
    data = _from(out.parent, data or _ask("data", "File of labelled rows", None))
    target = target or _ask("target", "Column to predict", None)
    if task == "text-classification":
        text = text or _ask("text", "Text column", "text")
    teacher = teacher or _ask("teacher", "Teacher", TEACHERS[task])
    student = student or _ask("student", "Student", STUDENTS[task])
    content = job_text(task, data, target, text, teacher, student)

    from stillroom.core.files import write_text
    from stillroom.pipeline.work import check_without_asking
    from stillroom.spec.load import load_text

    check_without_asking(load_text(content, folder=out.parent, name=out.stem))
    write_text(out, content)
    typer.echo(f"{out} written. Next: stillroom check {out}, then stillroom run {out}")


def _from(folder: Path, data: str) -> str:
    """A path as a job file in `folder` has to give it: what a person types is relative to where they are."""
    is_fixed = data.startswith("${") or "://" in data or Path(data).expanduser().is_absolute()
    return data if is_fixed else Path(os.path.relpath(data, folder)).as_posix()


def _ask(flag: str, question: str, default: str | None) -> str:
    if not sys.stdin.isatty():
        if default is not None:
            return default
        raise BadInput.at(f"--{flag}", "is missing, and there is no terminal to ask on; give the flag.")
    return str(typer.prompt(question, default=default))


def job_text(task: str, data: str, target: str, text: str | None, teacher: str, student: str) -> str:
    """The job file: what was asked for, and the keys that people change most, commented."""
    quoted = json.dumps  # a JSON string is a YAML string, whatever it holds
    regression = task == "tabular-regression"
    reads_text = task == "text-classification"
    lines = [
        "# A Stillroom job. `stillroom schema` prints every key; `stillroom run FILE` runs it.",
        f"task: {task}",
        "data:",
        f"  source: {{kind: file, train: {quoted(data)}}}  # also: test, unlabeled (more rows without the target)",
        f"  target: {quoted(target)}",
    ]
    if text is not None and reads_text:
        lines += [f"  text: {quoted(text)}"]
    lines += [
        "  # ignore: [id]            # columns that are no features",
        "  split: {test: 0.25}       # share of rows kept for the evaluation, read once",
        "teacher:  # strong and slow: it answers, out of fold, for the rows it is fitted on",
    ]
    if reads_text:
        lines += [
            "  kind: huggingface",
            f"  model: {quoted(teacher)}  # a folder, a hub id, or package:NAME/FOLDER",
            "  licence: unknown          # declare it: apache-2.0, mit, ...",
            "  fine_tune: {num_train_epochs: 5}",
            "student:  # small and fast: this is what ships",
            "  kind: huggingface",
            f"  init: {quoted(student)}  # layers of the teacher, copied",
        ]
    else:
        lines += [
            "  kind: estimator",
            f"  estimator: {quoted(teacher)}  # or an import path: sklearn.svm.SVC",
            "  # params: {n_estimators: 500}",
            "student:  # small and fast: this is what ships",
            "  kind: estimator",
            f"  estimator: {quoted(student)}",
        ]
    lines += ["objective:"]
    if not regression:
        lines += ["  temperature: 2.0          # softens the teacher's probabilities; 1 leaves them"]
    lines += [
        "  hard_label_weight: 0.1    # share of the true labels; 1 never looks at the teacher",
        "evaluation:",
        "  seeds: 3                  # students trained; intervals cover their spread",
        f"  primary: {'r2' if regression else 'accuracy'}",
    ]
    return "\n".join(lines) + "\n"
