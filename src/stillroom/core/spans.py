"""Labelled parts of texts, and the tags of words that say the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class Span(NamedTuple):
    """A labelled part of a text: characters from `start` up to `end`."""

    start: int
    end: int
    label: str


Word = tuple[int, int]
"""Where a word begins and ends, in characters."""
OUTSIDE = "O"


def words_of(text: str) -> list[Word]:
    """The words of a text: what white space separates."""
    return [word.span() for word in re.finditer(r"\S+", text)]


def bio_names(labels: Sequence[str]) -> tuple[str, ...]:
    """All tags: "O", and "B-" and "I-" of each label."""
    return (OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in "BI"))


def bio_tags(words: Sequence[Word], spans: Sequence[Span]) -> list[str]:
    """A tag a word: "B-" and the label where a span begins, "I-" and the label inside it, "O" elsewhere.

    A span takes every word that it touches; of two that touch one word, the first takes it.

    Args:
        words: in order, without overlap.
        spans: in order, without overlap.

    Source: Ramshaw & Marcus 1995, arXiv:cmp-lg/9505040; B- on every first word: Tjong Kim Sang & Veenstra 1999, arXiv:cs/9907006 (IOB2).
    """
    tags, first = [OUTSIDE] * len(words), 0
    for span in spans:
        touched = [i for i in range(first, len(words)) if words[i][0] < span.end and words[i][1] > span.start]
        for i in touched:
            tags[i] = f"{'B' if i == touched[0] else 'I'}-{span.label}"
        first = touched[-1] + 1 if touched else first
    return tags


def spans_of_tags(words: Sequence[Word], tags: Sequence[str]) -> tuple[Span, ...]:
    """The spans that tags say, by the rules of CoNLL's evaluation script.

    "I-" goes on with a span of its label, and begins one where there is none to go on with (IOB1). "E-" and "L-" are a last "I-", "S-"
    and "U-" a span of one word.

    Source: Tjong Kim Sang & Buchholz 2000, conlleval; so does seqeval unless it is strict.
    """
    spans: list[Span] = []
    is_open = False
    for (start, end), tag in zip(words, tags, strict=True):
        prefix, _, label = tag.partition("-")
        if prefix == OUTSIDE:
            is_open = False
            continue
        if is_open and prefix in "IEL" and spans[-1].label == label:
            spans[-1] = spans[-1]._replace(end=end)
        else:
            spans.append(Span(start, end, label))
        is_open = prefix in "BI"
    return tuple(spans)


def cut_spans(words: Sequence[Word], spans: Sequence[Span]) -> list[Span]:
    """The spans that no tags of these words can say: they begin or end inside a word, or share one with the span before."""
    sayable = set(spans_of_tags(words, bio_tags(words, spans)))
    return [span for span in spans if span not in sayable]
