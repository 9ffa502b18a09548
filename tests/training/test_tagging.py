"""Training on spans: which pieces carry what, the loss against a plain loop, and that it learns."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from stillroom.core.records import Batch
from stillroom.core.spans import Span, bio_names
from stillroom.models.spans import SpanPredictor, load_tagger
from stillroom.objectives.soft_labels_torch import soft_label_loss
from stillroom.spec.training import TrainingSpec
from stillroom.training.tagging import Found, TaggedTexts, train_tagger

Make = Callable[..., tuple[Any, Any]]
LABELS = ("mood", "thing")
KINDS = {"card": "thing", "money": "thing", "good": "mood", "bad": "mood", "fine": "mood", "poor": "mood"}
OTHERS = ["lost", "a", "the", "is", "my", "it", "was", "not", "how", "do", "i", "get", "to", "and", "when", "where"]


def found_in(text: str) -> tuple[Span, ...]:
    spans, at = [], 0
    for word in text.split():
        if word in KINDS:
            spans.append(Span(at, at + len(word), KINDS[word]))
        at += len(word) + 1
    return tuple(spans)


def examples(rows: int, seed: int = 0, said: float = 1.0) -> Batch:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice([*KINDS, *OTHERS], rng.integers(2, 10))) for _ in range(rows)]
    target = np.empty(rows, dtype=object)
    target[:] = [found_in(text) if rng.random() < said else None for text in texts]
    return Batch(pd.DataFrame({"text": texts}), np.array([str(i) for i in range(rows)]), target)


@pytest.fixture
def tagger(tiny_bert: Make, tmp_path: Path) -> tuple[Any, Any]:
    model, tokenizer = tiny_bert(["x", "y"], hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return load_tagger(str(tmp_path / "base"), LABELS, new_head_seed=0)


def train(tagger: tuple[Any, Any], batch: Batch, folder: Path, answers: Sequence[Found] | None = None, **changes: Any) -> Any:
    own = {"num_train_epochs": 1.0, "learning_rate": 1e-2, "per_device_train_batch_size": 8}
    settings = {**TrainingSpec().model_dump(), **own, **{k: v for k, v in changes.items() if k in TrainingSpec.model_fields}}
    more = {"hard_label_weight": 0.5, **{k: v for k, v in changes.items() if k not in TrainingSpec.model_fields}}
    return train_tagger(
        *tagger, batch, column="text", labels=LABELS, answers=answers, temperature=1.0, loss_fn=soft_label_loss, settings=settings, seed=0,
        folder=folder, **more,
    )  # fmt: skip


def test_tags_stand_on_first_pieces_in_the_models_own_order_and_nowhere_else(tagger: tuple[Any, Any]) -> None:
    model, tokenizer = tagger
    order = ["I-thing", "O", "B-thing", "B-mood", "I-mood"]  # an order of the model's own
    model.config.id2label = dict(enumerate(order))
    texts = ["lost my card", "very good", "unknownword it"]
    spans: list[Found] = [(Span(5, 12, "thing"),), None, (Span(0, 4, "mood"),)]
    answers: list[Found] = [None, (Span(0, 9, "mood"),), ()]
    tagged = TaggedTexts(texts, spans, answers, labels=LABELS, model=model, tokenizer=tokenizer, max_length=16)

    def named(codes: Any) -> list[str]:
        return ["-" if code < 0 else order[code] for code in codes]

    assert named(tagged.codes[0]) == ["-", "O", "B-thing", "I-thing", "-"]  # [CLS] and [SEP] have none
    assert named(tagged.codes[1]) == ["-"] * 4
    assert named(tagged.codes[2]) == ["-", "B-mood", "O", "-"]  # a span inside a word takes the word
    assert tagged.log_probs is not None
    assert np.isnan(tagged.log_probs[0]).all()
    assert named(np.nan_to_num(tagged.log_probs[1], nan=-np.inf).argmax(axis=1)[1:3]) == ["B-mood", "I-mood"]
    np.testing.assert_array_equal(np.exp(tagged.log_probs[2][1:3]).sum(axis=1), 1.0)
    batch = tagged.collate([tagged[i] for i in range(3)])
    assert batch["labels"].shape == batch["input_ids"].shape == (3, 5)
    assert (batch["labels"][batch["attention_mask"] == 0] == -1).all()
    assert batch["teacher_log_probs"][batch["attention_mask"] == 0].isnan().all()


@pytest.mark.parametrize("micro", [1, 4])
def test_a_step_is_that_of_means_over_words_written_out(tagger: tuple[Any, Any], tmp_path: Path, micro: int) -> None:
    """8 texts, some without labels, some without answers: the gradient of the two means, in one batch or in four."""
    model, tokenizer = tagger
    batch = examples(8, said=0.6)
    answers: list[Found] = [found_in(t)[:1] if i % 3 else None for i, t in enumerate(batch.features["text"])]
    plain, names = copy.deepcopy(model), bio_names(LABELS)
    soft, hard = [], []
    for text, said, answered in zip(batch.features["text"], batch.target, answers, strict=True):  # type: ignore[arg-type]
        logits = plain(**tokenizer([text], return_tensors="pt")).logits[0, 1:-1]  # one piece a word, by this tokenizer
        starts = np.cumsum([0, *(len(word) + 1 for word in text.split())])[:-1].tolist()
        for spans, losses in ((said, hard), (answered, soft)):
            if spans is not None:
                tags = {span.start: f"B-{span.label}" for span in spans}
                codes = torch.tensor([names.index(tags.get(start, "O")) for start in starts])
                losses += list(torch.nn.functional.cross_entropy(logits, codes, reduction="none"))
    (0.75 * sum(soft) / len(soft) + 0.25 * sum(hard) / len(hard)).backward()  # type: ignore[attr-defined]
    with torch.no_grad():
        for p in plain.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    train(
        tagger, batch, tmp_path / "work", answers, hard_label_weight=0.25, learning_rate=0.1, weight_decay=0.0, warmup_ratio=0.0,
        per_device_train_batch_size=8 // micro,
        arguments={"optim": "sgd", "gradient_accumulation_steps": micro, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"},
    )  # fmt: skip
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_it_learns_spans_and_the_curve_says_so(tagger: tuple[Any, Any], tmp_path: Path) -> None:
    validation = examples(30, seed=1)
    curve = train(tagger, examples(200), tmp_path / "work", num_train_epochs=6.0, validation=validation)
    last = {point.measure: point.value for point in curve}
    assert last["validation_accuracy"] > 0.97
    found = SpanPredictor(*tagger, LABELS, column="text").predict_values(validation.features)
    assert np.mean([f == t for f, t in zip(found, validation.target, strict=True)]) > 0.8  # type: ignore[arg-type]


def test_the_teachers_word_counts_and_a_missing_answer_does_not(tagger: tuple[Any, Any], tmp_path: Path) -> None:
    """A teacher that knows things alone; half of the rows it has not answered."""
    batch = examples(200)
    answers: list[Found] = [
        None if i % 2 else tuple(s for s in found_in(t) if s.label == "thing") for i, t in enumerate(batch.features["text"])
    ]  # fmt: skip
    train(tagger, batch, tmp_path / "work", answers, hard_label_weight=0.0, num_train_epochs=8.0)
    test = examples(30, seed=1)
    found = SpanPredictor(*tagger, LABELS, column="text").predict_values(test.features)
    labels = [span.label for spans in found for span in spans]
    things = sum(span.label == "thing" for spans in test.target for span in spans)  # type: ignore[union-attr]
    assert labels.count("thing") == pytest.approx(things, abs=2)
    assert labels.count("mood") == 0
