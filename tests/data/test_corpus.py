"""The documents of a language job: read in every shape, split by document, and nothing shared in silence."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stillroom.core.errors import BadInput
from stillroom.data.corpus import build_corpus
from stillroom.spec.data import DataSpec

transformers = pytest.importorskip("transformers")
STORIES = [f"Story {i}. A cat sat on mat {i}." for i in range(20)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token a character."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers

    characters = sorted({*"".join(STORIES), *"abcdefghijklmnopqrstuvwxyz?!<|>"})
    vocabulary = {token: i for i, token in enumerate(["<unk>", "</s>", *characters])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", chat_template=template)


def spec(folder: Path, train: str, **more: Any) -> DataSpec:
    source = {"kind": "file", "train": train, **more.pop("source", {})}
    return DataSpec.model_validate({"source": source, **more}, context={"folder": str(folder)})


def read(sequences: Any, tokenizer: Any) -> list[str]:
    return ["".join(tokenizer.convert_ids_to_tokens(example.token_ids)) for example in sequences.examples]


def test_every_shape_of_data_is_read(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"text": t, "q": t[:8], "a": t[8:], "talk": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": t}]}
        for t in STORIES
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.txt.gz").write_bytes(gzip.compress("\n\n".join(STORIES).encode()))
    for file in ("rows.jsonl", "rows.parquet"):
        for columns in ({"text": "text"}, {"prompt": "q", "completion": "a"}, {"messages": "talk"}):
            corpus = build_corpus(spec(tmp_path, file, **columns), tokenizer, max_length=200, seed=0)
            assert (len(corpus.train), len(corpus.test)) == (15, 5)
            whole = read(corpus.train, tokenizer) + read(corpus.test, tokenizer)
            assert all(any(story in text for text in whole) for story in STORIES)
    corpus = build_corpus(spec(tmp_path, "rows.txt.gz"), tokenizer, max_length=200, seed=0)
    assert sorted(read(corpus.train, tokenizer) + read(corpus.test, tokenizer)) == sorted(f"{story}</s>" for story in STORIES)


def test_the_split_is_by_document_and_by_seed(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in STORIES))
    made = spec(tmp_path, "rows.jsonl", text="text", split={"test": 0.25, "validation": 0.2})
    corpus = build_corpus(made, tokenizer, max_length=9, seed=0)
    assert (len(np.unique(corpus.train.rows)), len(np.unique(corpus.test.rows))) == (12, 5)
    assert corpus.validation is not None
    assert len(corpus.train) > 12, "long documents go on in further examples"
    assert len(corpus.test_texts) == 5
    again = build_corpus(made, tokenizer, max_length=9, seed=0)
    assert [e.fingerprint for e in again.test.examples] == [e.fingerprint for e in corpus.test.examples]
    other = build_corpus(made, tokenizer, max_length=9, seed=1)
    assert [e.fingerprint for e in other.test.examples] != [e.fingerprint for e in corpus.test.examples]


def test_shared_documents_are_said(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(STORIES))
    (tmp_path / "b.txt").write_text("\n\n".join(STORIES[:3]) + "\n\nquite another")
    corpus = build_corpus(
        spec(tmp_path, "a.txt", source={"test": "b.txt"}, other_domains={"far": "b.txt"}), tokenizer, max_length=99, seed=0
    )
    for what in ("Test documents", "Documents of far"):
        assert any(note.startswith(f"{what} that are training documents too: 3;") for note in corpus.notes)
    assert (len(corpus.train), len(corpus.test), len(corpus.other_domains["far"])) == (20, 4, 4)


@pytest.mark.parametrize("name", ["test", "train", "validation"])
def test_another_domain_may_be_called_as_a_part(name: str, tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(STORIES))
    (tmp_path / "b.txt").write_text("quite another")
    alone = build_corpus(spec(tmp_path, "a.txt", split={"validation": 0.2}), tokenizer, max_length=99, seed=0)
    corpus = build_corpus(
        spec(tmp_path, "a.txt", split={"validation": 0.2}, other_domains={name: "b.txt"}), tokenizer, max_length=99, seed=0
    )
    for part in ("train", "test", "validation"):
        assert read(getattr(corpus, part), tokenizer) == read(getattr(alone, part), tokenizer)
    assert read(corpus.other_domains[name], tokenizer) == ["quite another</s>"]


def test_a_trial_is_said(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(STORIES))
    corpus = build_corpus(spec(tmp_path, "a.txt", source={"limit": 8}), tokenizer, max_length=99, seed=0)
    assert (len(corpus.train), len(corpus.test)) == (6, 2)
    assert any("8 of the 20 documents" in note for note in corpus.notes)


@pytest.mark.parametrize(
    ("text", "more", "expected"),
    [
        ("", {}, "holds no text"),
        ("one\n", {}, "leaves no document for the test"),
        ("one\n\ntwo\n", {"split": {"test": 0.5, "validation": 0.9}}, "leaves none"),
    ],
)
def test_too_little_text_is_one_clear_error(tmp_path: Path, tokenizer: Any, text: str, more: dict[str, Any], expected: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(BadInput, match=expected):
        build_corpus(spec(tmp_path, "a.txt", **more), tokenizer, max_length=99, seed=0)


def test_a_missing_column_or_text_is_named(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n{"text": 7}\n')
    with pytest.raises(BadInput, match=r"no column 'txt'; did you mean 'text'\?"):
        build_corpus(spec(tmp_path, "rows.jsonl", text="txt"), tokenizer, max_length=99, seed=0)
    with pytest.raises(BadInput, match="row 2: holds 7, no text"):
        build_corpus(spec(tmp_path, "rows.jsonl", text="text"), tokenizer, max_length=99, seed=0)
