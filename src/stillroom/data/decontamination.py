"""Training texts that give an evaluation text away. Nothing here is left to chance: what the three rules describe is always found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stillroom.data.normal_text import normal_form, words

PASSAGE_WORDS = 13
"""As in Brown et al. 2020, appendix C."""
_WORDS_AN_EDIT = 5
_FEWEST_WORDS, _FEWEST_WORDS_EDITED = 4, 8
_CHUNK = 2000

Words = list[int]
"""The numbers of a text's words; a word that no evaluation text has is -1."""


@dataclass(frozen=True)
class Leak:
    """A training text that gives an evaluation text away; the indices of both, and the rule that found it."""

    training: int
    evaluation: int
    rule: Literal["equal", "contained", "passage"]


def find_leaks(training: Sequence[str], evaluation: Sequence[str]) -> list[Leak]:
    """At most one leak a training text, in their order; case, punctuation, white space and Unicode forms do not count.

    equal: the two have the same normal form (`normal_text.normal_form`).
    contained: somewhere in the training text stands the evaluation text, of 8 words or more with at most one word in five (rounded
    down) replaced, left out or put in, of 4 to 7 words as it is. One word makes another question of a shorter text; edited as
    well, a quarter of BANKING77's training texts would hold a test text.
    passage: the two share 13 successive words.

    An evaluation text of fewer than 4 words can only be equal: inside another text it gives nothing away.

    Time: about that of a sparse product of the texts' pairs of successive words.

    Source: shared 13-grams, Brown et al. 2020, appendix C, arXiv:2005.14165. Contained: approximate string matching, Sellers 1980
    (J. Algorithms 1:359), after the filter of Ukkonen 1992 (Theor. Comput. Sci. 92:191, q-grams), which loses no match.
    """
    numbers: dict[str, int] = {}
    references = [[numbers.setdefault(word, len(numbers)) for word in words(text)] for text in evaluation]
    texts = [[numbers.get(word, -1) for word in words(text)] for text in training]
    found = dict(_equal(training, evaluation))
    for rule in (_contained(texts, references), _passages(texts, references)):
        for leak in rule:
            found.setdefault(leak.training, leak)
    return [found[i] for i in sorted(found)]


def allowed_edits(num_words: int) -> int:
    """How many words of an evaluation text of so many may differ where it still counts as contained."""
    return num_words // _WORDS_AN_EDIT if num_words >= _FEWEST_WORDS_EDITED else 0


def _equal(training: Sequence[str], evaluation: Sequence[str]) -> Iterator[tuple[int, Leak]]:
    first: dict[str, int] = {}
    for i, text in enumerate(evaluation):
        first.setdefault(normal_form(text), i)
    for i, text in enumerate(training):
        if (same := first.get(normal_form(text))) is not None:
            yield i, Leak(i, same, "equal")


def _contained(texts: Sequence[Words], references: Sequence[Words]) -> Iterator[Leak]:
    for i, j in _sharing_pairs(texts, references):
        if fewest_edits(references[j], texts[i]) <= allowed_edits(len(references[j])):
            yield Leak(i, j, "contained")


def _passages(texts: Sequence[Words], references: Sequence[Words]) -> Iterator[Leak]:
    first: dict[tuple[int, ...], int] = {}
    for j, reference in enumerate(references):
        for passage in _grams(reference, PASSAGE_WORDS):
            first.setdefault(passage, j)
    for i, text in enumerate(texts):
        if (shared := next((first[p] for p in _grams(text, PASSAGE_WORDS) if p in first), None)) is not None:
            yield Leak(i, shared, "passage")


def _sharing_pairs(texts: Sequence[Words], references: Sequence[Words]) -> Iterator[tuple[int, int]]:
    """Pairs of a text and a reference that can be contained in it.

    An edit changes at most two of the reference's pairs of successive words, so of its w - 1 pairs, repetitions counted, the text
    must have w - 1 - 2 * edits.
    """
    lengths = np.array([len(reference) for reference in references], np.int64)
    needed = lengths - 1 - 2 * np.array([allowed_edits(length) for length in lengths])
    long_enough = np.flatnonzero(lengths >= _FEWEST_WORDS)
    columns: dict[tuple[int, int, int], int] = {}
    wanted = _members((_pairs(references[j]) for j in long_enough.tolist()), columns, grow=True)
    for start in range(0, len(texts), _CHUNK):
        block = _members(map(_pairs, texts[start : start + _CHUNK]), columns, grow=False)
        shared = (block @ wanted.T).tocoo()
        enough = shared.data >= needed[long_enough[shared.col]]
        yield from zip((start + shared.row[enough]).tolist(), long_enough[shared.col[enough]].tolist(), strict=True)


def _pairs(text: Words) -> Iterator[tuple[int, int, int]]:
    """Pairs of successive words, each with how often it has occurred before: shared members then count repetitions."""
    seen: Counter[tuple[int, ...]] = Counter()
    for pair in _grams(text, 2):
        yield pair[0], pair[1], seen[pair]
        seen[pair] += 1


def _members(sets: Iterable[Iterable[tuple[int, int, int]]], columns: dict[tuple[int, int, int], int], *, grow: bool) -> sparse.csr_array:
    """(sets, columns) 1 where the set has the column's member. Members without a column get one, or are left out."""
    indices: list[int] = []
    starts = [0]
    for members in sets:
        for member in members:
            column = columns.setdefault(member, len(columns)) if grow else columns.get(member)
            if column is not None:
                indices.append(column)
        starts.append(len(indices))
    data: NDArray[np.int32] = np.ones(len(indices), np.int32)
    return sparse.csr_array((data, np.array(indices, np.int64), np.array(starts)), shape=(len(starts) - 1, max(len(columns), 1)))


def _grams(text: Words, size: int) -> Iterator[tuple[int, ...]]:
    """Its stretches of so many successive words that the evaluation texts know."""
    return (gram for gram in zip(*(text[i:] for i in range(size)), strict=False) if -1 not in gram)


def fewest_edits(pattern: Words, text: Words) -> int:
    """The fewest words to replace, leave out or put in, so that `pattern` (not empty) becomes some stretch of `text`.

    One column of the dynamic program is two integers with a bit for each word of the pattern.

    Source: Myers 1999, J. ACM 46:395, figure 9.
    """
    places: dict[int, int] = {}
    for i, word in enumerate(pattern):
        places[word] = places.get(word, 0) | 1 << i
    every, last = (1 << len(pattern)) - 1, 1 << (len(pattern) - 1)
    rises, falls, edits = every, 0, len(pattern)
    fewest = edits
    for word in text:
        equal = places.get(word, 0)
        down = equal | falls
        across = (((equal & rises) + rises) ^ rises) | equal
        up = falls | ~(across | rises) & every
        fall = rises & across
        edits += (up & last > 0) - (fall & last > 0)
        fewest = min(fewest, edits)
        up, fall = up << 1 & every, fall << 1 & every
        rises, falls = fall | ~(down | up) & every, up & down
    return fewest
