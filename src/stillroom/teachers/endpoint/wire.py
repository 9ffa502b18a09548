"""The wire format: HTTP's and JSON's words in, records out. No network, no clock."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from stillroom.core.chat import Choice, FailureReason, TokenLogprobs, Usage, finite_logprob

_DETAIL_CHARACTERS = 300
_RETRIED = frozenset({408, 409, 425, 429})
_CONTEXT = re.compile(
    r"context[ _](length|size|window)|maximum context|too many (input )?tokens|(prompt|input) is too long|reduce the length", re.I
)
_FILTER = re.compile(r"content[ _-]?(filter|policy|management)|responsible ?ai|moderation|flagged", re.I)
_QUOTA = re.compile(r"insufficient_quota|exceeded your current quota|credit balance|billing", re.I)
_RETRY_IN = re.compile(rb'(?:try (?:again )?in |"retryDelay": ?")(\d+(?:\.\d+)?) ?(ms|s|m)?', re.I)
"""So servers say how long to wait where they send no header; vendors' words for a limit a minute may be those for an empty account."""
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


class AttemptFailed(Exception):
    """One attempt brought no answer.

    Attributes:
        retry: another attempt may bring one.
        billed: it may have cost tokens, and nobody said how many, unless `usage` does.
        settings: the cause lies in the job or the endpoint rather than in the row: key, model, address, quota.
        wait: seconds that the server asks everybody to wait.
    """

    def __init__(
        self, reason: FailureReason, detail: str, *, status: int | None = None, retry: bool = False, billed: bool = False,
        settings: bool = False, wait: float | None = None, usage: Usage | None = None,
    ) -> None:  # fmt: skip
        super().__init__(detail)
        self.reason, self.detail, self.status = reason, detail, status
        self.retry, self.billed, self.settings, self.wait, self.usage = retry, billed, settings, wait, usage


@dataclass(frozen=True)
class Allowance:
    """What a server says is left: `remaining` of something ("requests", "tokens") until `reset` seconds from now."""

    name: str
    remaining: float
    reset: float


def refusal(status: int, content: bytes, headers: Mapping[str, str], wall_time: float) -> AttemptFailed:
    """What an HTTP status other than 2xx means."""
    message, code = _error_words(content)
    words = f"{code} {message}"
    wait = retry_after(headers, wall_time)
    if status == 429 and wait is None and (said := _RETRY_IN.search(content)):
        wait = float(said[1]) * {b"ms": 0.001, b"m": 60.0}.get((said[2] or b"s").lower(), 1.0)
    if 300 <= status < 400:
        place = headers.get("Location", "elsewhere")
        return AttemptFailed("not-found", f"moved to {place}; give the address it moved to", status=status, settings=True)
    if status == 402 or (
        status in (400, 403, 429) and _QUOTA.search(words) and (status != 429 or wait is None or "insufficient_quota" in words)
    ):
        return AttemptFailed("unauthorised", f"the account has no quota left: {message}", status=status, settings=True)
    if status in (401, 403):
        return AttemptFailed("unauthorised", message, status=status, retry=True, settings=True)
    if status == 404:
        return AttemptFailed("not-found", message, status=status, retry=True, settings=True)
    if status == 429:
        return AttemptFailed("rate-limited", message, status=status, retry=True, wait=wait)
    if status >= 500 or status in _RETRIED:
        return AttemptFailed("timeout" if status == 408 else "server-error", message, status=status, retry=True, wait=wait)
    if _CONTEXT.search(words):
        return AttemptFailed("context-too-long", message, status=status)
    if _FILTER.search(words):
        return AttemptFailed("content-filter", message, status=status)
    return AttemptFailed("bad-request", message, status=status)


def parse_reply(content: bytes, content_type: str, status: int, wall_time: float) -> tuple[tuple[Choice, ...], Usage | None, str]:
    """The choices, the usage and the model's name in the body of a 2xx answer.

    Raises:
        AttemptFailed: it holds no answer.
    """
    body = read_object(content, content_type, status)
    usage = _usage(body.get("usage"))
    if body.get("error") and not body.get("choices"):
        raise _error_inside(content, body["error"], usage, wall_time)
    try:
        choices = tuple(map(_choice, body["choices"]))
        if not choices:
            raise ValueError("it is empty")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        words = f"its 'choices' cannot be read ({error}): {_short(content)}"
        raise AttemptFailed("malformed", words, status=status, retry=True, billed=True, usage=usage) from None
    if not any(choice.text or choice.tool_calls for choice in choices):
        raise _nothing_said(choices[0], status, usage)
    model = body.get("model")
    return choices, usage, model if isinstance(model, str) else ""


def read_object(content: bytes, content_type: str, status: int) -> dict[str, Any]:
    """The JSON object in the body of a 2xx answer. Raises AttemptFailed where it is none."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):  # of a UTF-8 error, too
        raise _no_json(content, content_type, status) from None
    if not isinstance(body, dict):
        raise AttemptFailed("malformed", f"a JSON {type(body).__name__} instead of an object", status=status, retry=True, billed=True)
    return body


def retry_after(headers: Mapping[str, str], wall_time: float) -> float | None:
    """Seconds to wait; None where no, or no sensible, word was given.

    A date is held against the server's own clock in the Date header: ours may be wrong, and so may theirs.
    """
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000
    word = headers.get("Retry-After")
    if word is None or (seconds := _number(word)) is not None:
        return seconds if word is not None else None
    until = _date(word)
    if until is None:
        return None
    now = _date(headers.get("Date", ""))
    return max(until - (wall_time if now is None else now), 0.0)


def allowances(headers: Mapping[str, str], wall_time: float) -> list[Allowance]:
    """What the x-ratelimit headers say is left of requests and tokens."""
    found = []
    for name in ("requests", "tokens"):
        remaining = _number(headers.get(f"x-ratelimit-remaining-{name}"))
        reset = _duration(headers.get(f"x-ratelimit-reset-{name}", ""), headers, wall_time)
        if remaining is not None and reset is not None:
            found.append(Allowance(name, remaining, reset))
    return found


def _choice(content: dict[str, Any]) -> Choice:
    message = content["message"]
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    text, refused, reason = message.get("content"), message.get("refusal"), content.get("finish_reason")
    if isinstance(text, list):  # parts
        text = "".join(part.get("text") or "" for part in text)
    calls = tuple((_text(call["function"]["name"]), _text(call["function"]["arguments"])) for call in message.get("tool_calls") or ())
    if not isinstance(text or "", str) or not isinstance(reasoning, str):
        raise ValueError("a content that is no text")
    told = (content.get("logprobs") or {}).get("content")
    logprobs = None if told is None else tuple(map(_token, told))
    return Choice(_text(text or ""), str(reason or ""), _text(reasoning), _text(refused or ""), calls, logprobs)


def _text(value: object) -> str:
    """JSON may hold half a surrogate pair, which neither files nor tokenizers can."""
    text = str(value)
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _token(content: dict[str, Any]) -> TokenLogprobs:
    top = tuple((str(each["token"]), finite_logprob(each["logprob"])) for each in content.get("top_logprobs") or ())
    return TokenLogprobs(str(content["token"]), finite_logprob(content["logprob"]), top)


def _usage(content: object) -> Usage | None:
    if not isinstance(content, dict):
        return None
    counts = content.get("prompt_tokens"), content.get("completion_tokens", 0)
    if any(isinstance(count, bool) or not isinstance(count, int) or count < 0 for count in counts):
        return None
    return Usage(*counts)  # type: ignore[arg-type]  # both are int


def _nothing_said(choice: Choice, status: int, usage: Usage | None) -> AttemptFailed:
    """Why an answer is empty, for good: the same words would bring the same."""
    reason: FailureReason = "empty"
    detail = f"the answer is empty (finish_reason {choice.finish_reason!r})"
    if choice.finish_reason == "content_filter":
        reason = "content-filter"
    elif choice.refusal:
        reason, detail = "refused", _short(choice.refusal.encode())
    elif choice.finish_reason == "length":
        reason, detail = "truncated", "the token limit came before the first word of the answer; raise max_tokens"
    return AttemptFailed(reason, detail, status=status, billed=True, usage=usage)


def _no_json(content: bytes, content_type: str, status: int) -> AttemptFailed:
    if "html" in content_type.lower() or content.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        words = f"a web page instead of JSON: {_short(content)}"
        return AttemptFailed("malformed", words, status=status, retry=True, settings=True)
    words = f"no JSON ({content_type or 'no content type'}): {_short(content)}"
    return AttemptFailed("malformed", words, status=status, retry=True, billed=True)


def _error_inside(content: bytes, error: object, usage: Usage | None, wall_time: float) -> AttemptFailed:
    """A 200 whose body is an error: gateways give the status of the model's server as its code."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    failed = refusal(status, content, {}, wall_time)
    failed.detail, failed.usage = f"a 200 with an error in it: {failed.detail}", usage
    return failed


def _error_words(content: bytes) -> tuple[str, str]:
    """The message and the code in the body of an error, whatever its form."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return _short(content), ""
    if isinstance(body, list) and body:  # as one vendor sends it
        body = body[0]
    error = body.get("error", body) if isinstance(body, dict) else body
    if not isinstance(error, dict):
        return _short(_text(error).encode()), ""
    message = error.get("message") or error.get("detail") or json.dumps(error)
    return _short(_text(message).encode()), f"{error.get('code')} {error.get('type')}"


def _short(content: bytes) -> str:
    """The beginning of a text on one line, without control characters."""
    text = content[: 4 * _DETAIL_CHARACTERS].decode(errors="replace")
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:_DETAIL_CHARACTERS]


def _number(word: str | None) -> float | None:
    """A number of at least zero, or None."""
    try:
        value = float(word or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _date(word: str) -> float | None:
    try:
        when = parsedate_to_datetime(word)
    except (TypeError, ValueError):
        return None
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _duration(word: str, headers: Mapping[str, str], wall_time: float) -> float | None:
    """Seconds in "6m0s", "20ms", "1.5", or until a Unix time in seconds or milliseconds."""
    if (number := _number(word)) is not None:
        if number < 1e9:
            return number
        now = _date(headers.get("Date", ""))
        return max(number / (1000 if number > 1e11 else 1) - (wall_time if now is None else now), 0.0)
    parts = _DURATION.fullmatch(word)
    if not word or parts is None:
        return None
    return sum(float(part) * unit for part, unit in zip(parts.groups(), (86400, 3600, 60, 1, 0.001), strict=True) if part)
