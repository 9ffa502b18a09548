"""What may be spent, and what has been."""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass

from stillroom.core.chat import ChatRequest, Usage
from stillroom.core.errors import BadInput

_PICO = 1e12
BATCH_PRICE_FACTOR = 0.5
"""What the vendors take for a request in a batch, as a share of its usual price (OpenAI, Anthropic, Google, Mistral, Groq in 2026)."""


@dataclass(frozen=True)
class Spending:
    """Requests sent, their tokens, and their price. Differences may be negative.

    Money is whole picodollars, so that sums of sums agree: a price of 0.15 USD per million tokens is 150,000 for each.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    picodollars: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def usd(self) -> float:
        return self.picodollars / _PICO

    def __add__(self, other: Spending) -> Spending:
        return Spending(
            self.requests + other.requests, self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens, self.picodollars + other.picodollars,
        )  # fmt: skip

    def __sub__(self, other: Spending) -> Spending:
        return self + Spending(-other.requests, -other.prompt_tokens, -other.completion_tokens, -other.picodollars)

    def to_block(self) -> bytes:
        return json.dumps(astuple(self)).encode()

    @classmethod
    def from_block(cls, block: bytes) -> Spending:
        return cls(*json.loads(block))


NOTHING = Spending()


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    prompt: float = 0.0
    completion: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.prompt < float("inf") and 0 <= self.completion < float("inf")):
            raise BadInput.at("teacher.prices", f"{self.prompt}, {self.completion}: prices are at least 0 US dollars per million tokens.")

    def times(self, factor: float) -> Prices:
        return Prices(self.prompt * factor, self.completion * factor)

    def of(self, usage: Usage, requests: int = 1) -> Spending:
        prompt, completion = (round(price * _PICO / 1e6) for price in (self.prompt, self.completion))
        paid = usage.prompt_tokens * prompt + usage.completion_tokens * completion
        return Spending(requests, usage.prompt_tokens, usage.completion_tokens, paid)


@dataclass(frozen=True)
class Budget:
    """The most that a store may spend, over all its runs; None sets no bound."""

    usd: float | None = None
    requests: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("usd", self.usd), ("requests", self.requests), ("tokens", self.tokens)):
            if value is not None and not 0 < value < float("inf"):
                raise BadInput.at(f"budget.{name}", f"{value} allows nothing to be asked; give a number above zero, or leave it out.")

    def allows(self, spending: Spending) -> bool:
        bounds = ((self.usd, spending.usd), (self.requests, spending.requests), (self.tokens, spending.tokens))
        return all(most is None or value <= most for most, value in bounds)

    def check(self, request: ChatRequest, prices: Prices) -> None:
        """Raises BadInput where the budget cannot be kept for want of a bound or a price."""
        if (self.usd is not None or self.tokens is not None) and request.parameters.most_tokens is None:
            raise BadInput.at("budget", "usd and tokens can only be kept if max_tokens bounds each answer; set it.")
        if self.usd is not None and not (prices.prompt or prices.completion):
            raise BadInput.at("budget.usd", "without prices there is no telling what is spent; give teacher.prices, per million tokens.")
