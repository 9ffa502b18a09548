"""A language model's distillation at equal tokens and seeds: no teacher, the whole distribution, and caches of it.

    python benchmarks/lm.py                 every variant of jobs/tiny-lm.yaml, lm.md rewritten
    python benchmarks/lm.py --quick         a slice of it, printed
    python benchmarks/lm.py --json FILE     the raw figures as well

Every variant is a whole run of the same job, with the teacher's answers kept in another way; `control` is the same student
without a teacher. top-k keeps so many tokens as take the bytes of the default. Resumable: what is done in --runs is not run again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from stillroom.core.records import Evidence, Measure
from stillroom.pipeline.report import environment

ROOT = Path(__file__).parents[1]
JOB = "jobs/tiny-lm.yaml"
VARIANTS = {
    "online": "the whole distribution, nothing stored",
    "hidden": "the whole distribution, from stored hidden states (bfloat16)",
    "threshold": "an unbiased sample, the default",
    "sampled": "an unbiased sample, draws with replacement (arXiv:2503.16870)",
    "top-k": "the likeliest tokens and the mass of the rest, at the default's bytes",
}
QUICK = {
    "data.source.limit": 60,
    "training.num_train_epochs": 1,
    "evaluation.seeds": 2,
    "evaluation.resamples": 200,
    "data.other_documents": 5,
}
SHARED = {"evaluation.cost": "false", "evaluation.prompts": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-lm")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    settings = {**SHARED, **(QUICK if options.quick else {"evaluation.seeds": options.seeds})}
    results: dict[str, Any] = {}
    for variant in VARIANTS:
        extra = {"labelling.tokens": variant}
        if variant == "top-k":
            extra["labelling.tokens_number"] = equal_k(results["threshold"]["bytes_per_token"])
        results[variant] = measure(options.runs / variant, {**settings, **extra})
        student = Evidence.from_json(results[variant]["evidence"]).value("student", "log_loss")
        print(f"{variant}: {cell(student)}, {results[variant]['bytes_per_token']:.1f} bytes a token", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    if not options.quick:
        (ROOT / "benchmarks" / "lm.md").write_text(page(results, options.seeds))


def measure(run: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One run, as a user would start it."""
    done = run / "benchmark.json"
    if not done.is_file():
        changes = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        subprocess.run([sys.executable, "-m", "stillroom.cli", "run", JOB, "--run", str(run), *changes], cwd=ROOT, check=True)
        done.write_text(json.dumps({"environment": environment(), "settings": settings}))
    tokens = num_answers(run)
    stored = sum(path.stat().st_size for path in (run / "knowledge").rglob("*.parquet")) if (run / "knowledge").is_dir() else 0
    evidence = json.loads((run / "evidence.json").read_text())
    seconds = {stage: json.loads((run / "stages" / f"{stage}.json").read_text())["seconds"] for stage in ("label", "train")}
    return {**json.loads(done.read_text()), "evidence": evidence, "bytes_per_token": stored / tokens, "seconds": seconds}


def num_answers(run: Path) -> int:
    """Training tokens that the teacher was asked about: the first figure of the report's notes is theirs."""
    from stillroom.pipeline.folder import RunFolder
    from stillroom.pipeline.language.work import LanguageWork
    from stillroom.pipeline.progress import Silence
    from stillroom.spec.load import load_job

    return LanguageWork(load_job(run / "job.yaml"), RunFolder(run), Silence()).corpus.train.num_asked


def equal_k(num_bytes: float) -> int:
    """How many tokens of top-k take so many bytes: about 7 bits of id (this vocabulary) and 16 of probability each."""
    return max(1, round(num_bytes * 8 / 23))


def page(results: dict[str, Any], seeds: int) -> str:
    lines = [
        "# Language models: what is learnt from which record of the teacher",
        "",
        f"Written by `python benchmarks/lm.py`: `{JOB}` once for every way of keeping the teacher's answers, {seeds} seeds each, the same",
        "seeds, tokens and steps. Held-out loss in nats a token, 95 % intervals over test documents and seeds. `control` never",
        "sees the teacher.",
        "",
        "| machine and versions | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in results["online"]["environment"].items()),
        "",
        "| record of the teacher | bytes a token | held-out loss | against the control | loss on plays | seconds of training |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    control = Evidence.from_json(results["online"]["evidence"])
    alone = [cell(control.value("control", measure)) for measure in ("log_loss", "log_loss@shakespeare")]
    lines.append(f"| none: control | 0 | {alone[0]} | | {alone[1]} | |")
    for variant, words in VARIANTS.items():
        result = results[variant]
        evidence = Evidence.from_json(result["evidence"])
        verdict = evidence.verdict
        assert verdict is not None
        difference = f"{verdict.difference:+.4f} ({verdict.low:+.4f} to {verdict.high:+.4f}): {verdict.outcome}"
        cells = [f"{variant}: {words}", f"{result['bytes_per_token']:.1f}", cell(evidence.value("student", "log_loss")), difference]
        cells += [cell(evidence.value("student", "log_loss@shakespeare")), f"{result['seconds']['train']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    teacher = control.value("teacher", "log_loss")
    lines += ["", f"The teacher's own held-out loss: {cell(teacher)}. A positive difference is the student's lower loss."]
    return "\n".join(lines) + "\n"


def cell(measure: Measure | None) -> str:
    if measure is None:
        return ""
    return f"{measure.value:.4f}" if measure.low is None else f"{measure.value:.4f} [{measure.low:.4f}, {measure.high:.4f}]"


if __name__ == "__main__":
    main()
