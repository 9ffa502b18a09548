"""Sequence classifiers of the transformers library: loading them, matching their labels by name, and predicting."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, needs_extra
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import Column
from stillroom.models.batching import as_texts, by_length, softmax
from stillroom.models.locate import locate_model
from stillroom.models.manifest import read_manifest, write_manifest
from stillroom.models.pretrained import (
    answering,
    parameters_fingerprint,
    quiet,
    readable,
    saving,
    seeded,
    to_accelerator,
    tokenizer_fingerprint,
)

with needs_extra("torch", "a text model"):
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class TextPredictor:
    """A sequence classifier with its own tokenizer, as an arm of the evaluation.

    It always answers in eval mode and without gradients, and leaves the model in the mode it was in.
    """

    kind: ClassVar[str] = "text"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        classes: Sequence[str],
        *,
        column: str,
        max_length: int = 128,
        batch_size: int = 64,
    ) -> None:
        """Args: classes: the order of the answer's columns; the model's own labels are matched to it by name.

        Raises:
            BadInput: the model's labels are not `classes`.
        """
        self.model, self.tokenizer, self.column, self.batch_size = model, tokenizer, column, batch_size
        self.classes = tuple(classes)
        self.max_length = readable_length(model, tokenizer, max_length)
        self.label_order = label_order(model.config, self.outputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the model's outputs, in the order of the answer's columns."""
        return self.classes

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.column, "text"),)

    @property
    def fingerprint(self) -> str:
        """Covers weights, tokenizer, label order, the column read and the length it is cut to."""
        facts = [tokenizer_fingerprint(self.tokenizer), list(self.classes), self.label_order, self.column, self.max_length]
        return fingerprint(self.kind, type(self.model).__name__, parameters_fingerprint(self.model), *facts)

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`."""
        values = np.empty((len(features), len(self.classes)))
        if not len(features):
            return values
        rows = self.tokenizer(as_texts(features[self.column]), truncation=True, max_length=self.max_length)
        for batch, logits in self.logits(rows):
            values[batch] = softmax(logits)
        return values

    def logits(self, rows: Any) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
        """(positions of some rows, the model's outputs for them, in the order of `outputs`), until all are answered.

        Args:
            rows: the tokenizer's.
        """
        names = forward_names(self.model, rows)
        with answering(self.model):
            for batch in by_length([len(ids) for ids in rows["input_ids"]], self.batch_size):
                picked = {name: [rows[name][i] for i in batch] for name in names}
                inputs = self.tokenizer.pad(picked, return_tensors="pt").to(self.model.device)
                yield batch, self.model(**inputs).logits.float().cpu().numpy()[..., self.label_order]

    def save(self, folder: Path) -> None:
        """Weights (safetensors), config and tokenizer, as transformers itself loads them, and predictor.json."""
        with saving(folder):
            self.model.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        facts = {"max_length": self.max_length, "batch_size": self.batch_size}
        write_manifest(folder, kind=self.kind, classes=self.classes, columns=self.columns, **facts)


P = TypeVar("P", bound=TextPredictor)


def load(folder: Path) -> TextPredictor:
    """The predictor that `TextPredictor.save` wrote.

    Raises:
        BadInput: the folder is not whole.
    """
    return restore(TextPredictor, load_classifier, folder)


def restore(kind: type[P], load_model: Callable[..., tuple[PreTrainedModel, PreTrainedTokenizerBase]], folder: Path) -> P:
    """What `kind.save` wrote; `load_model` takes the folder's name and the classes."""
    facts = read_manifest(folder)
    model, tokenizer = load_model(str(folder), facts["classes"])
    (column,) = facts["columns"]
    return kind(model, tokenizer, facts["classes"], column=column.name, max_length=facts["max_length"], batch_size=facts["batch_size"])


def load_classifier(
    name: str,
    classes: Sequence[str] | None = None,
    *,
    new_head_seed: int | None = None,
    place: str = "model",
    auto: Any = AutoModelForSequenceClassification,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A classifier in float32 and eval mode, on the accelerator if there is one, and its own tokenizer.

    Args:
        name: a folder, a hub id or "package:NAME/FOLDER".
        classes: the labels that it must have, in any order; None takes it as it is.
        new_head_seed: where the model lacks these labels, give it a fresh head for them, drawn from this seed;
            None refuses such a model.
        auto: of transformers, which kind of classifier.

    Raises:
        BadInput: nothing to load there, pickled weights, or other labels than `classes`.
    """
    source = locate_model(name, place)
    with quiet(), seeded(new_head_seed or 0), readable(name, place):
        # Said outright: left open, transformers asks at the terminal whether to run the Python that comes with a model.
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        fresh = new_head_seed is not None and set(_labels(config)) != set(classes or ())
        if fresh:
            set_labels(config, classes or ())
        model, found = auto.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=fresh,
            output_loading_info=True,
            trust_remote_code=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        if fresh:
            _reset_head(model)
    missing = sorted(found["missing_keys"])
    encoder = [key for key in missing if key.startswith(f"{model.base_model_prefix}.") and "pooler" not in key]
    if encoder:
        raise BadInput.at(place, f"= {name!r} lacks weights of its own architecture ({encoder[0]}, ...); get the whole model.")
    if missing and new_head_seed is None:
        raise BadInput.at(place, f"= {name!r} has no trained classifier (no {', '.join(missing)}); fine-tune it first.")
    if classes is not None:
        label_order(model.config, classes, place)
    return to_accelerator(model).eval(), tokenizer


def set_labels(config: PreTrainedConfig, classes: Sequence[str]) -> None:
    """Name the outputs of a classifier after `classes`, in that order."""
    config.id2label = dict(enumerate(classes))
    config.label2id = {name: code for code, name in enumerate(classes)}
    config.problem_type = "single_label_classification"


def label_order(config: PreTrainedConfig, classes: Sequence[str], place: str = "model") -> list[int]:
    """For each of `classes` the model's output that carries that name.

    Raises:
        BadInput: the model's labels are not `classes`; lists both.
    """
    labels = _labels(config)
    if sorted(labels) != sorted(classes):
        raise BadInput.at(
            place,
            f"has the labels {labels}, the data the classes {list(classes)}; name the labels in the model's id2label, or fine-tune it.",
        )
    return [labels.index(name) for name in classes]


def forward_names(model: PreTrainedModel, rows: Any) -> list[str]:
    """Which of a tokenizer's outputs this model reads: token_type_ids goes to BERT, and not to DistilBERT."""
    known = inspect.signature(model.forward).parameters
    return [name for name in rows if name in known]


def readable_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """`max_length`, or less where the model has fewer positions."""
    limits = [max_length, tokenizer.model_max_length]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa and its kin count positions from behind the padding index.
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return int(min(limits))


def _labels(config: PreTrainedConfig) -> list[str]:
    labels: dict[Any, str] = config.id2label or {}
    return [str(labels[code]) for code in sorted(labels)]


def _reset_head(model: PreTrainedModel) -> None:
    """Forget a head that was trained for other labels: all that is outside the encoder."""
    for name, part in model.named_children():
        for module in part.modules() if name != model.base_model_prefix else ():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
