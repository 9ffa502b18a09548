"""How much memory a language model needs, and how much there is: asked before the work, not found out in the middle of it."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.models.locate import locate_model

with needs_extra("torch", "a language model"):
    import torch
    from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GIB = 1 << 30
_COPIES_OF_LOGITS = 8
"""A chunk's logits, their exponentials, sums and sampling points, all at once, in units of the logits themselves."""


def refuse_too_large(name: str, *, place: str = "model") -> None:
    """Refuse weights that do not fit into memory as float32, before they are loaded.

    Only the headers of the safetensors files in a folder are read; a hub id that is not on disk is let pass.

    Raises:
        StageFailed: with both figures.
    """
    folder = Path(locate_model(name, place))
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    needed, available = sum(map(_float32_bytes, files)), available_memory(torch.device("cpu"))
    if available is not None and needed > available:
        remedy = "Free memory, or take a smaller model."
        raise StageFailed(f"{place}: {name!r} needs {gib(needed)} for its weights in float32; {gib(available)} are available. {remedy}")


def batch_that_fits(
    model: PreTrainedModel, *, batch_tokens: int, longest: int, chunk_elements: int, place: str = "model"
) -> tuple[int, str | None]:
    """`batch_tokens`, halved until a forward pass without gradients fits beside the loaded model.

    Counted are the widest block's activations of a batch and a chunk of logits with what is computed from it.

    Args:
        longest: tokens of the longest example: a batch never holds less.

    Returns:
        The bound on tokens, and a sentence to show where it was reduced.

    Raises:
        StageFailed: not even one example fits; with the figures.
    """
    if batch_tokens < 1:
        raise BadInput.at(place, f"batch_tokens = {batch_tokens} must be at least 1.")
    available = available_memory(model.device)
    logits = 4 * chunk_elements * _COPIES_OF_LOGITS

    def needed(tokens: int) -> int:
        return logits + max(tokens, longest) * bytes_per_token(model)

    fitting = batch_tokens
    while available is not None and needed(fitting) > available:
        if fitting <= longest:
            what = f"one example of {longest} tokens needs {gib(needed(fitting))} beside the model's own {gib(model_bytes(model))}"
            remedy = "Free memory, lower training.max_length, or take a smaller model."
            raise StageFailed(f"{place}: {what}; {gib(available)} are available. {remedy}")
        fitting = max(fitting // 2, 1)
    if fitting == batch_tokens:
        return batch_tokens, None
    figures = f"a batch of {batch_tokens} tokens needs {gib(needed(batch_tokens))}, {gib(available or 0)} are available"
    return fitting, f"{place}: {figures}; batches are reduced to {fitting} tokens ({gib(needed(fitting))})."


def available_memory(device: torch.device) -> int | None:
    """Bytes that can still be used without swapping, on the device; None where it cannot be told."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    found = [value for value in (_machine(), _container()) if value is not None]
    return min(found, default=None)


def model_bytes(model: nn.Module) -> int:
    """Parameters and buffers; tied ones once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def bytes_per_token(model: PreTrainedModel) -> int:
    """What a token takes while it passes the widest block without gradients: about eight states and four wide activations."""
    hidden = int(model.config.hidden_size)
    ends = {id(module.weight) for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None}  # type: ignore[no-untyped-call]
    weights = [p for name, p in model.named_parameters() if p.dim() == 2 and id(p) not in ends and "embed" not in name]
    widest = max((max(weight.shape) for weight in weights), default=hidden)
    return (8 * hidden + 4 * widest) * next(model.parameters()).element_size()


def gib(num_bytes: int) -> str:
    """Bytes as people write them."""
    return f"{num_bytes / _GIB:.2f} GiB" if num_bytes >= _GIB / 100 else f"{num_bytes / 2**20:.2f} MiB"


def _float32_bytes(file: Path) -> int:
    with file.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(size))
    return sum(4 * prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _machine() -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else int(found.split()[1]) * 1024


def _container() -> int | None:
    """What a control group leaves of its limit; page cache, which it can drop, not counted as used."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit, used = ((folder / name).read_text().strip() for name in ("memory.max", "memory.current"))
        facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if limit == "max" else max(int(limit) - int(used) + int(facts.get("inactive_file", 0)), 0)
    except (OSError, ValueError):
        return None
