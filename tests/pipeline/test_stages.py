"""Each stage redoes what a change or a loss asks for, and no more; and says how long it took."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import stillroom
from stillroom.pipeline import label, train
from stillroom.spec.load import job_from

JOB: dict[str, Any] = {
    "name": "stages",
    "task": "tabular-classification",
    "data": {"source": {"kind": "sklearn", "name": "iris"}},
    "teacher": {"kind": "estimator", "estimator": "random-forest", "params": {"n_estimators": 10}},
    "student": {"kind": "estimator", "estimator": "decision-tree", "params": {"max_leaf_nodes": 4}},
    "evaluation": {"seeds": 2, "resamples": 100, "cost": False},
}


def walk(folder: Path, *, until: str = "report", **sections: Any) -> Path:
    return stillroom.run(job_from({**JOB, **sections}), run_dir=folder, until=until).folder.path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walk(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def record(run: Path, stage: str) -> dict[str, Any]:
    return dict(json.loads((run / "stages" / f"{stage}.json").read_text()))


def test_more_seeds_train_only_the_new_students(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("training.json")}
    assert len(before) == 4
    walk(run, evaluation={**JOB["evaluation"], "seeds": 3})
    after = {path: path.stat().st_mtime_ns for path in run.rglob("training.json")}
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    assert {m["seeds"] for m in json.loads((run / "evidence.json").read_text())["measures"] if m["arm"] == "student"} == {3}


def test_a_changed_student_trains_all_of_them_again(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("training.json")}
    walk(run, student={"kind": "estimator", "estimator": "decision-tree", "params": {"max_leaf_nodes": 5}})
    assert all(path.stat().st_mtime_ns > before[path] for path in before)


@pytest.mark.parametrize(
    "lost",
    ["teacher", "student", "arms/control-1", "student/training.json", "details.json", "predictions.npz", "evidence.json", "exports/onnx",
     "knowledge", "stages", "lineage.json"],
)  # fmt: skip
def test_what_was_deleted_is_made_again(run: Path, finished: Path, lost: str) -> None:
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    walk(run)
    assert path.exists()
    assert json.loads((run / "evidence.json").read_text()) == json.loads((finished / "evidence.json").read_text())


def test_what_a_killed_run_had_half_written_is_swept_away(run: Path) -> None:
    left = [run / ".student.999999.tmp" / "model.skops", run / "arms" / ".control-0.999999.tmp" / "model.skops", run / ".report.html.9.tmp"]
    for path in left:
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    walk(run)
    assert not [path for path in run.rglob("*") if path.name.endswith(".tmp")]


def test_every_stage_says_how_long_it_took_and_the_report_shows_it(run: Path) -> None:
    page = (run / "report.html").read_text()
    shown = dict(re.findall(r'(\w+) <span class="num">([\d.]+)\u202fs</span>', page))
    for stage in ("label", "train", "evaluate", "export"):
        seconds = record(run, stage)["seconds"]
        assert 0 < seconds < 60
        assert shown[stage] == f"{seconds:.1f}"
    assert record(run, "train")["seconds"] == sum(json.loads(path.read_text())["seconds"] for path in run.rglob("training.json"))


def test_a_resumed_run_adds_to_the_seconds_and_a_finished_stage_does_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {stage: record(run, stage)["seconds"] for stage in ("label", "train", "evaluate", "export")}
    walk(run)
    assert {stage: record(run, stage)["seconds"] for stage in before} == before

    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    fresh, first = tmp_path / "fresh", {}
    for module, name, piece in ((label, "_conclude", "label"), (train, "whole_folder", "student-0")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                walk(fresh)
        first[piece] = json.loads((fresh / "stages" / f"{piece}.seconds").read_text())["seconds"]
    walk(fresh)
    assert record(fresh, "label")["seconds"] > first["label"] > 0
    assert json.loads((fresh / "student" / "training.json").read_text())["seconds"] > first["student-0"] > 0
