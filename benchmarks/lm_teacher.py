"""The teacher of benchmarks/lm.py: a Llama-style model of 11 million parameters, with a tokenizer of its own, on real text.

    python benchmarks/lm_teacher.py --data DATA      corpora, tokenizer and teacher, in runs/lm-teacher
    python benchmarks/lm_teacher.py --quick          a model of 0.2 million, a slice of the text

DATA: the folder of real data (default: $STILLROOM_DATA). The corpora: TinyStories, the articles of WikiText, Shakespeare's plays,
and GSM8K's problems with their solutions; one document in 25 of each is held out, and never seen by tokenizer or teacher. Dolly's answers
are a domain that no model here is trained on. Resumable: a killed training goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillroom.core.token_records import Sequences
from stillroom.data.sequences import plain_text, tokenise
from stillroom.models.language import LanguagePredictor
from stillroom.objectives.tokens import TokenObjective
from stillroom.pipeline.report import environment
from stillroom.training.language import train_language_model

ROOT = Path(__file__).parents[1]
SEED, MAX_LENGTH, HELD_OUT = 0, 256, 25
SIZES = {
    "vocab_size": 4096, "hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 8, "num_attention_heads": 5,
    "num_key_value_heads": 5, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
QUICK_SIZES = {
    **SIZES,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
TRAINING: dict[str, Any] = {
    "num_train_epochs": 2.0, "learning_rate": 2.0e-3, "per_device_train_batch_size": 8, "warmup_ratio": 0.05, "weight_decay": 0.1,
    "max_length": MAX_LENGTH, "packing": True,
    "arguments": {"lr_scheduler_type": "cosine", "adam_beta2": 0.95, "bf16": True, "save_steps": 100, "save_total_limit": 1},
}  # fmt: skip


# --- the corpora


def documents(data: Path) -> dict[str, list[str]]:
    """Name -> its documents, in the order of the files."""
    stories = [json.loads(line)["text"] for line in _lines(data / "tinystories_sample" / "tinystories_sample.jsonl.gz")]
    wiki = "".join(
        line for name in ("wikitext103_train_first2.9MB", "wikitext2_valid") for line in _lines(data / "wikitext" / f"{name}.txt.gz")
    )
    speeches = "".join(_lines(data / "tinyshakespeare" / "input.txt.gz")).split("\n\n")
    problems = [json.loads(line) for line in _lines(data / "gsm8k" / "train.jsonl.gz")]
    return {
        "stories": stories,
        "wikitext": [article.strip() for article in re.split(r"(?m)^(?= = [^=].* = *$)", wiki) if article.strip()],
        "plays": ["\n\n".join(speeches[start : start + 40]) for start in range(0, len(speeches), 40)],
        "problems": [f"{problem['question']}\n{problem['answer']}" for problem in problems],
    }


def foreign(data: Path) -> list[str]:
    """Answers that people wrote for Dolly, the longer ones."""
    with gzip.open(data / "dolly_3k" / "dolly_3k.json.gz", "rt", encoding="utf-8") as file:
        return [row["output"] for row in json.load(file) if len(row["output"]) > 200]


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from file


def parts(corpora: dict[str, list[str]]) -> tuple[list[str], list[str]]:
    """The training documents and the held-out ones, each corpus with the same share of both."""
    train: list[str] = []
    test: list[str] = []
    for number, texts in enumerate(corpora.values()):
        order = np.random.default_rng([SEED, number]).permutation(len(texts))
        num_held_out = max(1, len(texts) // HELD_OUT)
        test += [texts[i] for i in order[:num_held_out]]
        train += [texts[i] for i in order[num_held_out:]]
    return train, test


# --- the models


def byte_pairs(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a token for the beginning and one for the end of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def teacher(sizes: dict[str, Any]) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    return LlamaForCausalLM(LlamaConfig(**sizes, bos_token_id=0, eos_token_id=1))


def train(model: LlamaForCausalLM, tokenizer: Any, sequences: Sequences, folder: Path, settings: dict[str, Any]) -> None:
    start = time.monotonic()

    def progress(done: int, total: int) -> None:
        if done % 20 == 0 or done == total:
            print(f"step {done} of {total}, {time.monotonic() - start:.0f} s", flush=True)

    curve = train_language_model(
        model, tokenizer, sequences, teacher=None, objective=TokenObjective(), settings=settings, seed=SEED, folder=folder,
        vocabulary_size=model.config.vocab_size, progress=progress,
    )  # fmt: skip
    print("training loss:", ", ".join(f"{point.value:.3f}" for point in curve if point.measure == "train_loss"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("STILLROOM_DATA", ROOT.parent / "shared" / "data")))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "lm-teacher")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    train_texts, test_texts = parts(documents(options.data))
    for name, texts in {"train": train_texts, "test": test_texts, "dolly": foreign(options.data)}.items():
        with gzip.open(options.out / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    sizes, settings = (QUICK_SIZES, {**TRAINING, "num_train_epochs": 0.1}) if options.quick else (SIZES, TRAINING)
    tokenizer = byte_pairs(train_texts, sizes["vocab_size"])
    sequences, _ = tokenise([plain_text(text) for text in train_texts], tokenizer, max_length=MAX_LENGTH)
    model = teacher(sizes)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{len(train_texts)} documents, {sequences.num_asked:,} tokens, {num_parameters:,} parameters", flush=True)
    begun = time.monotonic()
    train(model, tokenizer, sequences, options.out / "work", settings)
    LanguagePredictor(model, tokenizer).save(options.out / "teacher")
    facts = {"parameters": num_parameters, "tokens": sequences.num_asked, "documents": len(train_texts), "held out": len(test_texts)}
    facts |= {"sizes": sizes, "training": settings, "seconds of this process": round(time.monotonic() - begun)}
    (options.out / "recipe.json").write_text(json.dumps({**facts, "seed": SEED, "environment": environment()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
