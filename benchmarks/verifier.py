"""The verifier on GSM8K: gold solutions, changed ones, and what six real models answered.

    python benchmarks/verifier.py --data DATA     everything, verifier.md rewritten
    python benchmarks/verifier.py --quick         every tenth problem, printed
    python benchmarks/verifier.py --json FILE     the raw figures too

DATA: the folder of real data (default: $STILLROOM_DATA).
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from stillroom.core.responses import AcceptRate
from stillroom.pipeline.report import environment
from stillroom.teachers.checkers import numeric_match
from stillroom.teachers.final_answers import final_number
from stillroom.teachers.rejection import Sample, Verified, accept_rates, kept, verify

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
GPT3 = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
ROUTED = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
# Read by hand: the verdicts where the file says correct and the verifier does not.
JUDGED = {
    164: "verifier: -15 is not 15; the file drops the sign",
    191: "verifier: 0.5 is not 5; the file drops the point",
    460: "either: 84 cents were asked for, 0.84 dollars are the same; no exact match",
    659: "file: the answer is $3, but the last number of the text is 1/3",
    808: "verifier: the response says that there is no answer",
    1241: "verifier: 7.8 is not 8; the file rounds",
    1269: "verifier: -54 is not 54, though the distance asked for is right; no exact match",
}
Problem = dict[str, str]
Change = Callable[[str, random.Random, list[str]], str]


# --- data


def problems(folder: Path, split: str) -> list[Problem]:
    with gzip.open(folder / "gsm8k" / f"{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def final(problem: Problem) -> str:
    return problem["answer"].rpartition("####")[2].strip()


def real_samples(folder: Path) -> Iterator[tuple[Sample, bool]]:
    """What the models wrote on the test split, and whether the files call it correct. Difficulty: lines of the gold solution."""
    gold = problems(folder, "test")

    def sample(number: int, model: str, response: str) -> Sample:
        steps = gold[number]["answer"].count("\n")
        return Sample(str(number), response, final(gold[number]), model, f"{min(steps, 7)}{'+' if steps >= 7 else ''} steps")

    with gzip.open(folder / "gsm8k" / "example_model_solutions.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, row in enumerate(map(json.loads, lines)):
            assert row["question"] == gold[number]["question"]
            for model in GPT3:
                yield sample(number, f"GPT-3 {model}", row[model]["solution"]), row[model]["is_correct"]
    by_question = {key(problem["question"]): number for number, problem in enumerate(gold)}
    with gzip.open(folder / "gsm8k" / "routellm_gsm8k_responses.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            for model in ROUTED:
                yield sample(by_question[key(row["prompt"])], model, row[f"{model}_response"]), row[model] == "True"


def key(question: str) -> str:
    return re.sub(r"\W", "", question)


# --- changed solutions


def plus(amount: int) -> Change:
    return lambda number, _, __: str(int(number) + amount)


def digit_swap(number: str, rng: random.Random, _: list[str]) -> str:
    """Two neighbouring digits change places; where all are the same, one digit is another."""
    sign, digits = ("-", number[1:]) if number.startswith("-") else ("", number)
    places = [i for i in range(len(digits) - 1) if digits[i] != digits[i + 1]]
    if places:
        at = rng.choice(places)
        return sign + digits[:at] + digits[at + 1] + digits[at] + digits[at + 2 :]
    at = rng.randrange(len(digits))
    return sign + digits[:at] + rng.choice([d for d in "123456789" if d != digits[at]]) + digits[at + 1 :]


def negated(number: str, _: random.Random, __: list[str]) -> str:
    return "1" if number == "0" else str(-int(number))


def of_another(number: str, rng: random.Random, others: list[str]) -> str:
    return rng.choice([o for o in rng.sample(others, 50) if int(o) != int(number)])


CHANGES: dict[str, Change] = {
    "+1": plus(1),
    "-1": plus(-1),
    "digits swapped": digit_swap,
    "times 10": lambda number, _, __: "10" if number == "0" else f"{number}0",
    "sign": negated,
    "another problem's answer": of_another,
    "plus a cent": lambda number, _, __: f"{number}.01",
}
WRITTEN = {
    "#### n": lambda solution, n: f"{solution}#### {n}",
    "the answer is $n.": lambda solution, n: f"{solution}The answer is ${n}.",
    "boxed": lambda solution, n: f"{solution}$\\boxed{{{n}}}$",
    "last number, after <think>": lambda solution, n: f"<think>{solution}</think>So it is {n} in all.",
}


def changed(every: list[Problem]) -> list[dict[str, Any]]:
    """For each kind of change and way to write the answer: rejected of changed, accepted of unchanged."""
    answers = [final(problem).replace(",", "") for problem in every]
    rows = []
    for name, change in {"(unchanged)": lambda number, _, __: f"{int(number):,}", **CHANGES}.items():
        for way, write in WRITTEN.items():
            accepted = total = 0
            for seed in SEEDS if name in ("digits swapped", "another problem's answer") else SEEDS[:1]:
                rng = random.Random(seed)
                for problem, number in zip(every, answers, strict=True):
                    response = write(problem["answer"].partition("####")[0], change(number, rng, answers))
                    [found] = verify([Sample("", response, final(problem))], numeric_match)
                    accepted, total = accepted + found.check.passed, total + 1
            rows.append({"change": name, "written": way, "accepted": accepted, "total": total})
    return rows


# --- an oracle that shares no code with the library


OWN_NUMBER = r"(?<!\d)-?\$?\d[\d,]*(?:\.\d+|/\d+)?"


def oracle(response: str, expected: str) -> bool:
    """Exact match on the final number: the first after "####" (its "=" if any), else the last; commas and dollar signs gone."""
    _, marker, after = response.rpartition("####")
    if marker:
        after = after.split("\n")[0]
        after = after.rpartition("=")[2] if re.search(r"\d", after.rpartition("=")[2]) else after
        found = re.findall(OWN_NUMBER, after)[:1]
    else:
        found = re.findall(OWN_NUMBER, re.sub(r"<<[^<>]*>>", "", response))[-1:]
    if not found:
        return False
    over, _, under = found[0].replace(",", "").replace("$", "").rstrip(".").partition("/")
    return Decimal(over) == Decimal(expected.replace(",", "")) * Decimal(under or "1")


def real(samples: list[tuple[Sample, bool]]) -> dict[str, Any]:
    start = time.process_time()
    verified = verify([sample for sample, _ in samples], numeric_match)
    seconds = time.process_time() - start
    labels = [label for _, label in samples]
    disagreements = [
        {**described(v), "file": label, "oracle": oracle(v.sample.response, v.sample.expected)}
        for v, label in zip(verified, labels, strict=True)
        if v.check.passed != label or v.check.passed != oracle(v.sample.response, v.sample.expected)
    ]
    return {
        "samples": len(samples),
        "seconds": seconds,
        "by_model": as_rows(accept_rates(verified, lambda s: s.model)),
        "files_by_model": {
            model: sum(label for (sample, label) in samples if sample.model == model) for model in sorted({s.model for s, _ in samples})
        },
        "by_difficulty": as_rows(accept_rates(verified, lambda s: s.difficulty)),
        "kept": len(kept(verified)),
        "disagreements": disagreements,
    }


def described(v: Verified) -> dict[str, Any]:
    number = final_number(v.sample.response)
    return {
        "problem": int(v.sample.example),
        "model": v.sample.model,
        "expected": v.sample.expected,
        "read": number.text if number else None,
        "verifier": v.check.passed,
        "right": "verifier: equal in value; the file compares texts" if v.check.passed else JUDGED[int(v.sample.example)],
        "end": v.sample.response[-160:],
    }


def as_rows(rates: dict[str, AcceptRate]) -> dict[str, dict[str, Any]]:
    return {name: {**vars(rate), "share": rate.share} for name, rate in rates.items()}


def measure(folder: Path, step: int) -> dict[str, Any]:
    gold = {split: problems(folder, split)[::step] for split in ("train", "test")}
    start, every = time.process_time(), [*gold["train"], *gold["test"]]
    accepted = {split: sum(numeric_match(p["answer"], final(p)).passed for p in rows) for split, rows in gold.items()}
    seconds = time.process_time() - start
    return {
        "gold": {split: {"accepted": accepted[split], "total": len(rows)} for split, rows in gold.items()},
        "gold_per_second": len(every) / seconds,
        "changed": changed(every),
        "real": real([pair for pair in real_samples(folder) if int(pair[0].example) % step == 0]),
    }


# --- the page


def page(figures: dict[str, Any]) -> str:
    return "\n".join([*head(figures), *changed_part(figures["changed"]), *real_part(figures["real"])]) + "\n"


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    header = list(header)
    return [line(header), line("---" for _ in header), *map(line, rows), ""]


def line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ⏎ ") for cell in cells) + " |"


def head(figures: dict[str, Any]) -> list[str]:
    gold = [f"{split}: {found['accepted']:,} of {found['total']:,}" for split, found in figures["gold"].items()]
    return [
        "# The verifier on GSM8K",
        "",
        "Written by `OMP_NUM_THREADS=1 python benchmarks/verifier.py`. One core; seconds are processor time.",
        "",
        *table(["machine and versions", ""], environment().items()),
        f"Gold solutions accepted: {', '.join(gold)}, at {figures['gold_per_second']:,.0f} solutions a second.",
        "",
    ]


def changed_part(rows: list[dict[str, Any]]) -> list[str]:
    wrong = [row for row in rows if row["change"] != "(unchanged)"]
    rejected, total = sum(row["total"] - row["accepted"] for row in wrong), sum(row["total"] for row in wrong)
    return [
        "## Solutions with a changed final number",
        "",
        "Every gold solution of both splits, its final number changed and written in four ways; where chance chooses (digits swapped,",
        f"another problem's answer) with each of the seeds {SEEDS}. In brackets: the control, unchanged.",
        f"Rejected: {rejected:,} of {total:,} ({rejected / total:.4%}).",
        "",
        *table(["change", "written", "accepted", "of"], ([row["change"], row["written"], row["accepted"], row["total"]] for row in rows)),
    ]


def real_part(found: dict[str, Any]) -> list[str]:
    by_model = found["by_model"]
    against_oracle = [d for d in found["disagreements"] if d["verifier"] != d["oracle"]]
    against_file = [d for d in found["disagreements"] if d["verifier"] != d["file"]]
    judged = Counter(d["right"].partition(":")[0] for d in against_file)
    shown = ("problem", "model", "expected", "read", "verifier", "file", "oracle", "right", "end")
    return [
        "## Real models' solutions",
        "",
        f"{found['samples']:,} solutions to the test split, at {found['samples'] / found['seconds']:,.0f} a second.",
        f"Kept by rejection sampling: {found['kept']:,}. Difficulty: lines of the gold solution.",
        "",
        *table(
            ["model", "accepted", "of", "share", "correct by the file"],
            ([m, r["accepted"], r["samples"], f"{r['share']:.4f}", found["files_by_model"][m]] for m, r in by_model.items()),
        ),
        *table(
            ["difficulty", "accepted", "of", "share", "problems with an accepted solution", "problems"],
            (
                [d, r["accepted"], r["samples"], f"{r['share']:.4f}", r["examples_accepted"], r["examples"]]
                for d, r in found["by_difficulty"].items()
            ),
        ),
        f"Disagreements with exact match on the final number, by an oracle of other code in the script: {len(against_oracle)}.",
        "",
        *(table(shown, ([d[name] for name in shown] for d in against_oracle)) if against_oracle else []),
        f"Disagreements with the files' own `is_correct`: {len(against_file)}, each read: right is "
        + ", ".join(f"{'either' if who == 'either' else f'the {who}'} in {count}" for who, count in judged.most_common())
        + ".",
        "",
        *table(shown, ([d[name] for name in shown] for d in against_file)),
    ]


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
        (ROOT / "benchmarks" / "verifier.md").write_text(page(figures))


if __name__ == "__main__":
    main()
