"""README is run as it stands: its job, its commands in their order, its Python."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer

from stillroom.pipeline.terms import check_job
from stillroom.spec.load import load_text

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    """The indented code blocks of a Markdown text."""
    found, block = [], []
    for line in [*text.splitlines(), "the end"]:
        if line.startswith("    ") or (block and not line.strip()):
            block.append(line[4:])
        elif block:
            found.append("\n".join(block).strip() + "\n")
            block = []
    return found


BLOCKS = blocks(README)
JOB, ENDPOINT_JOB, LANGUAGE_JOB, RESPONSES_JOB = [block for block in BLOCKS if block.startswith("task:")]
(GENERATION,) = [block for block in BLOCKS if block.startswith("generation:")]
COMMANDS = [line.partition(" #")[0] for block in BLOCKS for line in block.splitlines() if line.startswith("stillroom ")]
SNIPPETS = [block for block in BLOCKS if "import" in block]


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The job of the README beside the files that it names, and the bundled jobs."""
    folder = tmp_path_factory.mktemp("readme")
    table = load_breast_cancer(as_frame=True)
    rows = table.data.assign(outcome=table.target.map({0: "ill", 1: "well"}))
    rows.to_csv(folder / "patients.csv", index=False)
    table.data.head(5).to_csv(folder / "new.csv", index=False)
    (folder / "job.yaml").write_text(JOB)
    (folder / "jobs").symlink_to(ROOT / "jobs")
    return folder


@pytest.mark.slow
def test_the_commands_do_what_the_readme_says(folder: Path) -> None:
    assert [command.split()[1] for command in COMMANDS] == ["check", "run", "predict", "run"]
    for command in COMMANDS:
        _, *arguments = shlex.split(command)
        result = run([sys.executable, "-m", "stillroom.cli", *arguments], folder)
        assert result.returncode == 0, f"{command}\n{result.stderr}"
    for made in ("student", "evidence.json", "report.html", "model-card.md", "lineage.json", "exports/onnx"):
        assert (folder / "runs" / "job" / made).exists(), made
    assert "temperature: 4" in (folder / "runs" / "warmer" / "job.yaml").read_text()


@pytest.mark.slow
def test_the_python_does_what_the_readme_says(folder: Path) -> None:
    assert len(SNIPPETS) == 2
    given = (
        "from sklearn.datasets import load_digits\n"
        "table = load_digits(as_frame=True)\n"
        "rows = table.data\n"
        "X, y, pool, X_new = rows[:300], table.target[:300], rows[300:400], rows[400:410]\n"
    )
    result = run([sys.executable, "-W", "error", "-c", given + "".join(SNIPPETS)], folder)
    assert result.returncode == 0, result.stderr


def test_every_file_that_the_readme_names_is_there() -> None:
    named = {
        word
        for word in README.replace("(", " ").replace(")", " ").replace("`", " ").split()
        if word.startswith(("docs/", "jobs/", "benchmarks/"))
    }
    assert len(named) > 5
    assert not [name for name in named if not (ROOT / name.rstrip(".,")).exists()]


def test_the_language_job_is_a_job(tmp_path: Path) -> None:
    job = load_text(LANGUAGE_JOB, tmp_path, "job")
    assert (job.task, job.student.layers, job.training.learning_rate) == ("language-model", 8, 3e-4)


def test_the_job_on_responses_is_a_job(tmp_path: Path) -> None:
    job = load_text(RESPONSES_JOB, tmp_path, "job")
    assert (job.primary, job.teacher.samples, job.responses and job.responses.check) == ("exact_match", 4, "number")
    bundled = ROOT / "jobs" / "word-problems-from-endpoint.yaml"
    assert load_text(bundled.read_text(encoding="utf-8"), bundled.parent, "word-problems").primary == "exact_match"


def test_the_endpoint_job_is_right_and_the_generation_goes_into_it(tmp_path: Path) -> None:
    (tmp_path / "tickets.csv").write_text("text,intent\n")
    check_job(load_text(ENDPOINT_JOB, tmp_path, "job"))
    job = load_text(ENDPOINT_JOB + GENERATION, tmp_path, "job")
    assert job.generation is not None
    assert job.generation.axes()["length"] == {"a few words": 0.5, "one sentence": 0.25, "several sentences": 0.25}


def test_the_further_teacher_goes_into_the_bundled_language_job() -> None:
    (further,) = [block for block in BLOCKS if block.startswith("other_teachers:")]
    path = ROOT / "jobs" / "tiny-lm.yaml"
    job = load_text(path.read_text(encoding="utf-8") + further, path.parent, "tiny-lm")
    assert {spec.model for spec in job.other_teachers.values()} == {job.teacher.model}
