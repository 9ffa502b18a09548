"""A whole run of a language model's job, killed at 20 random moments. This file is also the process that forks the runs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

import stillroom
from stillroom.core.protocols import Progress
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.models.causal import save_causal
from stillroom.pipeline.progress import Silence

JOB = """
task: language-model
seed: 3
data: {source: {kind: file, train: words.txt}, split: {validation: 0.05}}
teacher: {kind: huggingface, model: ./teacher, licence: MIT}
student: {kind: huggingface, layers: 2}
labelling: {batch_tokens: 30, tokens_number: 8}
training: {num_train_epochs: 4, learning_rate: 0.01, per_device_train_batch_size: 16, max_length: 24, packing: true,
  arguments: {save_steps: 1, eval_steps: 7}}
evaluation: {seeds: 1, cost: false, resamples: 200, prompts: 2, new_tokens: 4}
"""
PLACES = ("labelling", "student", "control")
KILLS = {"labelling": 8, "student": 6, "control": 6}


class Telling(Silence):
    """Writes how far the run is after every batch and every step: 0 to 1 is labelling, 1 to 2 the student, 2 to 3 the control."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def task(self, name: str) -> Progress:
        begins = {"asking the teacher": 0, "training the student, seed 3": 1, "training the control, seed 3": 2}
        start = begins.get(name)

        def tell(done: int, total: int) -> None:
            if start is not None:
                os.write(self.pipe, f"{start + done / (total + 1)}\n".encode())

        return tell


def start(folder: Path) -> tuple[int, int]:
    """A process that goes on with the run; and the pipe in which it tells how far it is."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reading)
        try:
            stillroom.run(folder / "job.yaml", run_dir=folder / "killed", listener=Telling(writing))
        finally:
            os._exit(1)
    os.close(writing)
    return process, reading


def kill_at(moment: float, delay: float, folder: Path) -> float:
    """Kill a run that goes on, `delay` seconds after it has come as far as `moment`; how far it really came."""
    process, pipe = start(folder)
    with os.fdopen(pipe) as told:
        reached = next((float(line) for line in told if float(line) >= moment), None)
        assert reached is not None, f"the run ended before {moment}, unkilled"
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
        assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
        return max([reached, *(float(line) for line in told if line.endswith("\n"))])


def main(folder: Path) -> list[float]:
    """An undisturbed run, and 20 kills of another one, drawn beforehand over the whole of its work."""
    import torch

    torch.set_num_threads(1)  # a forked child would wait for ever for the threads of its parent
    stillroom.run(folder / "job.yaml", run_dir=folder / "undisturbed")  # here: what is imported on first use is in every child
    rng = random.Random(4)
    moments = sorted(number + rng.uniform(0.02, 0.9) for number, place in enumerate(PLACES) for _ in range(KILLS[place]))
    return [kill_at(moment, rng.uniform(0, 0.03), folder) for moment in moments]


@pytest.mark.slow
def test_killed_at_twenty_moments_of_labelling_and_training_it_ends_as_the_undisturbed_run(
    tiny_causal: Callable[..., tuple[Any, Any]], tmp_path: Path
) -> None:
    save_causal(*tiny_causal("llama", attention_dropout=0.1), tmp_path / "teacher")
    rng = random.Random(0)
    documents = [" ".join(f"w{rng.randrange(26)}" for _ in range(rng.randint(4, 30))) for _ in range(250)]
    (tmp_path / "words.txt").write_text("\n\n".join(documents))
    (tmp_path / "job.yaml").write_text(JOB)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def process(*arguments: str) -> str:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=500, check=False)
        assert done.returncode == 0, done.stderr[-5000:]
        return done.stdout

    kills = json.loads(process(__file__, str(tmp_path)))
    landed = Counter(PLACES[int(reached)] for reached in kills)
    assert len(kills) == 20
    assert landed["labelling"] >= 5
    assert min(landed["student"], landed["control"]) >= 3
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    assert not (killed / "evidence.json").exists()
    process("-m", "stillroom.cli", "run", str(tmp_path / "job.yaml"), "--run", str(killed))
    for arm in ("student", "arms/control-0"):
        found, expected = ((run / arm / "model.safetensors").read_bytes() for run in (killed, undisturbed))
        assert found == expected, arm
    assert (killed / "evidence.json").read_bytes() == (undisturbed / "evidence.json").read_bytes()
    student, control = (load_file(killed / arm / "model.safetensors") for arm in ("student", "arms/control-0"))
    assert any((student[name] != control[name]).any() for name in student), "the teacher counts"
    assert _answers(killed) == _answers(undisturbed)


def _answers(run: Path) -> dict[str, bytes]:
    with KnowledgeStore(run / "knowledge", read_only=True) as store:
        report = verify(store)
        report.require_whole()
        assert report.repeated == 0, "an answer is stored twice"
        assert report.answers == len(store)
        return {record.key: bytes(record.value) for record in store}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
