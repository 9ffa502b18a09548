"""Looking at what goes in and out of a model's modules while it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from stillroom.core.errors import needs_extra

with needs_extra("torch", "a student out of a language model"):
    import torch
    from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Look = Callable[[Tensor, Tensor], None]


@contextmanager
def hooked(watched: Mapping[nn.Module, Look]) -> Iterator[None]:
    """Inside, each module hands its first input and its first output to its function; afterwards none does."""

    def forward(look: Look) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            look(inputs[0], output[0] if isinstance(output, tuple) else output)

        return hook

    with ExitStack() as stack:
        for module, look in watched.items():
            stack.callback(module.register_forward_hook(forward(look)).remove)
        yield


def tokens_of(batch: Mapping[str, Tensor], model: PreTrainedModel) -> Tensor:
    """(B, S) bool on the model's device: which positions of a batch hold a token."""
    ids, mask = batch["input_ids"], batch.get("attention_mask")
    return (torch.ones_like(ids) if mask is None else mask).bool().to(model.device)
