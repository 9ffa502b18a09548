"""Data sets in the layout of the hub: the rows that files would give, and one clear line for whatever is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stillroom.core.errors import BadInput, MissingExtra
from stillroom.data.corpus import build_corpus
from stillroom.data.hub import read_split
from stillroom.spec.data import DataSpec

STORIES = [
    {"text": f"story {i} of a cat", "talk": [{"role": "user", "content": "Tell!"}, {"role": "assistant", "content": f"A cat {i}."}]}
    for i in range(8)
]


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, with a cache of its own."""
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return library


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two splits in Parquet, as the hub has them."""
    made = tmp_path / "stories" / "data"
    made.mkdir(parents=True)
    pd.DataFrame(STORIES[:3]).to_parquet(made / "train-00000-of-00002.parquet")
    pd.DataFrame(STORIES[3:6]).to_parquet(made / "train-00001-of-00002.parquet")
    pd.DataFrame(STORIES[6:]).to_parquet(made / "test-00000-of-00001.parquet")
    return made.parent


def test_a_folder_like_the_hubs_gives_the_rows_that_files_give(datasets: Any, folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = [
        "<unk>",
        "</s>",
        *sorted({word for row in STORIES for word in f"{row['text']} {row['talk'][1]['content']}".split()}),
        "Tell!",
        "<|>",
    ]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{% for m in messages %}{{ m.content }} <|> {% endfor %}"
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>", chat_template=template)
    for name, rows in (("train", STORIES[:6]), ("test", STORIES[6:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"kind": "file", "train": str(tmp_path / "train.jsonl"), "test": str(tmp_path / "test.jsonl")}
    for shape in ({"text": "text"}, {"messages": "talk"}):
        corpora = [
            build_corpus(DataSpec.model_validate({"source": source, **shape}), tokenizer, max_length=50, seed=0)
            for source in (files, {"kind": "hub", "id": str(folder), "test_split": "test"})
        ]
        for part in ("train", "test"):
            keys = [[example.fingerprint for example in getattr(corpus, part).examples] for corpus in corpora]
            assert keys[0] == keys[1]
            assert len(keys[0]) == (6 if part == "train" else 2)
    shared = build_corpus(
        DataSpec.model_validate({"source": {"kind": "hub", "id": str(folder)}, "text": "text"}), tokenizer, max_length=50, seed=0
    )
    assert (len(shared.train), len(shared.test)) == (4, 2)


def test_splits_are_named_as_the_library_names_them(datasets: Any, folder: Path, tmp_path: Path) -> None:
    def texts(name: Path, split: str, **more: Any) -> list[str]:
        return list(read_split(str(name), split=split, place="data.source.split", **more)["text"])

    assert texts(folder, "train[1:3]") == [row["text"] for row in STORIES[1:3]]
    assert texts(folder, "train+test") == [row["text"] for row in STORIES]
    (folder / "few").mkdir()
    pd.DataFrame(STORIES[7:]).to_parquet(folder / "few" / "train.parquet")
    configs = (
        "configs:\n- {config_name: all, default: true, data_files: 'data/train-*'}\n- {config_name: few, data_files: few/train.parquet}\n"
    )
    (folder / "README.md").write_text(f"---\n{configs}---\n")
    assert texts(folder, "train") == [row["text"] for row in STORIES[:6]]
    assert texts(folder, "train", subset="few") == [STORIES[7]["text"]]
    with pytest.raises(BadInput, match=r"^data.source.subset: .*'fewer'.*all.*few"):
        texts(folder, "train", subset="fewer")
    part = datasets.Dataset.from_list(STORIES[:2])
    part.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": part, "held-out": part.select([1])}).save_to_disk(str(tmp_path / "two"))
    assert texts(tmp_path / "one", "train") == [row["text"] for row in STORIES[:2]]
    assert texts(tmp_path / "two", "held-out") == [STORIES[1]["text"]]
    with pytest.raises(BadInput, match=r"'held_out' is no split of .*did you mean 'held-out'"):
        texts(tmp_path / "two", "held_out")


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [
        ("stories", "trian", r"^data.source.split: = 'trian' is no split of .*'train', 'test'"),
        ("stories", "train[:0]", r"^data.source.split: = 'train\[:0\]' is no split of .*no data\.$"),
        ("empty", "train", r"^data.source.id: .*any data files. Mend its files"),
        ("damaged", "train", r"^data.source.id: .*cannot be loaded: .*JSON.* Mend its files"),
        ("nobody/none", "train", r"^data.source.id: = 'nobody/none' cannot be loaded: .*Hub.* Check the id and the network"),
    ],
)
def test_what_is_not_there_is_one_line(name: str, split: str, expected: str, datasets: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(BadInput, match=expected) as caught:
        read_split(name if "/" in name else str(tmp_path / name), split=split, place="data.source.split")
    assert len(str(caught.value).splitlines()) == 1


def test_without_the_library_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"data.source.kind: hub needs the extra 'llm': pip install 'stillroom\[llm\]'"):
        read_split(str(folder), split="train", place="data.source.split")
