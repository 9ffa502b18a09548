"""A language model that learns what a model behind an endpoint writes, through a real server on loopback and with a real tiny student."""

from __future__ import annotations

import io
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
import scripted_server as scripted

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

KEY = "sk-verysecret-0123456789"
Make = Callable[..., Any]
NUM_TRAIN, NUM_TEST = 40, 12


def said(body: dict[str, Any]) -> str:
    """What the user says last before the first answer about the row."""
    return next(str(message["content"]) for message in body["messages"] if message["role"] == "user")


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
    job = make(server)
    done = stillroom.run(job, run_dir=tmp_path / "run")
    assert server.number == NUM_TRAIN + 6
    assert max(server.answered.values()) == 1
    asked = [numbers(line["prompt"])[0] for line in responses(done.folder.path)]
    right = sum(first % 4 != 0 for first in asked)
    assert 20 < right < NUM_TRAIN
    accepted = Accepted.from_json(record(done.folder.path)["accepted"])
    assert accepted.whole == AcceptRate(right, NUM_TRAIN, right, NUM_TRAIN)
    assert (accepted.learnt, accepted.learnt_prompts, list(accepted.by_model)) == (right, right, ["m"])
    assert sum(rate.samples for rate in accepted.by_difficulty.values()) == NUM_TRAIN
    assert done.evidence.arms[:3] == ("student", "control", "teacher")
    teacher = done.evidence.value("teacher", "exact_match")
    tested = [numbers(said(body))[0] for body in server.bodies[NUM_TRAIN:]]
    assert teacher is not None
    assert teacher.value == pytest.approx(np.mean([first % 4 != 0 for first in tested]))
    assert done.evidence.verdict is not None
    assert done.evidence.verdict.measure == "exact_match"
    for arm in ("student", "control"):
        for measure in ("log_loss", "exact_match", "narrowing"):
            assert done.evidence.value(arm, measure) is not None, (arm, measure)
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
    table = pd.read_csv(io.StringIO(predict_file(done.folder.path, tmp_path / "test.jsonl")))
    assert (len(table), bool((table["nats_per_token"] > 0).all())) == (NUM_TEST, True)
    (line,) = write_file(done.folder.path, ["Tom has 3 toys and finds 4. How many?"], None, arm="student", listener=Silence(), new_tokens=8)
    assert line["text"]


def labelled(job: Any, run: Path, *, allow_code: bool = False) -> tuple[list[tuple[str, str]], list[dict[str, Any]], Asked, Accepted]:
    """(prompt, text) of what is learnt, the lines of responses.jsonl, and what the label stage has recorded."""
    work = open_work(job, RunFolder(run), Silence(), allow_code)
    learnt = [(each.exchange.question, each.text) for each in label(work)]
    facts = record(run)
    return learnt, responses(run), Asked.from_json(facts["asked"]), Accepted.from_json(facts["accepted"])


def odd(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """By the first number: refused in words, cut, empty, filtered, refused in its field, without a number, or right."""
    text = said(body)

    def ended(reason: str, **fields: Any) -> dict[str, Any]:
        message = {"role": "assistant", "content": worked(text), **fields}
        return {"fields": {"choices": [{"index": 0, "message": message, "finish_reason": reason}]}}

    return {
        0: {"content": "I'm sorry, but I can't help with that."},
        1: ended("length"),
        2: {"content": " "},
        3: ended("content_filter"),
        4: ended("stop", content=None, refusal="No."),
        5: {"content": "Who knows? <think>"},
        6: {"content": "Many toys."},
    }.get(numbers(text)[0] % 17, {"content": worked(text)})


def test_what_is_refused_cut_or_empty_is_counted_and_never_learnt(serve: Make, make: Make, tmp_path: Path) -> None:
    for check in ("number", "none"):
        server = serve(odd)
        learnt, lines, asked, accepted = labelled(make(server, responses={"check": check}), tmp_path / check)
        kinds = [numbers(line["prompt"])[0] % 17 for line in lines]
        assert {0, 1, 2, 3, 4, 5, 6} <= set(kinds)
        count = {kind: kinds.count(kind) for kind in range(17)}
        assert asked.failed == {
            "refused": count[0] + count[4], "truncated": count[1] + count[5], "empty": count[2], "content-filter": count[3]
        }  # fmt: skip
        usable = sum(kind > 5 for kind in kinds)
        assert (asked.rows, asked.answered, accepted.whole.samples) == (NUM_TRAIN, usable, usable)
        assert accepted.learnt == len(learnt) == usable - (count[6] if check == "number" else 0)
        assert all("sorry" not in text and "<think>" not in text for _, text in learnt)
        assert {line["why"] for line, kind in zip(lines, kinds, strict=True) if kind == 1} == {"truncated"}
        # Each was asked for anew twice, but for the filtered ones.
        assert server.number == NUM_TRAIN + 2 * (count[0] + count[1] + count[2] + count[4] + count[5])


def test_of_several_responses_the_accepted_ones_are_chosen_from(serve: Make, make: Make, tmp_path: Path) -> None:
    """To each prompt: a wrong one, a long right one, the same again, a short right one."""
    seen: dict[str, int] = {}

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        text = said(body)
        seen[text] = seen.get(text, 0) + 1
        total = sum(numbers(text))
        return {"content": [f"{total + 1}", f"Let me count. {total}", f"Let me count. {total}", f"{total}"][(seen[text] - 1) % 4]}

    server = serve(script)
    found = {}
    for keep in ("all", "first", "shortest"):
        job = make(server, teacher={"samples": 4, "max_concurrency": 1}, responses={"check": "number", "keep": keep})
        learnt, lines, asked, accepted = labelled(job, tmp_path / "run")
        assert (server.number, asked.rows) == (4 * NUM_TRAIN, 4 * NUM_TRAIN), "another choice asks nothing anew"
        assert accepted.whole == AcceptRate(3 * NUM_TRAIN, 4 * NUM_TRAIN, NUM_TRAIN, NUM_TRAIN)
        assert sum(line["learnt"] for line in lines) == accepted.learnt == len(learnt)
        found[keep] = learnt
    assert len(found["all"]) == 2 * NUM_TRAIN
    assert {text for _, text in found["shortest"]} <= {str(n) for n in range(200)}
    order = [line for line in lines if line["accepted"]]
    first = {line["row"]: line["answer"] for line in reversed(order)}
    assert [text for _, text in found["first"]] == [first[row] for row in range(NUM_TRAIN)]
    assert all(body["temperature"] == 1.0 for body in server.bodies)
    work = open_work(job, RunFolder(tmp_path / "run"), Silence())
    texts = texts_of(work, label(work))
    assert texts.control is not None
    assert len(texts.control) == len(texts.student) == NUM_TRAIN


def test_a_vote_stands_in_for_the_datas_answers(serve: Make, make: Make, tmp_path: Path) -> None:
    """Three of five responses agree where the first number is even; elsewhere all differ."""
    seen: dict[str, int] = {}

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        text = said(body)
        seen[text] = turn = seen.get(text, 0) + 1
        return {"content": f"The answer is {1000 if numbers(text)[0] % 2 == 0 and turn > 2 else turn}."}

    checks = {"check": "number", "against": "vote", "rationale": "keep"}
    data = {"completion": None, "source": {"kind": "file", "train": "train.jsonl"}}
    job = make(
        serve(script), teacher={"samples": 5, "max_concurrency": 1}, responses=checks, data=data,
        evaluation={"control": False, "resamples": 100, "cost": False, "prompts": 4, "new_tokens": 8},
    )  # fmt: skip
    learnt, lines, _, accepted = labelled(job, tmp_path / "run")
    even = [line for line in lines if numbers(line["prompt"])[0] % 2 == 0]
    assert 0 < len(even) < len(lines)
    assert {text for _, text in learnt} == {"The answer is 1000."}
    assert len(learnt) == len(even) // 5
    assert accepted.whole.accepted == 3 * len(even) // 5
    assert {line["why"] for line in lines if numbers(line["prompt"])[0] % 2} == {"too few of the responses agree"}


@pytest.mark.parametrize("keeps", ["keep", "drop"])
def test_a_chain_of_thought_has_a_field_of_its_own_and_is_learnt_where_the_job_says_so(
    keeps: str, serve: Make, make: Make, tmp_path: Path
) -> None:
    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        text = said(body)
        if numbers(text)[0] % 2:
            return {"content": f"<think>I add.\nThen {text[:5]}.</think>\n\n{worked(text)}"}
        message = {"role": "assistant", "content": worked(text), "reasoning_content": "I add.\nThen I look."}
        return {"fields": {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}}

    job = make(serve(script), responses={"check": "number", "rationale": keeps})
    learnt, lines, _, _ = labelled(job, tmp_path / "run")
    assert all(line["rationale"].startswith("I add.\nThen ") and "think" not in line["answer"] for line in lines)
    for (prompt, text), line in zip(learnt, lines, strict=True):
        thought = f"<think>\n{line['rationale']}\n</think>\n\n"
        assert text == (thought if keeps == "keep" else "") + worked(prompt)


RECORD = {
    "type": "object", "properties": {"first": {"type": "integer"}, "second": {"type": "integer"}}, "required": ["first", "second"],
    "additionalProperties": False,
}  # fmt: skip


def records(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """Right; in a fence; right the second time; the wrong record."""
    first, second = numbers(said(body))
    good = json.dumps({"second": second, "first": first})
    bad = {0: f"```json\n{good}\n```", 1: good if len(body["messages"]) > 2 else '{"first": "one"}', 2: '{"first": 1, "second": 0}'}
    return {"content": bad.get(first % 5, good)}


def test_records_are_learnt_as_json_under_the_schema_and_held_against_the_datas(serve: Make, make: Make, tmp_path: Path) -> None:
    for name in ("train", "test"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for row in rows:
            row["record"] = dict(zip(("first", "second"), numbers(row["question"]), strict=True))
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    server = serve(records)
    job = make(
        server, data={"completion": "record"}, responses={"check": "exact"},
        specification={"task": "Name the numbers.", "output_schema": RECORD},
    )  # fmt: skip
    assert job.primary == "exact_match"
    done = stillroom.run(job, run_dir=tmp_path / "run")
    lines = responses(done.folder.path)
    kinds = [numbers(line["prompt"])[0] % 5 for line in lines]
    wrong = kinds.count(2)
    accepted, asked = Accepted.from_json(record(done.folder.path)["accepted"]), Asked.from_json(record(done.folder.path)["asked"])
    assert (accepted.check, accepted.whole.accepted) == ("record", NUM_TRAIN - wrong)
    assert (asked.repaired, asked.asked_again) == (kinds.count(0), kinds.count(1))
    assert all(set(json.loads(line["answer"])) == {"first", "second"} and "\n" not in line["answer"] for line in lines)
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == RECORD
    teacher = done.evidence.value("teacher", "exact_match")
    assert teacher is not None
    tested = {said(body) for body in server.bodies} - {line["prompt"] for line in lines}
    assert teacher.value == pytest.approx(np.mean([numbers(text)[0] % 5 != 2 for text in tested]))
    assert "their record was held against the data’s" in done.folder.report.read_text()


def test_the_users_own_code_judges_and_only_where_it_may(serve: Make, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_check.py").write_text(
        "def hard(answer, row):\n    return row['grade'] == 'hard' and answer.endswith(row['answer'][-2:])\n"
    )
    monkeypatch.chdir(tmp_path)
    server = serve()
    job = make(server, responses={"check": "code", "object": "own_check:hard", "difficulty": "grade"})
    assert job.primary == "passed"
    with pytest.raises(BadInput, match=r"responses\.object: = 'own_check:hard' is your own Python.*--allow-code"):
        stillroom.run(job, run_dir=tmp_path / "run")
    assert server.number == 0
    learnt, _, _, accepted = labelled(job, tmp_path / "run", allow_code=True)
    assert {group: rate.share for group, rate in accepted.by_difficulty.items()} == {"easy": 0.0, "hard": 1.0}
    assert len(learnt) == accepted.by_difficulty["hard"].samples > 0
    missing = make(server, responses={"check": "code", "object": "own_check:no"})
    before = server.number
    with pytest.raises(BadInput, match=r"own_check:no"):
        labelled(missing, tmp_path / "other", allow_code=True)
    assert server.number == before, "before anything is asked"


def test_without_answers_of_the_datas_the_untouched_student_stands_beside(serve: Make, make: Make, tmp_path: Path) -> None:
    job = make(
        serve(), data={"completion": None}, responses={"check": "none"},
        evaluation={"seeds": 1, "resamples": 100, "cost": False, "prompts": 6, "new_tokens": 8, "control": False},
    )  # fmt: skip
    done = stillroom.run(job, run_dir=tmp_path / "run")
    assert done.evidence.verdict is None
    student, untouched = (done.evidence.value(arm, "log_loss") for arm in ("student", "untouched"))
    assert student is not None
    assert untouched is not None
    assert student.value < untouched.value, "it has learnt how the teacher writes"
    assert done.evidence.value("student", "exact_match") is None
    page = done.folder.report.read_text()
    for words in ("There is no control", "The untouched student, as it came, stands beside", "Loss is measured on the teacher&#39;s own"):
        assert words in page


def test_a_budget_ends_the_run_and_a_larger_one_goes_on(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve()
    with pytest.raises(
        StageFailed, match=r"budget: reached, 25 of 25 requests.* 15 of 40 requests for a response .* raise budget\.requests"
    ):
        stillroom.run(make(server, budget={"requests": 25}), run_dir=tmp_path / "run", until="label")
    assert server.number == 25
    stillroom.run(make(server, budget={"requests": 100, "usd": 5.0}), run_dir=tmp_path / "run", until="label")
    assert (server.number, max(server.answered.values())) == (NUM_TRAIN, 1)


def test_what_cannot_be_learnt_from_at_all_is_one_clear_error(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve(lambda number, body: {"content": "Many."})
    with pytest.raises(StageFailed, match=r"responses: none of 40 responses passed the check \(there is no final answer, for one\)"):
        labelled(make(server), tmp_path / "run")
    bad = {"status": 400, "body": b'{"error": "no"}'}
    server.script = lambda number, body: answer(number, body) if number % 4 == 0 else bad
    with pytest.raises(StageFailed, match=r"teacher: 30 of 40 requests for a response to a training prompt have no answer .*bad-request"):
        labelled(make(server, teacher={"model": "other", "max_concurrency": 1}), tmp_path / "run")
    server.script = answer
    assert len(labelled(make(server, teacher={"model": "other"}), tmp_path / "run")[0]) == NUM_TRAIN


def test_prompts_that_leave_no_room_are_not_asked(serve: Make, make: Make, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for row in rows[:7]:
        row["question"] += " and then" * 200
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    server = serve()
    work = open_work(make(server), RunFolder(tmp_path / "run"), Silence())
    assert len(label(work)) == server.number == NUM_TRAIN - 7
    assert any("fill 160 tokens (training.max_length): 7, not asked" in note for note in work.exchanges.notes)


def command(*arguments: object, folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stillroom.cli", *map(str, arguments)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
    )  # fmt: skip


def test_killed_and_resumed_no_answered_prompt_is_asked_again_and_the_key_is_nowhere(serve: Make, make: Make, tmp_path: Path) -> None:
    slow = serve(lambda number, body: {**answer(number, body), "latency": 0.02 if number < 20 else 30.0})
    job = make(slow, teacher={"api_key_env": "ENDPOINT_KEY", "max_concurrency": 4})
    (tmp_path / "job.yaml").write_text(dump_job(job))
    arguments = ("label", "job.yaml", "--run", "run")
    process = command(*arguments, folder=tmp_path, ENDPOINT_KEY=KEY)
    give_up = time.monotonic() + 120
    while slow.number < 24:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep(0.3)  # a commit gathers for 30 ms
    process.kill()
    killed = process.communicate()
    kept = set(slow.answered)
    assert len(kept) == 20
    slow.script = answer
    out, err = command(*arguments, folder=tmp_path, ENDPOINT_KEY=KEY).communicate(timeout=300)
    assert f"All {NUM_TRAIN} requests for a response to a training prompt were answered." in err, err
    assert all(slow.answered[text] == 1 for text in kept), "an answered prompt was sent again"
    assert len(responses(tmp_path / "run")) == NUM_TRAIN
    assert KEY not in "".join([out, err, *killed])
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_a_dry_run_counts_every_request_and_the_run_keeps_its_answers(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve()
    job = make(server, teacher={"samples": 3})
    estimate = estimate_labelling(job, run_dir=tmp_path / "run")
    assert (estimate.rows, estimate.sampled, server.number) == (3 * NUM_TRAIN + 6, 50, 50)
    labelled(job, tmp_path / "run")
    assert server.number <= 3 * NUM_TRAIN + 6


def test_terms_are_refused_before_any_request(make: Make, tmp_path: Path) -> None:
    with pytest.raises(PolicyRefused, match=r"teacher 'm' is under 'OpenAI .*policy\.waiver"):
        stillroom.run(make("https://api.openai.com/v1", teacher={"licence": None}), run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def chats(tmp_path: Path, shared_data: Path, *, answered: bool = True) -> dict[str, Any]:
    """A student with a chat template, and conversations of two questions."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = shared_data / "weights" / "stories260K" / "hf"
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    AutoModelForCausalLM.from_pretrained(source).save_pretrained(tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    for name in ("train", "test"):
        rows = []
        for line in map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines()):
            turns = [
                ("system", "Be brief."),
                ("user", line["question"]),
                ("assistant", "Hm."),
                ("user", "Well?"),
                ("assistant", line["answer"]),
            ]
            rows.append({"chat": [{"role": role, "content": content} for role, content in turns[: None if answered else -1]]})
        (tmp_path / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return {
        "data": {"prompt": None, "completion": None, "messages": "chat"},
        "student": {"kind": "huggingface", "init": "pretrained", "model": str(tmp_path / "chat")},
    }


def test_of_a_conversation_the_last_turn_is_asked_for_and_alone_learnt(serve: Make, make: Make, tmp_path: Path, shared_data: Path) -> None:
    server = serve()
    job = make(server, specification={"task": "Add."}, training={"max_length": 256}, **chats(tmp_path, shared_data))
    work = open_work(job, RunFolder(tmp_path / "run"), Silence())
    learnt = label(work)
    assert len(learnt) == NUM_TRAIN
    roles = [turn["role"] for turn in server.bodies[0]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert server.bodies[0]["messages"][0]["content"] == "Add.\n\nBe brief."
    texts = texts_of(work, learnt)
    example = texts.student.examples[0]
    taught = work.tokenizer.decode(example.token_ids[np.flatnonzero(example.asked) + 1])
    assert taught.strip() == learnt[0].text
    assert texts.control is not None


def test_conversations_without_answers_need_control_false(serve: Make, make: Make, tmp_path: Path, shared_data: Path) -> None:
    job = make("http://127.0.0.1:9/v1", responses={"check": "none"}, **chats(tmp_path, shared_data, answered=False))
    with pytest.raises(BadInput, match=r"evaluation\.control: needs answers of the data's own, and .*row 1 has none"):
        open_work(job, RunFolder(tmp_path / "run"), Silence())


@pytest.mark.parametrize(
    ("change", "sections", "message"),
    [
        ({"answer": "none at all"}, {}, r"train, row 3: its answer 'none at all' holds no single number"),
        ({"answer": ""}, {}, r"train, row 3: has no answer, as 1 of 52 rows; either all have one, or none"),
        ({"question": " "}, {}, r"train, row 3: has no prompt"),
        ({"question": 5}, {}, r"train, row 3: holds 5, no text"),
        (
            {},
            {"responses": {"check": "number", "difficulty": "grad"}},
            r"responses\.difficulty: = 'grad' is no column; did you mean 'grade'",
        ),
        ({}, {"data": {"prompt": "qestion"}}, r"has no column 'qestion'; did you mean 'question'"),
        ({}, {"training": {"max_length": 4}}, r"training\.max_length: = 4 tokens are filled by every training prompt alone"),
        ({}, {"training": {"max_length": 4096}}, r"training\.max_length: = 4096: the student reads 512 tokens at once"),
        (
            {},
            {"specification": {"task": "x", "output_schema": RECORD}, "responses": {"check": "exact"}},
            r"row 1: its answer is no record under specification\.output_schema: is not JSON",
        ),
    ],
)
def test_what_is_wrong_with_rows_and_settings_is_said_before_anything_is_asked(
    change: dict[str, Any], sections: dict[str, Any], message: str, make: Make, tmp_path: Path
) -> None:
    job = make("http://127.0.0.1:9/v1", **sections)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows[2] |= change
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(BadInput, match=message):
        open_work(job, RunFolder(tmp_path / "run"), Silence())


@pytest.mark.slow
def test_what_the_arms_cost_is_measured(serve: Make, make: Make, tmp_path: Path) -> None:
    evaluation = {"seeds": 1, "resamples": 100, "latency_calls": 3, "prompts": 4, "new_tokens": 8}
    done = stillroom.run(make(serve(), evaluation=evaluation), run_dir=tmp_path / "run", until="evaluate")
    assert done.evidence.value("teacher", "usd_per_1000_rows") is not None
    for arm in ("student", "control"):
        assert done.evidence.value(arm, "time_to_first_token_p50_seconds") is not None
