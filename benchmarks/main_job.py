"""The main job, end to end: every bundled job from a fresh folder, with every figure of its evidence.

    python benchmarks/main_job.py                 all jobs, main_job.md rewritten
    python benchmarks/main_job.py --quick         the breast cancer job alone, printed
    python benchmarks/main_job.py --json FILE     the raw figures as well

Resumable: a job that is done in --runs is not run again; delete its folder to measure it anew.
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
from stillroom.report.words import verdict_words

ROOT = Path(__file__).parents[1]
JOBS = ("breast-cancer", "digits", "diabetes", "weak-teacher", "banking-intents")
QUICK = ("breast-cancer",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark")
    options = parser.parse_args()
    results = {}
    for name in QUICK if options.quick else JOBS:
        results[name] = measure(name, options.runs / name)
        print(f"{name}: {results[name]['seconds']:.1f} s; {verdict_words(Evidence.from_json(results[name]['evidence']))}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    if not options.quick:
        (ROOT / "benchmarks" / "main_job.md").write_text(page(results))


def measure(name: str, run: Path) -> dict[str, Any]:
    """Run a job as a user would, in a process of its own. The seconds are those of its stages, over all attempts."""
    machine = run / "benchmark.json"
    if not machine.is_file():
        subprocess.run([sys.executable, "-m", "stillroom.cli", "run", f"jobs/{name}.yaml", "--run", str(run)], cwd=ROOT, check=True)
        machine.write_text(json.dumps({"environment": environment()}))
    stages = [json.loads(record.read_text()) for record in sorted((run / "stages").glob("*.json"))]
    seconds = sum(stage.get("seconds", 0.0) for stage in stages)
    return {**json.loads(machine.read_text()), "seconds": seconds, "evidence": json.loads((run / "evidence.json").read_text())}


def page(results: dict[str, Any]) -> str:
    """main_job.md."""
    lines = [
        "# The main job",
        "",
        "Written by `python benchmarks/main_job.py`. One run of each job, nothing chosen among runs; seeds are in the job files.",
        "Intervals are 95 %.",
        "Seconds are the stages' wall time over all attempts, on a shared machine. Costs: with as many threads as the row `threads` says.",
        "",
    ]
    machine = results[JOBS[0]]["environment"]
    lines += ["| machine and versions | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in machine.items()), ""]
    for name, result in results.items():
        evidence = Evidence.from_json(result["evidence"])
        lines += [f"## {name}", "", f"`stillroom run jobs/{name}.yaml`, {result['seconds']:.1f} s.", "", verdict_words(evidence), ""]
        lines += [f"| measure | {' | '.join(evidence.arms)} |", f"| --- |{' --- |' * len(evidence.arms)}"]
        for measure_name in dict.fromkeys(m.measure for m in evidence.measures):
            cells = [cell(evidence.value(arm, measure_name)) for arm in evidence.arms]
            lines.append(f"| {measure_name} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def cell(measure: Measure | None) -> str:
    """A value with its interval and what it rests on."""
    if measure is None:
        return ""
    interval = "" if measure.low is None or measure.high is None else f" [{measure.low:.4g}, {measure.high:.4g}]"
    return f"{measure.value:.4g}{interval} (n {measure.n}, seeds {measure.seeds})"


if __name__ == "__main__":
    main()
