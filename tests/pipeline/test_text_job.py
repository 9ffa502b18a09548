"""The bundled intents job on a slice of its own data: real texts, real weights, every stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stillroom
from stillroom.export.parity import check_parity
from stillroom.knowledge.store import KnowledgeStore
from stillroom.models.load import load_predictor

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
INTENTS = ("card_arrival", "exchange_rate", "top_up_failed", "pin_blocked")
SHORT = (
    "labelling.folds=2",
    "teacher.fine_tune.num_train_epochs=3",
    "training.num_train_epochs=6",
    "evaluation.seeds=2",
    "evaluation.resamples=200",
    "evaluation.cost=false",
)


@pytest.fixture(scope="module")
def intents(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 training and 20 test texts of each of four intents."""
    folder = tmp_path_factory.mktemp("intents")
    for part, rows in (("train", 40), ("test", 20)):
        table = pd.read_csv(shared_data / "banking77" / f"{part}.csv.gz")
        chosen = table[table["category"].isin(INTENTS)].groupby("category", group_keys=False).head(rows)
        chosen.to_csv(folder / f"{part}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def run(intents: Path) -> stillroom.Run:
    files = [f"data.source.{part}={intents / part}.csv" for part in ("train", "test")]
    return stillroom.run(ROOT / "jobs" / "banking-intents.yaml", run_dir=intents / "run", overrides=[*files, *SHORT])


def test_every_arm_is_measured_and_has_learnt(run: stillroom.Run) -> None:
    evidence = run.evidence
    assert evidence.arms == ("teacher", "student", "control", "student-onnx")
    for arm in ("teacher", "student", "control"):
        accuracy = evidence.value(arm, "accuracy")
        assert accuracy is not None
        assert accuracy.value > 0.4, f"{arm}: chance is 0.25"
    assert evidence.verdict is not None
    assert "licence" in (run.folder.card).read_text()
    assert run.folder.report.is_file()


def test_the_student_is_a_transformers_folder_and_its_export_agrees(run: stillroom.Run, intents: Path) -> None:
    from transformers import pipeline

    texts = pd.read_csv(intents / "test.csv")["text"].tolist()
    expected = run.student.predict(pd.DataFrame({"text": texts}))
    alone = pipeline("text-classification", model=str(run.folder.student), device="cpu")
    assert [answer["label"] for answer in alone(texts)] == list(expected)
    student, exported = load_predictor(run.folder.student), load_predictor(run.folder.export("onnx"))
    assert check_parity(student, exported, pd.DataFrame({"text": texts}), tolerance=1e-4).largest_difference < 1e-4


def test_no_text_was_answered_by_a_teacher_that_had_seen_it(run: stillroom.Run) -> None:
    with KnowledgeStore(run.folder.knowledge, read_only=True) as store:
        answers = list(store)
        assert len({answer.facts["example"] for answer in answers}) == len(answers) == 160
        assert not any(answer.facts["example"] in set(store.context(answer.facts["context"])) for answer in answers)


def test_a_second_run_trains_nothing(run: stillroom.Run, intents: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.folder.path.rglob("*.safetensors")}
    assert len(before) >= 5
    files = [f"data.source.{part}={intents / part}.csv" for part in ("train", "test")]
    again = stillroom.run(ROOT / "jobs" / "banking-intents.yaml", run_dir=run.folder.path, overrides=[*files, *SHORT])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert again.evidence == run.evidence
    kept = np.load(run.folder.path / "predictions.npz")
    assert kept["teacher-0"].shape == (80, 4)
