"""WNUT-17's names found through an endpoint: what a token classifier learns from a model that only answers over HTTP.

    python benchmarks/entities_endpoint.py                 everything, entities_endpoint.md rewritten
    python benchmarks/entities_endpoint.py --quick         a few posts, one epoch, printed
    python benchmarks/entities_endpoint.py --json FILE     the raw figures as well

The posts of dev.conll and one half of those of train.conll fine-tune MiniLM-L6, which then answers behind `model_server.py`: it lists the
mentions, as a chat model would, and the bundled job finds their places again. The other half is what it is asked, so that its answers are
out of sample, as an API's are. `KINDS` says what students learn from; each stands beside a control that learns the labels alone.
Resumable: what is done in --runs is not done again.
"""

from __future__ import annotations

import argparse
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from model_server import serving

import stillroom
from stillroom.core.files import whole_folder
from stillroom.core.records import Measure, Verdict
from stillroom.data.build import build_dataset
from stillroom.pipeline.report import environment
from stillroom.spec.data import DataSpec
from stillroom.spec.load import load_job

ROOT = Path(__file__).parents[1]
JOB = ROOT / "jobs" / "entities-from-endpoint.yaml"
PORT, SEEDS = 8392, 3
MEASURES = ("span_f1", "span_precision", "span_recall")


@dataclass(frozen=True)
class Kind:
    """What a student learns from."""

    words: str
    hard_label_weight: float
    unlabeled_share: float = 0.0


KINDS = {
    "answers": Kind("answers to every post", 0.0),
    "pool": Kind("answers to every post, labels of one in five, half and half", 0.5, unlabeled_share=0.8),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=Path, default=None)
    options = parser.parse_args()
    folder = options.runs or ROOT / "runs" / ("entities-endpoint-quick" if options.quick else "entities-endpoint")
    folder.mkdir(parents=True, exist_ok=True)
    split_posts(folder, quick=options.quick)
    train_teacher(folder / "model", folder / "teach.conll", quick=options.quick)
    with serving(folder / "model", PORT):
        runs = {kind: distil(folder, kind, quick=options.quick) for kind in KINDS}
    results = measure(runs)
    print("\n".join(table(results)))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    if not options.quick:
        (ROOT / "benchmarks" / "entities_endpoint.md").write_text(page(results))


# --- the parts


def split_posts(folder: Path, *, quick: bool) -> None:
    """teach.conll: dev.conll and half of the training posts; ask.conll: the other half; test.conll."""
    if (folder / "test.conll").is_file():
        return
    source = load_job(JOB).data.source
    train, test = posts(Path(source.train)), posts(Path(source.test))
    order = np.random.default_rng(0).permutation(len(train))
    teach, ask = ([train[i] for i in order[half::2]] for half in (0, 1))
    teach += posts(Path(source.test).with_name("dev.conll"))
    if quick:
        teach, ask, test = teach[:400], ask[:400], test[:200]
    for name, part in (("teach", teach), ("ask", ask), ("test", test)):
        (folder / f"{name}.conll").write_text("\n\n".join(part) + "\n", encoding="utf-8")


def posts(path: Path) -> list[str]:
    """The posts of a file, each as its lines."""
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    lines = "\n".join("" if not line.strip() else line for line in text.splitlines())
    return [post.strip("\n") for post in lines.split("\n\n") if post.strip()]


def train_teacher(folder: Path, file: Path, *, quick: bool) -> None:
    """The model of the bundled job, with its settings, fine-tuned on the labels of `file`."""
    if folder.is_dir():
        return
    from stillroom.models.spans import SpanPredictor, load_tagger
    from stillroom.objectives.soft_labels_torch import soft_label_loss
    from stillroom.training.tagging import train_tagger

    job = load_job(JOB)
    source = {"kind": "file", "train": str(file), "test": str(file)}
    data = build_dataset(DataSpec(source=source, tokens="tokens", target="tags"), task=job.task, seed=0)
    model, tokenizer = load_tagger(job.student.model, data.classes, new_head_seed=0)
    settings = {**job.training.model_dump(), **({"num_train_epochs": 1.0} if quick else {})}
    column = data.columns[0].name
    train_tagger(
        model, tokenizer, data.train, column=column, labels=data.classes, answers=None, temperature=1.0, hard_label_weight=1.0,
        loss_fn=soft_label_loss, settings=settings, seed=0, folder=folder.with_name("model-checkpoints"),
    )  # fmt: skip
    with whole_folder(folder) as draft:
        SpanPredictor(model, tokenizer, data.classes, column=column, max_length=settings["max_length"]).save(draft)


def distil(folder: Path, kind: str, *, quick: bool) -> stillroom.Run:
    """The bundled job on the other half of the posts."""
    given = {
        "data.source.train": folder / "ask.conll",
        "data.source.test": folder / "test.conll",
        "data.unlabeled_share": KINDS[kind].unlabeled_share,
        "teacher.base_url": f"http://127.0.0.1:{PORT}/v1",
        "teacher.trained_on": "other-rows",
        "objective.hard_label_weight": KINDS[kind].hard_label_weight,
        "labelling.store": folder / "store",  # what one kind has asked, another does not ask again
        "evaluation.seeds": 2 if quick else SEEDS,
        "evaluation.cost": False,
        "export.formats": [],
        **({"training.num_train_epochs": 1} if quick else {}),
    }
    overrides = [f"{key}={json.dumps(value, default=str)}" for key, value in given.items()]
    return stillroom.run(JOB, run_dir=folder / kind, overrides=overrides)


# --- the figures


def measure(runs: dict[str, stillroom.Run]) -> dict[str, Any]:
    """What the runs have recorded."""
    found = {kind: run.evidence for kind, run in runs.items()}
    data = build_dataset(load_job(runs["answers"].folder.job).data, task="sequence-labelling", seed=0)
    return {
        "environment": environment(),
        "rows": {"asked": len(data.train), "test": len(data.test), "labels": len(data.classes)},
        "asked": {kind: json.loads((run.folder.path / "stages" / "label.json").read_text())["asked"] for kind, run in runs.items()},
        "seconds": sum(_seconds(run) for run in runs.values()),
        "measures": {
            kind: [vars(found[kind].value(arm, name)) for arm in ("teacher", "student", "control") for name in MEASURES] for kind in runs
        },
        "verdicts": {kind: vars(evidence.verdict) for kind, evidence in found.items()},
    }


def _seconds(run: stillroom.Run) -> float:
    return sum(json.loads(path.read_text()).get("seconds", 0.0) for path in (run.folder.path / "stages").glob("*.json"))


def table(results: dict[str, Any]) -> list[str]:
    """The arms with their measures, the students with their difference from their control."""
    lines = ["| | F1 | precision | recall | F1 against its control, points |", "| --- | --- | --- | --- | --- |"]
    lines.append(_row("teacher, over HTTP", results, "answers", "teacher"))
    lines.append(_row("control: labels of every post", results, "answers", "control"))
    for kind in KINDS:
        if kind == "pool":
            lines.append(_row("control: labels of one post in five", results, "pool", "control"))
        lines.append(_row(f"student: {KINDS[kind].words}", results, kind, "student"))
    return lines


def _row(words: str, results: dict[str, Any], kind: str, arm: str) -> str:
    measures = {(m["arm"], m["measure"]): Measure(**m) for m in results["measures"][kind]}
    cells = [_cell(measures[arm, name]) for name in MEASURES]
    return f"| {words} | {' | '.join(cells)} | {_gain(Verdict(**results['verdicts'][kind])) if arm == 'student' else ''} |"


def _cell(measure: Measure) -> str:
    return f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]"


def _gain(verdict: Verdict) -> str:
    low, high = (f"{100 * bound:+.1f}" for bound in (verdict.low, verdict.high))
    return f"{100 * verdict.difference:+.1f} ({low} to {high}), {verdict.outcome}"


def page(results: dict[str, Any]) -> str:
    """entities_endpoint.md."""
    rows, asked = results["rows"], results["asked"]["answers"]
    failed = ", ".join(f"{count} {reason}" for reason, count in asked["failed"].items()) or "none"
    machine = [f"| {key} | {value} |" for key, value in results["environment"].items()]
    head = f"""# Names from an endpoint: WNUT-17

Written by `python benchmarks/entities_endpoint.py`. dev.conll and one half of the training posts fine-tuned MiniLM-L6, which answered over
HTTP about the other half ({rows["asked"]} posts) and about the {rows["test"]} test posts; {rows["labels"]} kinds of names. Students and
controls are the same MiniLM with a fresh head, {SEEDS} seeds, equal steps: what is compared is what they learn from. A name counts if its
place and its kind are both right. Intervals are 95 %, differences are paired. Settings are the bundled job's, not tuned; every kind that
was run is shown.
"""
    tail = f"""
Of {asked["rows"]} posts {asked["answered"]} have an answer that can be used ({failed} given up, {asked["asked_again"]} asked again): a
mention that is in its post twice cannot be placed unless all are listed. The stages took {results["seconds"]:.0f} s, the fine-tuning of
the teacher apart.
"""
    return "\n".join([head, *table(results), tail, "| machine and versions | |", "| --- | --- |", *machine, ""])


if __name__ == "__main__":
    main()
