"""What servers say, and what it means: statuses, error bodies, clocks, log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stillroom.core.chat import FAILURE_REASONS, Choice, Usage
from stillroom.teachers.endpoint.wire import Allowance, AttemptFailed, allowances, parse_reply, refusal, retry_after

NOW = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def error(message: str, code: object = None) -> bytes:
    return json.dumps({"error": {"message": message, "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "content", "reason", "retry"),
    [
        (400, error("bad value for n"), "bad-request", False),
        (422, b'{"detail": "field required"}', "bad-request", False),
        (400, error("This model's maximum context length is 4096 tokens"), "context-too-long", False),
        (400, error("exceeds the available context size", "exceed_context_size_error"), "context-too-long", False),
        (400, error("blocked", "content_filter"), "content-filter", False),
        (401, error("Incorrect API key"), "unauthorised", True),
        (403, b"Forbidden", "unauthorised", True),
        (404, error("The model `x` does not exist"), "not-found", True),
        (408, b"", "timeout", True),
        (409, b"", "server-error", True),
        (425, b"", "server-error", True),
        (429, error("slow down"), "rate-limited", True),
        (429, error("You exceeded your current quota", "insufficient_quota"), "unauthorised", False),
        (429, error("You exceeded your current quota, see your plan and billing"), "unauthorised", False),
        (429, error("You exceeded your current quota, see your plan and billing. Please retry in 16.6s."), "rate-limited", True),
        (402, error("pay"), "unauthorised", False),
        (500, b"<html>oops</html>", "server-error", True),
        (503, error("overloaded"), "server-error", True),
        (529, b"", "server-error", True),
        (301, b"", "not-found", False),
    ],
)
def test_a_status_becomes_one_reason(status: int, content: bytes, reason: str, retry: bool) -> None:
    failed = refusal(status, content, {}, NOW)
    assert (failed.reason, failed.retry, failed.status) == (reason, retry, status)
    assert failed.reason in FAILURE_REASONS
    assert not failed.billed


@pytest.mark.parametrize(
    ("words", "wait"),
    [("Please retry in 16.6s.", 16.6), ("Please try again in 20ms.", 0.02), ("Try again in 2 minutes", 120.0), ("Slow down.", None)],
)
def test_a_wait_is_read_from_the_words_where_no_header_tells_it(words: str, wait: float | None) -> None:
    assert refusal(429, error(words), {}, 0.0).wait == wait
    assert refusal(429, error(words), {"Retry-After": "3"}, 0.0).wait == 3.0


GEMINI = (
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, head over to: "
    "https://ai.google.dev/gemini-api/docs/rate-limits. To monitor your current usage, head over to: https://ai.dev/usage?tab=rate-limit. "
    "\n* Quota exceeded for metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 15, model: gemini"
)


@pytest.mark.parametrize(
    "fields",
    [{"message": f"{GEMINI}\nPlease retry in 26s."}, {"message": GEMINI, "details": [{"retryDelay": "26s"}]}],
    ids=["words", "delay"],
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_long_refusal_is_read_to_its_end(fields: dict[str, Any], listed: bool) -> None:
    whole = {"error": {"code": 429, **fields}}
    failed = refusal(429, json.dumps([whole] if listed else whole).encode(), {}, NOW)
    assert (failed.reason, failed.retry, failed.wait) == ("rate-limited", True, 26.0)
    assert failed.detail.startswith("You exceeded")


def test_half_a_surrogate_pair_in_an_error_hides_nothing_of_it() -> None:
    failed = refusal(401, b'{"error": {"message": "no key \\ud83d"}}', {}, NOW)
    assert (failed.reason, failed.detail) == ("unauthorised", "no key \ufffd")


def test_an_account_that_is_empty_is_so_whatever_a_header_says() -> None:
    assert refusal(429, error("no", "insufficient_quota"), {"Retry-After": "3"}, 0.0).reason == "unauthorised"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[" * 100_000, b'{"error": "text"}', b"[1]", b"\x00\x1b[31mred"])
def test_any_error_body_gives_one_printable_line(content: bytes) -> None:
    detail = refusal(500, content, {}, NOW).detail
    assert detail.isprintable()
    assert len(detail) <= 300


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"Retry-After": "Fri, 15 Jan 2027 08:00:30 GMT"}, 30.0),
        # The server's clock is an hour fast, or a year slow: its own Date says how long the wait is.
        ({"Retry-After": "Fri, 15 Jan 2027 09:00:10 GMT", "Date": "Fri, 15 Jan 2027 09:00:00 GMT"}, 10.0),
        ({"Retry-After": "Thu, 15 Jan 2026 08:00:10 GMT", "Date": "Thu, 15 Jan 2026 08:00:00 GMT"}, 10.0),
        ({"Retry-After": "Fri, 15 Jan 2027 07:00:00 GMT"}, 0.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "soon"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds


def test_what_is_left() -> None:
    headers = {
        "x-ratelimit-remaining-requests": "12",
        "x-ratelimit-reset-requests": "6m0s",
        "x-ratelimit-remaining-tokens": "900",
        "x-ratelimit-reset-tokens": "20ms",
    }
    assert allowances(headers, NOW) == [Allowance("requests", 12, 360.0), Allowance("tokens", 900, 0.02)]
    assert allowances({**headers, "x-ratelimit-reset-requests": str(NOW + 5)}, NOW)[0].reset == pytest.approx(5)
    assert allowances({"x-ratelimit-remaining-requests": "x", "x-ratelimit-reset-requests": ""}, NOW) == []


def parse(body: Any, kind: str = "application/json") -> tuple[tuple[Choice, ...], Usage | None, str]:
    return parse_reply(body if isinstance(body, bytes) else json.dumps(body).encode(), kind, 200, NOW)


def chat(**message: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "model": "m-1",
    }


def test_a_good_reply_is_read_whole() -> None:
    body = chat(content="yes", reasoning_content="because", tool_calls=[{"function": {"name": "f", "arguments": "{}"}}])
    top = [{"token": "yes", "logprob": -0.1}, {"token": "no", "logprob": -1e9}]
    body["choices"][0]["logprobs"] = {"content": [{"token": "yes", "logprob": -0.1, "top_logprobs": top}]}
    (choice,), usage, model = parse(body)
    assert (choice.text, choice.reasoning, choice.tool_calls) == ("yes", "because", (("f", "{}"),))
    assert choice.logprobs is not None
    assert choice.logprobs[0].top == (("yes", -0.1), ("no", -9999.0))
    assert (usage, model) == (Usage(3, 2), "m-1")


def test_half_a_surrogate_pair_is_replaced_where_text_comes_in() -> None:
    message = {"content": "a \ud83d", "reasoning": "\udc00", "tool_calls": [{"function": {"name": "f", "arguments": "{\ud83d"}}]}
    ((choice,), _, _) = parse_reply(json.dumps({"choices": [{"message": message}]}).encode(), "application/json", 200, 0.0)
    assert (choice.text, choice.reasoning, choice.tool_calls) == ("a \ufffd", "\ufffd", (("f", "{\ufffd"),))
    whole = json.dumps({"choices": [{"message": {"content": "\U0001f600"}}]}).encode()
    assert parse_reply(whole, "application/json", 200, 0.0)[0][0].text == "\U0001f600"


def test_missing_logprobs_and_usage_are_no_fault() -> None:
    (choice,), usage, _ = parse({"choices": [{"message": {"content": "yes"}, "logprobs": None}]})
    assert choice.logprobs is None
    assert usage is None
    assert parse({**chat(content="y"), "usage": {"prompt_tokens": -1}})[1] is None


def nan_logprobs() -> bytes:
    body = chat(content="yes")
    body["choices"][0]["logprobs"] = {"content": [{"token": "yes", "logprob": float("nan")}]}
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("body", "reason", "retry"),
    [
        (b"{", "malformed", True),
        (b"", "malformed", True),
        (b"[]", "malformed", True),
        (b'"\xff"', "malformed", True),
        ({"choices": []}, "malformed", True),
        ({"choices": None}, "malformed", True),
        ({"choices": [{"message": None}]}, "malformed", True),
        (chat(content=5), "malformed", True),
        (nan_logprobs(), "malformed", True),
        ({"error": {"message": "overloaded", "code": 503}}, "server-error", True),
        ({"error": {"message": "too long: maximum context", "code": 400}}, "context-too-long", False),
        ({"error": "what"}, "server-error", True),
        (chat(content=None, refusal="I cannot help"), "refused", False),
        (chat(content=""), "empty", False),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}, "content-filter", False),
        ({"choices": [{"message": {"content": None, "reasoning": "hm"}, "finish_reason": "length"}]}, "truncated", False),
    ],
)
def test_a_200_without_an_answer(body: Any, reason: str, retry: bool) -> None:
    with pytest.raises(AttemptFailed) as caught:
        parse(body)
    assert (caught.value.reason, caught.value.retry) == (reason, retry)


def test_a_web_page_speaks_of_a_wrong_address() -> None:
    with pytest.raises(AttemptFailed, match="web page") as caught:
        parse(b"<!DOCTYPE html><html></html>", "text/html")
    assert caught.value.settings
