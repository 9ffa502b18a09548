"""Two processes against one. This file is also what torchrun runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import Sequences, TokenExample, TokenScheme
from stillroom.models.causal import load_causal, save_causal
from stillroom.models.pretrained import answering
from stillroom.objectives.tokens import Schedule, TokenObjective
from stillroom.spec.training import TrainingSpec
from stillroom.teachers.token_sampling import position_seeds, sample_distributions
from stillroom.training.language import train_language_model
from stillroom.training.language_teachers import OfflineTeacher

VOCABULARY = 30


def texts(number: int, seed: int = 0, longest: int = 20) -> Sequences:
    """Random tokens; about two thirds of the positions are asked."""
    rng, examples = np.random.default_rng(seed), []
    for _ in range(number):
        ids = rng.integers(4, VOCABULARY, rng.integers(2, longest + 1))
        asked = rng.random(len(ids)) < 0.7
        asked[0], asked[-1] = True, False
        examples.append(TokenExample(ids, asked))
    return Sequences(tuple(examples), np.ones(number, np.int64), np.arange(number))


def stored(teacher: Any, sequences: Sequences, scheme: TokenScheme) -> OfflineTeacher:
    answers = []
    for example in sequences.examples:
        with answering(teacher):
            logits = teacher(input_ids=torch.tensor(example.token_ids)[None], use_cache=False).logits[0, example.asked, :VOCABULARY]
        answers.append(sample_distributions(logits, position_seeds(0, example.fingerprint, len(logits)), scheme))
    return OfflineTeacher(lambda numbers: [answers[n] for n in numbers], len(answers), scheme, fingerprint("stored", scheme.number))


def run(folder: Path, name: str, **changes: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train the student in `folder` on packed rows: the curve's losses, and how its weights differ from the first ones."""
    (student, tokenizer), (teacher, _) = load_causal(str(folder / "student")), load_causal(str(folder / "teacher"))
    student.double()
    start = {key: value.clone() for key, value in student.state_dict().items()}
    sequences = texts(33)
    arguments = {"optim": "sgd", "max_grad_norm": 0, "lr_scheduler_type": "constant", "logging_steps": 1, **changes}
    own = {"per_device_train_batch_size": 3, "num_train_epochs": 2.0, "learning_rate": 0.1, "weight_decay": 0.0, "warmup_ratio": 0.0}
    settings = {**TrainingSpec().model_dump(), **own, "max_length": 24, "packing": True, "arguments": arguments}
    curve = train_language_model(
        student,
        tokenizer,
        sequences,
        teacher=stored(teacher, sequences, TokenScheme("threshold", 8)),
        objective=TokenObjective(hard_label_weight=Schedule(0.0, 0.8)),
        settings=settings,
        seed=0,
        folder=folder / name,
        vocabulary_size=VOCABULARY,
        validation=texts(5, seed=1),
    )
    moved = {key: value - start[key] for key, value in student.state_dict().items()}
    return [point.value for point in curve], moved


def in_two_processes(folder: Path, name: str, **changes: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    done = start_two_processes(folder, name, **changes)
    assert done.returncode == 0, done.stderr[-5000:]
    losses, moved = torch.load(folder / f"{name}.pt")
    return losses, moved


def start_two_processes(folder: Path, name: str, **changes: Any) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        __file__,
        str(folder),
        name,
        json.dumps(changes),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)


@pytest.fixture
def folder(tiny_causal: Callable[..., tuple[Any, Any]], tmp_path: Path) -> Path:
    save_causal(*tiny_causal("llama", seed=1), tmp_path / "teacher")
    save_causal(*tiny_causal("llama", seed=2, num_hidden_layers=2, tie_word_embeddings=True), tmp_path / "student")
    return tmp_path


@pytest.mark.slow
def test_two_processes_train_like_one(folder: Path) -> None:
    """The same global batches: two micro-batches of one process, one each of two. The last batch is short, and not repeated."""
    losses, moved = run(folder, "one", gradient_accumulation_steps=2)
    two_losses, two_moved = in_two_processes(folder, "two")
    assert two_losses == pytest.approx(losses, rel=1e-6)
    assert moved.keys() == two_moved.keys()
    for name, step in moved.items():
        assert step.norm() > 1e-4, name
        assert (two_moved[name] - step).norm() < 1e-6 * step.norm(), name


@pytest.mark.slow
def test_sharding_that_would_not_happen_is_refused(folder: Path) -> None:
    """accelerate shards on accelerators only, and ignores the setting elsewhere."""
    done = start_two_processes(folder, "sharded", fsdp="full_shard")
    assert done.returncode != 0
    assert "training.arguments.fsdp: = True: nothing is sharded on this device (cpu, 2 processes)" in done.stderr, done.stderr[-5000:]


if __name__ == "__main__":
    root, run_name = Path(sys.argv[1]), sys.argv[2]
    result = run(root, run_name, **json.loads(sys.argv[3]))
    if os.environ["RANK"] == "0":
        torch.save(result, root / f"{run_name}.pt")
    torch.distributed.destroy_process_group()
