"""Spans and tags say the same, and tags are read as CoNLL's script reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.core.spans import Span, bio_names, bio_tags, cut_spans, spans_of_tags, words_of


def test_tags_of_words() -> None:
    words = words_of("Ann Lee met  Bob in\nRome .")
    spans = [Span(0, 7, "person"), Span(13, 16, "person"), Span(20, 24, "place")]
    tags = ["B-person", "I-person", "O", "B-person", "O", "B-place", "O"]
    assert bio_tags(words, spans) == tags
    assert spans_of_tags(words, tags) == tuple(spans)
    assert bio_tags(words_of("a b"), [Span(0, 1, "x"), Span(2, 3, "x")]) == ["B-x", "B-x"]
    assert bio_names(["x", "y"]) == ("O", "B-x", "I-x", "B-y", "I-y")


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("I-a I-a O I-a", ["0-2 a", "3-4 a"]),  # IOB1
        ("B-a B-a I-a", ["0-1 a", "1-3 a"]),
        ("B-a I-b I-b", ["0-1 a", "1-3 b"]),
        ("I-a B-a O", ["0-1 a", "1-2 a"]),
        ("S-a S-a B-a E-a E-a", ["0-1 a", "1-2 a", "2-4 a", "4-5 a"]),  # BIOES
        ("U-a B-a L-a I-a", ["0-1 a", "1-3 a", "3-4 a"]),  # BILOU
        ("B-a-b I-a-b", ["0-2 a-b"]),
        ("O O", []),
    ],
)
def test_tags_are_read_as_conlleval_reads_them(tags: str, spans: list[str]) -> None:
    found = spans_of_tags([(i, i + 1) for i in range(len(tags.split()))], tags.split())
    assert [f"{span.start}-{span.end} {span.label}" for span in found] == spans


def test_a_span_takes_every_word_that_it_touches_and_what_no_tags_can_say_is_told() -> None:
    words = words_of("Annette met Bobby here")
    cut = Span(0, 3, "p")  # Ann in Annette
    assert bio_tags(words, [cut]) == ["B-p", "O", "O", "O"]
    assert cut_spans(words, [cut, Span(12, 17, "p")]) == [cut]
    shared = [Span(0, 3, "p"), Span(3, 11, "q")]  # both in Annette: the first has it
    assert bio_tags(words, shared) == ["B-p", "B-q", "O", "O"]
    assert cut_spans(words, shared) == shared
    beyond = Span(18, 22, "p")
    assert bio_tags(words[:3], [beyond]) == ["O"] * 3
    assert cut_spans(words[:3], [beyond]) == [beyond]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 3), st.sampled_from("ab")), max_size=6))
def test_spans_of_whole_words_come_back(parts: list[tuple[int, int, str]]) -> None:
    spans, at = [], 0
    for length, gap, label in parts:
        spans.append(Span(at, at + length, label))
        at += length + gap
    words = [(i, i + 1) for i in range(at)]
    assert spans_of_tags(words, bio_tags(words, spans)) == tuple(spans)
    assert not cut_spans(words, spans)
