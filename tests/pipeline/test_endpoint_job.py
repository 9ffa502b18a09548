"""A text job whose teacher is a model behind an endpoint, through a real server on loopback: every stage, and what goes wrong."""

from __future__ import annotations

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

import batch_server as batches
import numpy as np
import pandas as pd
import pytest
import scripted_server as scripted

import stillroom
from stillroom.core.asking import Asked
from stillroom.core.chat import ChatParameters, ChatRequest, Choice, Reply, Usage
from stillroom.core.errors import BadInput, PolicyRefused, StageFailed
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.pipeline.asking import Tally
from stillroom.pipeline.dry_run import estimate_labelling
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.label import label
from stillroom.pipeline.progress import Silence
from stillroom.pipeline.review import Review
from stillroom.pipeline.work import open_work
from stillroom.spec.load import job_from
from stillroom.teachers.endpoint import batch as batch_module
from stillroom.teachers.endpoint import client as client_module
from stillroom.teachers.endpoint.breaker import Breaker, EndpointStopped
from stillroom.teachers.endpoint.ledger import spent_so_far

WORDS = {"card": "card plastic chip wallet", "rate": "euro dollar exchange rate", "top_up": "top up money balance"}
KEY = "sk-verysecret-0123456789"
Make = Callable[..., Any]


def sentence(label: str, rng: random.Random) -> str:
    """Words of its label, words of none, and a number of its own; braces and quotes as people write them."""
    words = [*rng.choices(WORDS[label].split(), k=3), *rng.choices(["my", "the", "please", "how", "{why}", '"when"', "does", "not"], k=4)]
    return f"{' '.join(words)} {rng.randrange(10**6)}"


def said(body: dict[str, Any]) -> str:
    """The row that a request is about: the first message of the user."""
    return next(str(message["content"]) for message in body["messages"] if message["role"] == "user")


def right(text: str) -> str:
    return max(WORDS, key=lambda label: sum(word in text.split() for word in WORDS[label].split()))


def answer(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """What a good model says."""
    return {"content": json.dumps({"label": right(said(body))})}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)


@pytest.fixture
def serve() -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda script=answer: stack.enter_context(scripted.Server(script))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """make(server, teacher={...}, section=...) -> a job of 60 training, 20 pool and 30 test rows."""
    rng = random.Random(0)
    for name, count in (("train", 60), ("pool", 20), ("test", 30)):
        labels = [list(WORDS)[min(i % 4, 2)] for i in range(count)]
        pd.DataFrame({"text": [sentence(label, rng) for label in labels], "label": labels}).to_csv(tmp_path / f"{name}.csv", index=False)

    def build(server: Any, *, teacher: dict[str, Any] | None = None, **sections: Any) -> Any:
        content = {
            "name": "intents",
            "task": "text-classification",
            "data": {
                "source": {"kind": "file", "train": "train.csv", "test": "test.csv", "unlabeled": "pool.csv"},
                "target": "label",
                "text": "text",
            },
            "teacher": {
                "kind": "endpoint",
                "base_url": server if isinstance(server, str) else server.base_url,
                "model": "m",
                "licence": "mit",
                "max_tokens": 8,
                "max_attempts": 2,
                "prices": {"prompt": 1.0, "completion": 10.0},
                **(teacher or {}),
            },
            "specification": {"task": "Name the intent. Braces like {this} stay."},
            "student": {"kind": "estimator", "estimator": "logistic-regression"},
            "evaluation": {"seeds": 2, "resamples": 100, "cost": False},
            "export": {"formats": []},
        }
        return job_from({**content, **sections}, tmp_path)

    return build


def record(run: Path, stage: str = "label") -> dict[str, Any]:
    return dict(json.loads((run / "stages" / f"{stage}.json").read_text()))


def test_a_job_through_the_batch_api_is_the_same_job_at_half_the_price(
    serve: Make, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_module, "_POLL_SECONDS", 0.01)
    live = stillroom.run(make(serve()), run_dir=tmp_path / "live")
    with batches.BatchServer(answer) as server:
        batch = make(server, teacher={"batch": True}, budget={"usd": 1.0})
        done = stillroom.run(batch, run_dir=tmp_path / "run")
        assert server.number == 60 + 20 + 30
        assert server.routes["made"] == 2, "one for the transfer set, one for the test rows"
        asked = record(tmp_path / "run")["asked"]
        assert asked["usd"] == pytest.approx(0.5 * record(tmp_path / "live")["asked"]["usd"])
        for measure in ("accuracy", "log_loss"):
            assert done.evidence.value("student", measure) == live.evidence.value("student", measure)
        assert done.evidence.value("teacher", "latency_p50_seconds") is None
        batch = make(server, teacher={"batch": False}, budget={"usd": 1.0})
        stillroom.run(batch, run_dir=tmp_path / "run")
        assert server.number == 60 + 20 + 30, "the way of asking is not what shapes an answer"


def test_a_whole_run_asks_each_row_once_and_a_second_one_nothing(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve()
    evaluation = {"seeds": 2, "resamples": 100, "latency_calls": 3}
    done = stillroom.run(make(server, evaluation=evaluation), run_dir=tmp_path / "run")
    assert server.number == 60 + 20 + 30
    assert max(server.answered.values()) == 1
    for arm in ("teacher", "student", "control"):
        accuracy = done.evidence.value(arm, "accuracy")
        assert accuracy is not None
        assert accuracy.value > 0.9
    usage = [(sum(len(str(m["content"])) for m in body["messages"]) // 4 + 1, 2) for body in server.bodies]  # as the server counts
    price = done.evidence.value("teacher", "usd_per_1000_rows")
    assert price is not None
    tested = [
        each for each, body in zip(usage, server.bodies, strict=True) if said(body) in set(pd.read_csv(tmp_path / "test.csv")["text"])
    ]
    assert price.value == pytest.approx(1000 * np.mean([(prompt + 10 * words) / 1e6 for prompt, words in tested]))
    assert done.evidence.value("teacher", "latency_p50_seconds") is not None
    assert done.evidence.value("student", "size_bytes") is not None
    assert done.evidence.value("teacher", "size_bytes") is None
    asked = Asked.from_json(record(done.folder.path)["asked"])
    assert (asked.rows, asked.answered, asked.failed, asked.served) == (80, 80, {}, ("m",))
    lineage = json.loads(done.folder.lineage.read_text())["teachers"][0]
    assert (lineage["provider"], lineage["served"], lineage["licence"]) == ("127.0.0.1", ["m"], "MIT")
    page, card = done.folder.report.read_text(), done.folder.card.read_text()
    for shown in ("All 80 rows of the transfer set were answered.", "All 30 test rows were answered.", "answered by 127.0.0.1 as m"):
        assert shown in page
    assert "Answered by 127.0.0.1 as m" in card
    assert "1000 rows cost" in done.words
    with pytest.raises(BadInput, match=r"is no model: the teacher 'm' answered at 127\.0\.0\.1:\d+/v1; its answers are in the run"):
        stillroom.load(done.folder.path, arm="teacher")

    server.script = lambda number, body: {"status": 500}
    again = stillroom.run(make("http://127.0.0.1:1/v1".replace(":1/", f":{server.port}/"), evaluation=evaluation), run_dir=tmp_path / "run")
    assert (server.number, again.evidence) == (110, done.evidence)
    with KnowledgeStore(done.folder.knowledge, read_only=True) as store:
        verify(store).require_whole()


def test_what_is_stored_serves_other_students_without_a_key_or_a_server(
    serve: Make, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    with scripted.Server(answer) as server:
        job = make(server, teacher={"api_key_env": "ENDPOINT_KEY"})
        stillroom.run(job, run_dir=tmp_path / "run")
    monkeypatch.delenv("ENDPOINT_KEY")
    other = job.model_copy(update={"student": job.student.model_copy(update={"estimator": "decision-tree"})})
    assert stillroom.run(other, run_dir=tmp_path / "run").evidence.verdict is not None
    paced = job.model_copy(update={"teacher": job.teacher.model_copy(update={"max_concurrency": 3, "timeout_seconds": 7.0})})
    before = record(tmp_path / "run")
    stillroom.run(paced, run_dir=tmp_path / "run", until="label")
    assert record(tmp_path / "run") == before, "how fast it may be asked is no part of what it answers"


def test_another_task_is_another_question_and_labels_anew(serve: Make, make: Make, tmp_path: Path) -> None:
    server, stages = serve(), set()
    for task, asked in (("Name it.", 80), ("Say which it is.", 160), ("Say which it is.", 160)):
        stillroom.run(make(server, specification={"task": task}), run_dir=tmp_path / "run", until="label")
        assert server.number == asked
        stages.add(record(tmp_path / "run")["inputs"])
    assert len(stages) == 2, "the students of one task are not those of another"
    server.script = lambda number, body: {"content": json.dumps({"label": "card"})}
    transfer = label(open_work(make(server, specification={"task": "Say card."}), RunFolder(tmp_path / "run"), Silence()))
    assert (transfer.answers.argmax(axis=1) == sorted(WORDS).index("card")).all()


def off_label(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """One row in five is never answered with a label; others need a second question, or a mend."""
    row = int(said(body).split()[-1])
    good = json.dumps({"label": right(said(body))})
    if row % 5 == 0:
        return {"content": json.dumps({"label": "weather"})}
    if row % 5 == 1 and len(body["messages"]) == 2:
        return {"content": "hm"}
    return {"content": f"```json\n{good}\n```" if row % 5 == 2 else good}


@pytest.mark.parametrize("student", ["logistic-regression", "lightgbm"])
def test_rows_without_a_label_for_an_answer_are_counted_shown_and_not_learnt_as_answers(
    student: str, serve: Make, make: Make, tmp_path: Path
) -> None:
    server = serve(off_label)
    job = make(server, student={"kind": "estimator", "estimator": student}, labelling={"calibrate": False})
    done = stillroom.run(job, run_dir=tmp_path / "run")
    rows = [int(text.split()[-1]) for name in ("train", "pool") for text in pd.read_csv(tmp_path / f"{name}.csv")["text"]]
    lost = sum(row % 5 == 0 for row in rows)
    assert lost > 5
    asked = Asked.from_json(record(done.folder.path)["asked"])
    assert (asked.answered, asked.failed) == (80 - lost, {"off-label": lost})
    assert asked.repaired == sum(row % 5 == 2 for row in rows)
    assert asked.asked_again == 2 * lost + sum(row % 5 == 1 for row in rows)
    page = done.folder.report.read_text()
    assert f"{80 - lost} of 80 rows of the transfer set have an answer; {lost} have none: {lost} off-label." in page
    tests = pd.read_csv(tmp_path / "test.csv")
    lost_tests = np.array([int(text.split()[-1]) % 5 == 0 for text in tests["text"]])
    assert f"{30 - lost_tests.sum()} of 30 test rows have an answer; {lost_tests.sum()} have none" in page
    teacher = np.load(done.folder.predictions)["teacher-0"]
    assert np.isfinite(teacher).all()
    classes = sorted(WORDS)
    named = [classes[code] for code in teacher.argmax(axis=1)]
    assert all(name == label for name, label, gone in zip(named, tests["label"], lost_tests, strict=True) if not gone)
    counts = pd.read_csv(tmp_path / "train.csv")["label"].value_counts().sort_index().to_numpy() + 1.0
    np.testing.assert_allclose(teacher[lost_tests], np.tile(counts / counts.sum(), (lost_tests.sum(), 1)))
    accuracy = done.evidence.value("student", "accuracy")
    assert accuracy is not None
    assert accuracy.value > 0.9


def test_too_few_answers_are_one_clear_error_and_asked_again_once_it_is_mended(serve: Make, make: Make, tmp_path: Path) -> None:
    refused = {"status": 400, "body": b'{"error": "no schema"}'}
    server = serve(lambda number, body: answer(number, body) if number % 5 == 0 else refused)
    with pytest.raises(StageFailed, match=r"teacher: 64 of 80 rows of the transfer set have no answer .*\(64 bad-request\).*structured"):
        stillroom.run(make(server), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "student").exists()
    server.script, before = answer, server.number
    stillroom.run(make(server), run_dir=tmp_path / "run", until="label")
    assert server.number == before + 64
    assert record(tmp_path / "run")["answers"] == 80


@pytest.mark.parametrize(("trained_on", "kept"), [("other-rows", True), ("unknown", False)])
def test_a_teacher_that_is_too_sure_is_calibrated_where_the_rows_are_new_to_it(
    trained_on: str, kept: bool, serve: Make, make: Make, tmp_path: Path
) -> None:
    def mistaken(number: int, body: dict[str, Any]) -> dict[str, Any]:
        row = int(said(body).split()[-1])
        return {"content": json.dumps({"label": sorted(WORDS)[row % 3] if row % 4 == 0 else right(said(body))})}

    job = make(serve(mistaken), teacher={"trained_on": trained_on})
    transfer = label(open_work(job, RunFolder(tmp_path / "run"), Silence()))
    assert transfer.calibration.kept == kept
    assert (transfer.answers.max(axis=1) < 1).all() == kept
    assert transfer.num_labelled == 60
    assert (transfer.batch.target[60:] == -1).all()


def test_a_request_that_is_looked_up_again_counts_once_and_equal_rows_count_each() -> None:
    rows = [ChatRequest(({"role": "user", "content": "same"},), ChatParameters("m")) for _ in range(2)]
    tally = Tally()
    for row in (rows[0], rows[0], rows[1]):
        tally.add(row, Reply((Choice("a"),), Usage(3, 1), "m", seconds=0.5))
    assert (tally.seconds, tally.usage, tally.served) == ([0.5, 0.5], [Usage(3, 1)] * 2, ("m",))


def test_a_budget_ends_the_run_with_what_is_left_and_a_larger_one_goes_on(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(StageFailed, match=r"budget: reached, 50 of 50 requests.* 30 of 80 rows .* raise budget\.requests, and the same"):
        stillroom.run(make(server, budget={"requests": 50}), run_dir=tmp_path / "run")
    assert server.number == 50
    with pytest.raises(StageFailed, match=r"budget: reached, 90 of 90 requests.* 20 of 30 test rows wait"):
        stillroom.run(make(server, budget={"requests": 90}), run_dir=tmp_path / "run")
    done = stillroom.run(make(server, budget={"requests": 200, "usd": 5.0}), run_dir=tmp_path / "run")
    assert (server.number, max(server.answered.values())) == (110, 1)
    assert "All 30 test rows were answered." in done.folder.report.read_text()


def test_terms_are_refused_before_any_request(make: Make, tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match=r"teacher 'm' is under 'OpenAI .*policy\.waiver"):
        stillroom.run(make("https://api.openai.com/v1", teacher={"licence": None}), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadInput, match=r"teacher\.licence: is missing"):
        stillroom.run(make("http://127.0.0.1:1/v1", teacher={"licence": None}), run_dir=tmp_path / "run")


def test_a_model_that_was_trained_on_the_rows_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"teacher\.trained_on: = 'these-rows'.* labelling\.mode"):
        stillroom.run(make("http://127.0.0.1:1/v1", teacher={"trained_on": "these-rows"}), run_dir=tmp_path / "run")


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"specification": {"task": "x", "labels": ["card", "rate"]}}, r"specification\.labels: lack 'top_up'"),
        ({"specification": {"task": "x", "labels": ["card", "rate", "top_up", "cart"]}}, r"name 'cart', .* did you mean 'card'"),
        ({"specification": {"task": "x", "examples": [{"input": "a", "output": "crad"}]}}, r"examples\[0\]\.output: = 'crad' is no label"),
    ],
)  # fmt: skip
def test_a_specification_of_other_labels_is_refused_before_anything_is_asked(
    sections: dict[str, Any], place: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=place):
        stillroom.run(make("http://127.0.0.1:1/v1", **sections), run_dir=tmp_path / "run")


def test_a_wrong_key_and_an_endpoint_that_is_down_are_one_line_each(
    serve: Make, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_KEY", KEY)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}).encode()
    server = serve(lambda number, body: {"status": 401, "body": echo})
    with pytest.raises(EndpointStopped, match=r"teacher\.api_key_env: .*'ENDPOINT_KEY'"):
        stillroom.run(make(server, teacher={"api_key_env": "ENDPOINT_KEY"}), run_dir=tmp_path / "run")
    with pytest.raises(EndpointStopped, match=r"teacher\.base_url: .*cannot be reached"):
        stillroom.run(make("http://127.0.0.1:9/v1"), run_dir=tmp_path / "run")
    monkeypatch.setattr(Breaker, "_SECONDS", 0.1)
    server.script = lambda number, body: answer(number, body) if number < 40 else {"status": 503}
    with pytest.raises(EndpointStopped, match="What has been answered is kept"):
        stillroom.run(make(server, teacher={"max_attempts": 1000}), run_dir=tmp_path / "run")
    server.script = answer
    stillroom.run(make(server), run_dir=tmp_path / "run", until="label")
    assert max(server.answered.values()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def command(*arguments: object, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stillroom.cli", *map(str, arguments)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )  # fmt: skip


def test_on_the_command_line_killed_resumed_told_and_without_the_key_anywhere(serve: Make, make: Make, tmp_path: Path) -> None:
    slow = serve(lambda number, body: {**answer(number, body), "latency": 0.05 if number < 40 else 30.0})
    job = make(slow, teacher={"api_key_env": "ENDPOINT_KEY", "max_concurrency": 4})
    (tmp_path / "job.yaml").write_text(stillroom.spec.load.dump_job(job))
    arguments = ("run", "job.yaml", "--run", "run", "--set", "evaluation.seeds=1")
    process = command(*arguments, folder=tmp_path, ENDPOINT_KEY=KEY)
    give_up = time.monotonic() + 60
    while slow.number < 44:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep(2.0)  # a commit gathers for 30 ms, and a busy machine takes its time
    process.kill()
    killed = process.communicate()
    kept = set(slow.answered)
    slow.script = answer
    out, err = command(*arguments, folder=tmp_path, ENDPOINT_KEY=KEY).communicate(timeout=120)
    assert "Report: " in out, err
    assert all(slow.answered[text] == 1 for text in kept), "an answered row was sent again"
    assert "All 80 rows of the transfer set were answered." in err
    assert all(headers["Authorization"] == f"Bearer {KEY}" for headers in slow.headers)
    assert KEY not in "".join([out, err, *killed])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_dry_run_tells_what_the_run_will_take_and_the_run_keeps_its_answers(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve()
    estimate = estimate_labelling(make(server), run_dir=tmp_path / "run")
    assert (estimate.rows, estimate.sampled, server.number) == (110, 50, 50)
    done = stillroom.run(make(server), run_dir=tmp_path / "run")
    assert server.number == 110
    with KnowledgeStore(done.folder.knowledge, read_only=True) as store:
        spent = spent_so_far(store)
    assert estimate.usd.low <= spent.usd <= estimate.usd.high
    assert estimate.prompt_tokens.low <= spent.prompt_tokens <= estimate.prompt_tokens.high
    (tmp_path / "job.yaml").write_text(stillroom.spec.load.dump_job(make(server)))
    out, err = command("label", "job.yaml", "--dry-run", "--run", "run", folder=tmp_path).communicate(timeout=60)
    assert re.search(r"110 rows, those of the test split among them, from a sample of 50 .*\n +requests +110 +\(110 to 110\)\n", out), err
    assert re.search(r"US dollars +0\.0\d+ +\(0\.0\d+ to 0\.0\d+\)", out)
    assert server.number == 110


@pytest.mark.parametrize("share", [1.0, 0.7])
def test_a_server_that_answered_garbage_is_asked_again_once_it_is_mended(share: float, serve: Make, make: Make, tmp_path: Path) -> None:
    state = {"mended": False}

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        lost = random.Random(said(body)).random() < share
        return {"content": "@@@ garbage"} if lost and not state["mended"] else answer(number, body)

    server = serve(script)
    with pytest.raises(StageFailed, match=r"no answer that can be used|has an answer that can be used"):
        stillroom.run(make(server), run_dir=tmp_path / "run", until="label")
    state["mended"] = True
    stillroom.run(make(server), run_dir=tmp_path / "run")
    assert Asked.from_json(record(tmp_path / "run")["asked"]).answered == 80
    number = server.number
    stillroom.run(make(server, evaluation={"seeds": 1, "resamples": 100, "cost": False}), run_dir=tmp_path / "run")
    assert server.number == number


def test_a_stop_among_the_test_rows_asks_nothing_about_the_others_again(serve: Make, make: Make, tmp_path: Path) -> None:
    tests, state = set[str](), {"mended": False}

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        if said(body) in tests:
            return answer(number, body) if state["mended"] else {"status": 401}
        return {"status": 400, "body": b"{}"} if random.Random(said(body)).random() < 0.15 else answer(number, body)

    server = serve(script)
    job = make(server)
    tests |= set(pd.read_csv(tmp_path / "test.csv")["text"])
    with pytest.raises(StageFailed):
        stillroom.run(job, run_dir=tmp_path / "run")
    state["mended"] = True
    number, recorded = server.number, record(tmp_path / "run")
    assert 0 < recorded["answers"] < 80
    reviewed = Review(tmp_path / "run", reviewer="ann", num_rows=10)
    assert (server.number, int(np.isfinite(reviewed.transfer.answers).all(axis=1).sum())) == (number, recorded["answers"])
    stillroom.run(job, run_dir=tmp_path / "run")
    assert (server.number, record(tmp_path / "run")["answers"]) == (number + 30, recorded["answers"])


@pytest.mark.parametrize("answers", ["logprobs", "samples"])
def test_soft_labels_reach_the_student(answers: str, serve: Make, make: Make, tmp_path: Path) -> None:
    """The teacher wavers between two labels, 3 to 1; the answers that are stored say so."""

    def wavering(number: int, body: dict[str, Any]) -> dict[str, Any]:
        label = right(said(body))
        other = sorted(set(WORDS) - {label})[0]
        if answers == "samples":
            return {"content": json.dumps({"label": other if number % 4 == 0 else label})}
        codes = {name: code for code, name in re.findall(r"^- ([A-Z]+) = (\w+)", body["messages"][0]["content"], re.MULTILINE)}
        top = [{"token": codes[label], "logprob": float(np.log(0.75))}, {"token": codes[other], "logprob": float(np.log(0.2))}]
        told = {"content": [{**top[0], "top_logprobs": top}]}
        choice = {"index": 0, "message": {"role": "assistant", "content": codes[label]}, "finish_reason": "stop", "logprobs": told}
        return {"fields": {"choices": [choice]}}

    server = serve(wavering)
    job = make(server, teacher={"answers": answers, **({"samples": 8} if answers == "samples" else {})}, labelling={"calibrate": False})
    done = stillroom.run(job, run_dir=tmp_path / "run")
    teacher = np.load(done.folder.predictions)["teacher-0"]
    assert teacher.max(axis=1).mean() == pytest.approx(0.75, abs=0.08)
    asked = Asked.from_json(record(done.folder.path)["asked"])
    assert asked.answered == 80
    if answers == "logprobs":
        assert asked.off_labels == pytest.approx(0.05)
        assert "Of its probability 5.0\u202f% was seen on none of the labels." in done.folder.report.read_text()
    else:
        assert server.number == 8 * 110
        assert {body["temperature"] for body in server.bodies} == {1.0}
