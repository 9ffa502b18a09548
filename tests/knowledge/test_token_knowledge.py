"""Token blocks in the store: found by content, durable, verified; and refused in words where they are not what is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import HiddenAnswers, TokenAnswers, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_codec import encode
from stillroom.knowledge.token_knowledge import TokenExample, TokenKnowledge, TokenQuestion, put_answers
from stillroom.knowledge.verify import verify

QUESTION = TokenQuestion(fingerprint("teacher"), fingerprint("tokenizer"), TokenScheme("sampled", 4), fingerprint("template"), 2.0, 3)


def example(number: int, length: int = 9) -> TokenExample:
    source = np.random.default_rng(number)
    return TokenExample(source.integers(0, 50, length), source.random(length) < 0.7)


def answers_to(asked: TokenExample) -> TokenAnswers:
    """Answers that follow from the tokens, so that a mix-up shows: after token t, t and t + 1 with 3/4 and 1/4."""
    tokens = asked.token_ids[asked.asked]
    offsets, none = np.arange(len(tokens) + 1) * 2, np.zeros(len(tokens) + 1, np.int64)
    ids = np.stack([tokens, tokens + 1], axis=1).ravel()
    counts = np.tile([3, 1], len(tokens)).astype(np.int64)
    return TokenAnswers(51, 4, offsets, ids, counts, none, np.zeros(0, np.int64), (tokens / 8).astype(np.float16))


def fill(folder: Path, numbers: range, question: TokenQuestion = QUESTION) -> list[TokenExample]:
    examples = [example(number) for number in numbers]
    with KnowledgeStore(folder) as store:
        put_answers(store, question, examples, [answers_to(one) for one in examples])
    return examples


def assert_belongs(item: dict[str, np.ndarray]) -> None:
    tokens = item["input_ids"][item["asked"]]
    assert item["teacher_ids"].tolist() == [[t, t + 1] for t in tokens]
    assert item["teacher_probs"].tolist() == [[0.75, 0.25]] * len(tokens)
    assert item["teacher_tail"].tolist() == [0] * len(tokens)
    assert item["teacher_entropy"].tolist() == (tokens / 8).tolist()


@pytest.mark.parametrize("sealed", [False, True])
def test_every_example_gets_its_own_answers_in_any_order(tmp_path: Path, sealed: bool) -> None:
    examples = [example(number, 5 + number % 7) for number in range(60)]
    examples.append(TokenExample(np.arange(4), np.zeros(4, np.bool_)))  # nothing asked: a legal, empty answer
    with KnowledgeStore(tmp_path) as store:
        for start in range(0, len(examples), 8):
            put_answers(store, QUESTION, examples[start : start + 8], [answers_to(one) for one in examples[start : start + 8]])
        if sealed:
            store.seal()
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(len(examples))
            knowledge = TokenKnowledge(store, QUESTION, [examples[i] for i in order])
            assert len(knowledge) == len(examples)
            for item in knowledge:
                if item["asked"].any():
                    assert_belongs(item)
            together = knowledge.answers(list(range(len(examples))))
            assert [len(rows) for rows in together] == [examples[i].asked.sum() for i in order]
        assert verify(store).problems == ()


def test_blocks_lie_in_small_row_groups_beside_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stillroom.knowledge.shards._BLOCK_GROUP_BYTES", 1 << 12)
    with KnowledgeStore(tmp_path) as store:
        examples = [example(number) for number in range(300)]
        put_answers(store, QUESTION, examples, [answers_to(one) for one in examples])
        numbers = {"example": "a", "question": "value"}
        store.put([fingerprint("answer", numbers)], np.array([1.5]), [numbers])
        store.seal()
        shards = [pq.ParquetFile(path) for path in (tmp_path / "shards").iterdir()]
        assert sorted(shard.metadata.num_row_groups > 5 for shard in shards) == [False, True]
        for number in (299, 0, 150):
            assert_belongs(TokenKnowledge(store, QUESTION, examples)[number])
        assert store.get([fingerprint("answer", numbers)]).tolist() == [1.5]
        assert len(store) == len(list(store)) == 301
        assert {facts["question"] for facts in store.questions()} == {"value", "next-token distribution"}


def test_hidden_states_are_found_as_well(tmp_path: Path) -> None:
    question = TokenQuestion(QUESTION.teacher, QUESTION.tokenizer, TokenScheme("hidden", 16))
    one = example(1)
    num = int(one.asked.sum())
    states = np.arange(num * 3).reshape(num, 3).astype(np.float32)
    bits = (states.view(np.uint32) >> 16).astype(np.uint16)
    with KnowledgeStore(tmp_path) as store:
        put_answers(store, question, [one], [HiddenAnswers(51, bits, np.ones(num, np.float32), np.zeros(num, np.float16))])
        assert TokenKnowledge(store, question, [one])[0]["teacher_states"].tolist() == states.tolist()
        assert verify(store).problems == ()


CHANGES: list[tuple[str, Any, str]] = [
    ("teacher", fingerprint("other"), "the teacher is"),
    ("tokenizer", fingerprint("other"), "the tokenizer is"),
    ("template", "", "the chat template is"),
    ("scheme", TokenScheme("top-k", 4), "the scheme is 'sampled' there, 'top-k' here"),
    ("scheme", TokenScheme("sampled", 5), "the scheme's number is 4 there, 5 here"),
    ("temperature", 1.0, "the temperature is 2.0 there, 1.0 here"),
    ("seed", 4, "the seed is 3 there, 4 here"),
]


@pytest.mark.parametrize(("name", "value", "words"), CHANGES)
@pytest.mark.parametrize("sealed", [False, True])
def test_a_store_that_answers_another_question_says_which(tmp_path: Path, name: str, value: Any, words: str, sealed: bool) -> None:
    other = TokenQuestion(**{**vars(QUESTION), name: value})
    assert other.key("sr1-e") != QUESTION.key("sr1-e")
    examples = [example(number) for number in range(3)]
    far = TokenQuestion(**{**vars(QUESTION), "seed": 99, "temperature": 9.0, "template": "x", "teacher": fingerprint("far")})
    with KnowledgeStore(tmp_path) as store:
        for question in (QUESTION, far):
            put_answers(store, question, examples, [answers_to(one) for one in examples])
        if sealed:
            store.seal()
        with pytest.raises(StageFailed) as error:
            TokenKnowledge(store, other, examples)
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: 3 of 3 examples have no stored answer, example 0 the first. The nearest question")
    assert words in message
    assert message.count(" there, ") == 1


def test_the_list_above_names_every_fact() -> None:
    assert {name for name, _, _ in CHANGES} == set(vars(QUESTION))
    assert set(QUESTION.facts("e")) == {*vars(QUESTION), "number", "question", "example"}


@pytest.mark.parametrize(
    "change",
    [
        lambda one: TokenExample(one.token_ids[:-1], one.asked[:-1]),
        lambda one: TokenExample(one.token_ids + 1, one.asked),
        lambda one: TokenExample(one.token_ids, ~one.asked),
        lambda one: TokenExample(np.append(one.token_ids, 0), np.append(one.asked, False)),
    ],
    ids=["shorter", "other tokens", "other positions", "longer"],
)
def test_another_example_is_refused_in_words(tmp_path: Path, change: Any) -> None:
    examples = fill(tmp_path, range(3))
    with (
        KnowledgeStore(tmp_path) as store,
        pytest.raises(StageFailed, match=r"1 of 3 examples have no stored answer, example 2 the first.*"),
    ):
        TokenKnowledge(store, QUESTION, [*examples[:2], change(examples[2])])
    with KnowledgeStore(tmp_path) as store, pytest.raises(StageFailed, match="other data, packing, length or masks"):
        TokenKnowledge(store, QUESTION, [change(examples[2])])


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with (
        KnowledgeStore(tmp_path) as store,
        pytest.raises(StageFailed, match=r"holds no next-token distribution. Run 'stillroom label' first"),
    ):
        TokenKnowledge(store, QUESTION, [example(0)])


def test_labels_are_shifted_once() -> None:
    one = TokenExample.from_labels([5, 6, 7, 8], [-100, -100, 7, 8])
    assert one.asked.tolist() == [False, True, True, False]  # after 6 comes 7, after 7 comes 8
    assert TokenExample.from_labels([5], [5]).asked.tolist() == [False]
    with pytest.raises(ValueError, match="both have one entry a position"):
        TokenExample(np.arange(3), np.zeros(2, np.bool_))


@pytest.mark.parametrize("altered", ["a bit", "another example's block", "a shorter answer"])
def test_a_false_block_is_found_by_reading_and_by_verify(tmp_path: Path, altered: str) -> None:
    one, other = example(1), example(2)
    rows = answers_to(one)
    block = QUESTION.encode(one.fingerprint, rows)
    if altered == "a bit":
        block, words = block[:-9] + bytes([block[-9] ^ 4]) + block[-8:], "the body is altered"
    elif altered == "a shorter answer":
        block, words = QUESTION.encode(one.fingerprint, rows.rows(0, 1)), "has 1 answers to"
    else:
        block, words = QUESTION.encode(other.fingerprint, answers_to(other)), "is another's"
    with KnowledgeStore(tmp_path) as store:  # what a faulty writer leaves: every checksum of the shard is right
        name = one.fingerprint
        store.put_blocks([QUESTION.key(name)], [block], [QUESTION.facts(name)])
        store.seal()
        with pytest.raises(StageFailed, match=words):
            TokenKnowledge(store, QUESTION, [one])[0]
        if altered != "a shorter answer":  # which positions were asked is in no shard, only in the key
            (problem,) = verify(store).problems
            assert QUESTION.key(name) in problem
            assert ("altered" if altered == "a bit" else "differ in: example") in problem


def test_an_altered_shard_is_found(tmp_path: Path) -> None:
    examples = fill(tmp_path, range(40))
    (path,) = (tmp_path / "shards").iterdir()
    content = bytearray(path.read_bytes())
    content[content.index(b"SRTK", len(content) // 2) + 130] ^= 8
    path.write_bytes(bytes(content))
    with KnowledgeStore(tmp_path) as store:
        assert any("the shard is damaged" in problem for problem in verify(store).problems)
        with pytest.raises(StageFailed, match="the shard is damaged"):
            TokenKnowledge(store, QUESTION, examples).answers(list(range(40)))


KILLED = """
import json, os, random, signal, sys, time
import numpy as np
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import TokenAnswers, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_knowledge import TokenExample, TokenQuestion, put_answers

question = TokenQuestion(fingerprint("teacher"), fingerprint("tokenizer"), TokenScheme("sampled", 4), fingerprint("template"), 2.0, 3)

def work(folder, seed, report):
    chance = random.Random(seed)
    store = KnowledgeStore(folder)
    while True:
        numbers = [chance.randrange(4000) for _ in range(5)]
        examples = [TokenExample(np.arange(n, n + 3), np.ones(3, bool)) for n in numbers]
        row = np.arange(4)
        def rows(n):
            return TokenAnswers(5000, 4, row, np.arange(n, n + 3), np.full(3, 4), row * 0, row[:0], np.zeros(3, np.float16))
        put_answers(store, question, examples, [rows(n) for n in numbers])
        os.write(report, "".join(f"{n}\\n" for n in numbers).encode())
        if chance.random() < 0.2:
            store.seal()

chance, reported = random.Random(1), []
for attempt in range(20):
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        work(sys.argv[1], attempt, writing)
        os._exit(1)
    os.close(writing)
    heard = os.read(reading, 1)
    time.sleep(chance.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    while block := os.read(reading, 1 << 16):
        heard += block
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    os.close(reading)
    reported += heard.decode().rpartition("\\n")[0].split("\\n")
print(json.dumps(sorted({int(n) for n in reported})))
"""


def test_a_writer_killed_at_any_moment_loses_and_repeats_no_block(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert len(reported) > 50
    examples = [TokenExample(np.arange(n, n + 3), np.ones(3, np.bool_)) for n in reported]
    for read_only in (True, False):
        with KnowledgeStore(tmp_path, read_only=read_only) as store:
            for n, rows in zip(reported, TokenKnowledge(store, QUESTION, examples).answers(range(len(reported))), strict=True):
                assert isinstance(rows, TokenAnswers)
                assert rows.head_ids.tolist() == [n, n + 1, n + 2]
            report = verify(store)
            assert report.problems == ()
            records = [record.key for record in store]
            assert len(records) == len(set(records)) == len(store)
    with KnowledgeStore(tmp_path) as store:
        assert verify(store).repeated == 0
        assert store.unsealed() == []


def test_the_first_block_of_a_key_stays(tmp_path: Path) -> None:
    one = example(1)
    fill(tmp_path, range(1, 2))
    with KnowledgeStore(tmp_path) as store:
        name = one.fingerprint
        store.put_blocks([QUESTION.key(name)], [b"later"], [QUESTION.facts(name)])
        assert_belongs(TokenKnowledge(store, QUESTION, [one])[0])
        assert store.get_blocks([QUESTION.key(name)] * 2) == [encode(QUESTION.block_facts(name), answers_to(one))] * 2
        with pytest.raises(KeyError):
            store.get_blocks(["sr1-none"])
