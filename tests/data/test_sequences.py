"""Which tokens are learnt: checked by decoding them back to text, with real tokenizers."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.core.errors import BadInput
from stillroom.data.conversations import conversation
from stillroom.data.sequences import completion, plain_text, tokenise

transformers = pytest.importorskip("transformers")

TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
REWRITES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content if loop.last else '...' }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "One and one?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "And one?"},
    {"role": "assistant", "content": "Three, naïvely 🙂."},
]


@pytest.fixture(scope="module")
def tokenizers(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for name, file, special in (
        ("gpt2", "gpt2_tokenizer.json.gz", {"eos_token": "<|endoftext|>"}),
        ("mistral", "mistral_7b_v0.1_tokenizer.json.gz", {"bos_token": "<s>", "eos_token": "</s>"}),
    ):
        path = folder / f"{name}.json"
        path.write_bytes(gzip.decompress((shared_data / "tokenizers" / file).read_bytes()))
        found[name] = transformers.PreTrainedTokenizerFast(tokenizer_file=str(path), chat_template=TURNS, **special)
    return found


@pytest.fixture(params=["gpt2", "mistral"])
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Any]) -> Any:
    return tokenizers[request.param]


def learnt(sequences: Any, tokenizer: Any, row: int = 0) -> str:
    return str(tokenizer.decode(sequences.examples[row].token_ids[sequences.examples[row].trained]))


def test_all_of_a_text_is_learnt_and_its_end(tokenizer: Any) -> None:
    text = "Once upon a time, there was a naïve 🙂 cat.\n\nThe end."
    sequences, losses = tokenise([plain_text(text)], tokenizer, max_length=64)
    assert sequences.examples[0].token_ids[-1] == tokenizer.eos_token_id
    assert sequences.examples[0].trained[1:].all()
    assert not sequences.examples[0].trained[0]
    assert not list(losses.notes(64))


def test_bytes_are_those_of_the_trained_text(tokenizer: Any) -> None:
    answer = " a naïve 🙂 cat"
    sequences, _ = tokenise([completion("It was", answer)], tokenizer, max_length=64)
    # Tokenizers differ in whether a token's place includes the blank before it.
    assert abs(int(sequences.num_bytes[0]) - len(answer.encode())) <= 1
    plain, _ = tokenise([plain_text("x" + answer)], tokenizer, max_length=64)
    first = len(tokenizer.decode(plain.examples[0].token_ids[:1]).encode()) if tokenizer.bos_token_id is None else 0
    assert int(plain.num_bytes[0]) == len(("x" + answer).encode()) - first


def test_a_long_text_is_learnt_whole_each_token_once(tokenizer: Any) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 20
    whole, _ = tokenise([plain_text(text)], tokenizer, max_length=10_000)
    parts, _ = tokenise([plain_text(text)], tokenizer, max_length=16)
    assert len(parts) > 5
    assert max(map(len, parts.examples)) == 16
    assert parts.num_asked == whole.num_asked
    assert np.array_equal(
        np.concatenate([part.token_ids[part.trained] for part in parts.examples]), whole.examples[0].token_ids[whole.examples[0].trained]
    )
    assert parts.num_bytes.sum() == whole.num_bytes.sum()
    assert (parts.rows == 0).all()


def test_a_prompt_is_not_learnt_and_its_answer_is(tokenizer: Any) -> None:
    sequences, _ = tokenise([completion("One and one?", " Two.")], tokenizer, max_length=64)
    assert learnt(sequences, tokenizer).strip() == f"Two.{tokenizer.eos_token}"


def test_every_assistant_turn_is_learnt_with_its_end(tokenizer: Any) -> None:
    sequences, _ = tokenise([conversation(TALK, tokenizer, place="row 1")], tokenizer, max_length=512)
    assert learnt(sequences, tokenizer).replace(" ", "") == "Two.<|end|>Three,naïvely🙂.<|end|>"


def test_a_prompt_that_fills_the_context_is_left_out_and_said(tokenizer: Any) -> None:
    rows = [completion("word " * 100, "answer"), completion("Hi", " there"), completion("Hi", " there" * 100), completion("Hi", "  ")]
    sequences, losses = tokenise(rows, tokenizer, max_length=16)
    assert sequences.rows.tolist() == [1, 2]
    assert (losses.without_answer, losses.cut, losses.blank) == (1, 1, 1)
    assert len(list(losses.notes(16))) == 3
    with pytest.raises(BadInput, match="no example is left"):
        tokenise(rows[:1], tokenizer, max_length=16)


def test_keys_are_of_the_content(tokenizer: Any) -> None:
    sequences, _ = tokenise(
        [completion("Hi you", " there"), plain_text("Hi you there"), completion("Hi you", " there")], tokenizer, max_length=16
    )
    first, second, third = (example.fingerprint for example in sequences.examples)
    assert first == third != second, "the same ids, other trained positions"


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("hello", "holds a str"),
        ([{"role": "user"}], "'role' and 'content'"),
        ([{"role": "bot", "content": "x"}], "'bot'"),
        ([{"role": "user", "content": "x"}], "no assistant turn"),
    ],
)
def test_bad_messages_are_named(messages: Any, expected: str, tokenizers: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=expected) as caught:
        conversation(messages, tokenizers["gpt2"], place="data.source.train, row 7")
    assert "row 7" in str(caught.value)


def test_a_template_that_cannot_be_split_is_refused(tokenizers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers["gpt2"], "chat_template", REWRITES)
    with pytest.raises(BadInput, match="writes earlier turns anew"):
        conversation(TALK, tokenizers["gpt2"], place="row 1")
    monkeypatch.setattr(tokenizers["gpt2"], "chat_template", None)
    with pytest.raises(BadInput, match="has none"):
        conversation(TALK, tokenizers["gpt2"], place="row 1")


def test_a_token_that_begins_in_the_prompt_stays_the_prompts(tokenizers: dict[str, Any]) -> None:
    # "un" + "believable" is one GPT-2 token with the blank before it only if the text is tokenised whole.
    joined = tokenizers["gpt2"]("It is hap" + "py")["input_ids"]
    assert tokenizers["gpt2"].decode(joined[-1:]) == " happy", "the border lies inside a token"
    sequences, _ = tokenise([completion("It is hap", "py, yes")], tokenizers["gpt2"], max_length=16)
    assert learnt(sequences, tokenizers["gpt2"]) == ", yes<|endoftext|>"


def test_bytes_are_counted_as_utf8_has_them(tokenizers: dict[str, Any]) -> None:
    text = "a\u00e9\u20ac\U0001f642z" * 3
    sequences, _ = tokenise([completion("x", text)], tokenizers["mistral"], max_length=200)
    assert int(sequences.num_bytes[0]) == len(text.encode())


def test_a_blank_at_the_prompts_end_does_not_swallow_the_answers_first_word(tokenizer: Any) -> None:
    marked = completion("One and one? ", "Two.")
    sequences, losses = tokenise([marked], tokenizer, max_length=64)
    assert learnt(sequences, tokenizer).strip() == f"Two.{tokenizer.eos_token}"
    assert marked.halves == ("One and one?", " Two.")
    assert losses.joined == 0


def test_a_border_inside_a_token_is_counted(tokenizers: dict[str, Any]) -> None:
    rows = [completion("It is hap", "py, yes"), completion("It is", " so")]
    _, losses = tokenise(rows, tokenizers["gpt2"], max_length=16)
    assert losses.joined == 1
    assert any("one token holds the prompt's end" in note for note in losses.notes(16))


def test_an_empty_completion_is_left_out_and_counted(tokenizer: Any) -> None:
    sequences, losses = tokenise([completion("Hi ", ""), completion("Hi", " there")], tokenizer, max_length=16)
    assert (sequences.rows.tolist(), losses.blank) == ([1], 1)
    assert completion("Hi ", "").halves == ("", "")


def test_a_text_that_begins_with_the_first_token_gets_no_second(tokenizers: dict[str, Any]) -> None:
    tokenizer = tokenizers["mistral"]
    for marked in (plain_text("<s>Hi there"), completion("<s>Hi", " there"), plain_text("Hi there")):
        ids = tokenise([marked], tokenizer, max_length=16)[0].examples[0].token_ids.tolist()
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert ids.count(tokenizer.eos_token_id) == 1
