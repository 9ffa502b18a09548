"""The estimate of a training's memory against what the system saw it take. This file is also the process that is measured."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stillroom.core.errors import StageFailed
from stillroom.core.token_records import Sequences, TokenExample
from stillroom.losses import fused
from stillroom.objectives.tokens import TokenObjective
from stillroom.spec.training import TrainingSpec
from stillroom.training import language, memory
from stillroom.training.language import train_language_model
from stillroom.training.language_teachers import OnlineTeacher
from stillroom.training.memory import RECOMPUTE, TeacherMemory, TrainingMemory

FACTOR = 1.35
"""How far the estimate may be from the measured peak, as `stillroom.training.memory` promises."""


def model(hidden: int, vocabulary: int, layers: int = 4) -> LlamaForCausalLM:
    sizes = {"hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=2048, num_key_value_heads=2, **sizes))


def texts(number: int, length: int, vocabulary: int) -> Sequences:
    ids, asked = np.random.default_rng(0).integers(4, vocabulary, (number, length)), np.arange(length) < length - 1
    return Sequences(tuple(TokenExample(row, asked) for row in ids), np.ones(number, np.int64), np.arange(number))


def fit(student: Any, rows: int, length: int, folder: Path, *, teacher: Any = None, **changes: Any) -> None:
    """Two steps of `rows` rows of so many tokens, a checkpoint after each."""
    from tokenizers import Tokenizer, models

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), pad_token="a")
    vocabulary = student.config.vocab_size
    settings = {**TrainingSpec().model_dump(), "per_device_train_batch_size": rows, "max_length": length, "num_train_epochs": 1.0}
    settings |= {"arguments": {"save_steps": 1}, **changes}
    train_language_model(
        student, tokenizer, texts(2 * rows, length, vocabulary), teacher=teacher, objective=TokenObjective(), settings=settings,
        seed=0, folder=folder, vocabulary_size=vocabulary,
    )  # fmt: skip


def resident(name: str) -> int:
    """VmRSS, or VmHWM: the most there ever was since the mark was set back."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def measure(folder: Path, hidden: int, vocabulary: int, rows: int, length: int, recompute: bool, online: bool) -> dict[str, int]:
    """(estimate, peak) of a training; what is imported and made on first use comes before."""
    torch.set_num_threads(1)
    fit(model(16, 50), 1, 8, folder / "first", teacher=OnlineTeacher(model(16, 50)))
    student, teacher = model(hidden, vocabulary), OnlineTeacher(model(2 * hidden, vocabulary)) if online else None
    estimates: list[TrainingMemory] = []
    language.refuse_too_large_training = lambda needed, size, *_, **__: estimates.append(needed(size))  # type: ignore[assignment]
    Path("/proc/self/clear_refs").write_text("5")  # sets the mark back
    before = resident("VmRSS")
    fit(student, rows, length, folder / "second", teacher=teacher, arguments={"save_steps": 1, RECOMPUTE: recompute})
    return {"estimate": estimates[0].total, "peak": resident("VmHWM") - before}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell a process's peak")
def test_the_estimate_is_near_the_measured_peak(tmp_path: Path) -> None:
    command = [sys.executable, __file__, str(tmp_path), "128", "512", "16", "256", "0", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    found = json.loads(done.stdout)
    assert found["peak"] / FACTOR < found["estimate"] < found["peak"] * FACTOR, found


@pytest.mark.parametrize(("kind", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("gpt2", "sdpa"), ("gemma2", "eager")])
@pytest.mark.parametrize("packed", [False, True])
def test_what_two_short_rows_keep_foretells_a_long_one(
    kind: str, attention: str, packed: bool, tiny_causal: Callable[..., tuple[Any, Any]]
) -> None:
    student, _ = tiny_causal(kind, attn_implementation=attention, max_position_embeddings=256)
    before, drawn = student.training, torch.random.get_rng_state()
    counted, foretold = memory._kept_of_row(student, 256, packed=packed), memory.kept_activations(student, 256, packed=packed)
    assert foretold == pytest.approx(counted, rel=0.05)
    assert student.training == before
    assert torch.equal(torch.random.get_rng_state(), drawn), "training must not notice that it was estimated"


def test_too_little_memory_is_refused_before_the_first_step_with_what_would_fit(
    tiny_causal: Callable[..., tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (student, _), (teacher, _) = tiny_causal("llama", vocab_size=30), tiny_causal("llama", seed=1, vocab_size=30)
    needed: list[int] = []
    monkeypatch.setattr(language, "refuse_too_large_training", lambda need, rows, *_, **__: needed.extend(need(n).total for n in (8, 3, 1)))
    fit(student, 8, 24, tmp_path / "fits", teacher=OnlineTeacher(teacher))
    monkeypatch.undo()
    whole, three, one = needed
    before = [p.detach().clone() for p in student.parameters()]

    def refused(available: int, **changes: Any) -> str:
        monkeypatch.setattr(memory, "available_memory", lambda device: available)
        with pytest.raises(StageFailed) as caught:
            fit(student, 8, 24, tmp_path / "refused", teacher=OnlineTeacher(teacher), **changes)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    place = r"training\.per_device_train_batch_size: = 8 needs [\d.]+ MiB beside the loaded models \(gradients and optimiser [\d.]+ MiB, "
    place += r"activations [\d.]+ MiB, loss [\d.]+ MiB, teacher [\d.]+ MiB\); [\d.]+ MiB are available\. "
    steps = {"arguments": {"gradient_accumulation_steps": 3}}
    assert re.fullmatch(place + r"Set it to 4 and .*gradient_accumulation_steps to 6: as many rows a step.*", refused(whole - 1, **steps))
    assert re.fullmatch(place + r"Set it to 2 and .*gradient_accumulation_steps to 4: as many rows a step.*", refused(three))
    assert re.fullmatch(place + rf"Free memory, lower training\.max_length, set .*{RECOMPUTE} to true, .*", refused(one - 1))
    assert all(torch.equal(p, q) for p, q in zip(student.parameters(), before, strict=True))
    monkeypatch.setattr(memory, "available_memory", lambda device: whole)
    fit(student, 8, 24, tmp_path / "just enough", teacher=OnlineTeacher(teacher))
    monkeypatch.setattr(memory, "available_memory", lambda device: None)
    fit(student, 8, 24, tmp_path / "who knows", teacher=OnlineTeacher(teacher))


def needs(student: Any, *, processes: int, sharded: bool = False) -> TrainingMemory:
    arguments = SimpleNamespace(optim="adamw_torch", world_size=processes, **{RECOMPUTE: False})
    return memory.training_memory(
        student, student, rows=2, row_tokens=100_000, kept_of_row=1000, vocabulary_size=30, arguments=arguments, teacher=TeacherMemory(),
        sharded=sharded,
    )  # fmt: skip


def test_processes_divide_a_sharded_student_s_state_and_otherwise_add_buckets(tiny_causal: Callable[..., tuple[Any, Any]]) -> None:
    student, _ = tiny_causal("llama", vocab_size=30)
    gradients = sum(4 * p.numel() for p in student.parameters())
    alone, copied, sharded = needs(student, processes=1), needs(student, processes=4), needs(student, processes=4, sharded=True)
    assert [found.state for found in (alone, copied, sharded)] == [3 * gradients, 4 * gradients, 3 * gradients // 4]
    assert sharded.checkpoint == alone.checkpoint // 4 == copied.checkpoint // 4
    assert sharded.loss == copied.loss == alone.loss


def test_a_chunk_of_logits_is_as_large_as_on_the_device(
    tiny_causal: Callable[..., tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, _ = tiny_causal("llama", vocab_size=30)
    monkeypatch.setattr(fused, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(fused, "CUDA_CHUNK_BYTES", 20_000_000)
    on_cpu = needs(student, processes=1)
    monkeypatch.setattr(type(student), "device", torch.device("cuda"))
    states = 200_000 * student.config.hidden_size * 4 + 4 * 30 * student.config.hidden_size
    assert (on_cpu.loss, needs(student, processes=1).loss) == (2 * states, states + max(20_000_000, states))


def test_a_sharded_student_is_not_refused_for_what_others_hold(
    tiny_causal: Callable[..., tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trainer asks of the estimate; that it shards is shown by test_language_processes.py."""
    student, _ = tiny_causal("llama", vocab_size=30)
    asked: list[bool] = []
    monkeypatch.setattr(language, "training_memory", lambda *_, sharded, **__: asked.append(sharded) or 1 / 0)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    for arguments in ({}, {"fsdp": True}):
        with pytest.raises(ZeroDivisionError):
            fit(student, 2, 8, tmp_path, arguments=arguments)
    assert asked == [False, True]


def test_processes_on_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    needed, cpu = TrainingMemory(state=60, activations=0, loss=0, teacher=0, checkpoint=0), torch.device("cpu")
    monkeypatch.setattr(memory, "available_memory", lambda device: 100)
    memory.refuse_too_large_training(lambda rows: needed, 1, cpu, accumulation=1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    memory.refuse_too_large_training(lambda rows: needed, 1, torch.device("cuda"), accumulation=1)
    with pytest.raises(StageFailed, match="needs"):
        memory.refuse_too_large_training(lambda rows: needed, 1, cpu, accumulation=1)


if __name__ == "__main__":
    numbers = list(map(int, sys.argv[2:]))
    print(json.dumps(measure(Path(sys.argv[1]), *numbers[:4], bool(numbers[4]), bool(numbers[5]))))
