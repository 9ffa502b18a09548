"""Structured answers: what is sent, what is read, what is mended, and what is not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.core.chat import ChatParameters, Choice
from stillroom.core.errors import BadInput
from stillroom.teachers.tasks.structured import instruction, structured_parameters, structured_reader
from stillroom.teachers.tasks.unusable import Unusable, refused_in_words

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "string"}},
    "required": ["a"],
    "additionalProperties": False,
}
READ = structured_reader(SCHEMA)
ANY = structured_reader({})
PARAMETERS = ChatParameters(model="m", extra={"reasoning_effort": "low"})


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('{"a": "x"}', "x", ()),
        (' \n{"a": "x"}\n', "x", ()),
        ('<think>{"a": "y"}?</think>{"a": "x"}', "x", ()),
        ('```json\n{"a": "x"}\n```', "x", ("fence",)),
        ('```\n{"a": "x",}\n```', "x", ("fence", "trailing-comma")),
        ('Sure, here it is:\n```json\n{"a": "x"}\n```\nAnything else?', "x", ("prose",)),
        ('The answer is {"a": "x"}.', "x", ("prose",)),
        ('{"a": "x" , }', "x", ("trailing-comma",)),
        ('{"a": ",}",}', ",}", ("trailing-comma",)),
        ('He said "here: {"a": "x,}",} ok', "x,}", ("prose", "trailing-comma")),
        ('{"a": "\\"}"}', '"}', ()),
        ('{"a": "{\\"a\\": 1}"} ok', '{"a": 1}', ("prose",)),
        ('{"a": "\\ud83d\\ude00"}', "😀", ()),
    ],
)
def test_an_answer_is_read_with_few_and_counted_repairs(text: str, value: str, repairs: tuple[str, ...]) -> None:
    found = READ(Choice(text, "stop"))
    assert (found.value, found.repairs) == ({"a": value}, repairs)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("<think>hm</think>", "empty"),
        ("<think>hm", "truncated"),
        ("yes", "not-json"),
        ('{"a": "x"} {"a": "x"}', "not-json"),
        ('```json\n{"a": "x"}\n```\nor\n```json\n{"a": "y"}\n```', "not-json"),
        ('{"a": "x"', "not-json"),
        ('first {this} then {"a": "x"}', "not-json"),
        ('{"a": "x"} {"a":', "not-json"),
        ("{,}", "not-json"),
        ('{"a": "x",,}', "not-json"),
        ("{'a': 'x'}", "not-json"),
        ('{"a": "x", "a": "y"}', "not-json"),
        ('{"a": NaN}', "not-json"),
        ('{"a": 1e999}', "not-json"),
        ('{"a": "\\ud83d"}', "not-json"),
        ('{"a":' * 100_000, "not-json"),
        ('see {"a":' * 100_000, "not-json"),
        ("{" * 100_000, "not-json"),
        ('{"a": 1}', "invalid"),
        ('{"a": "x", "b": "x"}', "invalid"),
        ('[{"a": "x"}]', "invalid"),
        ("null", "invalid"),
        ("I'm sorry, but I can't help with that.", "refused"),
        ("I’m sorry, but I can’t help with that {at all}.", "refused"),
    ],
)
def test_what_cannot_be_used_says_why(text: str, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        READ(Choice(text, "stop"))
    assert caught.value.reason == reason
    assert "\n" not in caught.value.detail
    assert len(caught.value.detail) < 400


def test_how_an_answer_ended_comes_before_what_it_says() -> None:
    good = '{"a": "x"}'
    for choice, reason in (
        (Choice(good, "length"), "truncated"),
        (Choice(good, "content_filter"), "content-filter"),
        (Choice(good, "stop", refusal="no"), "refused"),
        (Choice("", "length", tool_calls=(("answer", good),)), "truncated"),
        (Choice("", "tool_calls", tool_calls=(("answer", good),) * 2), "not-json"),
        (Choice("", "tool_calls", tool_calls=(("answer", "{}"),)), "invalid"),
    ):
        with pytest.raises(Unusable) as caught:
            READ(choice)
        assert caught.value.reason == reason
    assert READ(Choice("I call it.", "tool_calls", tool_calls=(("answer", good),))).value == {"a": "x"}


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ("Sorry, I can't do that", True),
        ("As an AI language model I", True),
        ("I cannot assist with this.", True),
        ("Unfortunately, I must decline", True),
        ("I am so sorry.", True),
        ("card_not_working", False),
        ("I candidly say", False),
        ("The user is sorry, I cannot tell why", False),
    ],
)
def test_refusals_in_words_are_known_by_their_beginning(text: str, is_refusal: bool) -> None:
    assert refused_in_words(text) is is_refusal


def test_what_is_sent_in_each_mode() -> None:
    by_schema = json.loads(structured_parameters(PARAMETERS, SCHEMA, "json-schema", "label").json)
    wanted = {"type": "json_schema", "json_schema": {"name": "label", "schema": SCHEMA, "strict": True}}
    assert (by_schema["response_format"], by_schema["reasoning_effort"]) == (wanted, "low")
    by_tool = json.loads(structured_parameters(PARAMETERS, SCHEMA, "tool", "label").json)
    assert by_tool["tools"][0]["function"]["parameters"] == SCHEMA
    assert by_tool["tools"][0]["function"]["strict"] is True
    assert by_tool["tool_choice"]["function"]["name"] == by_tool["tools"][0]["function"]["name"] == "label"
    assert by_tool["reasoning_effort"] == "low"
    assert structured_parameters(PARAMETERS, SCHEMA, "prompt") == PARAMETERS
    assert json.dumps(SCHEMA) in instruction(SCHEMA, "prompt")
    assert json.dumps(SCHEMA) in instruction(SCHEMA, "json-schema")
    assert "'label'" in instruction(SCHEMA, "tool", "label")


@pytest.mark.parametrize(
    "schema",
    [
        {**SCHEMA, "additionalProperties": True},
        {**SCHEMA, "required": []},
        {**SCHEMA, "properties": {"a": {"type": "array", "items": {"type": "object", "properties": {}}}}},
        {**SCHEMA, "$defs": {"b": {"properties": {"c": {}}}}},
    ],
)
def test_an_open_schema_is_not_sent_as_strict(schema: dict[str, Any]) -> None:
    """Vendors refuse it with a 400; we hold every answer against the schema ourselves."""
    for mode in ("json-schema", "tool"):
        assert "strict" not in structured_parameters(PARAMETERS, schema, mode).json  # type: ignore[arg-type]


def test_a_root_that_is_no_object_goes_with_words_alone() -> None:
    for mode in ("json-schema", "tool"):
        with pytest.raises(BadInput, match=r"output_schema\.type: = 'array'.*Put the value into a property"):
            structured_parameters(PARAMETERS, {"type": "array"}, mode)  # type: ignore[arg-type]
    assert structured_parameters(PARAMETERS, {"type": "array"}, "prompt") == PARAMETERS


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
prose = st.text(st.characters(exclude_characters="{}<>`"), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(values, st.booleans(), st.integers(0, 2))
def test_what_json_can_say_is_read_as_it_was_said(value: Any, ascii_only: bool, indent: int) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent or None)
    if text.strip('"') and "<" not in text:
        assert ANY(Choice(text)).value == value


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), values, min_size=1, max_size=3), prose, prose)
def test_an_object_in_prose_is_the_object(value: dict[str, Any], before: str, after: str) -> None:
    text = json.dumps(value)
    if "<" not in text:
        assert ANY(Choice(f"{before}: {text} {after}.")).value == value
        with_comma = f"{before}: {text[:-1]}, }} {after}."
        assert ANY(Choice(with_comma)).value == value


def test_a_model_that_goes_astray_in_quote_marks_is_read_in_linear_time() -> None:
    def seconds(size: int) -> float:
        start = time.process_time()
        with pytest.raises(Unusable):
            READ(Choice('{"a": "' + '\\"' * size, "stop"))
        return time.process_time() - start

    assert seconds(200_000) < 40 * max(seconds(20_000), 0.005)
