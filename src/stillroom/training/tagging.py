"""Training a token classifier on spans: a teacher's, people's or both. The loop is that of `training.encoder`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import needs_extra
from stillroom.core.records import Batch, CurvePoint
from stillroom.core.spans import Span, bio_names, bio_tags
from stillroom.models.batching import as_texts
from stillroom.models.spans import taggable
from stillroom.models.text import label_order, readable_length
from stillroom.training.encoder import train_on
from stillroom.training.texts import TokenisedTexts

with needs_extra("torch", "training a token classifier"):
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stillroom.core.protocols import Progress

Found = Sequence[Span] | None
"""The spans of a text; None where nobody has said."""


def train_tagger(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    *,
    column: str,
    labels: Sequence[str],
    answers: Sequence[Found] | None,
    temperature: float,
    hard_label_weight: float,
    loss_fn: Callable[..., Tensor],
    settings: Mapping[str, Any],
    seed: int,
    folder: Path,
    validation: Batch | None = None,
    progress: Progress | None = None,
) -> list[CurvePoint]:
    """Train `model` in place, and leave it in eval mode. Resumes as `train_encoder` does.

    The means of the loss are over words: those of texts that were answered, and of texts whose spans people have said.

    Args:
        batch: the examples; `target` holds the spans of each text, None for no labels.
        labels: of the spans; the model's outputs are matched to their tags by name.
        answers: the teacher's spans. None: train on people's alone, whatever the weight.
        loss_fn, settings, folder, validation, progress: as for `train_encoder`.

    Returns:
        The learning curve, as `train_encoder`: validation_loss and validation_accuracy are over words.

    Raises:
        BadInput, StageFailed: as `train_encoder`.
    """
    length = readable_length(model, tokenizer, settings["max_length"])

    def tagged(examples: Batch, found: Sequence[Found] | None) -> TaggedTexts:
        texts = as_texts(examples.features[column])
        said = [None] * len(examples) if examples.target is None else examples.target.tolist()
        return TaggedTexts(texts, said, found, labels=labels, model=model, tokenizer=tokenizer, max_length=length)

    return train_on(
        model, tagged(batch, answers), None if validation is None else tagged(validation, None), temperature=temperature,
        hard_label_weight=1.0 if answers is None else hard_label_weight, loss_fn=loss_fn, settings=settings, seed=seed, folder=folder,
        progress=progress,
    )  # fmt: skip


class TaggedTexts(TokenisedTexts):
    """Examples as rows of token ids, with a tag at the first piece of each word, and none elsewhere.

    Further pieces carry no tag, in training and in prediction, so that words of many pieces weigh no more than others.

    Args:
        spans: by text, what people have said.
        answers: by text, what the teacher has said. None: no answers at all.
    """

    def __init__(
        self,
        texts: Sequence[str],
        spans: Sequence[Found],
        answers: Sequence[Found] | None,
        *,
        labels: Sequence[str],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> None:
        read = taggable(tokenizer, texts, max_length)
        names = bio_names(labels)
        output = dict(zip(names, label_order(model.config, names), strict=True))

        def codes(row: int, found: Found) -> NDArray[np.int64]:
            """(S,) the output of each piece's tag, -1 where it has none."""
            tags, words = np.full(len(read.rows["input_ids"][row]), -1), read.words[row]
            if found is not None:
                tags[[word.piece for word in words]] = [output[tag] for tag in bio_tags([word.place for word in words], found)]
            return tags

        said = [codes(row, found) for row, found in enumerate(spans)]
        sure = None if answers is None else [_log_probs(codes(row, found), len(names)) for row, found in enumerate(answers)]
        self._take(read.rows, said, sure, model, tokenizer)

    def together(self, values: Sequence[Any]) -> Tensor:
        """Padded on the right: codes by -1, log-probabilities by NaN."""
        none = -1 if values[0].dtype.kind == "i" else float("nan")
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(value) for value in values], batch_first=True, padding_value=none)


def _log_probs(codes: NDArray[np.int64], num_tags: int) -> NDArray[np.float32]:
    """(S, K) all of the probability on one tag; NaN at pieces without."""
    sure = np.where(codes[:, None] == np.arange(num_tags), 0.0, -np.inf)
    return np.where(codes[:, None] < 0, np.nan, sure).astype(np.float32)
