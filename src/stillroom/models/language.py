"""A causal language model with its tokenizer as a saved arm: a plain transformers checkpoint with a predictor.json beside it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import Column
from stillroom.core.token_records import Sequences, TokenExample
from stillroom.models.batching import as_texts
from stillroom.models.causal import load_causal, save_causal, usable_vocabulary
from stillroom.models.generation import continuations
from stillroom.models.language_scores import score
from stillroom.models.manifest import read_manifest, write_manifest
from stillroom.models.pretrained import parameters_fingerprint, tokenizer_fingerprint
from stillroom.models.special_tokens import adds_special_tokens
from stillroom.models.token_batches import context_length

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stillroom.core.protocols import Progress


class LanguagePredictor:
    """Fulfils `core.protocols.Predictor`: of a text it predicts how surprising it is, in nats a token."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        column: str = "text",
        max_length: int | None = None,
        batch_tokens: int = 16384,
    ) -> None:
        """Args: max_length: texts are cut to so many tokens; absent: the model's context."""
        self.model, self.tokenizer, self.column, self.batch_tokens = model, tokenizer, column, batch_tokens
        limits = [length for length in (max_length, context_length(model)) if length is not None]
        self.max_length = min(limits, default=None)
        self.vocabulary_size = usable_vocabulary(model, tokenizer)

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    @property
    def columns(self) -> tuple[Column, ...]:
        return (Column(self.column, "text"),)

    @property
    def fingerprint(self) -> str:
        """Covers weights, tokenizer, the column read and the length it is cut to."""
        facts = [tokenizer_fingerprint(self.tokenizer), self.column, self.max_length]
        return fingerprint("language", type(self.model).__name__, parameters_fingerprint(self.model), *facts)

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n,) the mean of -log q(next token) of each text in nats; 0 where a text has no second token."""
        ids = [self.ids(text) for text in as_texts(features[self.column])]
        examples = tuple(TokenExample(row, np.arange(len(row)) < len(row) - 1) for row in ids)
        sequences = Sequences(examples, np.zeros(len(ids), np.int64), np.arange(len(ids)))
        found = score(self.model, sequences, vocabulary_size=self.vocabulary_size, batch_tokens=self.batch_tokens)
        return found.nll / np.maximum(found.num_tokens, 1)

    def ids(self, text: str, *, is_rendered: bool = False) -> NDArray[np.int64]:
        """The token ids of a text, cut to `max_length`; `is_rendered`: a chat template wrote it, special tokens included."""
        adds = adds_special_tokens(self.tokenizer, text, is_rendered=is_rendered)
        cut = {"truncation": self.max_length is not None, "max_length": self.max_length}
        coded = self.tokenizer(text, add_special_tokens=adds, verbose=False, **cut)
        return np.asarray(coded["input_ids"], np.int64)

    def prompt_ids(self, text: str, *, is_rendered: bool = False) -> NDArray[np.int64]:
        """The token ids of a text that is to be gone on with: as `ids`, whole, and without an end-of-sequence token behind it."""
        adds = adds_special_tokens(self.tokenizer, text, is_rendered=is_rendered)
        ids = np.asarray(self.tokenizer(text, add_special_tokens=adds, verbose=False)["input_ids"], np.int64)
        return ids[:-1] if len(ids) > 1 and adds and ids[-1] == self.tokenizer.eos_token_id else ids

    def continuations(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        seed: int | None = None,
        sampling_temperature: float = 1.0,
        top_p: float = 1.0,
        is_rendered: bool = False,
        end_ids: Collection[int] = (),
        progress: Progress | None = None,
    ) -> list[str]:
        """What the model writes after each prompt: greedy, or sampled from a seed. The prompt and the text put together read on.

        Args:
            is_rendered: a chat template wrote the prompts, special tokens included.
            end_ids: tokens that end a text besides the tokenizer's end-of-sequence token: a chat template's end of a turn.

        Raises:
            BadInput, StageFailed: as `models.generation.continuations`.
        """
        coded = [self.prompt_ids(prompt, is_rendered=is_rendered) for prompt in prompts]
        ends = {*end_ids} | {end for end in (self.tokenizer.eos_token_id,) if end is not None}
        found = continuations(
            self.model, coded, max_new_tokens=max_new_tokens, vocabulary_size=self.vocabulary_size, end_ids=ends, seed=seed,
            sampling_temperature=sampling_temperature, top_p=top_p, progress=progress,
        )  # fmt: skip
        return [self._text_after(ids, new) for ids, new in zip(coded, found, strict=True)]

    def _text_after(self, ids: NDArray[np.int64], new: NDArray[np.int64]) -> str:
        """The text of `new`. Decoded behind the prompt: some tokenizers drop the white space that a text decoded alone begins with."""

        def decoded(ids: NDArray[np.int64]) -> str:
            return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        before, whole = decoded(ids), decoded(np.concatenate([ids, new]))
        return whole.removeprefix(before) if whole.startswith(before) else decoded(new)

    def save(self, folder: Path) -> None:
        """What `save_causal` writes, which transformers loads by itself, and predictor.json."""
        save_causal(self.model, self.tokenizer, folder)
        write_manifest(
            folder, kind="language", classes=(), columns=self.columns, max_length=self.max_length, batch_tokens=self.batch_tokens
        )


def write_reference(folder: Path, name: str, *, column: str = "text", max_length: int | None = None, batch_tokens: int = 16384) -> None:
    """Instead of a copy of its weights: where a model that is not ours lies."""
    facts = {"max_length": max_length, "batch_tokens": batch_tokens, "model": name}
    write_manifest(folder, kind="language", classes=(), columns=[Column(column, "text")], **facts)


def load(folder: Path) -> LanguagePredictor:
    """The arm that `LanguagePredictor.save` or `write_reference` wrote.

    Raises:
        BadInput: the folder is not whole.
    """
    facts = read_manifest(folder)
    model, tokenizer = load_causal(facts.get("model", str(folder)), place=folder.name)
    (column,) = facts["columns"]
    return LanguagePredictor(model, tokenizer, column=column.name, max_length=facts["max_length"], batch_tokens=facts["batch_tokens"])
