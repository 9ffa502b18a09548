"""The bundled language job in two processes of torchrun: one run, whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import stillroom
from stillroom.core.errors import BadInput
from stillroom.pipeline.folder import STAGES, RunFolder, read_record
from stillroom.pipeline.train import TRAINING_RECORD

torch = pytest.importorskip("torch")

JOB = Path(__file__).parents[2] / "jobs" / "tiny-lm.yaml"
SETTINGS = (
    "data.source.limit=24",
    "data.other_documents=1",
    "data.split={test: 0.2, validation: 0.2}",
    "teacher.fine_tune={num_train_epochs: 1, max_length: 64}",
    "training.num_train_epochs=1",
    "training.max_length=64",
    "training.arguments={fsdp: full_shard}",
    "evaluation.control=false",
    "evaluation.resamples=100",
    "evaluation.cost=false",
    "evaluation.prompts=1",
    "evaluation.new_tokens=4",
)


@pytest.mark.slow
def test_two_processes_walk_one_run(shared_data: Path, tmp_path: Path) -> None:
    """Both fine-tune the teacher (each with a copy) and train the student (sharded); the first one does all else, once."""
    from transformers import AutoModelForCausalLM

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "--", "stillroom.cli"]
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["STILLROOM_DATA"] = str(shared_data.resolve())
    command = [*launch, "run", str(JOB), "--run", str(tmp_path / "run"), *settings]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=500)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout.count("Report: ") == 1, done.stdout
    run = stillroom.Run(RunFolder(tmp_path / "run"))
    assert run.evidence.arms == ("teacher", "student")
    assert all(read_record(run.folder.record(stage)) for stage in STAGES[:3])
    student = AutoModelForCausalLM.from_pretrained(run.folder.student)
    assert all(weight.isfinite().all() for weight in student.parameters())
    curve = read_record(run.folder.student / TRAINING_RECORD)["curve"]
    losses = [point["value"] for point in curve if point["measure"] == "validation_loss"]
    assert losses[-1] < losses[0]


def test_a_table_is_refused_in_several_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(BadInput, match=r"task: = tabular-classification: 2 processes were started, .*; start one, without torchrun"):
        stillroom.run(JOB.with_name("breast-cancer.yaml"), run_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_launcher_that_shards_too_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInput, match=r"accelerate launch: .* start without its FSDP options, and set training.arguments.fsdp"):
        stillroom.run(JOB, run_dir=tmp_path)
