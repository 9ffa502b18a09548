"""Whole jobs on tiny models of several families, each with a tokenizer trained on the spot and data in another shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stillroom
from stillroom.pipeline.progress import Silence
from stillroom.spec.job import Job
from stillroom.spec.load import job_from

torch = pytest.importorskip("torch")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ROWS = [
    {
        "text": f"{a} and {b} make {NUMBERS[i + j + 1]}.",
        "prompt": f"What do {a} and {b} make? ",
        "completion": f"{NUMBERS[i + j + 1]}.",
        "messages": [{"role": "user", "content": f"{a} and {b}?"}, {"role": "assistant", "content": f"{NUMBERS[i + j + 1]}."}]
        * (1 + i % 2),
    }
    for i, a in enumerate(NUMBERS)
    for j, b in enumerate(NUMBERS)
    if i + j + 1 < len(NUMBERS)
]
SHORT = {"cost": False, "seeds": 1, "resamples": 100, "prompts": 4, "new_tokens": 6}
SHAPES: dict[str, dict[str, str]] = {
    "text": {"text": "text"},
    "prompt": {"prompt": "prompt", "completion": "completion"},
    "messages": {"messages": "messages"},
}


@dataclass(frozen=True)
class Family:
    """A teacher's model_type, its tokenizer's special tokens and its template."""

    kind: str
    special: Mapping[str, str]
    marks: tuple[str, ...] = ()
    template: str | None = None


FAMILIES = {
    "gpt2": Family("gpt2", {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
    "qwen2": Family("qwen2", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ("<|im_start|>",), CHATML),
    "qwen3": Family("qwen3", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}, ("<|im_start|>",), CHATML),
    "gemma2": Family(
        "gemma2", {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}, ("<start_of_turn>", "<end_of_turn>"), GEMMA
    ),
    "llama": Family("llama", {"bos_token": "<s>", "eos_token": "</s>"}),
}


@pytest.fixture(scope="module")
def teacher(tiny_causal: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a random model of a family, with a byte-level BPE of the rows: beginning and end as the family has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from stillroom.models.causal import save_causal

    def make(name: str) -> Path:
        family = FAMILIES[name]
        special = list(dict.fromkeys([*family.special.values(), *family.marks]))
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        backend.train_from_iterator((json.dumps(row) for row in ROWS), trainer)
        if "bos_token" in family.special and name != "gpt2":
            first = family.special["bos_token"]
            backend.post_processor = processors.TemplateProcessing(
                single=f"{first} $A", special_tokens=[(first, backend.token_to_id(first))]
            )
        more = {"additional_special_tokens": list(family.marks)} if family.marks else {}
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=family.template, **family.special, **more)
        # Rows beyond the tokenizer's, as Qwen's heads have them.
        model, _ = tiny_causal(family.kind, vocab_size=len(tokenizer) + 6, max_position_embeddings=96)
        folder = tmp_path_factory.mktemp(name)
        save_causal(model, tokenizer, folder)
        return folder

    return make


def job(folder: Path, teacher: Path, shape: str, **sections: Any) -> Job:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    content: dict[str, Any] = {
        "name": "tiny",
        "task": "language-model",
        "data": {"source": {"kind": "file", "train": str(folder / "rows.jsonl")}, **SHAPES[shape]},
        "teacher": {"kind": "huggingface", "model": str(teacher), "licence": "mit"},
        "student": {"kind": "huggingface", "layers": 2, "intermediate_size": 24},
        "training": {"num_train_epochs": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "max_length": 64},
        "evaluation": SHORT,
    }
    return job_from(content | sections, folder)


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(
    ("family", "shape"), [("gpt2", "text"), ("qwen2", "messages"), ("qwen3", "prompt"), ("gemma2", "messages"), ("gemma2", "text")]
)
def test_a_job_of_every_family_ends_with_evidence(family: str, shape: str, teacher: Callable[[str], Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = stillroom.run(job(tmp_path, teacher(family), shape), run_dir=tmp_path / "run")
    for arm in ("teacher", "student", "control"):
        measured = run.evidence.value(arm, "log_loss")
        assert measured is not None
        assert np.isfinite(measured.value)
        assert (run.evidence.value(arm, "exact_match") is None) == (shape == "text")
    assert run.folder.report.is_file()
    student, tokenizer = AutoModelForCausalLM.from_pretrained(run.folder.student), AutoTokenizer.from_pretrained(run.folder.student)
    assert student.config.num_hidden_layers == 2
    assert tokenizer.chat_template == FAMILIES[family].template
    assert type(student).__name__.lower().startswith(family)


@pytest.mark.parametrize(
    ("family", "weight"), [("llama", "model.layers.{}.self_attn.q_proj.weight"), ("gpt2", "transformer.h.{}.attn.c_attn.weight")]
)
def test_adapters_learn_and_are_merged(family: str, weight: str, teacher: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = teacher(family)
    student = {"kind": "huggingface", "layers": [0, 3], "lora": {"r": 2, "alpha": 4}}
    run = stillroom.run(job(tmp_path, folder, "prompt", student=student), run_dir=tmp_path / "run")
    assert run.evidence.value("student", "log_loss") is not None
    assert run.folder.report.is_file()
    before, after = weights(folder), weights(run.folder.student)
    assert not any("lora" in name for name in after)
    for ours, theirs in enumerate((0, 3)):
        change = after[weight.format(ours)] - before[weight.format(theirs)]
        assert torch.linalg.matrix_rank(change, atol=1e-5) == 2
    kept = next(name for name in before if "embed_tokens" in name or "wte" in name)
    assert torch.equal(before[kept], after[kept])


@pytest.mark.parametrize("init", [{"layers": [0, 3]}, {"init": "pretrained"}])
def test_adapters_resume_from_checkpoints_that_ask_the_hub_nothing(
    init: dict[str, Any], teacher: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peft = pytest.importorskip("peft")
    asked: list[str] = []
    monkeypatch.setattr(peft.utils.save_and_load, "check_file_exists_on_hf_hub", lambda name, *_, **__: asked.append(name))
    folder, steps = teacher("qwen2"), list[int]()

    class Interrupting(Silence):
        def task(self, name: str) -> Any:
            def told(done: int, total: int) -> None:
                if name == "training the student, seed 0":
                    steps.append(done)
                    if steps.count(9) == 1 and done == 9:
                        raise KeyboardInterrupt

            return told

    named = {"model": str(folder)} if init.get("init") else {}
    sections = {
        "student": {"kind": "huggingface", "lora": {"r": 2}, **init, **named},
        "training": {"num_train_epochs": 2, "per_device_train_batch_size": 4, "max_length": 64, "arguments": {"save_steps": 1}},
        "evaluation": {**SHORT, "control": False},
    }
    made = job(tmp_path, folder, "messages", **sections)
    stillroom.run(made, run_dir=tmp_path / "undisturbed", until="train")
    with pytest.raises(KeyboardInterrupt):
        stillroom.run(made, run_dir=tmp_path / "run", until="train", listener=Interrupting())
    resumed = stillroom.run(made, run_dir=tmp_path / "run", until="train", listener=Interrupting())
    assert steps == [*range(1, 10), *range(9, steps[-1] + 1)], "one step is done again"
    before, after = weights(tmp_path / "undisturbed" / "student"), weights(resumed.folder.student)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert asked == []


@pytest.mark.parametrize("tokens", ["threshold", "online"])
def test_packed_rows_teach_what_padded_ones_do(tokens: str, teacher: Callable[[str], Path], tmp_path: Path) -> None:
    folder, runs = teacher("qwen2"), {}
    for packing in (False, True):
        made = tmp_path / str(packing)
        made.mkdir()
        # One batch holds all examples, packed or not: both see the same ones at every step.
        training = {"num_train_epochs": 4, "learning_rate": 1e-2, "per_device_train_batch_size": 64, "max_length": 64, "packing": packing}
        sections = {"training": training, "labelling": {"tokens": tokens}, "objective": {"hard_label_weight": 0.3}}
        runs[packing] = stillroom.run(job(made, folder, "messages", **sections), run_dir=made / "run")
    for arm in ("student", "control"):
        padded, packed = (losses(runs[packing], arm) for packing in (False, True))
        assert len(padded) == 4
        assert padded[-1] < padded[0]
        np.testing.assert_allclose(packed, padded, rtol=1e-4)
    if tokens == "online":
        assert not runs[True].folder.knowledge.exists()
    else:
        assert stored(runs[True]) == stored(runs[False]) != {}


def losses(run: stillroom.Run, arm: str) -> list[float]:
    """The mean training loss of every step."""
    curves = json.loads(run.folder.details.read_text())["curves"]
    return [point["value"] for point in curves[arm] if point["measure"] == "train_loss"]


def stored(run: stillroom.Run) -> dict[Any, Any]:
    """Every answer in the store by its key."""
    import pandas as pd

    shards = pd.concat([pd.read_parquet(path) for path in (run.folder.knowledge / "shards").glob("*.parquet")])
    return dict(zip(shards["key"], shards["answer"], strict=True))


def prompts_of(made: Job, teacher: Path, folder: Path, listener: Any) -> tuple[Any, Any]:
    from stillroom.models.causal import load_causal
    from stillroom.models.language import LanguagePredictor
    from stillroom.pipeline.folder import RunFolder
    from stillroom.pipeline.language.evaluate import _prompts
    from stillroom.pipeline.language.work import open_work

    predictor = LanguagePredictor(*load_causal(str(teacher)))
    return _prompts(open_work(made, RunFolder(folder / "run"), listener), predictor), predictor


def test_a_chats_prompts_begin_once_and_its_answers_end_with_the_turn(teacher: Callable[[str], Path], tmp_path: Path) -> None:
    folder = teacher("gemma2")
    prompts, predictor = prompts_of(job(tmp_path, folder, "messages"), folder, tmp_path, Silence())
    tokenizer = predictor.tokenizer
    assert len(prompts.texts) == 4
    for text, answer in zip(prompts.texts, prompts.answers, strict=True):
        ids = predictor.prompt_ids(text, is_rendered=prompts.is_rendered)
        assert (ids == tokenizer.bos_token_id).sum() == 1
        assert text.endswith("<start_of_turn>model\n")
        assert answer.rstrip(".") in NUMBERS
    assert prompts.end_ids == (tokenizer.convert_tokens_to_ids("<end_of_turn>"),)


def test_an_empty_answer_among_the_test_rows_leaves_the_others_measured(teacher: Callable[[str], Path], tmp_path: Path) -> None:
    folder = teacher("qwen3")
    made = job(tmp_path, folder, "prompt")
    silent, unasked = {"prompt": "What? ", "completion": ""}, {"prompt": "", "completion": "Two and two make four."}
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (silent, ROWS[0], unasked, ROWS[1])))
    source = made.data.source.model_copy(update={"test": str(tmp_path / "test.jsonl")})
    prompts, _ = prompts_of(made.model_copy(update={"data": made.data.model_copy(update={"source": source})}), folder, tmp_path, Silence())
    assert sorted(answer.strip() for answer in prompts.answers) == ["three.", "two."]


def test_prompts_without_room_are_counted(teacher: Callable[[str], Path], tmp_path: Path) -> None:
    folder, said = teacher("qwen2"), []

    class Heard(Silence):
        def say(self, text: str) -> None:
            said.append(text)

    asked, predictor = prompts_of(job(tmp_path, folder, "messages"), folder, tmp_path, Heard())
    assert not said
    lengths = [len(predictor.prompt_ids(text, is_rendered=True)) for text in asked.texts]
    settings = {**SHORT, "prompts": 50, "new_tokens": 96 - min(lengths)}
    few, _ = prompts_of(job(tmp_path, folder, "messages", evaluation=settings), folder, tmp_path, Heard())
    assert {len(predictor.prompt_ids(text, is_rendered=True)) <= min(lengths) for text in few.texts} == {True}
    (line,) = said
    assert line.startswith(f"{7 - len(few.texts)} test prompts leave no room for {96 - min(lengths)} new tokens")
