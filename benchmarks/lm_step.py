"""One optimiser step on stored next-token distributions, against one step of plain fine-tuning on the same tokens.

    python benchmarks/lm_step.py                  both sizes, lm_step.md rewritten
    python benchmarks/lm_step.py --quick          the small size alone, printed
    python benchmarks/lm_step.py --json FILE      the raw seconds as well; a size that FILE holds already is not measured again

The steps take turns in one process, on the same packed rows of random tokens and the same starting weights, each with its
own copy of a Llama-style student of random weights and AdamW. What is compared are medians over the rounds:

- fine-tuning: transformers' own forward() with the logits of all positions, cross-entropy, as any trainer does it
- control:     Stillroom's step without a teacher (the fused cross-entropy)
- offline:     Stillroom's step on a store of answers, which are read, decoded and put in place within the time

The answers come from synthetic logits (normal, standard deviation 4) and the default scheme.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import TokenExample, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenKnowledge, TokenQuestion, put_answers
from stillroom.objectives.tokens import TokenObjective
from stillroom.pipeline.report import environment
from stillroom.teachers.token_sampling import position_seeds, sample_distributions
from stillroom.training.language import measure_inside_forward
from stillroom.training.language_rows import TokenRows
from stillroom.training.language_teachers import OfflineTeacher

PAGE = Path(__file__).with_suffix(".md")
SIZES: dict[str, dict[str, int]] = {
    "small": {"vocabulary": 4_000, "hidden": 128, "layers": 4, "rows": 4, "length": 128, "rounds": 15},
    "large": {"vocabulary": 32_000, "hidden": 512, "layers": 8, "rows": 8, "length": 256, "rounds": 15},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    for name in ("small",) if options.quick else SIZES:
        if name not in results:
            results[name] = {"seconds": measure(**SIZES[name]), "environment": environment()}
        print(name, "; ".join(f"{step} {ratio:.3f} of fine-tuning" for step, ratio in ratios(results[name]).items()), flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    if not options.quick:
        PAGE.write_text(page(results))


def measure(*, vocabulary: int, hidden: int, layers: int, rows: int, length: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, round by round; the first round warms up and does not count."""
    rng, scheme = np.random.default_rng(0), TokenScheme()
    examples = [TokenExample(rng.integers(0, vocabulary, length), np.arange(length) < length - 1) for _ in range(rows)]
    question = TokenQuestion(fingerprint("synthetic"), fingerprint("none"), scheme)
    with tempfile.TemporaryDirectory() as folder, KnowledgeStore(Path(folder)) as store:
        for number, example in enumerate(examples):
            logits = 4 * torch.randn(length - 1, vocabulary, generator=torch.Generator().manual_seed(number))
            seeds = position_seeds(0, example.fingerprint, length - 1)
            put_answers(store, question, [example], [sample_distributions(logits, seeds, scheme)])
        knowledge = TokenKnowledge(store, question, examples)
        teacher = OfflineTeacher(knowledge.answers, rows, scheme, question.key("all"))
        steps = {
            "fine-tuning": plain_step(student(vocabulary, hidden, layers), examples),
            "control": own_step(student(vocabulary, hidden, layers), examples, None, vocabulary),
            "offline": own_step(student(vocabulary, hidden, layers), examples, teacher, vocabulary),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for number in range(rounds + 1):
            for name in rng.permutation(list(steps)).tolist():
                start = time.perf_counter()
                steps[name]()
                if number:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def student(vocabulary: int, hidden: int, layers: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "num_attention_heads": hidden // 64}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **sizes)).train()


def plain_step(model: LlamaForCausalLM, examples: list[TokenExample]) -> Callable[[], None]:
    rows, optimiser = TokenRows(examples, packed=True), torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        batch = rows.collate([(number,) for number in range(len(rows))])
        ids = batch["input_ids"]
        model(input_ids=ids, position_ids=batch["position_ids"], labels=ids, use_cache=False).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def own_step(model: LlamaForCausalLM, examples: list[TokenExample], teacher: OfflineTeacher | None, vocabulary: int) -> Callable[[], None]:
    def read(numbers: Any, num_asked: Any) -> dict[str, torch.Tensor]:
        return {} if teacher is None else teacher.read(numbers, num_asked, vocabulary)

    rows, optimiser = TokenRows(examples, packed=True, read=read), torch.optim.AdamW(model.parameters(), lr=1e-4)
    objective = TokenObjective().control if teacher is None else TokenObjective()
    measure_inside_forward(model, vocabulary)

    def step() -> None:
        batch = rows.collate([(number,) for number in range(len(rows))])
        answers = None if teacher is None else teacher.answer(batch, vocabulary)
        seen = {name: batch[name] for name in ("input_ids", "position_ids", "places")}
        model(**seen, measure=lambda hidden, head: objective.loss(hidden, head, answers, batch["labels"], share=0.0).loss).backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def ratios(result: dict[str, Any]) -> dict[str, float]:
    medians = {name: statistics.median(seconds) for name, seconds in result["seconds"].items()}
    return {name: medians[name] / medians["fine-tuning"] for name in ("control", "offline")}


def page(results: dict[str, Any]) -> str:
    lines = ["# One step on stored distributions, against one of fine-tuning", "", "    python benchmarks/lm_step.py", ""]
    lines += ["| size | fine-tuning, s | control | offline |", "| --- | --- | --- | --- |"]
    for name, result in results.items():
        sizes, ratio = SIZES[name], ratios(result)
        what = f"V={sizes['vocabulary']}, H={sizes['hidden']}, {sizes['layers']} layers, {sizes['rows'] * sizes['length']} tokens"
        base = statistics.median(result["seconds"]["fine-tuning"])
        lines.append(f"| {what} | {base:.3f} | {ratio['control']:.3f} of it | {ratio['offline']:.3f} of it |")
    lines += ["", f"Medians of interleaved steps. Seed 0. {json.dumps(next(iter(results.values()))['environment'])}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
