"""Records and spans: real annotated texts, answered by a server that knows the gold mentions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.core.chat import ChatParameters
from stillroom.core.errors import BadInput
from stillroom.core.spans import Span, bio_tags, words_of
from stillroom.core.specification import Specification, WorkedExample
from stillroom.teachers.tasks.extraction import extraction_questions, located, span_questions
from stillroom.teachers.tasks.rounds import ask_until_usable
from stillroom.teachers.tasks.unusable import Unusable

Make = Callable[..., Any]
PARAMETERS = ChatParameters(model="m", max_tokens=200)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "amount": {"type": "integer"}},
    "required": ["name", "amount"],
    "additionalProperties": False,
}
Sentence = tuple[list[str], list[str]]


def sentences(file: Path, column: int) -> Iterator[Sentence]:
    """(words, BIO tags) of a CoNLL file, whose tags may begin with I- (IOB1)."""
    content = file.read_bytes()
    text = (gzip.decompress(content) if file.suffix == ".gz" else content).decode()
    words: list[str] = []
    tags: list[str] = []
    for line in [*text.split("\n"), ""]:
        fields = line.split()
        if len(fields) <= column:
            if words:
                yield words, tags
            words, tags = [], []
        elif fields[0] != "-DOCSTART-":
            label = fields[column][2:]
            goes_on = fields[column].startswith("I-") and tags and tags[-1][2:] == label
            words.append(fields[0])
            tags.append("O" if not label else f"{'I' if goes_on else 'B'}-{label}")


def mentions(words: Sequence[str], tags: Sequence[str]) -> list[dict[str, str]]:
    found: list[tuple[list[str], str]] = []
    for word, tag in zip(words, tags, strict=True):
        if tag[0] == "B":
            found.append(([word], tag[2:]))
        elif tag[0] == "I":
            found[-1][0].append(word)
    return [{"text": " ".join(parts), "label": label} for parts, label in found]


def num_ways(words: Sequence[str], wanted: Sequence[str]) -> int:
    """In how many ways the mentions are runs of whole words, one after the other: plain counting."""
    ways = [1] + [0] * len(words)  # after so many words, by where the last mention ended at the latest
    for mention in wanted:
        parts = mention.split()
        after = [0] * (len(words) + 1)
        for end in range(len(parts), len(words) + 1):
            if list(words[end - len(parts) : end]) == parts:
                after[end] = sum(ways[: end - len(parts) + 1])
        ways = after
    return sum(ways)


@pytest.mark.parametrize(("file", "column"), [("ner_wnut17/dev.conll", 1), ("ner_fin_sec/test_FIN3.txt", 3)])
def test_gold_mentions_of_real_texts_come_back_at_their_places(file: str, column: int, shared_data: Path, serve: Make, asker: Make) -> None:
    rows = [(words, tags) for words, tags in sentences(shared_data / file, column) if any(tag != "O" for tag in tags)][:120]
    texts = [" ".join(words) for words, _ in rows]
    gold = {text: mentions(*row) for text, row in zip(texts, rows, strict=True)}
    labels = {mention["label"]: "" for each in gold.values() for mention in each}
    server = serve(lambda number, body: {"content": json.dumps({"entities": gold[body["messages"][1]["content"]]})})
    answers = ask_until_usable(asker(server), span_questions(PARAMETERS, Specification("Find the names.", labels), texts, asked_again=0))
    found = 0
    for (words, tags), text, spans, reason in zip(rows, texts, answers.values, answers.reasons, strict=True):
        if spans is not None:
            found += 1
            assert bio_tags(words_of(text), spans) == tags
        else:
            assert reason == "not-in-text"
            assert num_ways(words, [mention["text"] for mention in gold[text]]) > 1
    assert found >= 0.75 * len(rows)
    assert answers.complete


def test_both_real_sets_are_there(shared_data: Path) -> None:
    assert sum(1 for _ in sentences(shared_data / "ner_wnut17/dev.conll", 1)) == 1009
    assert sum(1 for _ in sentences(shared_data / "ner_fin_sec/train_FIN5.txt.gz", 3)) > 1000


def entities(*texts: str) -> list[dict[str, str]]:
    return [{"text": text, "label": "x"} for text in texts]


@pytest.mark.parametrize(
    ("text", "wanted", "starts"),
    [
        ("Ann met Bob", ["Ann", "Bob"], [0, 8]),
        ("Ann met Ann", ["Ann", "Ann"], [0, 8]),
        ("a b a c", ["b", "a"], [2, 4]),
        ("US BUS", ["US"], [0]),
        ("BUS US", ["US"], [4]),
        ("東京都に行く", ["東京"], [0]),
        ("nothing", [], []),
        ("(a.b)", ["a.b"], [1]),
        ("New York York", ["New York", "York"], [0, 9]),
        ("😀 Ann", ["Ann"], [2]),
    ],
)
def test_mentions_at_their_only_places(text: str, wanted: list[str], starts: list[int]) -> None:
    spans = located(text, entities(*wanted))
    assert [span.start for span in spans] == starts
    assert [text[span.start : span.end] for span in spans] == wanted


@pytest.mark.parametrize(
    ("text", "wanted", "words"),
    [
        ("Ann met Bob", ["Carl"], "'Carl' is not in the text"),
        ("Ann met Bob", ["ann"], "'ann' is not in the text"),
        ("Ann met Bob", ["Bob", "Ann"], "'Ann' is not in the text after"),
        ("Ann met Ann", ["Ann"], "more than once"),
        ("Ann met Ann", ["Ann"] * 3, "not in the text after"),
        ("New York", ["New York", "York"], "not in the text after"),
        ("a b a b", ["a", "b"], "more than once"),
    ],
)
def test_mentions_that_are_nowhere_or_anywhere(text: str, wanted: list[str], words: str) -> None:
    with pytest.raises(Unusable, match=words) as caught:
        located(text, entities(*wanted))
    assert caught.value.reason == "not-in-text"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from("ab"), min_size=1, max_size=7), st.lists(st.sampled_from(["a", "b", "a b", "b a"]), max_size=3))
def test_a_place_is_given_exactly_where_there_is_one_way(words: list[str], wanted: list[str]) -> None:
    text = " ".join(words)
    ends = [[i for i in range(len(text)) if text.startswith(w, i)] for w in wanted]
    ways = [[]] if not wanted else []
    for starts in combinations(range(len(text)), len(wanted)) if wanted else ():
        fits = all(start in ends[i] for i, start in enumerate(starts))
        if fits and all(a + len(w) <= b for a, w, b in zip(starts, wanted, starts[1:], strict=False)):
            ways.append(list(starts))
    try:
        found = [span.start for span in located(text, entities(*wanted))]
    except Unusable:
        assert len(ways) != 1
    else:
        assert ways == [found]


def test_a_mention_that_is_not_in_the_text_is_asked_again(serve: Make, asker: Make) -> None:
    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        name = "Ann Lee" if len(body["messages"]) == 2 else "Ann"
        return {"content": json.dumps({"entities": [{"text": name, "label": "person"}]})}

    server = serve(script)
    answers = ask_until_usable(asker(server), span_questions(PARAMETERS, Specification("Find people.", {"person": ""}), ["I saw Ann."]))
    assert answers.values == ((Span(6, 9, "person"),),)
    assert answers.asked_again == {"not-in-text": 1}
    assert "'Ann Lee' is not in the text" in server.bodies[-1]["messages"][-1]["content"]
    schema = server.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["entities"]["items"]["properties"]["label"]["enum"] == ["person"]
    assert server.bodies[0]["response_format"]["json_schema"]["strict"] is True


def test_records_under_a_schema_by_each_mode(serve: Make, asker: Make, answer: Make) -> None:
    good = '{"name": "a", "amount": 3}'
    call = [{"type": "function", "function": {"name": "answer", "arguments": good}}]
    says = {
        "good": answer(good),
        "prose": answer(f"Here: {good}"),
        "call": answer(None, "tool_calls", tool_calls=call),
        "wrong": answer('{"name": "a", "amount": "3"}'),
        "cut": answer('{"name": "a', "length"),
    }
    server = serve(lambda number, body: says[body["messages"][-1]["content"]])
    example = WorkedExample("two of b", {"name": "b", "amount": 2})
    specification = Specification("Read the order.", output_schema=SCHEMA, examples=(example,))
    for mode in ("json-schema", "tool", "prompt"):
        answers = ask_until_usable(
            asker(server),
            extraction_questions(PARAMETERS, specification, list(says), structured=mode, asked_again=0),  # type: ignore[arg-type]
        )
        assert answers.values == ({"name": "a", "amount": 3},) * 3 + (None, None)
        assert answers.given_up == {"invalid": 1, "truncated": 1}
        assert answers.repaired == {"prose": 1}
        body = server.bodies[-1]
        assert ("response_format" in body, "tools" in body) == (mode == "json-schema", mode == "tool")
        assert json.loads(body["messages"][2]["content"]) == example.output


def test_what_a_specification_lacks_is_said() -> None:
    for broken, words in (
        (Specification("t"), "output_schema: is missing"),
        (Specification("t", output_schema={"type": "objekt"}), "is no JSON Schema"),
        (Specification("t", output_schema=SCHEMA, examples=(WorkedExample("x", {}),)), r"examples\[0\]\.output: is not valid"),
    ):
        with pytest.raises(BadInput, match=words):
            extraction_questions(PARAMETERS, broken, ["a"])
    with pytest.raises(BadInput, match=r"specification\.labels: is empty"):
        span_questions(PARAMETERS, Specification("t"), ["a"])


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (entities("Bob"), "is not valid under output_schema"),
        ({"entities": [{"text": "Ann", "label": "y"}]}, "is not valid under output_schema"),
        ({"entities": entities("Bob")}, "'Bob' is not in the text"),
    ],
)
def test_a_worked_example_that_shows_what_is_wrong_is_refused(output: Any, words: str) -> None:
    specification = Specification("t", {"x": ""}, examples=(WorkedExample("I saw Ann.", output),))
    with pytest.raises(BadInput, match=rf"specification\.examples\[0\]\.output: .*{words}"):
        span_questions(PARAMETERS, specification, [])
