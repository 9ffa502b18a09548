"""A tiny encoder stands for the real ones: what is tested is the care around it, not its quality."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stillroom.core.errors import BadInput
from stillroom.core.fingerprint import row_fingerprints
from stillroom.core.protocols import Teacher, TeacherRecipe
from stillroom.core.records import Batch, Column
from stillroom.models.load import load_predictor
from stillroom.spec.teacher import HuggingFaceTeacherSpec
from stillroom.teachers.answers import ask
from stillroom.teachers.build import build_teacher
from stillroom.teachers.labelling import label_fixed, label_out_of_fold

from .conftest import MemoryStore, make_fold_rows

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CLASSES = ("card", "cash", "fees")
WORDS = ("card", "cash", "fee", "lost", "money", "why", "my", "the")


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with dropout and a head for classes of its own, in another order than the data's."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("tiny-bert")
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(("[PAD]", "[UNK]", *WORDS))}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=16)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_position_embeddings=16,
        id2label={0: "fees", 1: "card", 2: "cash"}, label2id={"fees": 0, "card": 1, "cash": 2}, initializer_range=1.0,
    )  # fmt: skip
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def texts(num: int = 12, seed: int = 0) -> Batch:
    source = np.random.default_rng(seed)
    frame = pd.DataFrame({"text": [" ".join(source.choice(WORDS, size=source.integers(2, 8))) for _ in range(num)]})
    return Batch(frame, np.array(row_fingerprints(frame)), source.integers(3, size=num).astype(np.int64))


class Tuner:
    """A stand-in for training: moves the head by the number of rows, writes a checkpoint, counts its calls."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fail_after_checkpoint = False

    def __call__(self, model: Any, tokenizer: Any, batch: Batch, *, folder: Path, **settings: Any) -> None:
        resumed = (folder / "checkpoint.json").exists()
        self.calls.append({"num": len(batch), "folder": folder, "resumed": resumed, **settings})
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "checkpoint.json").write_text(json.dumps(len(batch)))
        if self.fail_after_checkpoint:
            raise KeyboardInterrupt
        assert tokenizer is not None
        with torch.no_grad():
            model.classifier.bias += torch.linspace(0, len(batch) / 10, len(model.classifier.bias))
        model.train()  # as a trainer leaves it


def build(
    base: Path, tuner: Callable[..., object] | None = None, work: Path | None = None, classes: tuple[str, ...] = CLASSES, **section: Any
) -> Teacher | TeacherRecipe:
    spec = HuggingFaceTeacherSpec(model=str(base), **section)
    column = (Column("text", "text"),)
    return build_teacher(spec, columns=column, classes=classes, task="classification", seed=0, fine_tune=tuner, work=work)


def by_hand(base: Path, batch: Batch, order: tuple[str, ...]) -> np.ndarray:
    """transformers alone, text for text, without padding."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    rows = []
    for text in batch.features["text"]:
        with torch.no_grad():
            probs = model(**tokenizer(text, return_tensors="pt", truncation=True)).logits.double().softmax(dim=1)[0]
        rows.append([probs[model.config.label2id[name]].item() for name in order])
    return np.array(rows)


def test_a_model_as_it_is_answers_by_label_name_without_dropout(base_model: Path) -> None:
    batch = texts()
    teacher = build(base_model, trained_on="other-rows")
    teacher.predictor.model.train()  # dropout is on, as after training; answers must not see it
    knowledge = label_fixed(teacher, batch, MemoryStore(), classes=CLASSES, batch_size=5)
    np.testing.assert_allclose(knowledge.values, by_hand(base_model, batch, CLASSES), atol=1e-5)


def test_labels_that_are_not_the_datas_are_refused_listing_both(base_model: Path) -> None:
    with pytest.raises(BadInput, match=r"teacher\.model.*'fees', 'card', 'cash'.*'card', 'loan'"):
        build(base_model, classes=("card", "loan"))


def test_a_changed_weight_or_buffer_is_another_teacher(base_model: Path) -> None:
    teacher = build(base_model)
    before = teacher.fingerprint
    assert build(base_model).fingerprint == before
    for tensor in (teacher.predictor.model.classifier.bias, next(teacher.predictor.model.buffers())):
        with torch.no_grad():
            tensor.view(-1)[0] += 1
        assert teacher.fingerprint != before
        with torch.no_grad():
            tensor.view(-1)[0] -= 1


def test_each_fold_is_fine_tuned_in_a_folder_of_its_own_and_saved(base_model: Path, tmp_path: Path) -> None:
    batch, tuner = texts(), Tuner()
    recipe = build(base_model, tuner, tmp_path, fine_tune={"num_train_epochs": 2.0})
    folds = make_fold_rows(12, 3)
    knowledge = label_out_of_fold(recipe, batch, folds, MemoryStore(), classes=CLASSES, seed=4, batch_size=5)
    assert [call["num"] for call in tuner.calls] == [8, 8, 8]
    assert len({call["folder"] for call in tuner.calls}) == 3
    assert tuner.calls[0]["settings"]["num_train_epochs"] == 2.0
    assert {(call["seed"], call["column"], call["classes"]) for call in tuner.calls} == {(4, "text", CLASSES)}
    assert not knowledge.seen.any()
    assert not list(tmp_path.rglob("checkpoint.json"))
    # Stopped and started again with another store: nothing is tuned twice, and the answers are the same to the bit.
    again = label_out_of_fold(recipe, batch, folds, MemoryStore(), classes=CLASSES, seed=4, batch_size=12)
    assert len(tuner.calls) == 3
    np.testing.assert_allclose(again.values, knowledge.values, atol=1e-6)


def test_an_interrupted_fine_tuning_goes_on_in_the_same_folder(base_model: Path, tmp_path: Path) -> None:
    tuner, batch = Tuner(), texts()
    tuner.fail_after_checkpoint = True
    with pytest.raises(KeyboardInterrupt):
        build(base_model, tuner, tmp_path, fine_tune={}).fit(batch, CLASSES, seed=0)
    tuner.fail_after_checkpoint = False
    build(base_model, tuner, tmp_path, fine_tune={}).fit(batch, CLASSES, seed=0)
    first, second = tuner.calls
    assert not first["resumed"]
    assert second["resumed"]
    # Other settings are another training: they must not go on from that checkpoint.
    build(base_model, tuner, tmp_path, fine_tune={"learning_rate": 1e-3}).fit(batch, CLASSES, seed=0)
    build(base_model, tuner, tmp_path, fine_tune={}).fit(batch, CLASSES, seed=1)
    build(base_model, tuner, tmp_path, fine_tune={}).fit(texts(seed=1), CLASSES, seed=0)
    assert len({call["folder"] for call in tuner.calls}) == 4
    assert [call["resumed"] for call in tuner.calls[2:]] == [False] * 3


def test_a_new_head_is_drawn_from_the_seed(base_model: Path) -> None:
    classes = ("a", "b", "c", "d")
    recipe = build(base_model, Tuner(), classes=classes, fine_tune={})
    batch = texts()
    answers = [ask(recipe.fit(batch, classes, seed=seed), batch.features, classes) for seed in (0, 0, 1)]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] != answers[2]).any()


def test_the_recipes_fingerprint_covers_weights_tokenizer_and_settings(base_model: Path, tmp_path: Path) -> None:
    first = build(base_model, Tuner(), fine_tune={}).fingerprint
    assert build(base_model, Tuner(), fine_tune={}).fingerprint == first
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base_model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(base_model)
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    assert build(tmp_path, Tuner(), fine_tune={}).fingerprint == first  # the place of the files does not matter
    with torch.no_grad():
        next(model.bert.parameters()).view(-1)[0] += 1
    model.save_pretrained(tmp_path)
    others = [build(tmp_path, Tuner(), fine_tune={}).fingerprint, build(base_model, Tuner(), fine_tune={"learning_rate": 1e-3}).fingerprint]
    tokenizer.add_tokens(["rate"])
    tokenizer.save_pretrained(tmp_path)
    others.append(build(tmp_path, Tuner(), fine_tune={}).fingerprint)
    assert len({first, *others}) == 4


def test_a_fine_tuned_teacher_comes_back_from_its_folder(base_model: Path, tmp_path: Path) -> None:
    batch = texts()
    teacher = build(base_model, Tuner(), fine_tune={}).fit(batch, CLASSES, seed=0)
    teacher.save(tmp_path)
    np.testing.assert_array_equal(load_predictor(tmp_path).predict_values(batch.features), teacher.predict_values(batch.features))


def test_a_table_and_rows_it_has_seen_are_refused(base_model: Path) -> None:
    spec = HuggingFaceTeacherSpec(model=str(base_model))
    with pytest.raises(BadInput, match="one text column; the data has 0"):
        build_teacher(spec, columns=(Column("a", "numeric"),), classes=CLASSES, task="classification", seed=0)
    with pytest.raises(BadInput, match=r"trained_on.*labelling\.mode"):
        build(base_model, trained_on="these-rows")
