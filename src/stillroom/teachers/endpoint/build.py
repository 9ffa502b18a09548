"""From the job's `teacher` and `budget` sections to an endpoint that can be asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stillroom.core.chat import ChatParameters
from stillroom.core.fingerprint import fingerprint
from stillroom.spec.endpoint import BudgetSpec, EndpointFields
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.budget import BATCH_PRICE_FACTOR, Budget, Prices

DEFAULT_SAMPLES = 5
MOST_TOP_LOGPROBS = 20
"""As many as the API names at one place."""


@dataclass(frozen=True)
class EndpointTeacher:
    """A model behind an endpoint, and how it is asked.

    Attributes:
        parameters: of a single answer; what a task adds, such as a response format, is the task's.
        answers: text, logprobs or samples, as the job says.
        samples: answers to each row; 1 unless the job asks for several.
        asked_again: how often an answer that cannot be used is asked for anew.
        prices: None where the job names none: money is then unknown, not zero.
        batch: whether it is asked through the vendor's batch API.
    """

    endpoint: Endpoint
    parameters: ChatParameters
    answers: Literal["text", "logprobs", "samples"] = "text"
    samples: int = 1
    structured: Literal["json-schema", "tool", "prompt"] = "json-schema"
    asked_again: int = 2
    prices: Prices | None = None
    budget: Budget | None = None
    batch: bool = False

    @property
    def price_factor(self) -> float:
        """What is paid, as a share of `prices`."""
        return BATCH_PRICE_FACTOR if self.batch else 1.0

    @property
    def fingerprint(self) -> str:
        """Covers what shapes the answers: not the key, the pace, the batch API, the prices or the budget."""
        shape = [self.answers, self.samples, self.structured, self.asked_again]
        return fingerprint("endpoint", self.endpoint.name, self.parameters.json, *shape)


def build_endpoint_teacher(spec: EndpointFields, budget: BudgetSpec | None = None) -> EndpointTeacher:
    """The endpoint of a job. Nothing is asked, and the key is not read.

    Raises:
        BadInput: an address that is none; parameters that the API does not take.
    """
    samples = spec.samples or (DEFAULT_SAMPLES if spec.answers == "samples" else 1)
    temperature = spec.sampling_temperature if spec.sampling_temperature is not None else (1.0 if samples > 1 else 0.0)
    parameters = ChatParameters(
        spec.model,
        temperature=temperature,
        max_tokens=spec.max_tokens,
        top_logprobs=MOST_TOP_LOGPROBS if spec.answers == "logprobs" else None,
        extra=spec.extra,
    )
    endpoint = Endpoint(
        spec.base_url, spec.api_key_env, max_concurrency=spec.max_concurrency, timeout_seconds=spec.timeout_seconds,
        max_attempts=spec.max_attempts,
    )  # fmt: skip
    return EndpointTeacher(
        endpoint,
        parameters,
        spec.answers,
        samples,
        spec.structured,
        spec.asked_again,
        prices=None if spec.prices is None else Prices(spec.prices.prompt, spec.prices.completion),
        budget=None if budget is None else Budget(budget.usd, budget.requests, budget.tokens),
        batch=spec.batch,
    )
