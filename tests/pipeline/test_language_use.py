"""What a run with a language model can do once it is there: go on with texts, answer, and say how surprising a text is."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers

import stillroom
from stillroom.cli import main
from stillroom.core.errors import BadInput
from stillroom.core.records import Evidence
from stillroom.models.language import LanguagePredictor, write_reference
from stillroom.pipeline.language.predict import write_texts
from stillroom.report.card import render_card
from stillroom.report.data import ReportData
from stillroom.spec.load import dump_job, job_from, load_job

TEMPLATE = "<s>{% for m in messages %}w{{ m.role | length }} {{ m.content }} </s>{% endfor %}{% if add_generation_prompt %}w9{% endif %}"
SHAPES = {"story": {"text": "story"}, "asks": {"prompt": "ask", "completion": "answer"}, "chat": {"messages": "talk"}, "plain": {}}
README = Path(__file__).parents[2] / "README.md"
TEXTS = ["w1 w2 w3", "w7", "w5 w6 w7 w8 w9"]


@pytest.fixture(scope="module")
def runs(tiny_causal: Callable[..., tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for each shape of data, its models as they were born; and one of another task."""
    folder = tmp_path_factory.mktemp("runs")
    models = {arm: tiny_causal("llama", seed=seed) for seed, arm in enumerate(("student", "arms/control-0", "teacher-model"))}
    for model, tokenizer in models.values():
        tokenizer.chat_template = TEMPLATE
        tokenizer.add_bos_token = True  # its own, which a rendered chat must not get on top of the template's
        LanguagePredictor(model, tokenizer).save(folder / "teacher-model") if model is models["teacher-model"][0] else None
    for name, columns in SHAPES.items():
        data = {"source": {"kind": "file", "train": "rows.txt" if name == "plain" else "rows.jsonl"}, **columns}
        teacher = {"kind": "huggingface", "model": "./teacher-model", "licence": "mit"}
        student = {"kind": "huggingface", "layers": 2}
        job = job_from({"task": "language-model", "name": name, "data": data, "teacher": teacher, "student": student}, folder)
        (folder / name).mkdir()
        (folder / name / "job.yaml").write_text(dump_job(job))
        for arm in ("student", "arms/control-0"):
            LanguagePredictor(*models[arm], column=columns.get("text", "text")).save(folder / name / arm)
        (folder / name / "teacher").mkdir()
        write_reference(folder / name / "teacher", str(folder / "teacher-model"))
    rows = {"data": {"source": {"kind": "sklearn", "name": "iris"}}, "teacher": {"kind": "estimator", "estimator": "knn"}}
    other = job_from({"task": "tabular-classification", **rows, "student": {"kind": "estimator", "estimator": "decision-tree"}})
    (folder / "iris").mkdir()
    (folder / "iris" / "job.yaml").write_text(dump_job(other))
    return folder


def plainly(folder: Path, prompt: str, num: int, *, special: bool = False) -> str:
    """The greedy text by transformers alone: the student is a checkpoint like any other."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt", add_special_tokens=special)
    padding = list(range(len(tokenizer), model.config.vocab_size))
    written = model.generate(**given, max_new_tokens=num, do_sample=False, suppress_tokens=padding)
    return str(tokenizer.decode(written[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["stillroom", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_student_goes_on_as_transformers_alone_would_have_it(runs: Path) -> None:
    texts = stillroom.load(runs / "story").generate(TEXTS, new_tokens=6)
    for text, prompt in zip(texts, TEXTS, strict=True):
        assert text.split() == plainly(runs / "story" / "student", prompt, 6, special=True).split()
    assert any(texts)
    assert all(text.startswith(" ") for text in texts if text), "the prompt and the text read on"


def test_a_chat_s_prompt_is_what_the_template_writes_and_nothing_more(runs: Path) -> None:
    student = stillroom.load(runs / "chat")
    talk = [{"role": "user", "content": "w3"}, {"role": "assistant", "content": "w5"}, {"role": "user", "content": "w4"}]
    said, told, again = student.generate(["w4", talk, [*talk, {"role": "assistant", "content": "w8"}]], new_tokens=6)
    assert said.split() == plainly(runs / "chat" / "student", "<s> w4 w4 </s> w9", 6).split()
    assert told.split() == plainly(runs / "chat" / "student", "<s> w4 w3 </s> w9 w5 </s> w4 w4 </s> w9", 6).split()
    assert again == told, "the answer that is there already is what is asked for"


def test_arms_seeds_and_temperatures_write_otherwise(runs: Path) -> None:
    student = stillroom.load(runs / "story")
    greedy = student.generate(TEXTS, new_tokens=8)
    sampled = student.generate(TEXTS, new_tokens=8, temperature=1.0, seed=1)
    texts = [greedy, sampled, student.generate(TEXTS, new_tokens=8, temperature=1.0, seed=2)]
    texts += [stillroom.load(runs / "story", arm=arm).generate(TEXTS, new_tokens=8) for arm in ("control", "teacher")]
    assert len({tuple(each) for each in texts}) == len(texts)
    assert student.generate(TEXTS, new_tokens=8, temperature=1.0, seed=1) == sampled
    assert student.generate(TEXTS, new_tokens=8, temperature=1e-6) == greedy
    assert student.generate(TEXTS, new_tokens=8, temperature=1.0, top_p=1e-9) == greedy


@pytest.mark.parametrize("name", SHAPES)
def test_prompts_come_from_the_job_s_own_column(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    talks = [[{"role": "user", "content": text}, {"role": "assistant", "content": "w8"}] for text in TEXTS]
    rows = [{"story": t, "text": t, "ask": t, "answer": "w1", "talk": talk} for t, talk in zip(TEXTS, talks, strict=True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.txt").write_text("\n\n".join(TEXTS))
    want = stillroom.load(runs / name).generate(TEXTS, new_tokens=4)
    for file in ("rows.jsonl", "rows.txt"):
        out = tmp_path / "out.jsonl"
        asked = ("--file", tmp_path / file, "--new-tokens", 4, "--out", out)
        assert call(capsys, monkeypatch, "write", runs / name, *asked) == (0, "", "")
        written = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["text"] for line in written] == want
        assert [line["prompt"] for line in written] == (talks if name == "chat" and file == "rows.jsonl" else TEXTS)
    assert call(capsys, monkeypatch, "write", runs / name, *TEXTS, "--new-tokens", 4) == (0, "\n\n".join(want) + "\n", "")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere", "w1"), "is no run: it has no job.yaml"),
        (("iris", "w1"), "is a run of task tabular-classification, whose student writes no texts; use `stillroom predict`"),
        (("story",), "PROMPT: and --file: there is no prompt"),
        (("story", "w1", "--file", "rows.jsonl"), "PROMPT: and --file: give one of them"),
        (("story", "--file", "none.jsonl"), "--file: no such file: none.jsonl"),
        (("story", "w1 " * 60), "prompt 1: has 61 tokens: with 64 new ones over the context, 64; ask for at most 3"),
        (("story", "w1", "w1 " * 70, "--new-tokens", 4), "prompt 2: has 71 tokens: with 4 new ones over the context, 64; shorten it"),
        (("story", "w1", "--arm", "techer"), "arm: = 'techer' is none of this run's: student, control, teacher."),
        (("story", "w1", "--temperature", "-1"), "temperature: = -1.0 is outside [0, 100]"),
        (("story", "w1", "--top-p", "1.5", "--temperature", "1"), "top_p: = 1.5 is outside (0, 1]"),
        (("story", "w1", "--top-p", "0.5"), "top_p: = 0.5 has no use at temperature 0"),
        (("story", "w1", "--new-tokens", 0), "new_tokens: = 0 must be at least 1"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    arguments: tuple[object, ...], expected: str, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, *rest = arguments
    code, out, err = call(capsys, monkeypatch, "write", runs / str(run), *rest)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert expected in err


def test_python_is_told_the_same(runs: Path, tiny_causal: Callable[..., tuple[Any, Any]]) -> None:
    settings = {"is_chat": False, "new_tokens": 4, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    with pytest.raises(BadInput, match="prompt 2: is empty, and the tokenizer knows no token to begin a text with"):
        write_texts(LanguagePredictor(*tiny_causal("llama")), ["w1", ""], **settings)
    with pytest.raises(BadInput, match="prompts: is one text; give a list of them"):
        stillroom.load(runs / "story").generate("w1")
    with pytest.raises(BadInput, match="prompt 1: holds a list, not a text"):
        stillroom.load(runs / "story").generate([[{"role": "user", "content": "w1"}]])
    with pytest.raises(BadInput, match="prompt 2: holds the role 'boss'"):
        stillroom.load(runs / "chat").generate(["w1", [{"role": "boss", "content": "w1"}]])
    with pytest.raises(BadInput, match="prompt 1: has nothing that the assistant could answer"):
        stillroom.load(runs / "chat").generate([[{"role": "assistant", "content": "w1"}]])


def test_predict_says_what_its_figures_are_and_measures_what_is_learnt(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.jsonl").write_text(
        '{"ask": "w1 w2 w3", "answer": " w4 w5"}\n{"ask": "w6", "answer": ""}\n{"ask": "w7", "answer": " w8"}\n'
    )
    code, out, err = call(capsys, monkeypatch, "predict", runs / "asks", tmp_path / "rows.jsonl")
    assert (code, err) == (0, "")
    (tmp_path / "found.csv").write_text(out)
    found = pd.read_csv(tmp_path / "found.csv")
    assert list(found.columns) == ["nats_per_token", "tokens"]
    assert found["tokens"].tolist() == [3, 0, 2], "the answer and the end of the text"
    assert math.isnan(found["nats_per_token"][1])
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(runs / "asks" / "student"),
        AutoTokenizer.from_pretrained(runs / "asks" / "student"),
    )
    ids = tokenizer("w1 w2 w3 w4 w5 </s>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        log_q = torch.log_softmax(model(ids).logits[0, 3:-1, :30].double(), dim=-1)
    want = -log_q.gather(1, ids[0, 4:, None]).mean().item()
    assert found["nats_per_token"][0] == pytest.approx(want, rel=1e-5)
    assert "nats" in call(capsys, monkeypatch, "predict", "--help")[1]


@pytest.mark.parametrize("name", ["story", "chat"])
def test_the_model_card_s_own_lines_load_the_student_without_stillroom(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = load_job(runs / name / "job.yaml").model_dump(mode="json")
    card = render_card(ReportData(name, job, Evidence(("student",), (), None)))
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert "stillroom" not in code
    exec(code.replace("path/to/run", str(runs / name)).replace("max_new_tokens=64", "max_new_tokens=4"), {})
    assert capsys.readouterr().out.strip(), "a text"


def test_what_the_readme_says_of_it_does_so(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tiny-lm").symlink_to(runs / "story")
    said = [code for code in re.findall(r"`([^`\n]+)`", README.read_text(encoding="utf-8")) if "runs/tiny-lm" in code]
    command, python, plain = said
    assert call(capsys, monkeypatch, *shlex.split(command)[1:], "--new-tokens", 4)[0] == 0
    (text,) = eval(python.replace("[...]", '["w1 w2"]').replace("0.8", "0.8, new_tokens=4"), {"stillroom": stillroom})
    assert text
    assert eval(plain, {"AutoModelForCausalLM": transformers.AutoModelForCausalLM}).num_parameters() > 0
