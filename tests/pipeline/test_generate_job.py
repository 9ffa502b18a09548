"""A job that has its examples written: real bank requests from a scripted server, through every stage and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scripted_server as scripted
from scripted_writer import writes

import stillroom
from stillroom.cli import main
from stillroom.core.errors import BadInput, PolicyRefused, StageFailed
from stillroom.core.generated import Generated
from stillroom.pipeline.dry_run import estimate_labelling
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.generate import generate_examples
from stillroom.pipeline.generated import read_examples
from stillroom.pipeline.label import label
from stillroom.pipeline.progress import Silence
from stillroom.pipeline.work import check_without_asking, open_work
from stillroom.spec.generation import GenerationSpec
from stillroom.spec.load import dump_job, job_from
from stillroom.spec.specification import SpecificationSpec
from stillroom.spec.teacher import EndpointTeacherSpec

INTENTS = ("card_arrival", "exchange_rate", "pin_blocked")
Make = Callable[..., Any]


@dataclass
class Model:
    """Writes rows of the label that is asked for, `leaks` first; labels a row as it was written, or else as the data say."""

    rows: dict[str, list[str]]
    known: dict[str, str]
    leaks: list[str] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)  # label -> how many of its rows are called another

    def __post_init__(self) -> None:
        self._write = writes(self._text)
        self._left = {name: iter(rows) for name, rows in self.rows.items()}
        self._leaks = iter(self.leaks)

    def __call__(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        if "You write inputs" in body["messages"][0]["content"]:
            return dict(self._write(number, body))
        text = next(message["content"] for message in body["messages"] if message["role"] == "user")
        return {"content": json.dumps({"label": self.known[text]})}

    def _text(self, wanted: dict[str, Any], count: int) -> str:
        if (leak := next(self._leaks, None)) is not None:
            return leak
        text = next(self._left[wanted["label"]])
        if self.wrong[wanted["label"]]:
            self.wrong[wanted["label"]] -= 1
            self.known[text] = next(name for name in INTENTS if name != wanted["label"])
        return text


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> dict[str, list[str]]:
    table = pd.read_csv(shared_data / "banking77" / "train.csv.gz")
    return {name: table[table["category"] == name]["text"].str.strip().tolist() for name in INTENTS}


@pytest.fixture
def model(rows: dict[str, list[str]]) -> Model:
    """The rows that the job's own data leave."""
    return Model({name: texts[40:] for name, texts in rows.items()}, {text: name for name, texts in rows.items() for text in texts})


@pytest.fixture
def serve() -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(scripted.Server(script))


@pytest.fixture
def make(tmp_path: Path, rows: dict[str, list[str]]) -> Make:
    """make(server, generation={...}, section=...) -> a job of 60 training and 45 test rows that wants 48 further ones."""
    for part, start, stop in (("train", 0, 20), ("test", 20, 35)):
        table = [(text, name) for name, texts in rows.items() for text in texts[start:stop]]
        pd.DataFrame(table, columns=["text", "label"]).to_csv(tmp_path / f"{part}.csv", index=False)

    def build(server: Any, *, generation: dict[str, Any] | None = None, **sections: Any) -> Any:
        content = {
            "name": "written",
            "task": "text-classification",
            "data": {"source": {"kind": "file", "train": "train.csv", "test": "test.csv"}, "target": "label", "text": "text"},
            "teacher": {
                "kind": "endpoint", "base_url": server if isinstance(server, str) else server.base_url, "model": "m", "licence": "mit",
                "max_tokens": 16, "max_attempts": 2, "prices": {"prompt": 1.0, "completion": 10.0},
            },
            "specification": {"task": "Name the intent of a request to a bank. Braces like {this} stay.", "labels": list(INTENTS)},
            "generation": {
                "examples": 48, "vary": {"tone": ["calm", "angry"], "length": {"short": 0.75, "long": None}}, "hard": 0.25,
                "near_misses": [{"label": "card_arrival", "towards": "pin_blocked", "share": 0.125}], "per_request": 4,
                **(generation or {}),
            },
            "student": {"kind": "estimator", "estimator": "logistic-regression"},
            "evaluation": {"seeds": 1, "resamples": 100, "cost": False},
            "export": {"formats": []},
        }  # fmt: skip
        return job_from({**content, **sections}, tmp_path)

    return build


def generated(run: Path) -> Generated:
    return Generated.from_json(json.loads((run / "generated" / "quality.json").read_text()))


def on_command_line(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stillroom.cli", *map(str, arguments)], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Make:
    """call(argument, ...) -> exit code, output, messages of a command in the job's folder."""

    def run(*arguments: str) -> tuple[Any, str, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["stillroom", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return (ended.value.code or 0, *capsys.readouterr())

    return run


def test_the_command_killed_and_resumed_writes_what_the_plan_wants(
    serve: Make, make: Make, model: Model, call: Make, tmp_path: Path
) -> None:
    server = serve(lambda number, body: {**model(number, body), "latency": 0.02 if number < 6 else 30.0})
    (tmp_path / "job.yaml").write_text(dump_job(make(server)))
    process = on_command_line(tmp_path, "generate", "job.yaml", "--run", "run")
    give_up = time.monotonic() + 60
    while sum(server.answered.values()) < 6:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < give_up
        time.sleep(0.02)
    time.sleep(0.2)  # a commit gathers for 30 ms
    process.kill()
    process.communicate()
    kept = set(server.answered)
    server.script = model
    out, err = on_command_line(tmp_path, "generate", "job.yaml", "--run", "run").communicate(timeout=120)
    assert "48 of 48 planned examples were accepted" in out, err
    assert len(kept) == 6
    assert all(server.answered[text] == 1 for text in kept), "an answered request was sent again"
    for words in ("Every cell of the plan is filled", "requests and", "USD at the job\u2019s prices", "AUC", "Examples: "):
        assert words in out
    lines = read_examples(RunFolder(tmp_path / "run"))
    assert Counter(line["case"] for line in lines) == {"ordinary": 30, "hard": 12, "near-miss": 6}
    assert Counter(line["with"]["length"] for line in lines) == {"short": 36, "long": 12}
    assert all(line["text"] in model.rows[line["label"]] for line in lines)
    plan = json.loads((tmp_path / "run" / "generated" / "plan.json").read_text())
    assert all(cell["accepted"] == cell["wanted"] for cell in plan["cells"])
    assert plan["coverage"]["tone"] == {"calm": {"wanted": 24, "accepted": 24}, "angry": {"wanted": 24, "accepted": 24}}
    found = generated(tmp_path / "run")
    for arm in ("generated", "real"):
        assert {"distinct_2", "self_similarity", "spread", "corpus_distinct_2"} <= {m.measure for m in found.measures if m.arm == arm}
    auc, even = found.value("generated", "two_sample_auc"), found.value("generated", "label_balance")
    assert auc is not None
    assert auc.low is not None
    assert auc.low < 0.6, "real rows are told from real rows"
    assert even is not None
    assert 0.9 < even.value < 1

    before = server.number
    assert call("generate", "job.yaml", "--run", "run")[:2] == (0, out)
    assert server.number == before, "done already: nothing is asked, the same is told"


def test_a_run_learns_the_teachers_answers_to_them_and_tells_how_often_they_differ(
    serve: Make, make: Make, model: Model, call: Make, tmp_path: Path
) -> None:
    model.wrong["exchange_rate"] = 5
    server = serve(model)
    (tmp_path / "job.yaml").write_text(dump_job(make(server)))
    code, out, err = call("run", "job.yaml", "--run", "run")
    assert (code, "Report: " in out) == (0, True), err
    assert err.index("generate") < err.index("label") < err.index("train")
    found = generated(tmp_path / "run")
    agreement = found.value("generated", "label_agreement")
    assert agreement is not None
    assert (agreement.value, agreement.n) == (pytest.approx(43 / 48), 48)
    assert agreement.low is not None
    assert 0.75 < agreement.low < 43 / 48
    assert {m.measure for m in found.measures} >= {f"label_agreement@{case}" for case in ("ordinary", "hard", "near-miss")}
    page = (tmp_path / "run" / "report.html").read_text()
    for words in ("The examples that the teacher wrote", "48 of 48 planned examples were accepted", "the label that they were written for"):
        assert words in page
    assert "48 rows of the pool were written by the teacher" in page

    before = server.number
    work = open_work(make(server), RunFolder(tmp_path / "run"), Silence())
    transfer = label(work)
    assert server.number == before
    assert (transfer.num_labelled, len(transfer.batch)) == (60, 108)
    assert transfer.batch.target is not None
    assert (transfer.batch.target[60:] == -1).all(), "the intended labels are no gold"
    texts = transfer.batch.features["text"].tolist()[60:]
    said = [work.dataset.classes[code] for code in transfer.answers[60:].argmax(axis=1)]
    assert said == [model.known[text] for text in texts]
    assert sum(name != line["label"] for name, line in zip(said, read_examples(work.folder), strict=True)) == 5


def test_every_leaked_test_row_is_caught_and_its_place_filled(
    serve: Make, make: Make, model: Model, rows: dict[str, list[str]], tmp_path: Path
) -> None:
    tests = [text for texts in rows.values() for text in texts[20:35]]
    model.leaks += [*tests[:15], *(f"Hello, {text.upper()}" for text in tests[15:30] if len(text.split()) > 5)]
    model.__post_init__()
    stillroom.run(make(serve(model)), run_dir=tmp_path / "run", until="generate")
    found = generated(tmp_path / "run")
    assert found.removed["leak"] >= len(model.leaks) > 25
    assert (found.accepted, found.unfilled_cells) == (48, 0)
    written = {line["text"] for line in read_examples(RunFolder(tmp_path / "run"))}
    assert not written & set(model.leaks)


def test_a_model_that_repeats_itself_leaves_cells_that_are_named(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve(writes(lambda wanted, count: f"the one question about {wanted['label']} that I can think of"))
    done = stillroom.run(make(server), run_dir=tmp_path / "run", until="generate")
    found = done.generated
    assert (found.accepted, found.rounds, found.removed) == (3, 4, {"duplicate": 45 * 4})
    assert found.unfilled_cells > 10
    assert found.unfilled[0].wanted > found.unfilled[0].accepted
    assert found.remarks
    assert "needs 20 on each side" in found.remarks[0]
    plan = json.loads((done.folder.generated / "plan.json").read_text())
    assert sum(cell["removed"].get("duplicate", 0) for cell in plan["cells"]) == 45 * 4


def test_prose_alone_is_one_clear_error(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve(lambda number, body: {"content": "Customers of a bank ask many things."})
    with pytest.raises(StageFailed, match=r"generate: none of 48 examples .*12 not-json.*teacher\.structured"):
        stillroom.run(make(server, generation={"rounds": 1, "per_request": 4}), run_dir=tmp_path / "run")
    with pytest.raises(StageFailed, match=r"teacher: none of 24 random requests of 48 .* 24 not-json.*Customers of a bank.*structured"):
        stillroom.run(make(server, generation={"rounds": 1, "per_request": 1}), run_dir=tmp_path / "more")


def test_the_budget_holds_and_a_larger_one_goes_on(serve: Make, make: Make, model: Model, tmp_path: Path) -> None:
    server = serve(model)
    with pytest.raises(StageFailed, match=r"generate: budget: reached, .*20 of 48 examples.* raise budget\.requests"):
        stillroom.run(make(server, budget={"requests": 5}), run_dir=tmp_path / "run")
    assert server.number == 5
    assert generated(tmp_path / "run").complete is False
    done = stillroom.run(make(server, budget={"requests": 400}), run_dir=tmp_path / "run", until="label")
    assert (done.generated.accepted, done.generated.complete) == (48, True)
    assert max(server.answered.values()) == 1


def test_what_is_changed_is_written_anew_from_what_is_stored(serve: Make, make: Make, model: Model, tmp_path: Path) -> None:
    server = serve(model)
    stillroom.run(make(server), run_dir=tmp_path / "run", until="generate")
    before, first = server.number, generated(tmp_path / "run")
    job = make(server, generation={"remove": {"max_words": 12}})
    stillroom.run(job, run_dir=tmp_path / "run", until="generate")
    found = generated(tmp_path / "run")
    assert found.removed["length"] > 0
    assert found.accepted == first.accepted
    assert server.number - before < before, "only the gaps were asked for"


def test_terms_and_labels_are_refused_before_any_request(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve(lambda number, body: {"status": 500})
    vendor = make("https://api.openai.com/v1")
    vendor = vendor.model_copy(update={"teacher": vendor.teacher.model_copy(update={"licence": None})})
    with pytest.raises(PolicyRefused):
        stillroom.run(vendor, run_dir=tmp_path / "run")
    with pytest.raises(PolicyRefused):
        generate_examples(vendor, RunFolder(tmp_path / "run"), Silence())
    near = {"near_misses": [{"label": "card_arrival", "towards": "pin_block", "share": 0.1}]}
    with pytest.raises(BadInput, match=r"generation\.near_misses\[0\]\.towards: = 'pin_block' is no label; did you mean 'pin_blocked'"):
        check_without_asking(make(server, generation=near, specification={"task": "Name the intent."}))
    with pytest.raises(BadInput, match="generation: is missing"):
        stillroom.run(make(server).model_copy(update={"generation": None}), run_dir=tmp_path / "run", until="generate")
    check_without_asking(make(server))
    assert server.number == 0


def test_a_dry_run_writes_nothing(serve: Make, make: Make, model: Model, tmp_path: Path) -> None:
    server = serve(model)
    estimate = estimate_labelling(make(server), run_dir=tmp_path / "run")
    assert (estimate.rows, server.number) == (60 + 45, 50)
    assert not (tmp_path / "run" / "generated").exists()


def test_odd_texts_survive_and_half_a_surrogate_does_not(serve: Make, make: Make, tmp_path: Path) -> None:
    odd = ["{{ 7*7 }} {0} ${HOME} ", "\x00\x1b[31m ", "<script>alert(1)</script> "]
    half = "\ud83d "
    script = writes(lambda wanted, count: f"{half if count == 4 else odd[count % 3]}{wanted['label']} {(count + 2) ** 60}")
    done = stillroom.run(make(serve(script)), run_dir=tmp_path / "run", until="generate")
    texts = [line["text"] for line in read_examples(done.folder)]
    assert all(any(text.startswith(start.strip()) for text in texts) for start in odd)
    assert not any(half.strip() in text for text in texts)
    assert (len(texts), done.generated.asked_again) == (48, 1)
    assert np.isfinite([m.value for m in done.generated.measures]).all()


@pytest.mark.parametrize("held_out", [True, False])
def test_of_a_language_model_prompts_are_written_that_no_held_out_one_gives_away(held_out: bool, serve: Make, tmp_path: Path) -> None:
    prompts = [
        f"tell me about the {thing} of {place}" for thing in ("rivers", "kings", "food") for place in ("Peru", "Chad", "Nepal", "Fiji")
    ]
    pd.DataFrame({"ask": prompts[:8], "answer": "yes"}).to_json(tmp_path / "train.jsonl", orient="records", lines=True)
    pd.DataFrame({"ask": prompts[8:], "answer": "yes"}).to_json(tmp_path / "test.jsonl", orient="records", lines=True)
    source = {"kind": "file", "train": "train.jsonl", **({"test": "test.jsonl"} if held_out else {})}
    data = {"source": source, "prompt": "ask", "completion": "answer"}
    own = {"kind": "huggingface", "model": "acme/m", "licence": "mit"}
    job = job_from({"task": "language-model", "name": "asks", "data": data, "teacher": own, "student": {"kind": "huggingface"}}, tmp_path)
    given = iter([*prompts, *(f"who wrote the {number} book of {number**7} pages" for number in range(100, 200))])
    server = serve(writes(lambda wanted, count: next(given)))
    sections = {
        "teacher": EndpointTeacherSpec(base_url=server.base_url, model="m", licence="mit"),
        "specification": SpecificationSpec(task="Answer."),
        "generation": GenerationSpec(examples=20, vary={"topic": {"land": None, "people": None}}),
    }
    folder = RunFolder(tmp_path / "run")
    generate_examples(job.model_copy(update=sections), folder, Silence())
    found, lines = generated(folder.path), read_examples(folder)
    assert (found.accepted, found.removed["leak"]) == (20, 4 if held_out else 8)
    assert found.removed.get("duplicate", 0) == (8 if held_out else 0), "what is learnt already need not be written again"
    assert {line["text"] for line in lines} & set(prompts) == (set() if held_out else set(prompts[8:]))
    assert Counter(line["with"]["topic"] for line in lines) == {"land": 10, "people": 10}
    assert not any("label" in line for line in lines)
