"""Students cut out of small real language models, before any training: does measured importance beat chance?

    python benchmarks/causal_students.py                 three teachers, causal_students.md rewritten
    python benchmarks/causal_students.py --quick         one teacher, few stories, printed
    python benchmarks/causal_students.py --json FILE     the raw figures as well; a figure that FILE has is not measured again

Depth: every choice of blocks is measured, so that "chance" is the exact mean over all of them. Width: chance is the mean over random
choices of as many channels, neurons or heads. Both choices of width get the same correction of the norms' gains; one column leaves it out.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stillroom.models.causal import load_causal
from stillroom.pipeline.report import environment
from stillroom.students.architectures import sizes_of
from stillroom.students.depth import block_influence, influential_blocks, keep_blocks, spaced_blocks
from stillroom.students.width import Importance, cut_width, measure_importance

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("STILLROOM_DATA", ROOT.parent / "shared" / "data"))
TEACHERS = {
    "stories260K": "weights/stories260K/hf",
    "babyllama-105": "weights/babyllama/babyllama_tok105",
    "babyllama-361": "weights/babyllama/babyllama_tok361",
}
SHARES = (0.75, 0.5, 0.25)
LENGTH, SIZE, SEEDS = 256, 20, 10
"""Tokens a story, stories a batch, random choices."""

Batch = Mapping[str, Tensor]
Losses = list[tuple[float, int]]
"""For each held-out story the sum of its tokens' losses in nats, and their number."""


@dataclass
class Ledger:
    """What has been measured, by name; kept in a file where one is given."""

    path: Path | None
    losses: dict[str, Losses] = field(default_factory=dict)

    def measure(self, name: str, make: Callable[[], Any], stories: list[Batch]) -> float:
        """Nats a token of the model that `make` makes, on the held-out stories."""
        if name not in self.losses:
            self.losses[name] = story_losses(make(), stories)
            if self.path:
                self.path.write_text(json.dumps(self.losses))
        return mean(self.losses[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    known = json.loads(options.json.read_text()) if options.json and options.json.is_file() else {}
    ledger = Ledger(options.json, known)
    count = 20 if options.quick else 300
    sections = []
    for name in list(TEACHERS)[:1] if options.quick else TEACHERS:
        model, tokenizer = load_causal(str(DATA / TEACHERS[name]))
        stories = read_stories()
        calibration, held_out = (batches(tokenizer, part) for part in (stories[:count], stories[-count:]))
        prefix = f"{name}/{count}"
        sections += [f"## {name}", "", *depth_table(ledger, prefix, model, calibration, held_out), ""]
        sections += [*width_table(ledger, prefix, model, calibration, held_out), ""]
        print("\n".join(sections[-40:]) if options.quick else f"{name}: done", flush=True)
    if not options.quick:
        (ROOT / "benchmarks" / "causal_students.md").write_text("\n".join([*preface(count), *sections]))


def preface(count: int) -> list[str]:
    return [
        "# Students cut out of the teacher, before any training",
        "",
        "Written by `python benchmarks/causal_students.py`. Nats a token, lower is better, on the last "
        f"{count} stories of the TinyStories sample; importance is measured on the first {count}. Stories are cut to {LENGTH} tokens.",
        f"Chance: all choices of blocks; {SEEDS} random choices (seeds 0 to {SEEDS - 1}) of channels, neurons or heads.",
        "Differences are paired over stories, with 95 % bootstrap intervals (2000 draws, seed 0) that do not cover the choice of teachers.",
        "",
        "| machine and versions | |",
        "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in environment().items()),
        "",
    ]


def depth_table(ledger: Ledger, prefix: str, model: Any, calibration: list[Batch], stories: list[Batch]) -> list[str]:
    """Every number of blocks: spaced, by influence, chance and the best choice there is."""
    influence, depth = block_influence(model, calibration), len(model.model.layers)
    whole = ledger.measure(f"{prefix}/whole", lambda: model, stories)
    lines = [f"The whole teacher: {whole:.3f}. Influence of its blocks: {', '.join(f'{value:.3f}' for value in influence)}.", ""]
    lines += ["| blocks | spaced | block influence | chance | best choice | block influence − chance |", "| --- |" + " --- |" * 5]
    for count in range(depth - 1, 0, -1):
        names = {}
        for choice in itertools.combinations(range(depth), count):
            names[choice] = f"{prefix}/blocks/{choice}"
            ledger.measure(names[choice], lambda choice=choice: keep_blocks(model, choice), stories)
        values = {choice: mean(ledger.losses[name]) for choice, name in names.items()}
        spaced, chosen = tuple(spaced_blocks(depth, count)), tuple(influential_blocks(influence, count))
        best = min(values, key=lambda choice: values[choice])
        chance = [ledger.losses[name] for name in names.values()]
        cells = [f"{values[choice]:.3f} {list(choice)}" for choice in (spaced, chosen)]
        cells += [f"{np.mean(list(values.values())):.3f}", f"{values[best]:.3f} {list(best)}"]
        lines.append(f"| {count} of {depth} | {' | '.join(cells)} | {difference([ledger.losses[names[chosen]]], chance)} |")
    return lines


def width_table(ledger: Ledger, prefix: str, model: Any, calibration: list[Batch], stories: list[Batch]) -> list[str]:
    """Channels, neurons and heads apart, each at some shares: by activation, without corrected gains, and by chance."""
    importance = measure_importance(model, calibration)
    lines = ["| kept | by activation | gains left as they are | chance | by activation − chance |", "| --- |" + " --- |" * 4]
    for words, widths in narrower(model):
        name = f"{prefix}/{words}"
        arms = {f"{name}/activation": importance, f"{name}/no gains": replace(importance, energy={})}
        chance = {f"{name}/random {seed}": shuffled(importance, seed) for seed in range(SEEDS)}
        for arm, scores in {**arms, **chance}.items():
            ledger.measure(arm, lambda scores=scores, widths=widths: cut_width(model, scores, **widths), stories)
        chosen, plain = (ledger.losses[arm] for arm in arms)
        random = [ledger.losses[arm] for arm in chance]
        cells = [f"{mean(chosen):.3f}", f"{mean(plain):.3f}", f"{np.mean([mean(one) for one in random]):.3f}"]
        lines.append(f"| {words} | {' | '.join(cells)} | {difference([chosen], random)} |")
    return lines


def narrower(model: Any) -> Iterator[tuple[str, dict[str, int]]]:
    sizes = sizes_of(model)
    for share in SHARES:
        yield f"channels {(size := int(sizes.hidden_size * share))} of {sizes.hidden_size}", {"hidden_size": size}
    for share in SHARES:
        yield f"neurons {(size := int(sizes.intermediate_size * share))} of {sizes.intermediate_size}", {"intermediate_size": size}
    for share in SHARES[1:]:  # Llama's config wants H to be a multiple of the heads, so that three of four are not to be had
        size = int(sizes.num_key_value_heads * share)
        yield f"key/value heads {size} of {sizes.num_key_value_heads}", {"num_key_value_heads": size}


def shuffled(importance: Importance, seed: int) -> Importance:
    """Random scores; the energy that corrects the norms stays."""
    source = torch.Generator().manual_seed(seed)
    kinds = ("channels", "neurons", "heads")
    return replace(importance, **{kind: torch.rand(getattr(importance, kind).shape, generator=source) for kind in kinds})


def story_losses(model: Any, stories: list[Batch]) -> Losses:
    losses: Losses = []
    for batch in stories:
        with torch.inference_mode():
            log_q = model(**{name: value.to(model.device) for name, value in batch.items()}).logits[:, :-1].float().log_softmax(-1).cpu()
        keep = batch["attention_mask"][:, 1:].bool()
        nats = -log_q.gather(-1, batch["input_ids"][:, 1:, None])[..., 0].where(keep, 0.0).double().sum(dim=1)
        losses += zip(nats.tolist(), keep.sum(dim=1).tolist(), strict=True)
    return losses


def mean(losses: Losses) -> float:
    nats, tokens = np.array(losses).T
    return float(nats.sum() / tokens.sum())


def difference(ours: list[Losses], theirs: list[Losses]) -> str:
    """The mean of our losses minus the mean of theirs, with its interval over stories."""
    per_story = np.mean([np.array(one)[:, 0] for one in ours], axis=0) - np.mean([np.array(one)[:, 0] for one in theirs], axis=0)
    tokens = np.array(ours[0])[:, 1]
    drawn = np.random.default_rng(0).integers(len(tokens), size=(2000, len(tokens)))
    low, high = np.percentile(per_story[drawn].sum(axis=1) / tokens[drawn].sum(axis=1), [2.5, 97.5])
    return f"{per_story.sum() / tokens.sum():+.3f} [{low:+.3f}, {high:+.3f}]"


def read_stories() -> list[str]:
    with gzip.open(DATA / "tinystories_sample" / "tinystories_sample.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def batches(tokenizer: Any, stories: list[str]) -> list[Batch]:
    """Right-padded, in the order of the stories."""
    made = []
    for start in range(0, len(stories), SIZE):
        rows = [torch.tensor(tokenizer(story, truncation=True, max_length=LENGTH)["input_ids"]) for story in stories[start : start + SIZE]]
        ids, mask = (torch.nn.utils.rnn.pad_sequence(part, batch_first=True) for part in (rows, [torch.ones_like(row) for row in rows]))
        made.append({"input_ids": ids, "attention_mask": mask})
    return made


if __name__ == "__main__":
    main()
