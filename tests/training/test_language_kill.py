"""Killed for real, at moments that nobody chose. This file is also the process that forks the trainings."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import Sequences, TokenExample, TokenScheme
from stillroom.models.causal import load_causal, save_causal
from stillroom.models.pretrained import answering, parameters_fingerprint
from stillroom.objectives.tokens import Schedule, TokenObjective
from stillroom.spec.training import TrainingSpec
from stillroom.teachers.token_sampling import position_seeds, sample_distributions
from stillroom.training.language import train_language_model
from stillroom.training.language_teachers import OfflineTeacher

BLOWS = 12


def training(folder: Path, name: str) -> None:
    """Eight epochs of packed rows with dropout and both schedules; a checkpoint after every step. Ends in `name`.json."""
    (student, tokenizer), (teacher, _) = load_causal(str(folder / "student")), load_causal(str(folder / "teacher"))
    rng, examples, answers, scheme = np.random.default_rng(0), [], [], TokenScheme("threshold", 8)
    for length in rng.integers(2, 20, 40):
        example = TokenExample(rng.integers(4, 30, length), np.arange(length) < length - 1)
        with answering(teacher):
            logits = teacher(input_ids=torch.tensor(example.token_ids)[None], use_cache=False).logits[0, example.asked, :30]
        examples.append(example)
        answers.append(sample_distributions(logits, position_seeds(0, example.fingerprint, len(logits)), scheme))
    own = {"num_train_epochs": 8.0, "learning_rate": 1e-2, "per_device_train_batch_size": 2, "max_length": 24, "packing": True}
    curve = train_language_model(
        student,
        tokenizer,
        Sequences(tuple(examples), np.ones(40, np.int64), np.arange(40)),
        teacher=OfflineTeacher(lambda numbers: [answers[n] for n in numbers], 40, scheme, fingerprint("answers")),
        objective=TokenObjective(hard_label_weight=Schedule(0.0, 0.9, "cosine")),
        settings={**TrainingSpec().model_dump(), **own, "arguments": {"save_steps": 1, "gradient_accumulation_steps": 2}},
        seed=0,
        folder=folder / name,
        vocabulary_size=30,
        progress=lambda done, _: (folder / f"{name}.step").write_text(str(done)) and None,
    )
    (folder / f"{name}.json").write_text(json.dumps([parameters_fingerprint(student), [[p.step, p.value] for p in curve]]))


def start(folder: Path, name: str) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            training(folder, name)
            code = 0
        finally:
            os._exit(code)
    return pid


def main(folder: Path) -> dict[str, Any]:
    """Kill until it is done, or often enough; then let it end."""
    torch.set_num_threads(1)  # a forked child would wait for ever for the threads of its parent
    training(folder, "undisturbed")  # here, so that what is imported on first use is there in every child
    step, rng, torn, steps = folder / "killed.step", random.Random(0), 0, [0]
    for _ in range(BLOWS):
        pid, aim = start(folder, "killed"), steps[-1] + rng.randint(1, 5)
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if step.exists() and int(step.read_text() or 0) >= aim:
                time.sleep(rng.random() * 0.05)  # a checkpoint is written after every step; the blow may fall on it
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            time.sleep(0.001)
        else:
            break  # it was done before the blow
        steps.append(int(step.read_text() or steps[-1]))
        torn += any(not (path / "stillroom-whole").exists() for path in (folder / "killed").glob("checkpoint-*"))
    assert os.waitpid(start(folder, "killed"), 0)[1] == 0
    return {"steps": steps, "torn": torn}


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_with_the_same_bits(tiny_causal: Callable[..., tuple[Any, Any]], tmp_path: Path) -> None:
    save_causal(*tiny_causal("llama", seed=1), tmp_path / "teacher")
    save_causal(*tiny_causal("llama", seed=2, num_hidden_layers=2, attention_dropout=0.1), tmp_path / "student")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-W", "error", __file__, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert run.returncode == 0, run.stderr[-5000:]
    told = json.loads(run.stdout)
    undisturbed, killed = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("undisturbed", "killed"))
    assert killed == undisturbed
    assert len(told["steps"]) >= 6, told
    assert told["torn"] >= 1, "no blow fell on a checkpoint being written; the test has lost its point"
    assert told["steps"] == sorted(told["steps"]), "each start goes on from a checkpoint"


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
