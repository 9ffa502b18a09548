"""Killed at any moment, a run ends with the evidence of an undisturbed one, and exactly one answer an example."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify

JOB = """
task: tabular-classification
seed: 3
data:
  source: {kind: sklearn, name: wine}
  unlabeled_share: 0.3
teacher: {kind: estimator, estimator: extra-trees, params: {n_estimators: 60}}
student: {kind: estimator, estimator: decision-tree, params: {max_leaf_nodes: 6}}
labelling: {batch_size: 8, folds: 4}
evaluation: {seeds: 2, resamples: 200, cost: false}
"""
NUM_KILLS = 20


def start(job: Path, run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stillroom.cli", "run", str(job), "--run", str(run)]
    # Ctrl-C works in it even where these tests were started in the background, which ignores it.
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def finish(job: Path, run: Path) -> str:
    process = start(job, run)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def evidence(run: Path) -> Any:
    return json.loads((run / "evidence.json").read_text())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    folder = tmp_path_factory.mktemp("undisturbed")
    job, run = folder / "job.yaml", folder / "run"
    job.write_text(JOB)
    began = time.monotonic()
    finish(job, run)
    return job, run, time.monotonic() - began


@pytest.mark.slow
def test_twenty_kills_lose_and_double_nothing(undisturbed: tuple[Path, Path, float], tmp_path: Path) -> None:
    job, reference, seconds = undisturbed
    run, moments = tmp_path / "run", random.Random(7)
    num_killed = 0
    while num_killed < NUM_KILLS:
        process = start(job, run)
        time.sleep(moments.uniform(0.3, 1.0) * seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:
            # It was faster than the moment drawn: begin a new run, so that twenty kills really fall into work.
            run = tmp_path / f"run-{num_killed}-{time.monotonic_ns()}"
            continue
        num_killed += 1
        if num_killed % 5 == 0:
            finish(job, run)
            _same(run, reference)
            run = tmp_path / f"run-{num_killed}"


def _same(run: Path, reference: Path) -> None:
    assert evidence(run) == evidence(reference)
    with KnowledgeStore(run / "knowledge", read_only=True) as store, KnowledgeStore(reference / "knowledge", read_only=True) as other:
        assert len(store) == len(other)
        verify(store).require_whole()
        found = sorted(record.facts["example"] for record in store)
    assert len(found) == len(set(found)), "an example was answered twice"


def test_ctrl_c_is_130_and_the_same_command_goes_on(undisturbed: tuple[Path, Path, float], tmp_path: Path) -> None:
    job, reference, seconds = undisturbed
    process = start(job, tmp_path / "run")
    time.sleep(0.6 * seconds)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "goes on from there" in err
    assert "Traceback" not in err
    finish(job, tmp_path / "run")
    _same(tmp_path / "run", reference)


@pytest.mark.parametrize("kilobytes", [8, 24, 64])
def test_what_cannot_be_written_is_one_clear_error_and_no_loss(
    undisturbed: tuple[Path, Path, float], tmp_path: Path, kilobytes: int
) -> None:
    # A limit on file sizes stands in for a full disk: a write fails half-way, sooner or later in the run.
    job, reference, _ = undisturbed
    command = f'ulimit -f {kilobytes}; exec "$0" -m stillroom.cli run "$1" --run "$2"'
    limited = ["bash", "-c", command, sys.executable, str(job), str(tmp_path / "run")]
    result = subprocess.run(limited, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert result.returncode == 1
    assert "error: cannot write" in result.stderr
    assert "Traceback" not in result.stderr
    finish(job, tmp_path / "run")
    _same(tmp_path / "run", reference)


def test_a_finished_run_asks_and_trains_nothing_again(undisturbed: tuple[Path, Path, float]) -> None:
    job, run, _ = undisturbed
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.suffix in (".parquet", ".skops")}
    assert before
    finish(job, run)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_changed_objective_trains_again_but_asks_nothing(undisturbed: tuple[Path, Path, float], tmp_path: Path) -> None:
    _, reference, _ = undisturbed
    run = tmp_path / "run"
    shutil.copytree(reference, run)
    changed = tmp_path / "job.yaml"
    changed.write_text(JOB + "objective: {temperature: 5.0, hard_label_weight: 0.0}\n")
    finish(changed, run)
    assert evidence(run) != evidence(reference)
    with KnowledgeStore(run / "knowledge", read_only=True) as store, KnowledgeStore(reference / "knowledge", read_only=True) as other:
        assert len(store) == len(other)


def test_a_job_that_was_changed_killed_and_changed_back_finds_its_own_teacher(
    undisturbed: tuple[Path, Path, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stillroom
    from stillroom.pipeline.folder import RunFolder

    job, reference, _ = undisturbed
    run = tmp_path / "run"
    shutil.copytree(reference, run)

    def killed(self: RunFolder, stage: str, inputs: str, **results: Any) -> None:
        raise KeyboardInterrupt(stage)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", killed)
        with pytest.raises(KeyboardInterrupt, match="teacher"):
            stillroom.run(job, run_dir=run, overrides=["teacher.params={n_estimators: 3}"])
    stillroom.run(job, run_dir=run, overrides=["evaluation.resamples=300"], until="evaluate")
    found, expected = (
        next(m["value"] for m in evidence(folder)["measures"] if (m["arm"], m["measure"]) == ("teacher", "log_loss"))
        for folder in (run, reference)
    )
    assert found == expected


def test_two_processes_keep_out_of_each_others_way(undisturbed: tuple[Path, Path, float], tmp_path: Path) -> None:
    from stillroom.core.errors import BadInput
    from stillroom.pipeline.folder import RunFolder

    with RunFolder(tmp_path / "run").locked(), pytest.raises(BadInput, match="another process works on this run"):  # noqa: SIM117
        with RunFolder(tmp_path / "run").locked():
            pass
