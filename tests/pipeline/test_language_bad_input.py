"""What a user can get wrong in a language model's job, by the user's way: a job file; each answer is one clear line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import stillroom
from stillroom.core.errors import StageFailed, StillroomError
from stillroom.core.token_records import TokenExample, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenKnowledge, TokenQuestion
from stillroom.models import memory
from stillroom.models.causal import load_causal, save_causal
from stillroom.pipeline.progress import Silence
from stillroom.teachers.causal import CausalTeacher
from stillroom.training import memory as training_memory

Make = Callable[..., tuple[Any, Any]]
JOB = """
task: language-model
data: {source: {kind: file, train: rows.jsonl}, text: text, split: {test: 0.2, validation: 0}}
teacher: {kind: huggingface, model: ./teacher, licence: MIT}
student: {kind: huggingface, layers: 1}
training: {num_train_epochs: 1, learning_rate: 0.001, per_device_train_batch_size: 4, max_length: 24}
evaluation: {seeds: 1, control: false, new_tokens: 8}
"""
TEMPLATE = "{% for m in messages %}<s> {{ m.content }} {% endfor %}"
TALK = "data={source: {kind: file, train: rows.jsonl}, messages: talk, split: {test: 0.2, validation: 0}}"
ASKED = "data={source: {kind: file, train: rows.jsonl}, prompt: prompt, completion: answer, split: {test: 0.2, validation: 0}}"


class Heard(Silence):
    """What the run says, and which of its stages were found done."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.resumed: dict[str, bool] = {}

    def say(self, message: str) -> None:
        self.said.append(message)

    def stage(self, name: str, resumed: bool) -> None:
        self.resumed[name] = resumed


@pytest.fixture
def folder(tmp_path: Path, tiny_causal: Make) -> Path:
    """A job file with a tiny teacher and ten rows, each a text, a prompt with its answer, and a conversation."""
    model, tokenizer = tiny_causal("llama")
    tokenizer.chat_template = TEMPLATE
    save_causal(model, tokenizer, tmp_path / "teacher")
    rows = []
    for i in range(10):
        prompt, answer = f"w{i} w{i + 1}", f"w{i + 2} w{i + 3} w{i + 4}"
        talk = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
        rows.append({"text": f"{prompt} {answer}", "prompt": prompt, "answer": answer, "talk": talk})
    write_rows(tmp_path, rows)
    (tmp_path / "job.yaml").write_text(JOB)
    return tmp_path


def write_rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, *overrides: str, until: str = "train", name: str = "run") -> Heard:
    heard = Heard()
    stillroom.run(folder / "job.yaml", run_dir=folder / name, overrides=overrides, until=until, listener=heard)
    return heard


def refusal(folder: Path, *overrides: str, until: str = "train", name: str = "refused") -> str:
    with pytest.raises(StillroomError) as caught:
        run(folder, *overrides, until=until, name=name)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Vocabularies


def test_padded_vocabularies_of_one_tokenizer_are_cut(folder: Path, tiny_causal: Make) -> None:
    save_causal(*tiny_causal("llama", seed=1, vocab_size=64, num_hidden_layers=1), folder / "padded")
    student = "student={kind: huggingface, init: pretrained, model: ./padded}"
    for tokens in ("threshold", "online"):
        run(folder, student, f"labelling.tokens={tokens}", "training.weight_decay=0", name=tokens)
        trained, _ = load_causal(str(folder / tokens / "student"))
        before, _ = load_causal(str(folder / "padded"))
        assert trained.config.vocab_size == 64
        moved = (trained.lm_head.weight - before.lm_head.weight).abs().amax(dim=1) > 0
        assert moved[:30].all(), tokens
        assert not moved[30:].any(), "rows that stand for no token are nobody's to teach"


def test_a_student_of_another_tokenizer_is_refused_before_the_teacher_is_asked(folder: Path, tiny_causal: Make) -> None:
    student, tokenizer = tiny_causal("llama")
    swapped = {**tokenizer.get_vocab(), "w0": 7, "w3": 4}
    backend = Tokenizer(models.WordLevel(swapped, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    save_causal(student, PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>"), folder / "other")
    message = refusal(folder, "student={kind: huggingface, init: pretrained, model: ./other}")
    assert message.startswith(
        "student.model: has another tokenizer than the teacher: 2 ids differ: id 4 is 'w0' for the teacher and 'w3' for"
    )
    assert message.endswith(
        "Use a student with the teacher's tokenizer (cut it out of the teacher), or learn from the teacher's texts instead."
    )
    assert not (folder / "refused" / "knowledge").exists()


# Stores


def other_template(folder: Path) -> str:
    model, tokenizer = load_causal(str(folder / "teacher"))
    tokenizer.chat_template = TEMPLATE.replace("<s> ", "</s> ")
    save_causal(model, tokenizer, folder / "second")
    return r"the chat template is '\{% for m in messages %\}<s> .*' \(\S+\) there, '\{% for m in messages %\}</s> .*' \(\S+\) here"


def other_tokenizer(folder: Path) -> str:
    model, tokenizer = load_causal(str(folder / "teacher"))
    tokenizer.add_tokens(["more"])
    save_causal(model, tokenizer, folder / "second")
    return r"the tokenizer is 'that of teacher, 30 tokens' \(\S+\) there, 'that of second, 31 tokens' \(\S+\) here"


def other_teacher(folder: Path) -> str:
    model, tokenizer = load_causal(str(folder / "teacher"))
    with torch.no_grad():
        model.lm_head.weight[5, 5] += 0.1
    save_causal(model, tokenizer, folder / "second")
    there, here = (rf"'{name}, LlamaForCausalLM of [\d,]+ parameters' \(\S+\)" for name in ("teacher", "second"))
    return f"the teacher is {there} there, {here} here"


@pytest.mark.parametrize("change", [other_teacher, other_tokenizer, other_template, None])
def test_a_store_of_another_question_is_said_to_be_one_in_words(folder: Path, change: Callable[[Path], str] | None) -> None:
    """Its answers are not taken, and the user hears why all is asked again."""
    assert run(folder, TALK, until="label").said == []
    overrides, words = [TALK, f"labelling.store={folder / 'run' / 'knowledge'}"], r"the temperature is 1\.0 there, 3\.0 here"
    if change is None:
        overrides.append("objective.temperature=3.0")
    else:
        words = change(folder)
        overrides.append("teacher.model=./second")
    (said,) = run(folder, *overrides, until="label", name="second-run").said
    assert said.startswith(f"{folder / 'run' / 'knowledge'} answers another question: ")
    assert said.endswith("The teacher is asked for all 8 examples.")
    found = said.partition("question: ")[2]
    assert re.match(words, found), found
    with KnowledgeStore(folder / "run" / "knowledge", read_only=True) as store:
        assert len(store) == 16


def test_from_python_such_a_store_is_refused_with_the_same_words(folder: Path) -> None:
    run(folder, until="label")
    other_teacher(folder)
    other = CausalTeacher(*load_causal(str(folder / "second")))
    question = TokenQuestion(other.fingerprint, other.tokenizer_fingerprint, TokenScheme("threshold", 64))
    example = TokenExample(np.arange(4, 9), np.arange(5) < 4)
    words = r"1 of 1 examples have no stored answer, example 0 the first\. The nearest question that it answers is another: the teacher is "
    words += r"'teacher, LlamaForCausalLM of [\d,]+ parameters' \(\S+\) there, 'sr1-\S+' here\. Change that back, or run 'stillroom label'"
    with KnowledgeStore(folder / "run" / "knowledge", read_only=True) as store, pytest.raises(StageFailed, match=words):
        TokenKnowledge(store, question, [example])


def test_fewer_answers_than_the_data_has_are_asked_for(folder: Path) -> None:
    """A store that was deleted, or another one, after the labelling was done: what is not there is asked again."""
    run(folder, until="label")
    with KnowledgeStore(folder / "run" / "knowledge", read_only=True) as store:
        whole = {record.key: record.value for record in store}
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    write_rows(folder, rows[:5])
    run(folder, until="label", name="fewer")
    write_rows(folder, rows)
    heard = run(folder, f"labelling.store={folder / 'fewer' / 'knowledge'}")
    assert heard.resumed["label"] is False
    with KnowledgeStore(folder / "fewer" / "knowledge", read_only=True) as store:
        found = {record.key: record.value for record in store}
    assert whole.items() <= found.items()
    assert run(folder, f"labelling.store={folder / 'fewer' / 'knowledge'}").resumed == {"label": True, "train": True}


# Examples


def test_batches_without_a_trained_token_are_passed_over_and_a_corpus_without_one_is_refused(folder: Path) -> None:
    rows = [{"prompt": "w1 " * (40 if i < 6 else 22), "answer": "w2"} for i in range(40)]
    write_rows(folder, rows)
    heard = run(folder, ASKED)
    assert any("prompt alone fills 24 tokens (training.max_length): " in said for said in heard.said)
    curve = json.loads((folder / "run" / "student" / "training.json").read_text())["curve"]
    assert curve
    assert all(math.isfinite(point["value"]) for point in curve)
    write_rows(folder, [{"prompt": "w1 " * 40, "answer": "w2"}] * 10)
    message = refusal(folder, ASKED)
    assert message == (
        "data (test documents): no example is left to learn from. Examples whose prompt alone fills 24 tokens (training.max_length): 2, "
        "left out. Give other documents, or a larger training.max_length."
    )


def test_an_example_longer_than_the_teachers_context_is_refused_with_the_length_that_fits(folder: Path) -> None:
    write_rows(folder, [{"prompt": "w1 " * 80, "answer": "w2"}] * 10)
    message = refusal(folder, ASKED, "training.max_length=100")
    assert message == "training.max_length: = 100: the teacher reads 64 tokens at once, and an example has 82; set it to 64 or less."


# Models


def test_a_teacher_with_nan_logits_is_refused_with_the_document_and_the_position(folder: Path) -> None:
    model, tokenizer = load_causal(str(folder / "teacher"))
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer.get_vocab()["w5"]] = math.nan
    save_causal(model, tokenizer, folder / "teacher")
    message = refusal(folder)
    assert message.startswith("teacher: example ")
    assert "its logits are NaN or infinite; nothing of this batch is stored. The example begins with 'w" in message
    assert "w5" in message.partition("begins with ")[2].partition(";")[0], "the document with the token at fault"
    assert "; the text up to there ends in 'w" in message
    online = refusal(folder, "labelling.tokens=online", name="online")
    found = re.match(
        r"teacher: row \d of a batch, which begins with the token ids \[(.*)\], position \d: its hidden states are NaN or", online
    )
    assert found
    assert "9" in found[1].split(", "), online


def test_a_student_larger_than_its_teacher_is_told_once_and_trained(folder: Path) -> None:
    larger = "student={kind: huggingface, init: fresh, config: {num_hidden_layers: 6}}"
    said = run(folder, larger, "evaluation.control=true").said
    assert [note for note in said if "larger than its teacher" in note] == said
    assert len(said) == 1


def test_too_little_memory_is_refused_with_both_figures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_memory", lambda device: 100_000)
    assert "teacher.model: " in (message := refusal(folder))
    assert "needs 0.13 MiB for its weights in float32; 0.10 MiB are available. Free memory, or take a smaller model." in message
    monkeypatch.undo()
    monkeypatch.setattr(training_memory, "available_memory", lambda device: 100_000)
    message = refusal(folder)
    assert message.startswith("training.per_device_train_batch_size: = 4 needs ")
    assert "; 0.10 MiB are available. " in message
    monkeypatch.undo()
    run(folder, name="refused")
