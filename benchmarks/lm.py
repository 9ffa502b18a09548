"""What a student learns from which record of its teacher, at equal tokens, steps and seeds.

    python benchmarks/lm_teacher.py         first: trains the teacher (11 million parameters)
    python benchmarks/lm.py                 every arm at every seed, lm.md rewritten
    python benchmarks/lm.py --arms control,full         these alone are trained, no page: a share of the work for one process
    python benchmarks/lm.py --quick --teacher FOLDER    a few steps, one seed, printed

The arms are one student, a quarter of the teacher, cut out of it: `control` learns the tokens alone; `full` the teacher's whole
distributions (forward KL, T = 1), the teacher in memory; the others what a store kept of them, all at the bytes a token of the default.
Resumable: labels, trainings and scores that are done are not done again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from token_store import NAME, SAMPLERS, block_bytes, number_for

from stillroom.core.language_records import LanguageScores
from stillroom.core.records import Evidence, Measure
from stillroom.core.token_records import Sequences, TokenScheme
from stillroom.data.sequences import plain_text, tokenise
from stillroom.evaluation.language import language_evidence
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenKnowledge, TokenQuestion, missing_examples, put_answers
from stillroom.models.causal import load_causal
from stillroom.models.language_scores import score
from stillroom.models.token_batches import asked_states, cut_head, logits_in_chunks
from stillroom.objectives.tokens import TokenObjective
from stillroom.pipeline.report import environment
from stillroom.students.causal import cut_student
from stillroom.teachers.causal import CausalTeacher, label_tokens
from stillroom.teachers.token_sampling import position_seeds
from stillroom.training.language import train_language_model
from stillroom.training.language_teachers import OfflineTeacher, OnlineTeacher, TokenTeacher

ROOT = Path(__file__).parents[1]
MAX_LENGTH, TRANSFER_TOKENS, PILOT_EXAMPLES, CALIBRATION_EXAMPLES = 256, 600_000, 16, 64
STORED = {
    "threshold": "an unbiased sample, the default",
    "sampled": "an unbiased sample, drawn with replacement (arXiv:2503.16870)",
    "top-k": "the likeliest tokens, and the mass of the rest",
}
WORDS = {"control": "nothing", "full": "everything, teacher in memory", **STORED}
STUDENT: dict[str, Any] = {"layers": 5, "hidden_size": 192, "intermediate_size": 432, "num_heads": 3, "num_key_value_heads": 3}
TRAINING: dict[str, Any] = {
    "num_train_epochs": 1.0, "learning_rate": 2.0e-3, "per_device_train_batch_size": 8, "warmup_ratio": 0.05, "weight_decay": 0.1,
    "max_length": MAX_LENGTH, "packing": True,
    "arguments": {"lr_scheduler_type": "cosine", "adam_beta2": 0.95, "bf16": True},
}  # fmt: skip


class Bench:
    """The teacher, its texts, and what is already done of the benchmark, in a folder."""

    def __init__(self, folder: Path, teacher: Path, *, tokens: int, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        model, tokenizer = load_causal(str(teacher / "teacher"), place="--teacher")
        self.teacher, self.size = CausalTeacher(model, tokenizer), int(model.config.vocab_size)
        self.train = first_tokens(self.sequences(teacher / "train.jsonl.gz", shuffled=True), tokens)
        self.tests = {"test": self.sequences(teacher / "test.jsonl.gz"), "dolly": self.sequences(teacher / "dolly.jsonl.gz", limit=300)}
        folder.mkdir(parents=True, exist_ok=True)

    def sequences(self, file: Path, *, shuffled: bool = False, limit: int | None = None) -> Sequences:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            texts = [json.loads(line)["text"] for line in lines]
        if shuffled:
            texts = [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]
        return tokenise([plain_text(text) for text in texts[:limit]], self.teacher.tokenizer, max_length=MAX_LENGTH)[0]

    # --- labels

    def schemes(self) -> dict[str, TokenScheme]:
        """The default, and of the others as much as fits into its bytes on the first examples."""
        examples = self.train.examples[:PILOT_EXAMPLES]
        with torch.no_grad():
            states = asked_states(self.teacher.model, examples)
            head = cut_head(self.teacher.model, self.size, place="--teacher")
            logits = torch.cat([chunk for _, chunk in logits_in_chunks(head, states)])
        seeds, default = position_seeds(0, NAME, len(logits)), TokenScheme()
        samplers = {name.split()[0]: sampler for name, sampler in SAMPLERS.items()}
        target = block_bytes(*samplers["threshold"](logits, seeds, default.number))
        return {"threshold": default} | {
            "sampled": TokenScheme("sampled", number_for(samplers["sampled"], logits, target)),
            "top-k": TokenScheme("top-k", number_for(samplers["top-k"], logits, target)),
        }

    def question(self, scheme: TokenScheme) -> TokenQuestion:
        return TokenQuestion(self.teacher.fingerprint, self.teacher.tokenizer_fingerprint, scheme)

    def label(self, name: str, scheme: TokenScheme) -> None:
        question = self.question(scheme)
        start = time.monotonic()
        with KnowledgeStore(self.folder / "stores" / name) as store:
            asked = label_tokens(
                self.teacher, self.train, scheme=scheme, temperature=1.0, seed=0, vocabulary_size=self.size,
                missing=lambda examples: missing_examples(store, question, examples),
                put=lambda examples, answers: put_answers(store, question, examples, answers),
            )  # fmt: skip
            store.seal()
        print(f"{name}: {scheme}, {asked} examples labelled in {time.monotonic() - start:.0f} s", flush=True)

    def bytes_per_token(self, name: str) -> float:
        folder = self.folder / "stores" / name
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / self.train.num_asked

    # --- arms

    def arm(self, name: str, seed: int, schemes: dict[str, TokenScheme]) -> dict[str, LanguageScores]:
        """The scores of one trained student on every test."""
        done = self.folder / "scores" / f"{name}-{seed}"
        if not done.is_dir():
            start = time.monotonic()
            model = self.trained(name, seed, schemes)
            seconds = time.monotonic() - start
            self.keep(done, model, {"seconds": seconds, "parameters": model.num_parameters()})
            print(f"{name}, seed {seed}: {seconds:.0f} s", flush=True)
        return {test: LanguageScores.from_arrays(dict(np.load(done / f"{test}.npz"))) for test in self.tests}

    def trained(self, name: str, seed: int, schemes: dict[str, TokenScheme]) -> Any:
        calibration = [{"input_ids": torch.from_numpy(example.token_ids)[None]} for example in self.train.examples[:CALIBRATION_EXAMPLES]]
        model = cut_student(self.teacher.model, **STUDENT, calibration=calibration).model
        if name not in schemes:
            self.fit(model, name, seed, OnlineTeacher(self.teacher.model) if name == "full" else None)
            return model
        question = self.question(schemes[name])
        with KnowledgeStore(self.folder / "stores" / name, read_only=True) as store:
            knowledge = TokenKnowledge(store, question, self.train.examples)
            self.fit(model, name, seed, OfflineTeacher(knowledge.answers, len(knowledge), question.scheme, question.key("all")))
        return model

    def fit(self, model: Any, name: str, seed: int, teacher: TokenTeacher | None) -> None:
        train_language_model(
            model, self.teacher.tokenizer, self.train, teacher=teacher, objective=TokenObjective(), settings=self.settings,
            seed=seed, folder=self.folder / "work" / f"{name}-{seed}", vocabulary_size=self.size,
        )  # fmt: skip

    def teacher_scores(self) -> dict[str, LanguageScores]:
        done = self.folder / "scores" / "teacher"
        if not done.is_dir():
            self.keep(done, self.teacher.model, {"parameters": self.teacher.model.num_parameters()})
        return {test: LanguageScores.from_arrays(dict(np.load(done / f"{test}.npz"))) for test in self.tests}

    def keep(self, folder: Path, model: Any, facts: dict[str, Any]) -> None:
        draft = folder.with_name(folder.name + ".part")
        draft.mkdir(parents=True, exist_ok=True)
        for test, sequences in self.tests.items():
            arrays: dict[str, Any] = score(model, sequences, vocabulary_size=self.size).to_arrays()
            np.savez(draft / f"{test}.npz", **arrays)
        (draft / "facts.json").write_text(json.dumps({**facts, "environment": environment()}))
        draft.rename(folder)

    def facts(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "scores" / name / "facts.json").read_text())
        return found


def first_tokens(sequences: Sequences, tokens: int) -> Sequences:
    """The first examples, until so many tokens are asked about."""
    reached = np.cumsum([example.asked.sum() for example in sequences.examples])
    return sequences.take(np.arange(min(int(np.searchsorted(reached, tokens)) + 1, len(sequences))))


# --- the page


Scores = dict[str, Sequence[LanguageScores]]


def difference(scores: Scores, one: str, other: str) -> str:
    """How much lower the loss of `one` is, paired by document and seed."""
    evidence, _ = language_evidence(in_domain={"student": scores[one], "control": scores[other]})
    assert evidence.verdict is not None
    return f"{evidence.verdict.difference:+.4f} ({evidence.verdict.low:+.4f} to {evidence.verdict.high:+.4f})"


def page(bench: Bench, schemes: dict[str, TokenScheme], scores: dict[str, Scores], seeds: int) -> str:
    evidence = {test: language_evidence(in_domain=found)[0] for test, found in scores.items()}
    facts = {name: bench.facts(f"{name}-0") for name in WORDS}
    teacher = bench.facts("teacher")
    documents = {test: len(np.unique(sequences.rows)) for test, sequences in bench.tests.items()}
    lines = [
        "# Language models: what is learnt from which record of the teacher",
        "",
        "Written by `python benchmarks/lm.py`, after `python benchmarks/lm_teacher.py`.",
        "",
        f"Teacher: {teacher['parameters']:,} parameters. Student: {facts['control']['parameters']:,}, cut out of it ({STUDENT}).",
        f"Each arm: {bench.train.num_asked:,} tokens, one pass, seeds 0 to {seeds - 1} (the order of the rows); all have the same tokens,",
        f"steps and starting weights. Training: {bench.settings}.",
        "The texts are some of those that the teacher was trained on, which is the usual case of a model made smaller for its own corpus.",
        f"Held-out loss in nats a token: on {documents['test']} held-out documents of the teacher's corpora, and on",
        f"{documents['dolly']} answers of Dolly, of which no model has seen any. 95 % intervals over documents and seeds.",
        "",
        "| machine and versions | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in facts["control"]["environment"].items()),
        "",
        "| arm | what it has of the teacher | bytes a token | held-out loss | loss on Dolly | calibration error |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name in ("teacher", *WORDS):
        stored = f"{bench.bytes_per_token(name):.1f}" if name in schemes else ""
        what = f"{WORDS[name]}; number {schemes[name].number}" if name in schemes else WORDS.get(name, "")
        losses = [cell(evidence[test], name, "log_loss") for test in bench.tests]
        lines.append(f"| {name} | {what} | {stored} | {' | '.join(losses)} | {cell(evidence['test'], name, 'ece')} |")
    lines += ["", "How much lower the loss of the first is than that of the second, nats a token, paired by document and seed:", ""]
    lines += ["| | held out | Dolly |", "| --- | --- | --- |"]
    for other, one in combinations(WORDS, 2):
        lines.append(f"| {one} against {other} | {' | '.join(difference(scores[test], one, other) for test in bench.tests)} |")
    return "\n".join(lines) + "\n"


def cell(evidence: Evidence, arm: str, measure: str) -> str:
    found: Measure | None = evidence.value(arm, measure)
    assert found is not None
    return f"{found.value:.4f}" if found.low is None else f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--teacher", type=Path, default=ROOT / "runs" / "lm-teacher")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "benchmark-lm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", type=lambda names: names.split(","), default=list(WORDS))
    options = parser.parse_args()
    seeds = 1 if options.quick else options.seeds
    settings = {**TRAINING, "arguments": {**TRAINING["arguments"], **({"max_steps": 5} if options.quick else {})}}
    bench = Bench(options.runs, options.teacher, tokens=10_000 if options.quick else TRANSFER_TOKENS, settings=settings)
    schemes = bench.schemes()
    for name, scheme in schemes.items():
        if name in options.arms:
            bench.label(name, scheme)
    arms = {name: [bench.arm(name, seed, schemes) for seed in range(seeds)] for name in options.arms}
    if len(arms) < len(WORDS):
        return
    arms["teacher"] = [bench.teacher_scores()]
    scores: dict[str, Scores] = {test: {name: [found[test] for found in each] for name, each in arms.items()} for test in bench.tests}
    text = page(bench, schemes, scores, seeds)
    print(text)
    if not options.quick:
        (ROOT / "benchmarks" / "lm.md").write_text(text)


if __name__ == "__main__":
    main()
