"""What is asked of a chat endpoint and what comes back: the records that the client, the store and readers of answers share.

A stored answer is one JSON object in ASCII:

    {"format": "stillroom/chat@1", "attempts": 1, "seconds": 0.8, "usage": [prompt tokens, completion tokens],
     "model": "as the server named it",
     "choices": [{"text": "...", "finish_reason": "stop", "reasoning": "...", "refusal": "...", "tool_calls": [[name, arguments], ...],
                  "logprobs": [[token, logprob, [[token, logprob], ...]], ...]}, ...]}

or, for a request that failed for good, {"format": ..., "attempts", "seconds", "usage", "failure": reason, "detail": "...", "status": 400}.
Keys with nothing to say are left out. Prompts are not repeated: the answer's key covers them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint

CHAT, CHAT_FAILURE = "chat completion", "chat failure"
CHAT_FORMAT = "stillroom/chat@1"

FailureReason = Literal[
    "refused",  # the model declined
    "content-filter",
    "context-too-long",
    "truncated",  # the token limit came before the first word of the answer
    "empty",
    "bad-request",
    "unauthorised",
    "not-found",
    "rate-limited",
    "server-error",
    "timeout",
    "unreachable",  # no connection: unknown host, refused, TLS
    "broken",  # the connection ended before the answer did
    "malformed",
    "too-large",
]
FAILURE_REASONS: tuple[FailureReason, ...] = get_args(FailureReason)
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
# ASCII: control characters, quotes and lone surrogates of a user's text all reach the server, and the store, as escapes.
_OWN_FIELDS = {
    "messages",
    "model",
    "temperature",
    "top_p",
    "max_tokens",
    "stop",
    "n",
    "logprobs",
    "top_logprobs",
    "response_format",
    "seed",
}


@dataclass(frozen=True)
class ChatParameters:
    """What all requests of a question share; None leaves a parameter to the server.

    Attributes:
        top_logprobs: how many of the likeliest tokens to name at each position, 0 to 20; None asks for no log-probabilities.
        response_format: as the API defines it, a JSON Schema among them.
        extra: further fields of the request body, such as tools, reasoning_effort or max_completion_tokens.
    """

    model: str
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    top_logprobs: int | None = None
    response_format: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.model:
            raise BadInput.at("teacher.model", "'' names no model; give the name that the endpoint knows.")
        if self.n < 1:
            raise BadInput.at("n", f"{self.n} answers a request; ask for one or more.")
        if self.top_logprobs is not None and not 0 <= self.top_logprobs <= 20:
            raise BadInput.at("top_logprobs", f"{self.top_logprobs} is outside [0, 20].")
        if clash := sorted(self.extra.keys() & _OWN_FIELDS) or ["stream"] * ("stream" in self.extra):
            raise BadInput.at("extra", f"{', '.join(clash)} may not be set here: give it by its own name; answers are never streamed.")

    @cached_property
    def json(self) -> str:
        """The fields of the request body that do not differ from row to row, as one JSON object in a fixed order."""
        known: dict[str, Any] = {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop) or None,
            "n": self.n if self.n > 1 else None,
            "logprobs": None if self.top_logprobs is None else True,
            "top_logprobs": self.top_logprobs or None,
            "response_format": self.response_format,
        }
        set_ones = {name: value for name, value in known.items() if value is not None}
        return _encode({**set_ones, **self.extra})

    @property
    def most_tokens(self) -> int | None:
        """The most tokens that one request may generate; None where nothing bounds it."""
        limits = [self.max_tokens, self.extra.get("max_completion_tokens")]
        known = [limit for limit in limits if isinstance(limit, int)]
        return max(known) * self.n if known else None


@dataclass(frozen=True)
class ChatRequest:
    """One row to ask.

    Attributes:
        messages: each with a role and a content, as the API takes them. What they say is never interpreted.
        sample: tells repeated requests with the same messages apart (self-consistency); it is not sent.
    """

    messages: tuple[Mapping[str, Any], ...]
    parameters: ChatParameters
    seed: int | None = None
    sample: int = 0

    def __post_init__(self) -> None:
        if not self.messages:
            raise BadInput.at("messages", "a request without messages asks nothing.")

    @cached_property
    def messages_json(self) -> str:
        return _encode(self.messages)

    def body(self) -> bytes:
        """The request body."""
        seed = "" if self.seed is None else f'"seed":{self.seed},'
        return f'{{"messages":{self.messages_json},{seed}{self.parameters.json[1:]}'.encode("ascii")

    def facts(self, endpoint: str) -> dict[str, Any]:
        """What the answer's key is the fingerprint of: all that shapes it. `endpoint` is the base URL's host and path."""
        parameters = self.parameters
        example = fingerprint(self.messages_json, self.seed, self.sample)
        return {"question": CHAT, "endpoint": endpoint, "model": parameters.model, "parameters": parameters.json, "example": example}

    def key(self, endpoint: str) -> str:
        return fingerprint("answer", self.facts(endpoint))


def failure_facts(facts: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The facts under which it is recorded that the answer `key` failed; an answer that comes later has its own key."""
    return {"question": CHAT_FAILURE, "endpoint": facts["endpoint"], "model": facts["model"], "example": key}


@dataclass(frozen=True)
class Usage:
    """Tokens, as the server counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.prompt_tokens + other.prompt_tokens, self.completion_tokens + other.completion_tokens)


@dataclass(frozen=True)
class TokenLogprobs:
    """A token of an answer, its log-probability in nats, and the likeliest tokens at its place with theirs."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Choice:
    """One answer.

    Attributes:
        finish_reason: the server's word: "stop", "length", "tool_calls", ...; "" where it gave none.
        reasoning: what a server gives in a field of its own; sections inside `text` stay there.
        tool_calls: (name, arguments as JSON text).
        logprobs: one a token; None where the server gave none.
    """

    text: str
    finish_reason: str = ""
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[tuple[str, str], ...] = ()
    logprobs: tuple[TokenLogprobs, ...] | None = None


@dataclass(frozen=True)
class Reply:
    """What came back; at least one choice has something in it.

    Attributes:
        usage: None where the server did not say.
        seconds: of the attempt that succeeded.
    """

    choices: tuple[Choice, ...]
    usage: Usage | None = None
    model: str = ""
    attempts: int = 1
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """The first answer."""
        return self.choices[0].text


@dataclass(frozen=True)
class Failure:
    """A request that failed for good: why, in one word of a closed list and in the server's or the system's words."""

    reason: FailureReason
    detail: str = ""
    status: int | None = None
    attempts: int = 1
    seconds: float = 0.0
    usage: Usage | None = None


def to_block(outcome: Reply | Failure) -> bytes:
    """The stored form of an outcome."""
    usage = outcome.usage and [outcome.usage.prompt_tokens, outcome.usage.completion_tokens]
    content: dict[str, Any] = {
        "format": CHAT_FORMAT,
        "attempts": outcome.attempts,
        "seconds": round(outcome.seconds, 4),
        "usage": usage,
    }
    if isinstance(outcome, Reply):
        content |= {"model": outcome.model, "choices": [_choice_content(choice) for choice in outcome.choices]}
    else:
        content |= {"failure": outcome.reason, "detail": outcome.detail, "status": outcome.status}
    return _encode({name: value for name, value in content.items() if value not in (None, "")}).encode("ascii")


def from_block(block: bytes) -> Reply | Failure:
    """What `to_block` was given.

    Raises:
        StageFailed: the block is no such object.
    """
    try:
        content = json.loads(block)
        if (found := content["format"]) != CHAT_FORMAT:
            raise StageFailed(f"a stored answer has the format {found!r}; this version reads {CHAT_FORMAT!r}. Update stillroom.")
        usage = Usage(*content["usage"]) if "usage" in content else None
        known = {"attempts": content["attempts"], "seconds": content["seconds"], "usage": usage}
        if "failure" in content:
            return Failure(content["failure"], content.get("detail", ""), content.get("status"), **known)
        return Reply(tuple(map(_choice, content["choices"])), model=content.get("model", ""), **known)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, StageFailed):
            raise
        raise StageFailed(f"a stored answer is damaged: {block[:80]!r}. Ask it again in a new store.") from error


def _choice_content(choice: Choice) -> dict[str, Any]:
    content: dict[str, Any] = {"text": choice.text, "finish_reason": choice.finish_reason}
    for name in ("reasoning", "refusal", "tool_calls"):
        if value := getattr(choice, name):
            content[name] = value
    if choice.logprobs is not None:
        content["logprobs"] = [[each.token, each.logprob, each.top] for each in choice.logprobs]
    return content


def _choice(content: Mapping[str, Any]) -> Choice:
    logprobs = content.get("logprobs")
    return Choice(
        content["text"],
        content["finish_reason"],
        content.get("reasoning", ""),
        content.get("refusal", ""),
        tuple((name, arguments) for name, arguments in content.get("tool_calls", ())),
        None if logprobs is None else tuple(TokenLogprobs(t, p, tuple((u, q) for u, q in top)) for t, p, top in logprobs),
    )


def finite_logprob(value: object) -> float:
    """A log-probability as JSON can hold it: minus infinity becomes -9999, the API's own word for it.

    Raises:
        ValueError: no number, NaN, or a probability above 1 by more than rounding.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        raise ValueError(f"{value!r} is no log-probability")
    return max(float(value), -9999.0)
