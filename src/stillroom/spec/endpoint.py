"""`teacher.kind: endpoint`: a model behind an OpenAI-compatible server; and what it may cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from stillroom.spec.base import Count, Params, Spec, WebAddress, described
from stillroom.spec.specification import Words

Price = Annotated[float, Field(ge=0)]


class PricesSpec(Spec):
    """US dollars per million tokens."""

    prompt: Price = 0.0
    completion: Price = 0.0


class BudgetSpec(Spec):
    """The most that the run may spend at its teacher's endpoint, over all its attempts; reaching it ends the run, and more goes on."""

    usd: Annotated[float, Field(gt=0)] | None = described("US dollars, at teacher.prices.", default=None)
    requests: Count | None = described("Requests sent, retries among them.", default=None)
    tokens: Count | None = described("Tokens of prompts and answers.", default=None)

    @field_validator("usd", "requests", "tokens", mode="before")
    @classmethod
    def _allows_something(cls, value: object) -> object:
        if isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
            raise ValueError(f"= {value} allows nothing to be asked; give a number above zero, or leave it out for no bound.")
        return value


class EndpointFields(Spec):
    """Where an endpoint is and how it is asked: the fields of `EndpointTeacherSpec` beside a teacher's own."""

    base_url: WebAddress = described("The server's address up to and with the version, such as https://api.example.com/v1.")
    model: Words = described("The model's name, as the server knows it.")
    api_key_env: Words | None = described("The environment variable that holds the key; absent: the server wants none.", default=None)
    answers: Literal["text", "logprobs", "samples"] = described(
        "What an answer is made of. text: one answer a row. logprobs: a label's probability from the tokens' log-probabilities. samples: "
        "from how often several answers name it.",
        default="text",
    )
    samples: Annotated[int, Field(ge=2, le=100)] | None = described(
        "samples: how many answers a row (default 5). task: language-model: how many responses to each prompt, to choose from.",
        default=None,
    )
    sampling_temperature: Annotated[float, Field(ge=0, le=2)] | None = described(
        "Of the server's sampling; default 0 for one answer, 1 for several.", default=None
    )
    max_tokens: Count | None = described("Tokens of an answer, at most; a budget in usd or tokens needs it.", default=None)
    structured: Literal["json-schema", "tool", "prompt"] = described(
        "How a structured answer is asked for: by response_format, as a tool's call, or in words alone.", default="json-schema"
    )
    asked_again: Annotated[int, Field(ge=0, le=5)] = described("How often an answer that cannot be used is asked for anew.", default=2)
    prices: PricesSpec | None = None
    batch: bool = described(
        "Ask through the vendor's batch API: answers within a day, for half of teacher.prices where the vendor halves them.", default=False
    )
    max_concurrency: Count = described("Requests at once, at most; how many really are is learnt.", default=256)
    timeout_seconds: Annotated[float, Field(gt=0)] = described("Of one attempt.", default=120.0)
    max_attempts: Count = described("Of one request, not counted refusals for the rate and connections that could not be made.", default=8)
    extra: Params = described("Further fields of each request's body, as the server takes them.", default={})
