"""What every model of the transformers library shares here: reading, writing, fingerprints, quiet, eval mode, seeds."""

from __future__ import annotations

import json
import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.core.files import writing
from stillroom.core.fingerprint import fingerprint

with needs_extra("torch", "a text model"):
    import safetensors
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Model = TypeVar("Model", bound=nn.Module)


def to_accelerator(model: Model) -> Model:
    """The model on the accelerator if there is one, else where it is. Processes that were started together take one each."""
    if torch.accelerator.is_available():
        if "LOCAL_RANK" in os.environ:
            torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]) % torch.accelerator.device_count())
        model.to(torch.accelerator.current_accelerator())
    return model


def parameters_fingerprint(model: nn.Module) -> str:
    """The fingerprint of every parameter and buffer, persistent or not, by name, dtype, shape and bytes."""
    tensors = sorted([*model.named_parameters(), *model.named_buffers()], key=lambda item: item[0])
    return fingerprint([[name, str(t.dtype), list(t.shape), _bytes(t)] for name, t in tensors])


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """The fingerprint of what a tokenizer does to a text; how it last padded and cut is not part of it."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = {} if backend is None else {**json.loads(backend.to_str()), "padding": None, "truncation": None}
    return fingerprint(json.dumps(rules, sort_keys=True), tokenizer.get_vocab())


@contextmanager
def answering(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; afterwards the model trains on if it did before."""
    trained = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(trained)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every global random state set from `seed` inside, and put back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        transformers.set_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and advice of transformers inside; Stillroom shows its own."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.ERROR)
    log.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Turn what torch and safetensors raise on a full or read-only disk into one clear error.

    Raises:
        StageFailed: with the folder, the reason and the remedy.
    """
    try:
        with writing(folder), quiet():
            yield
    except (safetensors.SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise StageFailed(f"cannot write {folder}: {reason}; free some space and run the same command again, it resumes.") from error


@contextmanager
def readable(name: str, place: str) -> Iterator[None]:
    """Turn what transformers raises on a model that is not there, not whole or not safe into one clear error.

    Raises:
        BadInput: with the place, the name, the reason and the remedy.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError, StrictDataclassError) as error:
        if isinstance(error, BadInput):
            raise
        cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0].rstrip(" .:")
        needed = "Give a folder with config.json, model.safetensors and a tokenizer (./NAME), or a hub id."
        message = f"= {name!r} cannot be loaded: {reason}. {needed}"
        raise BadInput.at(place, message) from error


def _bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return np.asarray(flat.view(torch.uint8).numpy())
