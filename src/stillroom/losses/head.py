"""The output projection of a language model. Shapes: N positions, H hidden width, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stillroom.core.errors import needs_extra

with needs_extra("torch", "a loss on tensors"):
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """logits = soft_cap * tanh(scale * (hidden @ weight.T + bias) / soft_cap), without the tanh where there is no soft-cap.

    Args:
        weight: (V, H).
        bias: (V,) or None.
        scale: multiplies the logits: `logit_scale` of Cohere, 1 / `logits_scaling` of Granite.
        soft_cap: `final_logit_softcapping` of Gemma-2; a bound on every |logit|.

    Raises:
        ValueError: the sizes do not fit each other, or a parameter is not positive.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def __post_init__(self) -> None:
        if self.weight.dim() != 2:
            raise ValueError(f"head.weight is {tuple(self.weight.shape)}; it must be (vocabulary, hidden width).")
        if self.bias is not None and self.bias.shape != self.weight.shape[:1]:
            raise ValueError(
                f"head.bias is {tuple(self.bias.shape)}, head.weight {tuple(self.weight.shape)}; one bias for each row of the weight."
            )
        if not self.scale > 0:
            raise ValueError(f"head.scale = {self.scale} must be above 0; 1.0 leaves the logits as they are.")
        if self.soft_cap is not None and not self.soft_cap > 0:
            raise ValueError(f"head.soft_cap = {self.soft_cap} must be above 0; None leaves the logits unbounded.")

    @property
    def vocabulary_size(self) -> int:
        return int(self.weight.shape[0])

    @property
    def width(self) -> int:
        return int(self.weight.shape[1])

    def cut(self, vocabulary_size: int) -> Head:
        """The same head without the rows from `vocabulary_size` on, for vocabularies that one tokenizer fills and padding extends.

        The probabilities of the rows that go are shared out among those that stay, as if the model had been built without them;
        no memory is copied, and gradients reach the original weight. Whether the rows are padding is for the caller to know:
        they are if the tokenizer has no token with such an id.

        Raises:
            ValueError: the head has fewer rows than that.
        """
        if not 0 < vocabulary_size <= self.vocabulary_size:
            raise ValueError(
                f"cut({vocabulary_size}): the head has {self.vocabulary_size} rows; missing rows are never made up. Cut the larger head."
            )
        bias = None if self.bias is None else self.bias[:vocabulary_size]
        return replace(self, weight=self.weight[:vocabulary_size], bias=bias)
