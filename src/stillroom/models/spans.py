"""Token classifiers of the transformers library: loading them, and the spans that they find in texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, needs_extra
from stillroom.core.spans import bio_names, spans_of_tags
from stillroom.models.batching import as_texts
from stillroom.models.pieces import TaggedWord, tagged_words
from stillroom.models.text import TextPredictor, load_classifier, restore

with needs_extra("torch", "a token classifier"):
    from transformers import AutoModelForTokenClassification

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class TaggableTexts:
    """Texts as a token classifier reads them.

    Attributes:
        rows: the tokenizer's output, row for row.
        words: of each text, the words that carry tags; those that `max_length` cuts off are not among them.
    """

    rows: Any
    words: tuple[list[TaggedWord], ...]


class SpanPredictor(TextPredictor):
    """A token classifier with its own tokenizer: finds labelled spans. `classes` are their labels.

    The model tags words, on the first piece of each (Devlin et al. 2019, section 5.3, arXiv:1810.04805); see `pieces.tagged_words`.
    """

    kind: ClassVar[str] = "spans"

    @property
    def outputs(self) -> tuple[str, ...]:
        return bio_names(self.classes)

    def predict_values(self, features: pd.DataFrame) -> NDArray[Any]:
        """(n,) object array: the spans of each text, a tuple of `Span` in the order of the text."""
        found = np.empty(len(features), dtype=object)
        if not len(features):
            return found
        read = taggable(self.tokenizer, as_texts(features[self.column]), self.max_length)
        for batch, logits in self.logits(read.rows):
            for row, codes in zip(batch, logits.argmax(axis=-1), strict=True):
                words = read.words[row]
                found[row] = spans_of_tags([word.place for word in words], [self.outputs[codes[word.piece]] for word in words])
        return found


def taggable(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int) -> TaggableTexts:
    """Texts cut into pieces, at most `max_length` of them, and their words."""
    rows = tokenizer(list(texts), truncation=True, max_length=max_length, return_offsets_mapping=True)
    offsets: Iterator[list[tuple[int, int]]] = rows.pop("offset_mapping")
    return TaggableTexts(rows, tuple(tagged_words(text, places) for text, places in zip(texts, offsets, strict=True)))


def load(folder: Path) -> SpanPredictor:
    """The predictor that `SpanPredictor.save` wrote.

    Raises:
        BadInput: the folder is not whole.
    """
    return restore(SpanPredictor, load_tagger, folder)


def load_tagger(
    name: str, labels: Sequence[str], *, new_head_seed: int | None = None, place: str = "model"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A token classifier for spans of these labels, as `load_classifier` loads one, and its tokenizer.

    Raises:
        BadInput: as `load_classifier`; a tokenizer that does not tell where in the text its pieces lie.
    """
    model, tokenizer = load_classifier(
        name, bio_names(labels), new_head_seed=new_head_seed, place=place, auto=AutoModelForTokenClassification
    )
    if not tokenizer.is_fast:
        raise BadInput.at(place, f"= {name!r} has a tokenizer that does not tell where its pieces lie; give one with a tokenizer.json.")
    tokenizer.padding_side = "right"  # tags are counted from the left
    return model, tokenizer
