"""From a run to the reviewer and back: into the store, the report, and, where the job asks for it, the students."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

import stillroom
from stillroom.cli import app
from stillroom.core.errors import BadInput, StageFailed
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.pipeline.review import CORRECTION, Review, corrected
from stillroom.spec.load import job_from

JOB: dict[str, Any] = {
    "name": "reviewed",
    "task": "tabular-classification",
    "data": {"source": {"kind": "sklearn", "name": "iris"}, "unlabeled_share": 0.3},
    "teacher": {"kind": "estimator", "estimator": "random-forest", "params": {"n_estimators": 10, "max_depth": 2}},
    "student": {"kind": "estimator", "estimator": "decision-tree", "params": {"max_leaf_nodes": 4}},
    "evaluation": {"seeds": 2, "resamples": 100, "cost": False},
    "export": {"formats": []},
}
USING: dict[str, Any] = {**JOB, "labelling": {"corrections": "use"}}


def walk(folder: Path, job: dict[str, Any] = JOB, until: str = "report") -> Path:
    return stillroom.run(job_from(job), run_dir=folder, until=until).folder.path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return walk(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def opened(run: Path, reviewer: str = "Ann", num_rows: int = 40) -> Review:
    return Review(run, reviewer=reviewer, num_rows=num_rows)


def others(review: Review, numbers: range) -> dict[int, str]:
    """A label that is not the teacher's, for each of these rows of the sample."""
    session = review.session
    return {n: next(label for label in session.classes if label != session.items[n].teacher) for n in numbers}


def accept(review: Review, numbers: range) -> None:
    review.session.decide({n: review.session.items[n].teacher for n in numbers})


def times(run: Path, *names: str) -> list[int]:
    return [(run / name).stat().st_mtime_ns for name in names]


def test_all_rows_reviewed_the_error_is_exact_pool_and_training_rows_alike(run: Path) -> None:
    review = opened(run, num_rows=10_000)
    items = review.session.items
    assert sorted(item.row for item in items) == list(range(len(review.transfer.batch)))
    assert any(item.row >= review.transfer.num_labelled for item in items)
    wrong = range(7)
    accept(review, range(len(items)))
    review.session.decide(others(review, wrong))  # she changes her mind: the last word counts
    found = review.conclude()
    assert found is not None
    assert (found.error, found.low, found.high) == pytest.approx((7 / len(items),) * 3)
    assert (found.num_reviewed, found.num_wrong, found.num_rows, found.num_reviewers) == (len(items), 7, len(items), 1)
    assert sum(c.rows for c in found.confusions) == 7


def test_an_item_shows_the_row_and_the_answer_that_the_student_learns_from(run: Path) -> None:
    review = opened(run)
    for item in review.session.items[:5]:
        features = review.transfer.batch.features.iloc[item.row]
        assert [name for name, _ in item.cells] == list(features.index)
        assert [float(cell) for _, cell in item.cells] == pytest.approx(features.tolist())
        assert item.probs == tuple(review.transfer.answers[item.row])
        assert item.teacher == review.session.classes[int(np.argmax(item.probs))]
    with KnowledgeStore(run / "knowledge", read_only=True) as store:
        assert store.missing([item.answer for item in review.session.items]) == []


def test_corrections_lie_in_the_store_beside_the_teacher_s_answers(run: Path) -> None:
    review = opened(run)
    with KnowledgeStore(run / "knowledge", read_only=True) as store:
        before = {record.key: record.value for record in store}
    accept(review, range(4, 10))
    review.session.decide(others(review, range(4)))
    review.conclude()
    review.conclude()  # adds nothing
    with KnowledgeStore(run / "knowledge", read_only=True) as store:
        after = {record.key: record for record in store}
        verify(store).require_whole()
    assert all(np.array_equal(after[key].value, value) for key, value in before.items())
    added = [record for key, record in after.items() if key not in before]
    assert len(added) == 4
    by_answer = {item.answer: item for item in review.session.items}
    for record in added:
        assert record.facts["question"] == CORRECTION
        assert (record.facts["source"], record.facts["reviewer"], record.facts["seed"]) == ("reviewer", "Ann", 0)
        assert record.facts["example"] == by_answer[record.facts["corrects"]].example
        one_hot = [float(name == record.facts["label"]) for name in review.session.classes]
        assert list(record.value) == one_hot


def test_the_report_and_the_card_say_it_and_without_a_review_they_do_not(run: Path, finished: Path) -> None:
    for name in ("report.html", "model-card.md"):
        assert "reviewed row" not in (finished / name).read_text()
    review = opened(run)
    accept(review, range(40))
    review.session.decide(others(review, range(2)))
    before = times(run, "student/training.json", "stages/evaluate.json")
    walk(run)
    assert times(run, "student/training.json", "stages/evaluate.json") == before
    for name in ("report.html", "model-card.md"):
        text = (run / name).read_text().replace("\u202f", " ")
        found = r"The teacher was wrong on \d+\.\d % \(\d+\.\d to \d+\.\d %\) of the 112 rows it labelled, by 40 reviewed rows"
        assert re.search(found, text)
    assert json.loads((run / "lineage.json").read_text())["corrected_rows"] == 0
    assert "People corrected" not in (run / "report.html").read_text()


def test_students_learn_corrections_where_the_job_says_so_and_nobody_else_is_redone(run: Path) -> None:
    review = opened(run)
    labels = others(review, range(6))
    review.session.decide(labels)
    redone, kept = ("student/training.json", "arms/student-1/training.json"), ("stages/label.json", "stages/teacher.json")
    kept = (*kept, "arms/control-0/training.json", "arms/control-1/training.json")
    before, untouched = times(run, *redone), times(run, *kept)
    walk(run, USING)
    assert all(new > old for new, old in zip(times(run, *redone), before, strict=True))
    assert times(run, *kept) == untouched
    assert json.loads((run / "lineage.json").read_text())["corrected_rows"] == 6
    assert "People corrected 6 rows: the student learnt their labels" in (run / "report.html").read_text()
    assert "wrong on" in (run / "report.html").read_text()  # the teacher's own answers are judged, not the corrected ones
    before = times(run, *redone)
    walk(run, USING)
    assert times(run, *redone) == before
    accept(review, range(6))  # taken back
    walk(run, USING)
    assert json.loads((run / "lineage.json").read_text())["corrected_rows"] == 0
    assert all(new > old for new, old in zip(times(run, *redone), before, strict=True))


def test_a_corrected_answer_is_one_hot_and_the_others_are_the_teacher_s(run: Path) -> None:
    review = opened(run)
    labels = others(review, range(3))
    review.session.decide(labels)
    accept(review, range(3, 10))
    walk(run, USING, until="train")
    again = opened(run)
    taught = corrected(again.work, again.transfer)
    changed = {review.session.items[n].row: label for n, label in labels.items()}
    for row in range(len(taught.batch)):
        if row in changed:
            assert taught.answers[row].tolist() == [float(name == changed[row]) for name in review.session.classes]
        else:
            assert np.array_equal(taught.answers[row], again.transfer.answers[row])


def test_the_student_that_ships_has_learnt_what_people_said(run: Path) -> None:
    review = opened(run, num_rows=10_000)
    review.session.decide(dict.fromkeys(range(len(review.session.items)), "virginica"))
    walk(run, {**USING, "objective": {"hard_label_weight": 0.0}}, until="train")
    rows = review.transfer.batch.features
    assert set(stillroom.load(run).predict(rows)) == {"virginica"}
    assert len(set(stillroom.load(run, arm="control").predict(rows))) == 3


def test_two_reviewers_of_the_same_rows(run: Path) -> None:
    ann, bob = opened(run), opened(run, "Bob")
    accept(ann, range(20))
    accept(bob, range(10, 30))
    bob.session.decide(others(bob, range(10, 14)))
    found = bob.conclude()
    assert found is not None
    assert (found.num_reviewed, found.num_wrong, found.num_reviewers) == (30, 4, 2)  # Bob came later
    (overlap,) = found.overlaps
    assert (overlap.rows, overlap.agreement) == (10, pytest.approx(0.6))
    assert ann.session.decided().keys() == set(range(20))


def test_skipped_rows_are_counted_apart(run: Path) -> None:
    review = opened(run)
    review.session.decide({0: None, 1: None})
    assert review.conclude() is None
    accept(review, range(1, 5))
    found = review.conclude()
    assert found is not None
    assert (found.num_reviewed, found.num_skipped) == (4, 1)


def test_decisions_on_other_answers_say_nothing_of_these(run: Path) -> None:
    review = opened(run)
    review.session.decide(others(review, range(5)))
    walk(run, {**JOB, "teacher": {**JOB["teacher"], "params": {"n_estimators": 5, "max_depth": 3}}})
    assert "reviewed row" not in (run / "report.html").read_text()
    assert opened(run).session.decided() == {}


def test_a_run_that_cannot_be_reviewed_is_refused_in_one_line(run: Path, tmp_path: Path) -> None:
    regression = {**JOB, "task": "tabular-regression", "data": {"source": {"kind": "sklearn", "name": "diabetes"}}}
    walk(tmp_path / "regression", regression, until="label")
    with pytest.raises(BadInput, match="tabular-regression, whose teacher gives values"):
        opened(tmp_path / "regression")
    with pytest.raises(BadInput, match="is no run"):
        opened(tmp_path)
    with pytest.raises(BadInput, match="--reviewer"):
        opened(run, reviewer=" ")
    with pytest.raises(BadInput, match="--rows: = 0"):
        opened(run, num_rows=0)
    (run / "stages" / "label.json").unlink()
    with pytest.raises(StageFailed, match="stillroom label"):
        opened(run)


def test_a_language_model_s_responses_come_later(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(
        "task: language-model\ndata: {source: {kind: file, train: t.jsonl}, text: text}\nteacher: {kind: huggingface, model: ./t}\n"
        "student: {kind: huggingface, layers: 1}\n"
    )
    with pytest.raises(BadInput, match="language model"):
        opened(tmp_path)


@pytest.mark.parametrize("task", ["tabular-regression", "language-model"])
def test_corrections_go_with_labels(task: str) -> None:
    with pytest.raises(BadInput, match=r"labelling\.corrections: = 'use' goes with labels"):
        job_from({**USING, "task": task})


def test_out_to_a_spreadsheet_and_back_by_the_command_line(run: Path, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.csv"

    def command(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["review", str(run), "--rows", "12", "--reviewer", "Ann", *map(str, arguments)])

    assert "12 rows" in command("--csv", sheet).stdout
    table = pd.read_csv(sheet, dtype=str, keep_default_na=False)
    assert len(table) == 12
    table["label"] = ["ok"] * 10 + ["setoza", ""]
    table.to_csv(sheet, index=False)
    refused = command("--import", sheet).exception
    assert isinstance(refused, BadInput)
    assert f"{sheet}, line 12, column 'label': = 'setoza' is no label; did you mean 'setosa'?" in str(refused)
    assert "what the other 10 filled lines say is kept" in str(refused)
    table.loc[10, "label"] = "setosa"
    table.to_csv(sheet, index=False)
    told = command("--import", sheet).stdout
    assert "1 decision is new." in told
    assert "11 of 12 rows are decided by Ann." in told
    assert "The teacher was wrong on" in told
    assert isinstance(command("--import", sheet, "--csv", sheet).exception, BadInput)


def test_ctrl_c_ends_the_page_cleanly_and_says_how_to_go_on(run: Path) -> None:
    accept(opened(run), range(3))
    command = [sys.executable, "-m", "stillroom.cli", "review", str(run), "--reviewer", "Ann", "--rows", "20"]
    heard = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        assert process.stdout is not None
        assert re.match(r"Open http://127\.0\.0\.1:\d+/[\w-]{32}/$", process.stdout.readline().strip())
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        told, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert "3 of 20 rows are decided by Ann." in told
    assert "The same command goes on from there." in told
    assert f"stillroom report {run}/job.yaml --run {run}" in told
    assert "Traceback" not in errors
