"""A planted leak is always caught, and what is no leak by the rules is not called one."""

from __future__ import annotations

import gzip
import json
import random
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.data.decontamination import Leak, allowed_edits, fewest_edits, find_leaks
from stillroom.data.normal_text import words


@pytest.fixture(scope="module")
def stories(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "tinystories_sample" / "tinystories_sample.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@pytest.fixture(scope="module")
def instructions(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "alpaca_random_9k" / "alpaca_random_9k.json.gz", "rt", encoding="utf-8") as file:
        return [row["instruction"] for row in json.load(file)]


def verbatim(text: str, rng: random.Random) -> str:
    return text


def restyled(text: str, rng: random.Random) -> str:
    """Case, punctuation, white space, wide letters."""
    pieces = [word.upper() if rng.random() < 0.5 else word.capitalize() for word in words(text)]
    wide = "".join(
        chr(ord(c) + 0xFEE0) if "!" < c <= "~" and rng.random() < 0.3 else c for c in rng.choice(["  ", "\n", ", ", " - "]).join(pieces)
    )
    return unicodedata.normalize("NFD", f"\t{wide}?!")


def reworded(text: str, rng: random.Random) -> str:
    """As many words as may differ are replaced, left out, or put in."""
    pieces: list[str] = words(text)
    for at in sorted(rng.sample(range(len(pieces)), allowed_edits(len(pieces))), reverse=True):
        pieces[at : at + 1] = rng.choice([["zebra"], [], [pieces[at], "zebra"]])
    return " ".join(pieces)


def embedded(text: str, rng: random.Random) -> str:
    return f"Here is what I was asked the other day: {reworded(text, rng)} And this is what I said to it, at some length."


@pytest.mark.parametrize("plant", [verbatim, restyled, reworded, embedded])
def test_a_planted_leak_is_always_caught(instructions: list[str], stories: list[str], plant: object) -> None:
    """400 instructions (from 4 words) and 60 stories, each planted among 300 stories that have nothing to do with them."""
    rng = random.Random(0)
    evaluation = [text for text in instructions[:450] if len(words(text)) >= 4][:400] + stories[-60:]
    training = [plant(text, rng) for text in evaluation] + stories[:300]  # type: ignore[operator]
    caught = {leak.training for leak in find_leaks(training, evaluation)}
    assert caught >= set(range(len(evaluation)))


def test_a_long_passage_is_caught(stories: list[str]) -> None:
    text = words(stories[0])
    assert find_leaks([" ".join(["so", *text[20:33], "indeed"])], [stories[0]]) == [Leak(0, 0, "passage")]
    assert find_leaks([" ".join(["so", *text[20:32], "indeed"])], [stories[0]]) == []


def test_what_counts_and_what_does_not() -> None:
    evaluation = ["How do I change my PIN?", "Hi!", "one two three four five six seven eight nine ten", "👍"]
    training = [
        "how do i change my pin",
        "well, how do I change my PIN today",
        "how do I change my name",
        "hi",
        "hi there",
        "zero one two THREE four 5 six seven eight nine 10 eleven",
        "zero one two three 4 5 six seven eight nine 10 eleven",
        "👍",
        "👎",
        "",
    ]
    found = {leak.training: (leak.evaluation, leak.rule) for leak in find_leaks(training, evaluation)}
    assert found == {0: (0, "equal"), 1: (0, "contained"), 3: (1, "equal"), 5: (2, "contained"), 7: (3, "equal")}
    assert find_leaks([], evaluation) == find_leaks(training, []) == []


def test_the_order_of_the_texts_does_not_matter(stories: list[str], instructions: list[str]) -> None:
    evaluation, training = stories[:40] + instructions[:60], stories[40:140] + [f"Please: {text}" for text in instructions[:30]]
    order = random.Random(1).sample(range(len(training)), len(training))
    straight = {leak.training for leak in find_leaks(training, evaluation)}
    mixed = {order[leak.training] for leak in find_leaks([training[i] for i in order], evaluation[::-1])}
    assert straight == mixed
    assert len(straight) >= 29
    kept = [text for i, text in enumerate(training) if i not in straight]
    assert find_leaks(kept, evaluation) == [], "a second pass finds nothing"


def textbook(pattern: Sequence[int], text: Sequence[int]) -> int:
    """Sellers' table, cell by cell."""
    row = [0] * (len(text) + 1)
    for i, wanted in enumerate(pattern):
        new = [i + 1]
        for j, word in enumerate(text):
            new.append(min(row[j] + (wanted != word), row[j + 1] + 1, new[j] + 1))
        row = new
    return min(row)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=70), st.lists(st.integers(-1, 3), max_size=90))
def test_edits_are_those_of_the_textbook(pattern: list[int], text: list[int]) -> None:
    assert fewest_edits(pattern, text) == textbook(pattern, text)


@pytest.mark.parametrize(
    ("copy", "text"),
    [
        ("How do I lo\u00adcate my card", "How do I locate my card"),
        ("How do I lo\u2060cate my ca\ufeffrd", "How do I locate my card"),
        ("How\u200bdo\u200bI\u200blocate my card", "How do I locate my card"),
        ("I don`t have 1,250,000 or 3,000", "I don't have 1250000 or 3000"),
        ("I don\u2032t and can\u00b4t", "I don't and can't"),
    ],
)
def test_what_is_not_seen_does_not_hide_a_copy(copy: str, text: str) -> None:
    assert words(copy) == words(text)
    assert find_leaks([copy], [text])
