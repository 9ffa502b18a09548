"""A language model's job as a new user writes it: `init` writes one that runs, mistakes are named before any work, no library chatters."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stillroom.cli import main
from stillroom.models.causal import save_causal
from stillroom.models.language import LanguagePredictor

STORIES = [f"w{i % 20} w{(i * 7) % 20} w3 w4 w{i % 11} w2" for i in range(40)]
JOB = """
task: language-model
data:
  source: {kind: file, train: stories.jsonl}
  text: story
teacher: {kind: huggingface, model: ./teacher, licence: mit}
student: {kind: huggingface, layers: 2}
training: {num_train_epochs: 1, max_length: 32, learning_rate: 1e-3}
evaluation: {seeds: 1, resamples: 100, cost: false, prompts: 4, new_tokens: 8}
"""
NOISE = ("Traceback", "Warning", "warn", "Token indices", "Loading weights", "Writing model", "loss_type", "it/s", "generation flags", "`")


@pytest.fixture(scope="module")
def home(tiny_causal: Callable[..., tuple[Any, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: a teacher, one without a tokenizer, and texts in every shape."""
    folder = tmp_path_factory.mktemp("home")
    model, tokenizer = tiny_causal("llama")
    tokenizer.chat_template = (
        "<s>{% for m in messages %} w{{ m.role | length }} {{ m.content }} </s>{% endfor %}{% if add_generation_prompt %} w9{% endif %}"
    )
    save_causal(model, tokenizer, folder / "teacher")
    model.save_pretrained(folder / "bare")
    save_causal(model, tokenizer, folder / "askew")
    config = json.loads((folder / "askew" / "config.json").read_text())
    (folder / "askew" / "config.json").write_text(json.dumps({**config, "num_attention_heads": 5}))
    narrow, _ = tiny_causal("llama", seed=1, num_hidden_layers=1, max_position_embeddings=8)
    save_causal(narrow, tokenizer, folder / "narrow")
    talks = [[{"role": "user", "content": text}, {"role": "assistant", "content": "w8 w1"}] for text in STORIES]
    rows = [{"story": text, "ask": text, "answer": " w8", "talk": talk} for text, talk in zip(STORIES, talks, strict=True)]
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "stories.txt").write_text("\n\n".join(STORIES))
    (folder / "long.txt").write_text("\n\n".join(f"{text} " * 20 for text in STORIES))
    (folder / "job.yaml").write_text(JOB)
    return folder


@pytest.fixture
def call(home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """call(*arguments) -> (exit code, output, errors) of the command, in the user's folder; also what libraries write past Python."""
    monkeypatch.chdir(home)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stillroom", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.txt=story", "data.txt: no such key; did you mean 'text'?"),
        ("teacher.model=./techer", "teacher.model: no such folder: "),
        ("teacher.model=teacher", "teacher.model: = 'teacher' is a hub id, and there is a folder of this name here: write ./ before it"),
        ("teacher.model=./bare", "bare' has no tokenizer (tokenizer.json); put the one there that the model was trained with."),
        ("teacher.model=.", "is no folder of a transformers model: it has no config.json."),
        ("student={kind: huggingface, init: pretrained, model: ./bare}", "student.model: = '"),
        ("labelling.tokens=topk", "labelling.tokens: = 'topk' is not allowed; did you mean 'top-k'?"),
        ("objective.divergence=reverse-kl", "take forward-kl, or tokens: top-k, hidden or online."),
    ],
)
def test_check_names_the_mistake(override: str, expected: str, call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = call("check", "job.yaml", "--set", override)
    assert (code, out, len(err.splitlines())) == (2, "", 1), err
    assert expected in err


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.text=stroy"], "has no column 'stroy'; did you mean 'story'?"),
        (
            ["teacher.model=./askew"],
            "askew' cannot be loaded: The hidden size (32) is not a multiple of the number of attention heads (5).",
        ),
        (["student.layers=9"], "student.layers: = 9: the teacher has 4 layers; a student cut out of it has 1 to 4."),
        (["student.num_heads=3"], "student.num_heads: = 3 is not a multiple of"),
        (
            ["student={kind: huggingface, init: fresh, config: {hiden_size: 8}}"],
            "student.config.hiden_size: no such field of LlamaConfig; did",
        ),
        (["training.arguments={lerning_rate: 3}"], "training.arguments.lerning_rate: no such field of transformers.TrainingArguments; did"),
        (["evaluation.new_tokens=64"], "evaluation.new_tokens: = 64 leaves no room for a prompt in the 64 tokens that the teacher reads"),
        (
            ["data={source: {kind: file, train: long.txt}}", "training.max_length=500"],
            "training.max_length: = 500: the teacher reads 64 tokens at once, and an example has 121; set it to 64 or less.",
        ),
        (
            ["student={kind: huggingface, init: fresh, config: {max_position_embeddings: 6}}", "evaluation.new_tokens=4"],
            "training.max_length: = 32: the student reads 6 tokens at once, and an example has 7; set it to 6 or less.",
        ),
        (
            ["student={kind: huggingface, init: pretrained, model: ./narrow}"],
            "evaluation.new_tokens: = 8 leaves no room for a prompt in the 8 tokens that the student reads at once; take fewer.",
        ),
        (
            ["student={kind: huggingface, init: fresh, config: {num_attention_heads: 5}}"],
            "student.config: = {'num_attention_heads': 5} makes no model: ",
        ),
    ],
)
def test_a_run_names_it_before_any_work(
    overrides: list[str], expected: str, call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = call("run", "job.yaml", "--run", tmp_path / "run", *(part for override in overrides for part in ("--set", override)))
    assert (code, out) == (2, "")
    assert expected in err
    assert not (tmp_path / "run" / "teacher").exists()


@pytest.mark.parametrize("prompts", [0, 4])
def test_a_student_that_reads_less_than_its_teacher_is_measured_in_its_own_context(
    prompts: int, call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts that fit the teacher alone are passed over, and what is timed fits too: nothing fails when all the work is done."""
    from stillroom.pipeline.language import evaluate

    timed: list[Any] = []
    monkeypatch.setattr(evaluate, "measure_language_cost", lambda _, prompts, *__, **___: timed.extend(prompts) or [])
    narrow = ["student={kind: huggingface, init: pretrained, model: ./narrow}", "evaluation.new_tokens=3", f"evaluation.prompts={prompts}"]
    asked = ["data={source: {kind: file, train: stories.jsonl}, prompt: ask, completion: answer}", "training.max_length=8"]
    overrides = [part for override in (*narrow, *asked, "evaluation.cost=true") for part in ("--set", override)]
    code, _, err = call("run", "job.yaml", "--run", tmp_path, *overrides)
    assert code == 0, err
    assert [len(ids) for ids in timed] == [5]
    assert ("leave no room for 3 new tokens (evaluation.new_tokens) in the shortest context of an arm, 8; 0 others" in err) == (prompts > 0)


def test_all_of_them_are_named_at_once(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    wrong = ("--set", "student.layers=9", "--set", "evaluation.new_tokens=99", "--set", "training.arguments={lerning_rate: 3}")
    _, _, err = call("run", "job.yaml", "--run", tmp_path, *wrong)
    assert all(place in err for place in ("student.layers", "evaluation.new_tokens", "training.arguments.lerning_rate"))


def test_a_run_says_what_it_does_and_nothing_else(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    as_large = ("--set", "student={kind: huggingface, init: fresh}", "--set", "data.source.train=long.txt", "--set", "data.text=null")
    code, out, err = call("run", "job.yaml", "--run", tmp_path, *as_large)
    assert code == 0, err
    assert [line.split()[0] for line in err.splitlines() if not line.startswith("  ")] == ["label", "train", "evaluate", "export", "report"]
    assert err.count("is as large as its teacher") == 1, "said once, not for every student and control"
    assert not [noise for noise in NOISE if noise in out + err], out + err
    assert out.splitlines()[-1] == f"Report: {tmp_path / 'report.html'}"


def test_the_evaluation_asks_a_chat_in_the_template_s_own_words(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(LanguagePredictor, "continuations", lambda self, prompts, **settings: asked.append(settings) or [""] * len(prompts))
    columns = ("--set", "data.text=null", "--set", "data.messages=talk", "--set", "labelling.tokens=online")
    assert call("evaluate", "job.yaml", "--run", tmp_path, *columns)[0] == 0
    assert asked
    assert all(settings["is_rendered"] for settings in asked), "else the tokenizer would begin the text a second time"


@pytest.mark.parametrize(
    ("flags", "columns"),
    [
        (["--data", "stories.txt"], {}),
        (["--data", "stories.jsonl", "--text", "story"], {"text": "story"}),
        (["--data", "stories.jsonl", "--prompt", "ask", "--completion", "answer"], {"prompt": "ask", "completion": "answer"}),
        (["--data", "stories.jsonl", "--messages", "talk"], {"messages": "talk"}),
    ],
)
def test_init_writes_a_job_that_check_accepts(
    flags: list[str], columns: dict[str, str], call: Callable[..., tuple[int, str, str]], home: Path
) -> None:
    file = f"jobs/{'-'.join(columns) or 'plain'}.yaml"
    code, _, err = call("init", file, "--task", "language-model", "--teacher", "teacher", *flags)
    assert code == 0, err
    code, out, err = call("check", file)
    assert code == 0, err
    assert "right. language-model" in out
    written = (home / file).read_text()
    job = yaml.safe_load(written)
    assert (job["teacher"]["model"], job["student"]["layers"], job["training"]["max_length"]) == ("../teacher", 2, 64)
    assert {name: job["data"].get(name) for name in columns} == columns
    assert written.count("# ") > 10


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--data", "stories.jsonl", "--teacher", "./teacher"], "has no column 'text'; allowed: answer, ask, story, talk."),
        (["--data", "stories.txt", "--teacher", "./techer"], "--teacher: no such folder: "),
        (["--data", "stories.txt", "--teacher", "./bare"], "teacher.model: = '"),
        (["--data", "stories.txt", "--teacher", "teacher", "--student", "half"], "--student: = 'half' is no number"),
        (["--data", "stories.txt", "--teacher", "teacher", "--student", "9"], "student.layers: = 9: the teacher has 4 layers"),
        (["--teacher", "teacher"], "--data: is missing"),
    ],
)
def test_init_refuses_what_would_not_run(
    flags: list[str], expected: str, call: Callable[..., tuple[int, str, str]], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    code, _, err = call("init", "refused.yaml", "--task", "language-model", *flags)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert expected in err
    assert not (home / "refused.yaml").exists()
