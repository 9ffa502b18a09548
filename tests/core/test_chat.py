"""Requests become bodies and keys; outcomes become blocks and come back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.core.chat import (
    FAILURE_REASONS,
    ChatParameters,
    ChatRequest,
    Choice,
    Failure,
    Reply,
    TokenLogprobs,
    Usage,
    from_block,
    to_block,
)
from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint

PARAMETERS = ChatParameters("m", temperature=0.0, max_tokens=5)
REQUEST = ChatRequest(({"role": "user", "content": "hello"},), PARAMETERS)

words = st.text(st.characters(), max_size=12)  # lone surrogates and control characters among them
logprob = st.floats(-9999, 0)
tokens = st.builds(TokenLogprobs, words, logprob, st.lists(st.tuples(words, logprob), max_size=2).map(tuple))
calls = st.lists(st.tuples(words, words), max_size=2).map(tuple)
logprobs = st.none() | st.lists(tokens, max_size=2).map(tuple)
choices = st.builds(Choice, words, words, words, words, calls, logprobs)
usages = st.none() | st.builds(Usage, st.integers(0, 9), st.integers(0, 9))
replies = st.builds(Reply, st.lists(choices, min_size=1, max_size=2).map(tuple), usages, words, st.integers(1, 9), st.just(0.25))
reasons, statuses = st.sampled_from(FAILURE_REASONS), st.none() | st.integers(400, 599)
failures = st.builds(Failure, reasons, words, statuses, st.integers(1, 9), st.just(0.25), usages)


@settings(max_examples=60, deadline=None)
@given(replies | failures)
def test_reading_gives_what_was_written(outcome: Reply | Failure) -> None:
    assert from_block(to_block(outcome)) == outcome


@pytest.mark.parametrize("block", [b"", b"{", b"[]", b'{"format": "stillroom/chat@1"}', b'{"format": "stillroom/chat@2"}'])
def test_a_damaged_block_is_an_error(block: bytes) -> None:
    with pytest.raises(StageFailed, match="stored answer"):
        from_block(block)


@given(words)
def test_the_body_is_json_with_the_text_as_it_is(text: str) -> None:
    request = replace(REQUEST, messages=({"role": "user", "content": text},), seed=3)
    body = json.loads(request.body())
    assert body == {"messages": [{"role": "user", "content": text}], "seed": 3, "model": "m", "temperature": 0.0, "max_tokens": 5}


def test_template_marks_in_a_text_are_not_interpreted() -> None:
    text = "{{ 7*7 }} {label} %s ${HOME} {% raw %}"
    assert json.loads(replace(REQUEST, messages=({"role": "user", "content": text},)).body())["messages"][0]["content"] == text


@pytest.mark.parametrize(
    "other",
    [
        replace(REQUEST, messages=({"role": "user", "content": "hello "},)),
        replace(REQUEST, messages=({"role": "system", "content": "hello"},)),
        replace(REQUEST, seed=1),
        replace(REQUEST, sample=1),
        replace(REQUEST, parameters=replace(PARAMETERS, model="m2")),
        replace(REQUEST, parameters=replace(PARAMETERS, temperature=1.0)),
        replace(REQUEST, parameters=replace(PARAMETERS, top_p=0.5)),
        replace(REQUEST, parameters=replace(PARAMETERS, max_tokens=6)),
        replace(REQUEST, parameters=replace(PARAMETERS, stop=("\n",))),
        replace(REQUEST, parameters=replace(PARAMETERS, n=2)),
        replace(REQUEST, parameters=replace(PARAMETERS, top_logprobs=0)),
        replace(REQUEST, parameters=replace(PARAMETERS, response_format={"type": "json_object"})),
        replace(REQUEST, parameters=replace(PARAMETERS, extra={"reasoning_effort": "low"})),
    ],
)
def test_all_that_shapes_an_answer_is_in_its_key(other: ChatRequest) -> None:
    assert other.key("host/v1") != REQUEST.key("host/v1")


def test_the_key_is_the_fingerprint_of_the_facts_and_covers_the_endpoint() -> None:
    assert REQUEST.key("host/v1") == fingerprint("answer", REQUEST.facts("host/v1")) != REQUEST.key("host/v2")
    assert ChatRequest(REQUEST.messages, ChatParameters("m", temperature=0.0, max_tokens=5)).key("host/v1") == REQUEST.key("host/v1")


@pytest.mark.parametrize(
    "wrong", [{"model": ""}, {"n": 0}, {"top_logprobs": 21}, {"extra": {"temperature": 1}}, {"extra": {"stream": True}}]
)
def test_parameters_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        ChatParameters(**{"model": "m", **wrong})  # type: ignore[arg-type]
