"""A language model as one arm of a run: a transformers checkpoint with its tokenizer, or a word on where it lies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.core.errors import BadInput
from stillroom.models.causal import load_causal, save_causal
from stillroom.models.manifest import read_manifest, write_manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def save(self, folder: Path) -> None:
        """Weights (safetensors), config and tokenizer, as transformers itself loads them, and predictor.json."""
        save_causal(self.model, self.tokenizer, folder)
        write_manifest(folder, kind="language", classes=())


def write_reference(folder: Path, name: str) -> None:
    """Instead of a copy of its weights: where a model that is not ours lies."""
    write_manifest(folder, kind="language", classes=(), model=name)


def load_language_model(folder: Path) -> LanguageModel:
    """What `LanguageModel.save` or `write_reference` wrote.

    Raises:
        BadInput: the folder is not whole.
    """
    facts = read_manifest(folder)
    if facts["kind"] != "language":
        raise BadInput.at(str(folder), f"holds a predictor of kind {facts['kind']!r}, no language model.")
    return LanguageModel(*load_causal(facts.get("model", str(folder)), place=folder.name))
