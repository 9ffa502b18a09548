"""Two processes against one. This file is also what torchrun runs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

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
Found = dict[str, tuple[list[float], dict[str, torch.Tensor]]]


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


class Watch(TrainerCallback):
    """Sees after every step that this process holds about `share` of the weights, gradients and moments; stops after a checkpoint."""

    def __init__(self, share: float, stop_at: int | None) -> None:
        self.share, self.stop_at = share, stop_at

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **_: Any) -> None:
        moments = [moment for group in optimizer.state.values() for moment in group.values() if moment.dim()]
        for tensors in filter(None, (list(model.parameters()), moments)):
            mine = sum(tensor.to_local().numel() if isinstance(tensor, DTensor) else tensor.numel() for tensor in tensors)
            assert abs(mine / sum(tensor.numel() for tensor in tensors) - self.share) < 0.02

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self.stop_at


def run(
    folder: Path, name: str, *, share: float = 1.0, stop_at: int | None = None, adapters: bool = False, **changes: Any
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train the student in `folder` on packed rows: the curve's losses, and how its weights differ from the first ones."""
    (student, tokenizer), (teacher, _) = load_causal(str(folder / "student")), load_causal(str(folder / "teacher"))
    if adapters:
        torch.manual_seed(0)
        student = peft.get_peft_model(student, peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))  # type: ignore[assignment]
    if not changes.get("bf16"):
        student.double()
    start = {key: value.clone() for key, value in student.state_dict().items()}
    sequences = texts(33)
    rate = changes.pop("learning_rate", 0.1)
    arguments = {"optim": "sgd", "max_grad_norm": 0, "lr_scheduler_type": "constant", "logging_steps": 1, **changes}
    own = {"per_device_train_batch_size": 3, "num_train_epochs": 2.0, "learning_rate": rate, "weight_decay": 0.0, "warmup_ratio": 0.0}
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
        callbacks=[Watch(share, stop_at)],
    )
    moved = {key: value - start[key] for key, value in student.state_dict().items()}
    return [point.value for point in curve], moved


ONE = {"gradient_accumulation_steps": 2}
ADAM = {"optim": "adamw_torch", "max_grad_norm": 0.5, "eval_steps": 2, "save_steps": 2, "learning_rate": 0.01}
SHARDED = {"fsdp": "full_shard", "share": 0.5}
GRADIENTS_SHARDED = {"fsdp": True, "fsdp_config": {"reshard_after_forward": False}, "share": 0.5}
IN_TWO: dict[str, tuple[str, dict[str, Any]]] = {
    "copied": ("copied", {}),
    "sharded": ("sharded", {**ADAM, **SHARDED}),
    "stopped": ("stopped", {**ADAM, **SHARDED, "stop_at": 2}),
    "resumed": ("stopped", {**ADAM, **SHARDED}),
    "adapters": ("adapters", {"adapters": True, **GRADIENTS_SHARDED}),
    "bf16": ("bf16", {"bf16": True, **GRADIENTS_SHARDED}),
}
"""What two processes do, one after the other: from a name to the folder of the checkpoints and the changes for `run`."""


@pytest.fixture(scope="module")
def folder(tiny_causal: Callable[..., tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("processes")
    save_causal(*tiny_causal("llama", seed=1), path / "teacher")
    save_causal(*tiny_causal("llama", seed=2, num_hidden_layers=2, tie_word_embeddings=True), path / "student")
    return path


@pytest.fixture(scope="module")
def in_two(folder: Path) -> Found:
    """What `run` returned for all of them, in the first of the two."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]
    found: Found = torch.load(folder / "found.pt")
    return found


def assert_same_steps(moved: dict[str, torch.Tensor], two_moved: dict[str, torch.Tensor], *, moving: str = "") -> None:
    """The weights with `moving` in their names have gone the same way, and no others. The models are in float64, the losses in float32."""
    assert moved.keys() == two_moved.keys()
    for name, step in moved.items():
        assert (step.norm() > 1e-4) == (moving in name), name
        assert (two_moved[name] - step).norm() <= 1e-6 * step.norm(), name


@pytest.mark.slow
def test_two_processes_train_like_one(folder: Path, in_two: Found) -> None:
    """The same global batches: two micro-batches of one process, one each of two. The last batch is short, and not repeated."""
    losses, moved = run(folder, "one", **ONE)
    two_losses, two_moved = in_two["copied"]
    assert two_losses == pytest.approx(losses, rel=1e-6)
    assert_same_steps(moved, two_moved)


@pytest.mark.slow
def test_a_sharded_student_trains_like_a_whole_one(folder: Path, in_two: Found) -> None:
    """With AdamW, clipped gradients, and evaluations and checkpoints in between. `Watch` sees that it is sharded."""
    losses, moved = run(folder, "one-adam", **ADAM, **ONE)
    two_losses, two_moved = in_two["sharded"]
    assert two_losses == pytest.approx(losses, rel=1e-6)
    assert_same_steps(moved, two_moved)


@pytest.mark.slow
def test_a_sharded_training_resumes_bit_for_bit(in_two: Found) -> None:
    (losses, moved), (_, stopped), (resumed_losses, resumed) = in_two["sharded"], in_two["stopped"], in_two["resumed"]
    assert resumed_losses == losses
    for name, step in moved.items():
        assert torch.equal(resumed[name], step)
        assert not torch.equal(stopped[name], step)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for the old name
def test_adapters_are_sharded_with_what_they_adapt(folder: Path, in_two: Found) -> None:
    losses, moved = run(folder, "one-adapters", adapters=True, **ONE)
    two_losses, two_moved = in_two["adapters"]
    assert two_losses == pytest.approx(losses, rel=1e-6)
    assert_same_steps(moved, two_moved, moving="lora_")


@pytest.mark.slow
def test_a_sharded_student_computes_in_bfloat16(folder: Path, in_two: Found) -> None:
    """One process rounds inside autocast, which keeps the norms in float32. Of 29 tokens another one may be thought the likeliest."""
    losses, _ = run(folder, "one-bf16", bf16=True, **ONE)
    two_losses, _ = in_two["bf16"]
    assert two_losses == pytest.approx(losses, rel=2**-7, abs=1.01 / 29)
    assert two_losses != pytest.approx(in_two["copied"][0], rel=1e-5)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    found = {name: run(root, checkpoints, **changes) for name, (checkpoints, changes) in IN_TWO.items()}
    if os.environ["RANK"] == "0":
        torch.save(found, root / "found.pt")
    torch.distributed.destroy_process_group()
