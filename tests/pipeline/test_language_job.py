"""The bundled language job on a slice of its own data: real stories, a real teacher, every stage."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import stillroom
from stillroom.core.errors import BadInput
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "tiny-lm.yaml"
SHORT = (
    "data.source.limit=40",
    "data.other_documents=4",
    "training.num_train_epochs=1",
    "training.max_length=64",
    "evaluation.seeds=2",
    "evaluation.resamples=200",
    "evaluation.cost=false",
    "evaluation.prompts=2",
    "evaluation.new_tokens=8",
)
NUM_KILLS = 6


@pytest.fixture(scope="module")
def run(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> stillroom.Run:
    os.environ["STILLROOM_DATA"] = str(shared_data.resolve())
    return stillroom.run(JOB, run_dir=tmp_path_factory.mktemp("lm") / "run", overrides=SHORT)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def test_it_ends_with_evidence_in_and_out_of_domain(run: stillroom.Run) -> None:
    evidence = run.evidence
    assert evidence.arms == ("teacher", "student", "control")
    assert evidence.verdict is not None
    assert evidence.verdict.measure == "log_loss"
    for arm in evidence.arms:
        inside, outside = evidence.value(arm, "log_loss"), evidence.value(arm, "log_loss@shakespeare")
        assert inside is not None
        assert outside is not None
        assert 0 < inside.value < outside.value, "every arm knows stories better than plays"
    teacher, student = evidence.value("teacher", "log_loss"), evidence.value("student", "log_loss")
    assert teacher is not None
    assert student is not None
    assert teacher.value < 1.2 < student.value
    assert run.folder.report.read_text(encoding="utf-8").count("shakespeare") > 1
    assert "text-generation" in run.folder.card.read_text(encoding="utf-8")
    assert json.loads(run.folder.lineage.read_text())["teachers"][0]["licence"] == "MIT"


def test_the_student_is_a_plain_checkpoint_of_at_most_a_quarter(run: stillroom.Run, shared_data: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    student = AutoModelForCausalLM.from_pretrained(run.folder.student)
    teacher = AutoModelForCausalLM.from_pretrained(shared_data / "weights" / "babyllama" / "babyllama_tok105")
    assert student.num_parameters() <= teacher.num_parameters() / 4
    tokenizer = AutoTokenizer.from_pretrained(run.folder.student)
    prompt = tokenizer("Once upon a time", return_tensors="pt")
    assert student.generate(**prompt, max_new_tokens=5).shape[1] == prompt["input_ids"].shape[1] + 5


def test_the_knowledge_is_whole_and_small(run: stillroom.Run) -> None:
    with KnowledgeStore(run.folder.knowledge, read_only=True) as store:
        verify(store).require_whole()
        assert len(store) > 100


def test_a_second_run_does_nothing_again(run: stillroom.Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*") if path.suffix in (".parquet", ".safetensors")}
    assert before
    stillroom.run(JOB, run_dir=run.folder.path, overrides=SHORT)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_online_is_one_key_and_stores_nothing(run: stillroom.Run, tmp_path: Path) -> None:
    online = stillroom.run(JOB, run_dir=tmp_path, overrides=[*SHORT, "labelling.tokens=online", "evaluation.seeds=1"], until="train")
    assert not online.folder.knowledge.exists()
    stored, live = weights(run.folder.student), weights(online.folder.student)
    assert stored.keys() == live.keys()
    # An unbiased sample of the teacher leads close to where the whole distribution does.
    apart = sum(float((stored[name] - live[name]).square().sum()) for name in stored) ** 0.5
    size = sum(float(live[name].square().sum()) for name in live) ** 0.5
    assert 0 < apart < 0.2 * size


def test_a_store_of_another_teacher_is_not_taken_for_this_ones(run: stillroom.Run, tmp_path: Path, shared_data: Path) -> None:
    other = shared_data / "weights" / "babyllama" / "babyllama_tok361"
    store = f"labelling.store={run.folder.knowledge}"
    before = len(list((run.folder.knowledge / "shards").glob("*.parquet")))
    stillroom.run(JOB, run_dir=tmp_path, overrides=[*SHORT, store, f"teacher.model={other}", "data.source.limit=8"], until="label")
    assert len(list((run.folder.knowledge / "shards").glob("*.parquet"))) > before, "it had to be asked"


def test_a_student_of_another_tokenizer_is_refused(tmp_path: Path, shared_data: Path) -> None:
    os.environ["STILLROOM_DATA"] = str(shared_data.resolve())
    other = shared_data / "weights" / "stories260K" / "hf"
    student = f"student={{kind: huggingface, init: pretrained, model: {other}}}"
    with pytest.raises(BadInput, match="has another tokenizer than the teacher"):
        stillroom.run(JOB, run_dir=tmp_path, overrides=[*SHORT, student, "data.source.limit=8"], until="train")


@pytest.mark.slow
def test_killed_at_random_moments_the_weights_are_those_of_an_undisturbed_run(run: stillroom.Run, tmp_path: Path) -> None:
    settings = [part for override in SHORT for part in ("--set", override)]
    command = [sys.executable, "-m", "stillroom.cli", "train", str(JOB), "--run", str(tmp_path / "run"), *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    moments, num_killed, done = random.Random(3), 0, False
    while not done:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            # Start-up alone takes seconds; after the last kill it may end in peace.
            _, err = process.communicate(timeout=None if num_killed == NUM_KILLS else moments.uniform(6, 14))
            assert process.returncode == 0, err
            done = True
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            num_killed += 1
            time.sleep(0.1)
    assert num_killed > 0
    for arm in ("student", "arms/control-0", "arms/student-1", "arms/control-1"):
        found, expected = weights(tmp_path / "run" / arm), weights(run.folder.path / arm)
        assert all(torch.equal(found[name], expected[name]) for name in expected), arm
