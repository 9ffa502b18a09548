"""Rejection sampling through the real client: a loopback server replays what six real models wrote on GSM8K's test split.

    python benchmarks/rejection.py --data DATA     everything, rejection.md rewritten
    python benchmarks/rejection.py --quick         every tenth problem, printed
    python benchmarks/rejection.py --json FILE     the raw figures too

Each solution is asked for by its question and its model's name, read, checked by its final number against the gold answer, and kept
or not. The accept rate of every model must be what exact match on the final number finds in the files, by code that shares nothing
with the library (verifier.py). DATA: the folder of real data (default: $STILLROOM_DATA).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "servers")]

from scripted_server import Server  # noqa: E402
from verifier import as_rows, oracle, problems, real_samples, table  # noqa: E402

from stillroom.core.chat import ChatParameters  # noqa: E402
from stillroom.knowledge.store import KnowledgeStore  # noqa: E402
from stillroom.pipeline.report import environment  # noqa: E402
from stillroom.teachers.checkers import numeric_match  # noqa: E402
from stillroom.teachers.endpoint.address import Endpoint  # noqa: E402
from stillroom.teachers.endpoint.durable import Asker  # noqa: E402
from stillroom.teachers.rejection import Sample, Verified, accept_rates, kept, verify  # noqa: E402
from stillroom.teachers.responses import response_questions  # noqa: E402
from stillroom.teachers.tasks.rounds import ask_until_usable  # noqa: E402


def measure(folder: Path, step: int) -> dict[str, Any]:
    questions = [problem["question"] for problem in problems(folder, "test")]
    files = [pair for pair in real_samples(folder) if int(pair[0].example) % step == 0]
    written = {(sample.model, questions[int(sample.example)]): sample.response for sample, _ in files}
    by_model: dict[str, list[Sample]] = defaultdict(list)
    for sample, _ in files:
        by_model[sample.model].append(sample)

    def replay(number: int, body: dict[str, Any]) -> dict[str, Any]:
        return {"content": written[body["model"], body["messages"][-1]["content"]]}

    verified: list[Verified] = []
    unusable: Counter[str] = Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, KnowledgeStore(Path(scratch) / "store") as store, Server(replay) as server:
        server.keep = False
        for model, samples in by_model.items():
            prompts = [({"role": "user", "content": questions[int(s.example)]},) for s in samples]
            asked = response_questions(ChatParameters(model), prompts, asked_again=0)
            found = ask_until_usable(Asker(store, Endpoint(server.base_url, None)), asked)
            unusable.update(found.given_up)
            read = [
                Sample(sample.example, said.answer, sample.expected, said.model, sample.difficulty)
                for sample, said in zip(samples, found.values, strict=True)
                if said is not None
            ]
            verified += verify(read, numeric_match)
        requests = server.number
    seconds = time.monotonic() - start
    passed = {(v.sample.model, v.sample.example) for v in verified if v.check.passed}
    right = {(s.model, s.example) for s, _ in files if oracle(s.response, s.expected)}
    return {
        "solutions": len(files),
        "requests": requests,
        "seconds": seconds,
        "unusable": dict(unusable),
        "kept": len(kept(verified)),
        "differences": sorted(passed ^ right),
        "by_model": as_rows(accept_rates(verified, lambda s: s.model)),
        "by_difficulty": as_rows(accept_rates(verified, lambda s: s.difficulty)),
        "asked": {model: len(samples) for model, samples in by_model.items()},
        "exact_match": Counter(model for model, _ in right),
        "by_the_file": Counter(sample.model for sample, label in files if label),
    }


def page(found: dict[str, Any]) -> str:
    models = [
        [model, rate["accepted"], found["exact_match"][model], found["by_the_file"][model], found["asked"][model], f"{rate['share']:.4f}"]
        for model, rate in found["by_model"].items()
    ]
    groups = [
        [name, rate["accepted"], rate["samples"], f"{rate['share']:.4f}", rate["examples_accepted"], rate["examples"]]
        for name, rate in found["by_difficulty"].items()
    ]
    lost = ", ".join(f"{count} {reason}" for reason, count in found["unusable"].items()) or "none"
    return "\n".join([
        "# Rejection sampling on GSM8K, through the client",
        "",
        "Written by `OMP_NUM_THREADS=1 python benchmarks/rejection.py`. A server on loopback replays what real models wrote; every",
        "solution is a request of its own, and is stored before it is checked.",
        "",
        *table(["machine and versions", ""], environment().items()),
        f"{found['solutions']:,} solutions, {found['requests']:,} requests, {found['seconds']:.0f} s in all, server included. "
        f"Responses that could not be read: {lost}. Kept: {found['kept']:,}.",
        "",
        f"Solutions on which the run and exact match on the final number differ (an oracle of other code): {len(found['differences'])}.",
        "",
        *table(["model", "accepted", "exact match", "correct by the file", "of", "accept rate"], models),
        "Where the files' own marking differs, `verifier.md` has each case, read: mostly a file compares texts, so that $9.00 is not 9.",
        "",
        "Difficulty: lines of the gold solution.",
        "",
        *table(["difficulty", "accepted", "of", "accept rate", "problems with an accepted solution", "problems"], groups),
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("STILLROOM_DATA", ROOT.parent / "shared" / "data")))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    figures = measure(arguments.data, 10 if arguments.quick else 1)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))
    if arguments.quick:
        print(page(figures))
    else:
        (ROOT / "benchmarks" / "rejection.md").write_text(page(figures))


if __name__ == "__main__":
    main()
