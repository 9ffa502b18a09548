"""Labelling with small random models and the real store."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.token_records import Sequences, TokenExample, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenKnowledge, TokenQuestion, put_answers
from stillroom.models import memory, token_batches
from stillroom.models.causal import save_causal
from stillroom.teachers import causal
from stillroom.teachers.causal import CausalTeacher, label_tokens

Make = Callable[..., tuple[Any, Any]]
V = 30


def texts(num: int = 12, seed: int = 0) -> Sequences:
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(num):
        length = int(rng.integers(3, 25))
        asked = rng.random(length) < 0.7
        asked[0], asked[-1] = True, False
        examples.append(TokenExample(rng.integers(0, V, length), asked))
    return Sequences(tuple(examples), np.ones(num, np.int64), np.arange(num))


class Answered:
    """A store in memory: which examples were asked, and their answers."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.puts: list[int] = []
        self.batches: list[list[str]] = []
        self.puts_left: int | None = None

    def missing(self, examples: Sequence[TokenExample]) -> list[int]:
        return [i for i, example in enumerate(examples) if example.fingerprint not in self.answers]

    def put(self, examples: Sequence[TokenExample], answers: Sequence[Any]) -> None:
        if self.puts_left is not None and len(self.puts) == self.puts_left:
            raise KeyboardInterrupt
        self.batches.append([example.fingerprint for example in examples])
        for example, rows in zip(examples, answers, strict=True):
            assert example.fingerprint not in self.answers, "asked twice"
            assert len(rows) == example.asked.sum()
            self.answers[example.fingerprint] = rows
        self.puts.append(len(examples))

    def label(self, teacher: CausalTeacher, sequences: Sequences, **changes: Any) -> int:
        settings: dict[str, Any] = {"scheme": TokenScheme(), "temperature": 1.0, "seed": 0, "vocabulary_size": V, "batch_tokens": 60}
        return label_tokens(teacher, sequences, missing=self.missing, put=self.put, **{**settings, **changes})


def probs(model: Any, example: TokenExample, temperature: float = 1.0) -> torch.Tensor:
    with torch.no_grad():
        logits = model(torch.from_numpy(example.token_ids)[None]).logits[0, torch.from_numpy(example.asked), :V]
    return torch.softmax(logits.double() / temperature, dim=-1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_every_asked_position_gets_its_own_distribution(kind: str, tiny_causal: Make) -> None:
    teacher, sequences, store = CausalTeacher(*tiny_causal(kind)), texts(), Answered()
    assert store.label(teacher, sequences, scheme=TokenScheme("top-k", V), temperature=2.0) == 12
    for example in sequences.examples:
        rows = store.answers[example.fingerprint].sparse()
        dense = np.zeros((len(rows.tail), V))
        dense[np.repeat(np.arange(len(dense)), np.diff(rows.offsets)), rows.ids] = rows.probs
        want = probs(teacher.model, example, 2.0)
        np.testing.assert_allclose(dense, want, atol=3e-5)  # counted in units of 2**-16, and off by up to one
        np.testing.assert_allclose(rows.entropy, -(want * want.log()).sum(dim=-1), atol=2e-3)  # float16


def test_sampled_distributions_are_right_on_average(tiny_causal: Make) -> None:
    teacher, sequences = CausalTeacher(*tiny_causal("llama")), texts(1)
    (example,) = sequences.examples
    total = np.zeros((int(example.asked.sum()), V))
    for seed in range(300):
        store = Answered()
        store.label(teacher, sequences, scheme=TokenScheme("threshold", 4), seed=seed)
        rows = store.answers[example.fingerprint].sparse()
        np.add.at(total, (np.repeat(np.arange(len(total)), np.diff(rows.offsets)), rows.ids), rows.probs)
    np.testing.assert_allclose(total / 300, probs(teacher.model, example), atol=0.06)


@pytest.mark.parametrize("bits", [8, 16])
def test_hidden_states_make_the_teachers_logits(bits: int, tiny_causal: Make) -> None:
    teacher, sequences, store = CausalTeacher(*tiny_causal("gemma2")), texts(), Answered()
    store.label(teacher, sequences, scheme=TokenScheme("hidden", bits))
    head = token_batches.cut_head(teacher.model, V)
    for example in sequences.examples:
        answers = store.answers[example.fingerprint]
        got = torch.softmax(head.logits(torch.from_numpy(answers.values())), dim=-1)
        torch.testing.assert_close(got.double(), probs(teacher.model, example), atol=0.02, rtol=0)
        assert answers.vocabulary == V


def test_batches_and_chunks_move_stored_probabilities_by_rounding_alone(tiny_causal: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, sequences, stores = CausalTeacher(*tiny_causal("llama")), texts(30), []
    for batch_tokens, elements in ((1, V), (90, 5 * V), (10_000, 1 << 20)):
        monkeypatch.setattr(token_batches, "_CPU_ELEMENTS", elements)
        stores.append(Answered())
        stores[-1].label(teacher, sequences, batch_tokens=batch_tokens)
        lengths = max(len(e) for e in sequences.examples)
        assert max(stores[-1].puts) <= max(batch_tokens // 3, 1), (stores[-1].puts, lengths)
    different = 0
    for example in sequences.examples:
        alone, *others = (store.answers[example.fingerprint] for store in stores)
        for other in others:
            different += not (np.array_equal(alone.head_counts, other.head_counts) and np.array_equal(alone.tail_ids, other.tail_ids))
    assert different <= 1, "a draw changes where its point lies within rounding of a boundary, which is rare"


def test_equal_examples_are_asked_once_and_stored_ones_never(tiny_causal: Make) -> None:
    teacher, store, told = CausalTeacher(*tiny_causal("llama")), Answered(), []
    sequences = texts()
    twice = Sequences(sequences.examples * 2, np.ones(24, np.int64), np.arange(24))
    assert store.label(teacher, twice, progress=lambda done, total: told.append((done, total))) == 12
    assert sum(store.puts) == 12
    assert told[0] == (0, 24)
    assert told[-1] == (24, 24)
    assert told == sorted(told)
    told.clear()
    more = Sequences((*texts(3, seed=9).examples, *twice.examples), np.ones(27, np.int64), np.arange(27))
    assert store.label(teacher, more, progress=lambda done, total: told.append((done, total))) == 3
    assert (told[0], told[-1]) == ((24, 27), (27, 27))
    teacher.model.forward = None  # whoever has every answer asks nobody
    assert store.label(teacher, more) == 0


@pytest.mark.parametrize("puts", [1, 2, 4])
def test_a_resumed_run_asks_the_batches_that_an_undisturbed_one_would_have_asked(puts: int, tiny_causal: Make) -> None:
    """Other batches would round otherwise, and once in a million draws store another id."""
    teacher, sequences, undisturbed, stopped = CausalTeacher(*tiny_causal("llama")), texts(30), Answered(), Answered()
    undisturbed.label(teacher, sequences, batch_tokens=100)
    assert len(undisturbed.batches) > 5
    stopped.puts_left = puts
    with pytest.raises(KeyboardInterrupt):
        stopped.label(teacher, sequences, batch_tokens=100)
    stopped.puts_left = None
    stopped.label(teacher, sequences, batch_tokens=100)
    assert stopped.batches == undisturbed.batches


def test_logits_of_all_positions_never_exist_at_once(tiny_causal: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    sample = causal.sample_distributions
    monkeypatch.setattr(causal, "sample_distributions", lambda logits, *a, **k: (sizes.append(len(logits)), sample(logits, *a, **k))[1])
    monkeypatch.setattr(token_batches, "_CPU_ELEMENTS", 4 * V)
    sequences = texts()
    Answered().label(CausalTeacher(*tiny_causal("llama")), sequences, batch_tokens=10_000)
    assert max(sizes) == 4
    assert sum(sizes) == sum(int(example.asked.sum()) for example in sequences.examples)


def test_the_fingerprint_covers_weights_and_settings_and_nothing_else(tiny_causal: Make, tmp_path: Path) -> None:
    from stillroom.models.causal import load_causal

    model, tokenizer = tiny_causal("gemma2")
    teacher = CausalTeacher(model, tokenizer)
    before = teacher.fingerprint
    save_causal(model, tokenizer, tmp_path)
    loaded = CausalTeacher(*load_causal(str(tmp_path)))
    assert (loaded.fingerprint, loaded.tokenizer_fingerprint) == (before, teacher.tokenizer_fingerprint)
    Answered().label(teacher, texts())
    assert teacher.fingerprint == before
    model.config.final_logit_softcapping = 5.0
    assert teacher.fingerprint != before, "the soft-cap is no weight and changes every answer"
    model.config.final_logit_softcapping = 3.0
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    assert teacher.fingerprint != before
    tokenizer.add_tokens(["w99"])
    assert teacher.tokenizer_fingerprint != loaded.tokenizer_fingerprint


def test_dropout_is_off_and_a_teacher_that_changes_is_refused(tiny_causal: Make) -> None:
    model, tokenizer = tiny_causal("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    teacher, quiet, training = CausalTeacher(model, tokenizer), Answered(), Answered()
    quiet.label(teacher, texts())
    model.train()
    training.label(teacher, texts())
    assert model.training
    assert all(np.array_equal(quiet.answers[k].head_counts, training.answers[k].head_counts) for k in quiet.answers)

    def drift(module: Any, *_: Any) -> None:
        with torch.inference_mode():
            module.weight.data.add_(1e-4)

    handle = model.transformer.ln_f.register_forward_hook(drift)
    with pytest.raises(BadInput, match="changed its own state while it was answering"):
        (store := Answered()).label(teacher, texts(seed=1))
    assert store.answers == {}
    handle.remove()


def test_nan_logits_are_refused_with_the_example_and_what_was_answered_stays(tiny_causal: Make) -> None:
    model, tokenizer = tiny_causal("llama", tie_word_embeddings=False)
    with torch.no_grad():
        model.model.embed_tokens.weight[V + 1] = math.nan
    rotten = TokenExample(np.array([1, V + 1]), np.array([True, True]))
    sequences = texts()
    store = Answered()
    with pytest.raises(StageFailed, match=r"teacher: example 24, position \d: its logits are NaN or infinite; nothing of this batch"):
        store.label(CausalTeacher(model, tokenizer), Sequences((*sequences.examples * 2, rotten), np.ones(25, np.int64), np.arange(25)))
    assert 0 < len(store.answers) <= 12


def test_what_the_teacher_cannot_read_is_refused_before_anything_is_asked(tiny_causal: Make) -> None:
    teacher, store = CausalTeacher(*tiny_causal("llama")), Answered()

    def one(ids: list[int]) -> Sequences:
        return Sequences((*texts().examples, TokenExample(np.array(ids), np.arange(len(ids)) == 0)), np.ones(13, np.int64), np.arange(13))

    with pytest.raises(BadInput, match=r"teacher: reads 64 tokens at once, example 12 has 65; set training\.max_length to 64"):
        store.label(teacher, one([1] * 65))
    with pytest.raises(BadInput, match="example 12 holds -3"):
        store.label(teacher, one([-3, 1]))
    with pytest.raises(BadInput, match="40 rows, the vocabulary 41"):
        store.label(teacher, texts(), vocabulary_size=41)
    with pytest.raises(BadInput, match=r"objective\.temperature: = 0"):
        store.label(teacher, texts(), temperature=0)
    assert store.puts == []


def test_too_little_memory_reduces_the_batch_or_is_refused_with_the_figures(tiny_causal: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher, said = CausalTeacher(*tiny_causal("llama")), []
    monkeypatch.setattr(token_batches, "_CPU_ELEMENTS", 1)
    each = memory.bytes_per_token(teacher.model)
    monkeypatch.setattr(memory, "available_memory", lambda device: 4 * 8 + 100 * each)
    store = Answered()
    store.label(teacher, texts(), batch_tokens=320, say=said.append)
    assert len(said) == 1
    assert "a batch of 320 tokens needs" in said[0]
    assert "batches are reduced to 80 tokens" in said[0]
    reduced = Answered()
    reduced.label(teacher, texts(), batch_tokens=80, say=said.append)
    assert reduced.puts == store.puts
    assert len(said) == 1
    monkeypatch.setattr(memory, "available_memory", lambda device: 5 * each)
    with pytest.raises(StageFailed, match=r"teacher: one example of \d+ tokens needs .* MiB beside the model's own .* MiB; .* available"):
        Answered().label(teacher, texts())


def test_weights_that_do_not_fit_are_refused_before_they_are_loaded(
    tiny_causal: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny_causal("llama")
    save_causal(model, tokenizer, tmp_path)
    needed = 4 * model.num_parameters()
    monkeypatch.setattr(memory, "available_memory", lambda device: needed)
    memory.refuse_too_large(str(tmp_path), place="teacher.model")
    monkeypatch.setattr(memory, "available_memory", lambda device: needed - 1)
    with pytest.raises(StageFailed, match=r"teacher\.model: .* needs .* MiB for its weights in float32"):
        memory.refuse_too_large(str(tmp_path), place="teacher.model")


# One process forks a labeller, kills it at a random moment, and notes which examples it had reported as stored.
KILLED = """
import json, os, random, signal, sys, time
import numpy as np, torch, transformers
from stillroom.core.token_records import Sequences, TokenExample, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenQuestion, put_answers
from stillroom.models.causal import load_causal
from stillroom.teachers.causal import CausalTeacher, label_tokens

torch.set_num_threads(1)
teacher = CausalTeacher(*load_causal(sys.argv[1]))
rng = np.random.default_rng(0)
examples = []
for _ in range(400):
    asked = np.ones(int(rng.integers(20, 60)), bool)
    asked[-1] = False
    examples.append(TokenExample(rng.integers(0, 30, len(asked)), asked))
sequences = Sequences(tuple(examples), np.ones(400, np.int64), np.arange(400))
question = TokenQuestion(teacher.fingerprint, teacher.tokenizer_fingerprint, TokenScheme())

def work(folder, report=None):
    with KnowledgeStore(folder) as store:
        def missing(examples):
            return store.missing([question.key(example.fingerprint) for example in examples])
        def put(examples, answers):
            put_answers(store, question, examples, answers)
            if report is not None:
                os.write(report, "".join(example.fingerprint + "\\n" for example in examples).encode())
        return label_tokens(teacher, sequences, scheme=TokenScheme(), temperature=1.0, seed=0, vocabulary_size=30,
                            missing=missing, put=put, batch_tokens=240)

def blocks(folder):
    with KnowledgeStore(folder, read_only=True) as store:
        found = store.get_blocks([question.key(example.fingerprint) for example in examples])
        return found, len(store)

start = time.perf_counter()
assert work(sys.argv[2]) == 400
whole = time.perf_counter() - start
chance, reported, kills = random.Random(1), [], 0
for attempt in range(20):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        work(sys.argv[3], writing)
        os._exit(0)
    os.close(writing)
    time.sleep(chance.uniform(0, whole / 5))
    os.kill(child, signal.SIGKILL)
    heard = b""
    while block := os.read(reading, 1 << 16):
        heard += block
    kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.close(reading)
    reported += heard.decode().rpartition("\\n")[0].split()
rest = work(sys.argv[3])
undisturbed, killed = blocks(sys.argv[2]), blocks(sys.argv[3])
print(json.dumps({"kills": kills, "reported": len(reported), "once": len(set(reported)), "rest": rest,
                  "same": undisturbed[0] == killed[0], "stored": [undisturbed[1], killed[1]]}))
"""


def test_killed_while_labelling_no_answer_is_lost_or_repeated_and_the_bytes_are_the_same(tiny_causal: Make, tmp_path: Path) -> None:
    save_causal(*tiny_causal("llama"), tmp_path / "teacher")
    command = [sys.executable, "-c", KILLED, *(str(tmp_path / name) for name in ("teacher", "whole", "killed"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 3
    assert found["reported"] == found["once"], "an answer that was stored was asked again"
    assert 0 < found["reported"] <= 400 - found["rest"]
    assert found["same"]
    assert found["stored"] == [400, 400]


def test_what_is_stored_comes_back_as_token_knowledge(tiny_causal: Make, tmp_path: Path) -> None:
    teacher, sequences = CausalTeacher(*tiny_causal("llama")), texts()
    question = TokenQuestion(teacher.fingerprint, teacher.tokenizer_fingerprint, TokenScheme("top-k", V))
    with KnowledgeStore(tmp_path) as store:
        label_tokens(
            teacher, sequences, scheme=question.scheme, temperature=1.0, seed=0, vocabulary_size=V,
            missing=lambda examples: store.missing([question.key(e.fingerprint) for e in examples]),
            put=lambda examples, answers: put_answers(store, question, examples, answers),
        )  # fmt: skip
        knowledge = TokenKnowledge(store, question, sequences.examples)
        for number, example in enumerate(sequences.examples):
            item = knowledge[number]
            dense = np.zeros((len(item["teacher_ids"]), V))
            np.add.at(dense, (np.arange(len(dense))[:, None], item["teacher_ids"]), item["teacher_probs"])
            np.testing.assert_allclose(dense, probs(teacher.model, example), atol=3e-5)
