"""A language model that learns what a model behind an endpoint writes, through a real server on loopback and with a real tiny student."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch")

import stillroom
from stillroom.core.asking import Asked
from stillroom.core.errors import BadInput, PolicyRefused, StageFailed
from stillroom.core.responses import Accepted, AcceptRate
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.pipeline.dry_run import estimate_labelling
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.predict import predict_file, write_file
from stillroom.pipeline.progress import Silence
from stillroom.pipeline.responses.label import label
from stillroom.pipeline.responses.train import texts_of
from stillroom.pipeline.responses.work import open_work
from stillroom.spec.load import dump_job, job_from
from stillroom.teachers.endpoint import client as client_module

_SPEC = importlib.util.spec_from_file_location("scripted_server", Path(__file__).parents[1] / "teachers" / "endpoint" / "server.py")
assert _SPEC is not None
assert _SPEC.loader is not None
scripted = importlib.util.module_from_spec(_SPEC)
sys.modules["scripted_server"] = scripted
_SPEC.loader.exec_module(scripted)

KEY = "sk-verysecret-0123456789"
Make = Callable[..., Any]
NUM_TRAIN, NUM_TEST = 40, 12


def said(body: dict[str, Any]) -> str:
    """What the user says last before the first answer about the row."""
    return [str(message["content"]) for message in body["messages"] if message["role"] == "user"][0]


def numbers(text: str) -> tuple[int, int]:
    first, second = re.findall(r"\d+", text)[:2]
    return int(first), int(second)


def worked(text: str, off: int = 0) -> str:
    first, second = numbers(text)
    return f"He has {first} and {second}: {first + second + off}.\n#### {first + second + off}"


def answer(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """What a good model says."""
    return {"content": worked(said(body))}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)


@pytest.fixture
def serve() -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda script=answer: stack.enter_context(scripted.Server(script))


@pytest.fixture
def make(tmp_path: Path, shared_data: Path) -> Make:
    """make(server, teacher={...}, section=...) -> a job of 40 training and 12 test prompts with their sums as answers."""
    rng = random.Random(0)
    for name, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        pairs = [(rng.randrange(2, 90), rng.randrange(2, 90)) for _ in range(count)]
        rows = {
            "question": [f"Tom has {a} toys and finds {b}. How many? {{x}}" for a, b in pairs],
            "answer": [f"{a} + {b} = <<{a}+{b}={a + b}>>{a + b}\n#### {a + b}" for a, b in pairs],
            "grade": [["easy", "hard"][a + b > 90] for a, b in pairs],
        }
        pd.DataFrame(rows).to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)

    def build(server: Any, *, teacher: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **sections: Any) -> Any:
        source = {"kind": "file", "train": "train.jsonl", "test": "test.jsonl"}
        content = {
            "name": "sums",
            "task": "language-model",
            "data": {"source": source, "prompt": "question", "completion": "answer", **(data or {})},
            "teacher": {
                "kind": "endpoint",
                "base_url": server if isinstance(server, str) else server.base_url,
                "model": "m",
                "licence": "mit",
                "max_tokens": 64,
                "max_attempts": 2,
                "prices": {"prompt": 1.0, "completion": 10.0},
                **(teacher or {}),
            },
            "responses": {"check": "number"},
            "student": {"kind": "huggingface", "init": "pretrained", "model": str(shared_data / "weights" / "stories260K" / "hf")},
            "training": {"max_length": 160, "num_train_epochs": 1.0, "per_device_train_batch_size": 8, "learning_rate": 1e-3},
            "evaluation": {"seeds": 2, "resamples": 100, "cost": False, "prompts": 6, "new_tokens": 24},
        }
        return job_from({**content, **sections}, tmp_path)

    return build


def record(run: Path, stage: str = "label") -> dict[str, Any]:
    return dict(json.loads((run / "stages" / f"{stage}.json").read_text()))


def responses(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "responses.jsonl").read_text().splitlines()]


def test_a_whole_run_teaches_what_was_accepted_and_says_how_much_that_was(serve: Make, make: Make, tmp_path: Path) -> None:
    """One prompt in four is answered wrongly."""
    server = serve(lambda number, body: {"content": worked(said(body), off=int(numbers(said(body))[0] % 4 == 0))})
    job = make(server, evaluation={"seeds": 2, "resamples": 100, "latency_calls": 3, "prompts": 6, "new_tokens": 24})
    done = stillroom.run(job, run_dir=tmp_path / "run")
    assert server.number == NUM_TRAIN + 6
    assert max(server.answered.values()) == 1
    asked = [numbers(line["prompt"])[0] for line in responses(done.folder.path)]
    right = sum(first % 4 != 0 for first in asked)
    assert 20 < right < NUM_TRAIN
    accepted = Accepted.from_json(record(done.folder.path)["accepted"])
    assert accepted.whole == AcceptRate(right, NUM_TRAIN, right, NUM_TRAIN)
    assert (accepted.learnt, accepted.learnt_prompts, list(accepted.by_model)) == (right, right, ["m"])
    assert list(accepted.by_difficulty) == ["the middle third", "the longest third"][:0] or sum(
        rate.samples for rate in accepted.by_difficulty.values()
    ) == NUM_TRAIN
    assert done.evidence.arms[:3] == ("student", "control", "teacher")
    teacher = done.evidence.value("teacher", "exact_match")
    tested = [numbers(said(body))[0] for body in server.bodies[NUM_TRAIN:]]
    assert teacher is not None
    assert teacher.value == pytest.approx(np.mean([first % 4 != 0 for first in tested]))
    assert done.evidence.verdict is not None
    assert done.evidence.verdict.measure == "exact_match"
    for arm in ("student", "control"):
        for measure in ("log_loss", "exact_match", "narrowing", "time_to_first_token_p50_seconds"):
            assert done.evidence.value(arm, measure) is not None, (arm, measure)
    assert done.evidence.value("teacher", "usd_per_1000_rows") is not None
    page, card = done.folder.report.read_text(), done.folder.card.read_text()
    share = f"{right} of {NUM_TRAIN} responses were accepted"
    assert share in page
    assert share in card
    assert "All 6 test prompts were answered." in page
    assert "the same student on the data’s own answers to the same prompts" in page
    lineage = json.loads(done.folder.lineage.read_text())["teachers"][0]
    assert (lineage["provider"], lineage["served"], lineage["licence"]) == ("127.0.0.1", ["m"], "MIT")
    with KnowledgeStore(done.folder.knowledge, read_only=True) as store:
        verify(store).require_whole()

    server.script = lambda number, body: {"status": 500}
    again = stillroom.run(job, run_dir=tmp_path / "run")
    assert (server.number, again.evidence) == (NUM_TRAIN + 6, done.evidence)
    with pytest.raises(BadInput, match=r"is no model: the teacher 'm' answered at"):
        stillroom.load(done.folder.path, arm="teacher")
    table = pd.read_csv(pd.io.common.StringIO(predict_file(done.folder.path, tmp_path / "test.jsonl")))
    assert (len(table), bool((table["nats_per_token"] > 0).all())) == (NUM_TEST, True)
    (line,) = write_file(done.folder.path, ["Tom has 3 toys and finds 4. How many?"], None, arm="student", listener=Silence(), new_tokens=8)
    assert line["text"]
