"""A sequence-labelling job whose teacher is behind an endpoint, through a real server on loopback: every stage, and what goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scripted_server as scripted

import stillroom
from stillroom.core.asking import Asked
from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.spans import Span
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.pipeline.dry_run import estimate_labelling
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.label import label
from stillroom.pipeline.progress import Silence
from stillroom.pipeline.review import Review
from stillroom.pipeline.work import check_without_asking, open_work
from stillroom.spec.load import job_from
from stillroom.teachers.endpoint import client as client_module

KINDS = {"card": "thing", "money": "thing", "good": "mood", "bad": "mood", "fine": "mood", "poor": "mood"}
OTHERS = ["lost", "a", "the", "is", "my", "it", "was", "not", "how", "do", "i", "get", "to", "and", "when", "where"]
Make = Callable[..., Any]


def mentions(text: str) -> list[dict[str, str]]:
    return [{"text": word, "label": KINDS[word]} for word in text.split() if word in KINDS]


def spans(text: str) -> list[dict[str, Any]]:
    found, at = [], 0
    for word in text.split():
        if word in KINDS:
            found.append({"start": at, "end": at + len(word), "label": KINDS[word]})
        at += len(word) + 1
    return found


def said(body: dict[str, Any]) -> str:
    """The row that a request is about: the message behind the system's and the worked example."""
    return str(body["messages"][3]["content"])


def answer(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """What a good model says."""
    return {"content": json.dumps({"entities": mentions(said(body))})}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)


@pytest.fixture
def serve() -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda script=answer: stack.enter_context(scripted.Server(script))


@pytest.fixture(scope="module")
def encoder(tiny_bert: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    for part in tiny_bert(["x", "y"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0):
        part.save_pretrained(folder)
    return folder


def rows(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(rng.choice([*KINDS, *OTHERS], rng.integers(3, 10)))] = None
    return list(texts)


@pytest.fixture
def make(tmp_path: Path, encoder: Path) -> Make:
    """make(server, teacher={...}, section=...) -> a job of 90 training, 40 pool and 40 test rows."""
    texts = rows(170, 0)
    for name, part in (("train", texts[:90]), ("pool", texts[90:130]), ("test", texts[130:])):
        lines = [json.dumps({"text": text, "spans": spans(text)}) for text in part]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))

    def build(server: Any, *, teacher: dict[str, Any] | None = None, **sections: Any) -> Any:
        content = {
            "name": "names",
            "task": "sequence-labelling",
            "data": {
                "source": {"kind": "file", "train": "train.jsonl", "test": "test.jsonl", "unlabeled": "pool.jsonl"},
                "target": "spans",
                "text": "text",
            },
            "teacher": {
                "kind": "endpoint",
                "base_url": server if isinstance(server, str) else server.base_url,
                "model": "m",
                "licence": "mit",
                "max_tokens": 60,
                "max_attempts": 2,
                "prices": {"prompt": 1.0, "completion": 10.0},
                **(teacher or {}),
            },
            "specification": {
                "task": "Find things and moods. Braces like {this} stay.",
                "labels": {"thing": "what one can hold", "mood": "a word of praise or blame"},
                "examples": [{"input": "a good card", "output": {"entities": mentions("a good card")}}],
            },
            "student": {"kind": "huggingface", "init": "pretrained", "model": str(encoder)},
            "training": {"num_train_epochs": 5, "learning_rate": 1e-2, "per_device_train_batch_size": 8, "max_length": 64},
            "evaluation": {"seeds": 1, "resamples": 100, "cost": False},
        }
        return job_from({**content, **sections}, tmp_path)

    return build


def record(run: Path, stage: str = "label") -> dict[str, Any]:
    return dict(json.loads((run / "stages" / f"{stage}.json").read_text()))


def test_a_whole_run_asks_each_row_once_and_the_student_finds_spans(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve()
    done = stillroom.run(make(server), run_dir=tmp_path / "run")
    assert server.number == 90 + 40 + 40
    assert max(server.answered.values()) == 1
    system = server.bodies[0]["messages"][0]["content"]
    assert "- thing: what one can hold" in system
    assert "Braces like {this} stay." in system
    assert done.evidence.arms == ("teacher", "student", "control")
    for arm in done.evidence.arms:
        for measure in ("span_f1", "span_precision", "span_recall", "token_accuracy"):
            found = done.evidence.value(arm, measure)
            assert found is not None
            assert found.value > (0.98 if arm == "teacher" else 0.7), (arm, measure)
    assert done.evidence.verdict is not None
    assert done.evidence.verdict.measure == "span_f1"
    page, card = done.folder.report.read_text(), done.folder.card.read_text()
    for shown in ("All 130 rows of the transfer set were answered.", "All 40 test rows were answered.", "Span F1", "Span recall"):
        assert shown in page
    assert "pipeline_tag: token-classification" in card
    assert "span F1" in done.words

    text = "how do i get my card and good money"
    (found_spans,) = done.student.predict([text])
    assert [(text[span.start : span.end], span.label) for span in found_spans] == [("card", "thing"), ("good", "mood"), ("money", "thing")]
    assert isinstance(found_spans[0], Span)
    with pytest.raises(AttributeError, match="predict_proba: this student's task is sequence-labelling"):
        done.student.predict_proba([text])
    table = done.student.predict_table(tmp_path / "test.jsonl")
    assert list(table.columns) == ["text", "spans"]
    right = [json.loads(cell) == spans(text) for text, cell in zip(table["text"], table["spans"], strict=True)]
    assert np.mean(right) > 0.6
    with pytest.raises(BadInput, match=r"is no model: the teacher 'm' answered at"):
        stillroom.load(done.folder.path, arm="teacher")
    with pytest.raises(BadInput, match="whose teacher gives spans; a review looks at labels"):
        Review(done.folder.path, reviewer="ann", num_rows=5)

    server.script = lambda number, body: {"status": 500}
    again = stillroom.run(make(f"http://127.0.0.1:{server.port}/v1"), run_dir=tmp_path / "run")
    assert (server.number, again.evidence) == (170, done.evidence)
    with KnowledgeStore(done.folder.knowledge, read_only=True) as store:
        verify(store).require_whole()
    kept = np.load(done.folder.predictions)  # without pickles
    assert json.loads(kept["teacher-0"][0]) == [
        list(row.values()) for row in spans(pd.read_json(tmp_path / "test.jsonl", lines=True)["text"][0])
    ]


def unsteady(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """Of texts with an "a" one names what is not there, whatever is said; of those with "the" one needs a second question."""
    words = said(body).split()
    if "a" in words:
        return {"content": json.dumps({"entities": [{"text": "elephant", "label": "thing"}]})}
    if "the" in words and len(body["messages"]) == 4:
        return {"content": "hm"}
    return answer(number, body)


def test_answers_that_cannot_be_used_are_counted_shown_and_not_learnt(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve(unsteady)
    job = make(server, training={"num_train_epochs": 1})
    transfer = label(open_work(job, RunFolder(tmp_path / "run"), Silence()))
    texts = transfer.batch.features["text"].tolist()
    lost = [row for row, text in enumerate(texts) if "a" in text.split()]
    assert 10 < len(lost) < 65
    assert [row for row, found in enumerate(transfer.answers) if found is None] == lost
    assert transfer.batch.target[:90].tolist() == [tuple(Span(**span) for span in spans(text)) for text in texts[:90]]
    assert transfer.batch.target[90:].tolist() == [None] * 40
    done = stillroom.run(job, run_dir=tmp_path / "run")
    asked = Asked.from_json(record(done.folder.path)["asked"])
    assert (asked.rows, asked.answered, asked.failed) == (130, 130 - len(lost), {"not-in-text": len(lost)})
    assert asked.asked_again == 2 * len(lost) + sum("the" in text.split() and "a" not in text.split() for text in texts)
    page = done.folder.report.read_text()
    assert f"{130 - len(lost)} of 130 rows of the transfer set have an answer; {len(lost)} have none: {len(lost)} not-in-text." in page
    assert "A missing answer counts as one without a span." in page
    tests = pd.read_json(tmp_path / "test.jsonl", lines=True)["text"]
    teacher = [json.loads(cell) for cell in np.load(done.folder.predictions)["teacher-0"]]
    for text, found in zip(tests, teacher, strict=True):
        assert found == ([] if "a" in text.split() else [list(span.values()) for span in spans(text)])


@pytest.mark.parametrize(
    ("right_one_in", "words"),
    [
        (5, r"teacher: \d+ of 130 rows .* \(\d+ not-in-text\); more than half"),
        (10**9, r"teacher: none of 24 .*: 24 not-in-text; for one: 'eleph"),
    ],
)
def test_too_few_usable_answers_are_one_clear_error(right_one_in: int, words: str, serve: Make, make: Make, tmp_path: Path) -> None:
    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        wrong = (number + 1) % right_one_in
        return {"content": json.dumps({"entities": [{"text": "elephant", "label": "thing"}] if wrong else mentions(said(body))})}

    with pytest.raises(StageFailed, match=rf"{words}.* each mention is copied from the text"):
        stillroom.run(make(serve(script), teacher={"asked_again": 0}), run_dir=tmp_path / "run")
    assert not (tmp_path / "run" / "student").exists()


def test_what_the_teacher_says_is_learnt_and_a_wrong_teacher_hurts(serve: Make, make: Make, tmp_path: Path) -> None:
    swapped = {"thing": "mood", "mood": "thing"}

    def mistaken(number: int, body: dict[str, Any]) -> dict[str, Any]:
        return {"content": json.dumps({"entities": [{**each, "label": swapped[each["label"]]} for each in mentions(said(body))]})}

    job = make(serve(mistaken), objective={"hard_label_weight": 0.0}, evaluation={"seeds": 2, "resamples": 100, "cost": False})
    evidence = stillroom.run(job, run_dir=tmp_path / "run").evidence
    values = {(m.arm, m.measure): m.value for m in evidence.measures}
    assert values["teacher", "span_f1"] == 0
    assert values["student", "span_f1"] < 0.1
    assert values["student", "span_agreement"] > 0.7
    assert values["control", "span_f1"] > 0.7
    assert evidence.verdict is not None
    assert evidence.verdict.outcome == "hurt"


def test_a_dry_run_tells_what_the_run_will_take_a_budget_ends_it_and_a_larger_one_goes_on(serve: Make, make: Make, tmp_path: Path) -> None:
    server = serve()
    estimate = estimate_labelling(make(server), run_dir=tmp_path / "run")
    assert (estimate.rows, estimate.sampled, server.number) == (170, 50, 50)
    with pytest.raises(StageFailed, match=r"budget: reached, 100 of 100 requests.* rows of the transfer set wait"):
        stillroom.run(make(server, budget={"requests": 100}), run_dir=tmp_path / "run")
    stillroom.run(make(server, budget={"requests": 400}), run_dir=tmp_path / "run", until="label")
    shorter = {"num_train_epochs": 1, "max_length": 8}
    done = stillroom.run(make(server, training=shorter), run_dir=tmp_path / "run")  # another training asks nothing about what it learns
    assert (server.number, max(server.answered.values())) == (170, 1)
    assert "lie beyond the 8 tokens that the student reads (training.max_length)." in done.folder.report.read_text()


@pytest.mark.parametrize("ending", ["jsonl", "conll"])
def test_words_with_tags_are_the_same_job(ending: str, serve: Make, make: Make, tmp_path: Path) -> None:
    for name in ("train", "test"):
        texts = pd.read_json(tmp_path / f"{name}.jsonl", lines=True)["text"]
        pairs = [(text.split(), [f"B-{KINDS[word]}" if word in KINDS else "O" for word in text.split()]) for text in texts]
        if ending == "jsonl":
            content = "\n".join(json.dumps({"tokens": words, "tags": tags}) for words, tags in pairs)
        else:
            content = "\n\n".join("\n".join(map("\t".join, zip(words, tags, strict=True))) for words, tags in pairs)
        (tmp_path / f"words-{name}.{ending}").write_text(content)
    source = {"kind": "file", "train": f"words-train.{ending}", "test": f"words-test.{ending}"}
    job = make(serve(), data={"source": source, "tokens": "tokens", "target": "tags"})
    done = stillroom.run(job, run_dir=tmp_path / "run")
    f1 = done.evidence.value("student", "span_f1")
    assert f1 is not None
    assert f1.value > 0.6
    as_text, as_words = done.student.predict(["lost my card"]), done.student.predict([["lost", "my", "card"]])
    assert list(as_text) == list(as_words)
    assert len(done.student.predict_table(tmp_path / f"words-test.{ending}")) == 40


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ({"task": "x", "labels": ["thing"]}, r"specification\.labels: lack 'mood', which rows of the data have"),
        ({"task": "x", "labels": ["thing", "mood", "modo"]}, r"name 'modo', which no row of the data has; did you mean 'mood'"),
        ({"task": "x", "examples": [{"input": "a", "output": "thing"}]}, r"examples\[0\]\.output: is not valid under output_schema"),
        ({"task": "x", "examples": [{"input": "a", "output": {"entities": mentions("card")}}]}, r"examples\[0\]\.output: 'card' is not in"),
    ],
)  # fmt: skip
def test_a_specification_that_does_not_fit_is_refused_before_anything_is_asked(
    specification: dict[str, Any], words: str, make: Make
) -> None:
    with pytest.raises(BadInput, match=words):
        check_without_asking(make("http://127.0.0.1:1/v1", specification=specification))
