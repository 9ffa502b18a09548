"""`stillroom init`: a commented job file to start from."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from stillroom.core.errors import BadInput, nearest

TEACHERS = {
    "tabular-classification": "extra-trees",
    "tabular-regression": "extra-trees",
    "text-classification": "sentence-transformers/all-MiniLM-L6-v2",
    "language-model": "HuggingFaceTB/SmolLM2-135M",
}
STUDENTS = {"tabular-classification": "logistic-regression", "tabular-regression": "decision-tree", "text-classification": "teacher-layers"}
SHAPES = {"text": ("text",), "prompt": ("prompt", "completion"), "messages": ("messages",)}
"""Of a language model's rows -> the columns to name."""


def init(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The job file to write.")] = Path("job.yaml"),
    task: Annotated[
        str | None, typer.Option(help="tabular-classification, tabular-regression, text-classification or language-model.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="The file of rows: CSV, TSV, Parquet or JSONL; of a language model also plain text.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column to predict (not of a language model).")] = None,
    text: Annotated[str | None, typer.Option(help="The text column (text-classification, language-model).")] = None,
    prompt: Annotated[str | None, typer.Option(help="language-model, instead of --text: the column of prompts.")] = None,
    completion: Annotated[str | None, typer.Option(help="language-model: the column of answers to the prompts.")] = None,
    messages: Annotated[str | None, typer.Option(help="language-model, instead of --text: the column of conversations.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="An estimator's name, for text a model's folder or hub id, or an OpenAI-compatible server's address.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="With a server's address as the teacher: the model's name there.")] = None,
    student: Annotated[
        str | None,
        typer.Option(help="An estimator's name, for text 'teacher-layers', of a language model how many of the teacher's layers."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented job file, asking what it needs."""
    if out.exists() and not force:
        raise BadInput.at(str(out), "exists already; choose another name, or give --force to replace it.")
    task = task or _ask("task", f"Task ({', '.join(TEACHERS)})", "tabular-classification")
    if task not in TEACHERS:
        raise BadInput.at("--task", f"= {task!r} is not a task; {nearest(task, TEACHERS)}")
    is_language = task == "language-model"
    data = _from(out.parent, data or _ask("data", "File of texts" if is_language else "File of labelled rows", None))
    if is_language:
        columns = _columns(data, {"text": text, "prompt": prompt, "completion": completion, "messages": messages})
        teacher = _model_from(out.parent, teacher or _ask("teacher", "Teacher, a model's folder or hub id", TEACHERS[task]))
        content = language_job_text(data, columns, teacher, *_sizes(out.parent, teacher, student))
    else:
        target = target or _ask("target", "Column to predict", None)
        if task == "text-classification":
            text = text or _ask("text", "Text column", "text")
        teacher = teacher or _ask("teacher", "Teacher", TEACHERS[task])
        if task == "text-classification" and "://" in teacher:
            model = model or _ask("model", "Model's name at that server", None)
            student = student or _ask("student", "Student, a model's folder or hub id, or an estimator", TEACHERS[task])
            content = endpoint_job_text(data, target, str(text), teacher, model, _student_from(out.parent, student))
        else:
            teacher = _model_from(out.parent, teacher) if task == "text-classification" else teacher
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


def _model_from(folder: Path, model: str) -> str:
    """A model's folder as a job file in `folder` has to give it; anything else is a hub id."""
    if not Path(model).expanduser().is_dir():
        return model
    path = _from(folder, model)
    return path if path[:1] in "./~$" else f"./{path}"


def _student_from(folder: Path, student: str) -> str:
    """The student of a teacher whose weights stay with its server, as a section: an estimator by its short name, else a model."""
    from stillroom.models.estimators import SHORT_NAMES

    if student == STUDENTS["text-classification"]:
        raise BadInput.at(
            "--student", f"= {student!r} is made of the teacher's weights, which stay with its server; name a model or an estimator."
        )
    if student in SHORT_NAMES["classification"]:
        return f"{{kind: estimator, estimator: {student}}}"
    return f"{{kind: huggingface, init: pretrained, model: {json.dumps(_model_from(folder, student))}}}"


def _columns(data: str, given: dict[str, str | None]) -> dict[str, str]:
    """Which columns of a language model's rows are what; none of a plain text."""
    named = {name: column for name, column in given.items() if column}
    if named or data.lower().endswith((".txt", ".txt.gz")):
        return named
    shape = _ask("text", f"What a row holds ({', '.join(SHAPES)})", "text")
    if shape not in SHAPES:
        raise BadInput.at("--text", f"{shape!r} is no shape of rows; {nearest(shape, SHAPES)}")
    return {name: _ask(name, f"Column of the {name}", name) for name in SHAPES[shape]}


def _sizes(folder: Path, teacher: str, student: str | None) -> tuple[int, int, int]:
    """Layers of the student (asked for where not given) and of its teacher, and the length of an example in tokens."""
    from stillroom.models.causal import sketch_causal
    from stillroom.models.token_batches import context_length

    if student is not None and not student.isdecimal():
        raise BadInput.at("--student", f"= {student!r} is no number; give how many of its teacher's layers it takes over.")
    path = Path(os.path.normpath(folder / Path(teacher).expanduser()))  # `folder` itself may not be there yet
    if teacher[:1] in "./~" and not path.is_dir():
        raise BadInput.at("--teacher", f"no such folder: {path}.")
    sketch = sketch_causal(str(path) if teacher[:1] in "./~" else teacher, place="--teacher")
    depth, context = int(sketch.config.num_hidden_layers), context_length(sketch)
    layers = student or _ask("student", f"Layers of the student, of the teacher's {depth}", str(max(depth // 2, 1)))
    return int(layers) if layers.isdecimal() else 0, depth, min(256, context or 256)


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


def endpoint_job_text(data: str, target: str, text: str, base_url: str, model: str, student: str) -> str:
    """The job file of a teacher behind an endpoint: what was asked for, and the keys that people change most, commented."""
    quoted = json.dumps
    lines = [
        "# A Stillroom job. `stillroom schema` prints every key; `stillroom label FILE --dry-run` tells what it will cost.",
        "task: text-classification",
        "data:",
        f"  source: {{kind: file, train: {quoted(data)}}}  # also: test, unlabeled (more rows without the target)",
        f"  target: {quoted(target)}",
        f"  text: {quoted(text)}",
        "  split: {test: 0.25}       # share of rows kept for the evaluation, read once",
        "teacher:  # a model behind an OpenAI-compatible server",
        "  kind: endpoint",
        f"  base_url: {quoted(base_url)}",
        f"  model: {quoted(model)}",
        "  # api_key_env: MY_KEY     # the variable that holds the key",
        "  licence: unknown          # declare the model's: apache-2.0, mit, ...; a vendor's terms are known by its host",
        "  answers: text             # or logprobs, samples: soft labels, with objective.temperature 2",
        "  # max_tokens: 16          # of an answer; a budget in usd or tokens needs it",
        "  # prices: {prompt: 0.15, completion: 0.60}  # US dollars per million tokens",
        "specification:",
        "  task: Say which one of the labels the text belongs to.  # as you would explain it to a new colleague",
        "  # labels: {NAME: what it means, ...}  # default: the names in the data",
        "# budget: {usd: 5.0}        # reaching it ends the run; a larger one goes on",
        f"student: {student}  # small and fast: this is what ships",
        "objective:",
        "  temperature: 1.0          # hard answers have no doubt to soften",
        "  hard_label_weight: 0.1    # share of the true labels; 1 never looks at the teacher",
        "evaluation:",
        "  seeds: 3                  # students trained; intervals cover their spread",
        "  primary: accuracy",
    ]
    return "\n".join(lines) + "\n"


def language_job_text(data: str, columns: Mapping[str, str], teacher: str, layers: int, depth: int, max_length: int) -> str:
    """The job file of a language model: what was asked for, and the keys that people change most, commented."""
    quoted = json.dumps
    whole = {"text": "every token is learnt", "prompt": "read", "completion": "learnt", "messages": "every assistant turn is learnt"}
    lines = [
        "# A Stillroom job. `stillroom schema` prints every key; `stillroom run FILE` runs it.",
        "task: language-model",
        "data:",
        f"  source: {{kind: file, train: {quoted(data)}}}  # also: test",
        *(f"  {name}: {quoted(column)}  # {whole[name]}" for name, column in columns.items()),
        "  # other_domains: {news: news.txt}  # measured on too, never learnt",
        "  split: {test: 0.1}        # share of the documents kept for the evaluation, read once",
        "teacher:  # strong and slow: it says of every token what it would have expected",
        "  kind: huggingface",
        f"  model: {quoted(teacher)}  # a folder, or a hub id",
        "  licence: unknown          # declare it: apache-2.0, mit, ...",
        "  # fine_tune: {num_train_epochs: 1, learning_rate: 5e-5, max_length: 256}  # on these documents, first",
        "student:  # small and fast: this is what ships, a transformers checkpoint",
        "  kind: huggingface",
        f"  layers: {layers}  # of the teacher's {depth}; narrower with hidden_size, intermediate_size, num_heads, num_key_value_heads",
        "labelling:",
        "  tokens: threshold         # an unbiased sample, stored; or hidden, top-k, or online: nothing is stored",
        "objective:",
        "  temperature: 1.0          # above 1 softens the teacher's probabilities",
        "  hard_label_weight: 0.1    # share of the text itself; 1 never looks at the teacher",
        "training:",
        "  num_train_epochs: 3",
        "  learning_rate: 5e-4       # layers that were cut out need more than a fine-tuning's 5e-5",
        "  per_device_train_batch_size: 16",
        f"  max_length: {max_length}           # tokens of an example",
        "evaluation:",
        "  seeds: 3                  # students trained; intervals cover their spread",
        f"  new_tokens: {min(64, max_length // 2)}            # of the texts that every arm writes",
        "  primary: log_loss",
    ]
    return "\n".join(lines) + "\n"
