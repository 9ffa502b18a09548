"""The command line as a new user meets it: one clear line for a mistake, the right exit code, never a stack trace."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROWS = "age,town,ill\n" + "".join(f"{20 + i % 50},{'ABC'[i % 3]},{'yes' if (i * 7) % 10 < 4 else 'no'}\n" for i in range(120))
JOB = """
task: tabular-classification
data:
  source: {kind: file, train: rows.csv}
  target: ill
teacher: {kind: estimator, estimator: random-forest, params: {n_estimators: 20}}
student: {kind: estimator, estimator: decision-tree, params: {max_leaf_nodes: 4}}
evaluation: {seeds: 1, resamples: 100, cost: false}
export: {formats: []}
"""


def stillroom(*arguments: object, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stillroom.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, **environment}, check=False
    )


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "rows.csv").write_text(ROWS)
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def fails(job: Path, *overrides: str, code: int = 2, command: str = "run") -> str:
    arguments = [part for override in overrides for part in ("--set", override)]
    result = stillroom(command, job, *arguments, folder=job.parent)
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    assert not (job.parent / "runs" / "job" / "evidence.json").exists()
    return result.stderr


def test_help_version_and_no_arguments() -> None:
    assert "Distil a teacher" in stillroom("--help").stdout
    assert stillroom("--version").stdout.startswith("stillroom ")
    assert stillroom("rnu").returncode == 2


def test_every_bundled_job_is_right(shared_data: Path) -> None:
    jobs = sorted((ROOT / "jobs").glob("*.yaml"))
    assert len(jobs) >= 5
    for path in jobs:
        result = stillroom("check", path, STILLROOM_DATA=str(shared_data))
        assert result.returncode == 0, result.stderr
        assert path.read_text().startswith("# "), f"{path} does not say what it shows"


def test_typos_come_all_at_once(job: Path) -> None:
    job.write_text(JOB.replace("n_estimators: 20}", "n_estimators: 20}, parmas: {}") + "objectiv: {}\n")
    message = fails(job, command="check")
    assert "teacher.parmas: no such key; did you mean 'params'?" in message
    assert "objectiv: no such key; did you mean 'objective'?" in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.source.train=none.csv", "data.source.train: no such file: {folder}/none.csv."),
        ("data.target=il", "data.target: = 'il'"),
        ("data.numeric=[town]", "town"),
        ("teacher.estimator=random-forst", "did you mean 'random-forest'?"),
        ("teacher.estimator=os.system", "os.system"),
        ("teacher={kind: estimator, estimator: sklearn.svm.LinearSVC}", "predict_proba"),
        ("teacher.params={n_estimator: 5}", "n_estimators"),
        ("student.params={max_leaf_nodes: -3}", "max_leaf_nodes"),
        ("data.split.test=0.999", "split"),
        ("labelling.folds=100", "folds"),
        ("evaluation.slices=[twon]", "town"),
        ("teacher={kind: python, object: 'os:getcwd'}", "--allow-code"),
        ("task=text-classification", "data.text"),
    ],
)
def test_a_mistake_is_one_clear_error(job: Path, override: str, expected: str) -> None:
    message = fails(job, override, *(["teacher.licence=mit"] if "python" in override else []))
    assert expected.format(folder=job.parent) in message, message
    assert len(message.splitlines()) < 20


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (ROWS.replace("no\n", "yes\n"), "one class"),
        ("", "empty"),
        ("age,town\n1,A\n", "ill"),
        (ROWS.replace("yes", ""), "ill"),
    ],
)
def test_bad_rows_are_one_clear_error(job: Path, rows: str, expected: str) -> None:
    (job.parent / "rows.csv").write_text(rows)
    assert expected in fails(job)


def test_a_teacher_whose_terms_forbid_it_is_refused_before_any_work(job: Path) -> None:
    message = fails(job, "teacher.licence=openai", code=3)
    assert message.startswith("refused: ")
    assert "policy.waiver" in message
    assert not (job.parent / "runs").exists()


def test_a_waiver_lets_it_pass_and_shows_everywhere(job: Path) -> None:
    waiver = "policy.waiver={reason: written consent, signed_by: A. Person, date: '2026-01-05'}"
    result = stillroom("run", job, "--set", "teacher.licence=openai", "--set", waiver, folder=job.parent)
    assert result.returncode == 0, result.stderr
    run = job.parent / "runs" / "job"
    for name in ("lineage.json", "report.html", "model-card.md"):
        assert "A. Person" in (run / name).read_text(), name


@pytest.mark.parametrize("place", ["taken", "taken/run"])
def test_a_run_folder_that_cannot_be_written_is_one_clear_error(job: Path, place: str) -> None:
    (job.parent / "taken").write_text("a file")
    result = stillroom("run", job, "--run", job.parent / place, folder=job.parent)
    assert result.returncode == 1
    assert "a file stands where a folder is needed; choose another" in result.stderr
    assert "with --run" in result.stderr
    assert "Traceback" not in result.stderr


def test_stages_alone_and_predict(job: Path) -> None:
    folder, run = job.parent, job.parent / "runs" / "job"
    for stage, made in [
        ("label", "knowledge"),
        ("train", "student"),
        ("evaluate", "evidence.json"),
        ("export", "evidence.json"),
        ("report", "report.html"),
    ]:
        result = stillroom(stage, job, folder=folder)
        assert result.returncode == 0, result.stderr
        assert (run / made).exists()
    assert yaml.safe_load((run / "job.yaml").read_text())["labelling"]["folds"] == 5
    result = stillroom("predict", run, folder / "rows.csv", folder=folder)
    lines = result.stdout.splitlines()
    assert lines[0] == "prediction,p_no,p_yes"
    assert len(lines) == 121
    assert stillroom("verify", run / "knowledge", folder=folder).returncode == 0
    (folder / "rows.csv").write_text("age\n3\n")
    broken = stillroom("predict", run, folder / "rows.csv", folder=folder)
    assert broken.returncode == 2
    assert "town" in broken.stderr


def test_predict_before_train_says_what_to_do(tmp_path: Path) -> None:
    result = stillroom("predict", tmp_path, tmp_path / "rows.csv")
    assert result.returncode == 2
    assert "is no run" in result.stderr


def test_init_writes_a_job_that_check_accepts(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    flags = ["--task", "tabular-classification", "--data", "rows.csv", "--target", "ill"]
    assert stillroom("init", "mine.yaml", *flags, folder=tmp_path).returncode == 0
    checked = stillroom("check", "mine.yaml", folder=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "# " in (tmp_path / "mine.yaml").read_text()
    again = stillroom("init", "mine.yaml", *flags, folder=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    unasked = stillroom("init", "other.yaml", "--task", "tabular-regression", folder=tmp_path)
    assert "--data: is missing" in unasked.stderr
    assert not (tmp_path / "other.yaml").exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"--data": "raws.csv"}, "/raws.csv. Correct the path"),
        ({"--target": "il"}, "did you mean 'ill'?"),
        ({"--teacher": "random-forst"}, "did you mean 'random-forest'?"),
        ({"--student": "lightgmb"}, "did you mean 'lightgbm'?"),
        ({"--task": "tabular-regression"}, "ill"),
    ],
)
def test_init_refuses_what_would_not_run(tmp_path: Path, flags: dict[str, str], expected: str) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    given = {"--task": "tabular-classification", "--data": "rows.csv", "--target": "ill", **flags}
    result = stillroom("init", "mine.yaml", *(part for pair in given.items() for part in pair), folder=tmp_path)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "mine.yaml").exists()


def test_init_asks_on_a_terminal_and_what_it_writes_runs_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(ROWS)
    answers = ["", "rows.csv", "ill", "random-forest", ""]  # blank: the default
    ours, theirs = pty.openpty()
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    command = [sys.executable, "-m", "stillroom.cli", "init", "jobs/mine.yaml"]
    asked = subprocess.run(command, cwd=tmp_path, stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours), os.close(theirs)
    assert asked.returncode == 0, asked.stderr
    assert "Task (tabular-classification, tabular-regression, text-classification, language-model)" in asked.stdout
    quick = ["--set", "evaluation.cost=false", "--set", "evaluation.seeds=1", "--set", "teacher.params.n_estimators=5"]
    result = stillroom("run", tmp_path / "jobs" / "mine.yaml", *quick, folder=tmp_path)
    assert result.returncode == 0, result.stderr


def test_init_writes_a_job_for_a_server_whose_address_is_given(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"row {i},{'ab'[i % 2]}\n" for i in range(40)))
    flags = {
        "--task": "text-classification",
        "--data": "rows.csv",
        "--target": "label",
        "--text": "text",
        "--student": "logistic-regression",
    }
    given = [part for pair in {**flags, "--teacher": "http://127.0.0.1:8000/v1"}.items() for part in pair]
    refused = stillroom("init", "mine.yaml", *given, folder=tmp_path)
    assert refused.returncode == 2
    assert "--model: is missing" in refused.stderr
    layers = stillroom("init", "mine.yaml", *given, "--model", "m", "--student", "teacher-layers", folder=tmp_path)
    assert layers.returncode == 2
    assert "--student: = 'teacher-layers' is made of the teacher's weights" in layers.stderr
    written = stillroom("init", "mine.yaml", *given, "--model", "m: 1", folder=tmp_path)
    assert written.returncode == 0, written.stderr
    job = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert (job["teacher"]["kind"], job["teacher"]["model"]) == ("endpoint", "m: 1")
    assert job["student"] == {"kind": "estimator", "estimator": "logistic-regression"}


def test_an_interrupted_question_is_130_and_promises_nothing(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, b"\x04")  # the end of input
    command = [sys.executable, "-m", "stillroom.cli", "init", "mine.yaml"]
    asked = subprocess.run(command, cwd=tmp_path, stdin=theirs, capture_output=True, text=True, check=False)
    os.close(ours), os.close(theirs)
    assert asked.returncode == 130
    assert asked.stderr.strip().endswith("interrupted.")


def test_an_interrupt_while_a_string_is_run_is_130(tmp_path: Path) -> None:
    program = "import stillroom.cli\nstillroom.cli.app = lambda **_: exec('raise KeyboardInterrupt')\nstillroom.cli.main()\n"
    (tmp_path / "interrupted.py").write_text(program)
    ended = subprocess.run([sys.executable, "-m", "interrupted"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.strip()) == (130, "interrupted.")


def test_schema_is_json_schema() -> None:
    schema = json.loads(stillroom("schema").stdout)
    assert schema["title"] == "Stillroom job"
    assert schema["properties"]["task"]["enum"][0] == "tabular-classification"
