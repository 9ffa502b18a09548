"""Token knowledge: bytes, gradient error, writing and reading speed of every scheme, at equal bytes.

    python benchmarks/token_store.py --data DATA     everything, token_store.md rewritten
    python benchmarks/token_store.py --quick         fewer tokens, printed
    python benchmarks/token_store.py --json FILE     the raw figures; a part that FILE holds is not measured again

DATA: the folder of real data (default: $STILLROOM_DATA). Run it on quiet cores with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import TokenAnswers, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_codec import decode, encode
from stillroom.knowledge.token_knowledge import TokenExample, TokenQuestion, put_answers
from stillroom.pipeline.report import environment
from stillroom.teachers.token_sampling import concatenate, position_seeds, sample_distributions, uniforms

ROOT = Path(__file__).parents[1]
SEED, NAME = 7, fingerprint("benchmark")
VOCABULARY, HIDDEN, TOPICS = 128256, 64, 256
EXAMPLE_TOKENS = 512
DEFAULT = TokenScheme()
Sampler = Callable[[torch.Tensor, Any, int], tuple[TokenScheme, TokenAnswers]]


# --- schemes: those of the library, and the rivals that lost


def library(kind: Any) -> Sampler:
    def sample(logits: torch.Tensor, seeds: Any, number: int) -> tuple[TokenScheme, TokenAnswers]:
        scheme = TokenScheme(kind, number)
        return scheme, sample_distributions(logits, seeds, scheme)

    return sample


def by_points(points_of: Callable[[Any, int], np.ndarray]) -> Sampler:
    """Ids and counts of one draw a point, as the paper stores them, with other points than independent ones."""

    def sample(logits: torch.Tensor, seeds: Any, number: int) -> tuple[TokenScheme, TokenAnswers]:
        scheme = TokenScheme("sampled", number)
        own = sample_distributions(logits, seeds, TokenScheme("sampled", 1))
        ids = draw(logits.double().softmax(-1), points_of(seeds, number))
        first = np.diff(ids, axis=1, prepend=-1) != 0
        starts = np.flatnonzero(first)
        offsets = np.concatenate([[0], np.cumsum(first.sum(axis=1))])
        none = np.zeros(len(ids) + 1, np.int64)
        counts = np.diff(starts, append=ids.size)
        return scheme, TokenAnswers(own.vocabulary, number, offsets, ids.ravel()[starts], counts, none, none[:0], own.entropy)

    return sample


def head_and_independent_tail(logits: torch.Tensor, seeds: Any, number: int) -> tuple[TokenScheme, TokenAnswers]:
    """The default's head and number of ids, the tail's ids drawn independently of each other."""
    scheme, own = library("threshold")(logits, seeds, number)
    probs = logits.double().softmax(-1)
    head = torch.from_numpy(own.head_ids)
    probs[torch.from_numpy(np.repeat(np.arange(len(own)), np.diff(own.head_offsets))), head] = 0.0
    lengths = np.diff(own.tail_offsets)
    width = int(lengths.max(initial=0))
    if width == 0:
        return scheme, own
    points = uniforms(seeds, width, first_lane=5)
    points[np.arange(width) >= lengths[:, None]] = 2.0
    ids = draw(probs / probs.sum(-1, keepdim=True).clamp(min=1e-300), np.sort(points, axis=1).clip(max=1 - 1e-9))
    tail = ids[np.arange(width) < lengths[:, None]]
    return scheme, TokenAnswers(**{**vars(own), "tail_ids": tail})


def draw(probs: torch.Tensor, points: np.ndarray) -> np.ndarray:
    found = torch.searchsorted(probs.cumsum(-1), torch.from_numpy(np.ascontiguousarray(points)), right=True)
    ids: np.ndarray = found.clamp(max=probs.shape[1] - 1).numpy()
    return ids


SAMPLERS: dict[str, Sampler] = {
    "threshold (default): exact head, strides through the tail": library("threshold"),
    "exact head, independent tail": head_and_independent_tail,
    "strides through everything, no head": by_points(lambda seeds, n: (np.arange(n) + uniforms(seeds, 1)) / n),
    "stratified, no head": by_points(lambda seeds, n: (np.arange(n) + uniforms(seeds, n)) / n),
    "sampled (arXiv:2503.16870)": library("sampled"),
    "top-k": library("top-k"),
}
FIRST = next(iter(SAMPLERS))


def block_bytes(scheme: TokenScheme, answers: TokenAnswers) -> float:
    """Bytes a token, header included, in blocks of EXAMPLE_TOKENS."""
    block = encode(TokenQuestion(NAME, NAME, scheme).block_facts(NAME), answers)
    return (len(block) - 120) / len(answers) + 120 / EXAMPLE_TOKENS


def number_for(sampler: Sampler, logits: torch.Tensor, target: float) -> int:
    """The largest number whose blocks take at most `target` bytes a token."""
    seeds = position_seeds(SEED, NAME, len(logits))
    low, high = 2, min(4096, logits.shape[1])
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if block_bytes(*sampler(logits, seeds, middle)) <= target else (low, middle - 1)
    return low


def dense(answers: TokenAnswers, *, renormalised: bool = False) -> torch.Tensor:
    """(N, V) float32. Top-k's targets are divided by their sum: of the ways to treat the tail, the usual one."""
    sparse = answers.sparse()
    found = torch.zeros(len(answers), answers.vocabulary)
    rows = np.repeat(np.arange(len(answers)), np.diff(sparse.offsets))
    found.index_put_((torch.from_numpy(rows), torch.from_numpy(sparse.ids)), torch.from_numpy(sparse.probs), accumulate=True)
    return found / found.sum(-1, keepdim=True) if renormalised else found


def compared(full: torch.Tensor, other: torch.Tensor) -> dict[str, float]:
    """The angle in degrees between two gradients, and the ratio of their norms."""
    full, other = full.double().flatten(), other.double().flatten()
    cosine = (full @ other / (full.norm() * other.norm())).clamp(-1, 1)
    return {"angle": math.degrees(math.acos(cosine)), "norm_ratio": float(other.norm() / full.norm())}


# --- (i) trained models


def texts(data: Path) -> list[str]:
    with gzip.open(data / "tinystories_sample" / "tinystories_sample.jsonl.gz", "rt") as lines:
        return [json.loads(line)["text"] for line in lines]


def trained(folder: Path, data: Path, num_stories: int) -> dict[str, Any]:
    """Gradients of all parameters of a student: the teacher without its last block, which has learnt nothing since."""
    teacher = AutoModelForCausalLM.from_pretrained(folder).eval()
    student = AutoModelForCausalLM.from_pretrained(folder).train()
    del student.model.layers[-1]
    student.config.num_hidden_layers -= 1
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = torch.stack([torch.tensor(ids[:256]) for text in texts(data) if len(ids := tokenizer(text)["input_ids"]) >= 256][:num_stories])
    with torch.no_grad():
        start = time.perf_counter()
        logits = teacher(batch).logits.flatten(0, 1).float()
        forward_seconds = time.perf_counter() - start
    seeds = position_seeds(SEED, NAME, len(logits))
    start = time.perf_counter()
    default = sample_distributions(logits, seeds, DEFAULT)
    sampling_seconds = time.perf_counter() - start
    target = block_bytes(DEFAULT, default)

    def gradient(p: torch.Tensor) -> torch.Tensor:
        student.zero_grad()
        log_q = student(batch).logits.flatten(0, 1).log_softmax(-1)
        (-(p * log_q).sum(-1).mean()).backward()
        return torch.cat([each.grad.flatten() for each in student.parameters() if each.grad is not None])

    p = logits.softmax(-1)
    full = gradient(p)
    with torch.no_grad():
        kl = (p * (logits.log_softmax(-1) - student(batch).logits.flatten(0, 1).log_softmax(-1))).sum(-1).mean().item()
    results = []
    for name, sampler in SAMPLERS.items():
        number = number_for(sampler, logits[:2048], target)
        scheme, answers = sampler(logits, seeds, number)
        estimate = dense(answers, renormalised=name == "top-k")
        error = ((estimate - p) ** 2).sum(-1).mean().sqrt().item()
        results.append(
            {"scheme": name, "number": number, "bytes": block_bytes(scheme, answers), "error": error, **compared(full, gradient(estimate))}
        )
    entropy = float(default.entropy.mean())
    seconds = {"forward_seconds": forward_seconds, "sampling_seconds": sampling_seconds}
    return {"tokens": len(logits), "vocabulary": logits.shape[1], "entropy": entropy, "kl": kl, **seconds, "schemes": results}


# --- (ii) a large vocabulary


def synthetic(num_tokens: int, rows: int = 64) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Teacher logits, student logits (rows, V), and hidden states (rows, HIDDEN).

    Each token has one of TOPICS contexts (Zipf). A context fixes which tokens are likely (an order of the vocabulary), a
    direction of the hidden state, and what the student has wrong about it. The r-th likeliest token has the logit
    -a log(r + b), a and b log-normal over tokens, plus noise: rows from almost certain to flat, set such that 50 draws give
    12 unique ids on average, as arXiv:2503.16870 reports of its teachers. The student is the teacher flattened by 0.85 plus
    its context's error.
    """
    source = np.random.default_rng(SEED)
    strides = source.integers(1, VOCABULARY // 2, TOPICS) * 2 + 1
    strides = np.array([next(s for s in range(each, each + 99) if math.gcd(s, VOCABULARY) == 1) for each in strides])
    directions = source.normal(size=(TOPICS, HIDDEN))
    ranks = np.arange(VOCABULARY)
    for start in range(0, num_tokens, rows):
        num = min(rows, num_tokens - start)
        topic = (TOPICS ** source.random(num)).astype(int) - 1
        a = 1.1 + np.exp(source.normal(-0.1, 1.0, num))
        b = np.exp(source.normal(0.0, 1.2, num))
        ordered = -a[:, None] * np.log(ranks + b[:, None]) + source.normal(0, 0.5, (num, VOCABULARY))
        teacher, student = (np.empty((num, VOCABULARY), np.float32) for _ in range(2))
        for row in range(num):
            ids = ranks * strides[topic[row]] % VOCABULARY
            teacher[row, ids] = ordered[row]
            student[row] = 0.85 * teacher[row] + np.random.default_rng(topic[row]).normal(0, 0.5, VOCABULARY)
        hidden = directions[topic] + source.normal(size=(num, HIDDEN))
        yield torch.from_numpy(teacher), torch.from_numpy(student), torch.from_numpy(hidden).float()


def large(num_tokens: int, num_pilot: int) -> dict[str, Any]:
    """Gradients of a head of width HIDDEN: the sum over tokens of hidden state times (q - p)."""
    pilot = torch.cat([teacher for teacher, _, _ in synthetic(num_pilot)])
    seeds = position_seeds(SEED, NAME, num_tokens)
    target = block_bytes(DEFAULT, sample_distributions(pilot, seeds[:num_pilot], DEFAULT))
    numbers = {name: number_for(sampler, pilot, target) for name, sampler in SAMPLERS.items()}
    assert numbers[FIRST] == DEFAULT.number
    full = torch.zeros(HIDDEN, VOCABULARY, dtype=torch.float64)
    errors = {name: torch.zeros_like(full) for name in SAMPLERS}
    squared, sizes = dict.fromkeys(SAMPLERS, 0.0), dict.fromkeys(SAMPLERS, 0.0)
    profile: list[torch.Tensor] = []
    kept: list[TokenAnswers] = []
    kl = done = 0.0
    for teacher, student, hidden in synthetic(num_tokens):
        part = seeds[int(done) : int(done) + len(teacher)]
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        p = log_p.exp()
        kl += (p * (log_p - log_q)).sum().item()
        full += (hidden.T @ (log_q.exp() - p)).double()
        unique = (1 - (1 - p.double()) ** 50).sum(-1)
        profile.append(torch.stack([-(p * log_p).sum(-1), p.amax(-1), unique.float(), p.topk(50).values.sum(-1)]))
        for name, sampler in SAMPLERS.items():
            scheme, answers = sampler(teacher, part, numbers[name])
            difference = dense(answers, renormalised=name == "top-k") - p
            errors[name] += (hidden.T @ difference).double()
            squared[name] += (difference**2).sum().item()
            sizes[name] += block_bytes(scheme, answers) * len(p)
            if name == FIRST:
                kept.append(answers)
        done += len(p)
    entropy, top, unique, fifty = torch.cat(profile, dim=1)
    rows = [
        {
            "scheme": name,
            "number": numbers[name],
            "bytes": sizes[name] / done,
            "error": (squared[name] / done) ** 0.5,
            **compared(full, full - errors[name]),
        }
        for name in SAMPLERS
    ]
    described = {
        "mean entropy, nats": entropy.mean().item(),
        "median entropy, nats": entropy.median().item(),
        "share of tokens below 0.1 nats": (entropy < 0.1).float().mean().item(),
        "mean largest probability": top.mean().item(),
        "mean mass of the likeliest 50": fifty.mean().item(),
        "mean unique ids of 50 draws": unique.mean().item(),
    }
    return {"tokens": int(done), "kl": kl / done, "profile": described, "schemes": rows, "store": on_disk(concatenate(kept))}


def on_disk(answers: TokenAnswers) -> dict[str, float]:
    """Everything that the store's folder holds after sealing, and how fast blocks are written and read."""
    question = TokenQuestion(NAME, NAME, DEFAULT)
    answers = concatenate([answers] * -(-64 * EXAMPLE_TOKENS // len(answers)))  # a store of some size; nothing compresses it
    lengths = [EXAMPLE_TOKENS] * (len(answers) // EXAMPLE_TOKENS)
    examples = [TokenExample(np.full(n, i), np.ones(n, np.bool_)) for i, n in enumerate(lengths)]
    ends = np.cumsum([0, *lengths])
    parts = [answers.rows(start, stop) for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with KnowledgeStore(folder) as store:
            for first in range(0, len(parts), 8):
                put_answers(store, question, examples[first : first + 8], parts[first : first + 8])
        seconds = time.perf_counter() - start
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    tokens = int(ends[-1])
    found = {"bytes_on_disk": size / tokens, "put_tokens_per_second": tokens / seconds}
    for num in (512, 1024, 4096):
        repeated = concatenate([answers] * -(-num // len(answers))).rows(0, num)
        block = encode(question.block_facts(NAME), repeated)
        best = min(timed(lambda block=block: decode(block)[1].sparse()) for _ in range(30))
        found[f"read_tokens_per_second_{num}"] = num / best
    return found


def timed(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def writing(rows: int) -> dict[str, float]:
    """Sampling at V = 128256 against the last projection alone of a teacher with hidden size 4096 (8 G products a token in all
    its layers would come on top)."""
    source = torch.Generator().manual_seed(SEED)
    hidden, head = torch.randn(rows, 4096, generator=source), torch.randn(VOCABULARY, 4096, generator=source) / 16
    logits, seeds = hidden @ head.T, position_seeds(SEED, NAME, rows)
    projection = min(timed(lambda: hidden @ head.T) for _ in range(3))
    sampling = min(timed(lambda: sample_distributions(logits, seeds, DEFAULT)) for _ in range(3))
    return {"rows": rows, "projection_seconds": projection, "sampling_seconds": sampling}


# --- the page


def page(results: dict[str, Any]) -> str:
    """token_store.md."""
    lines = ["# Token knowledge", "", "Written by `OMP_NUM_THREADS=1 python benchmarks/token_store.py`.", ""]
    lines += ["| machine and versions | |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in results["environment"].items()), ""]
    lines += [
        f"Seed {SEED}. Every scheme gets the bytes a token that the default takes ({DEFAULT}), in the same codec, headers included.",
        "Error: root of the mean over tokens of the squared distance between estimate and distribution. Angle and norm ratio: gradient of",
        "the mean forward KL over all tokens as one batch, with the estimate in place of the distribution, against the full distribution.",
        "Top-k targets are divided by their sum.",
        "",
    ]
    for name, part in results.items():
        if "schemes" not in part:
            continue
        lines += [f"## {name}", "", *described(part), ""]
        lines += ["| scheme | number | bytes/token | error | angle, degrees | norm ratio |", "| --- | --- | --- | --- | --- | --- |"]
        for row in part["schemes"]:
            figures = f"{row['bytes']:.1f} | {row['error']:.4f} | {row['angle']:.2f} | {row['norm_ratio']:.4f}"
            lines.append(f"| {row['scheme']} | {row['number']} | {figures} |")
        lines.append("")
    store, speed = results["V = 128256, synthetic"]["store"], results["writing"]
    lines += ["## The store", "", "| measure | value |", "| --- | --- |"]
    lines += [f"| {key.replace('_', ' ')} | {value:,.1f} |" for key, value in store.items()]
    ratio = speed["sampling_seconds"] / speed["projection_seconds"]
    lines += [f"| sampling, in times of the last projection of a teacher of hidden size 4096 | {ratio:.2f} |", ""]
    return "\n".join(lines)


def described(part: dict[str, Any]) -> list[str]:
    if "profile" in part:
        profile = "; ".join(f"{key} {value:.3f}" for key, value in part["profile"].items())
        how = " ".join((synthetic.__doc__ or "").split())
        return [
            f"{part['tokens']} tokens. {how} Gradient of a head of width {HIDDEN}.",
            "",
            f"Profile: {profile}; KL {part['kl']:.3f} nats.",
        ]
    share = part["sampling_seconds"] / part["forward_seconds"]
    return [
        f"{part['tokens']} tokens of TinyStories, V = {part['vocabulary']}, mean entropy {part['entropy']:.2f} nats. Student: the teacher",
        f"without its last block (KL {part['kl']:.2f} nats); gradient of all its parameters.",
        f"Sampling takes {share:.2f} of the time of the teacher's forward pass.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("STILLROOM_DATA", ROOT.parent / "shared" / "data")))
    options = parser.parse_args()
    quick, data = options.quick, options.data
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "environment": environment,
        "stories260K": lambda: trained(data / "weights" / "stories260K" / "hf", data, 8 if quick else 64),
        "babyllama_tok361": lambda: trained(data / "weights" / "babyllama" / "babyllama_tok361", data, 4 if quick else 32),
        "V = 128256, synthetic": lambda: large(*((128, 32) if quick else (4096, 256))),
        "writing": lambda: writing(16 if quick else 64),
    }
    results: dict[str, Any] = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for name, measure in parts.items():
        if name not in results:
            results[name] = measure()
            if options.json:
                options.json.write_text(json.dumps(results, indent=2) + "\n")
    text = page(results)
    print(text)
    if not quick:
        (ROOT / "benchmarks" / "token_store.md").write_text(text)


if __name__ == "__main__":
    main()
