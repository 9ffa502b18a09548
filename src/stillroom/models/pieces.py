"""Word pieces and spans: which piece of a tokenizer's stands for a word, and where that word lies in the text. Needs no torch."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from stillroom.core.spans import Word

_WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Thai, Lao, Tibetan, Burmese, Khmer, kana, Han: scripts whose words stand side by side, so that every piece may begin one."""
_JOINERS = "\u200d\ufe0e\ufe0f"
"""What joins emoji, and picks their shape."""


class TaggedWord(NamedTuple):
    """A word that has a tag: characters from `start` up to `end`, and the position of its first piece, which carries the tag."""

    start: int
    end: int
    piece: int

    @property
    def place(self) -> Word:
        return self.start, self.end


def tagged_words(text: str, offsets: Sequence[tuple[int, int]]) -> list[TaggedWord]:
    """The words of a text as a tokenizer sees them. A word begins where a piece begins that does not lie inside one; further pieces
    go on with it. Words beyond the last piece (the text was cut at max_length) are not among them.

    Args:
        offsets: (start, end) of each piece in characters; of special tokens (0, 0).
    """
    words: list[TaggedWord] = []
    for piece, (start, end) in enumerate(offsets):
        while start < end and text[start].isspace():  # some tokenizers count the space before a word in
            start += 1
        if start == end:
            continue
        if words and (start < words[-1].end or not begins_word(text, start)):
            words[-1] = words[-1]._replace(end=max(end, words[-1].end))
        else:
            words.append(TaggedWord(start, end, piece))
    # Where the text was cut inside a word, or a tokenizer drops characters, the word goes on to its end.
    return [word._replace(end=_end_of_word(text, word.end)) for word in words]


def begins_word(text: str, at: int) -> bool:
    """May a word begin at this character? Not inside a run of letters and digits, nor at a mark that belongs to the one before."""
    if at == 0 or text[at - 1].isspace():
        return True
    if _is_mark(text[at]) or text[at - 1] == _JOINERS[0]:
        return False
    before = next((c for c in reversed(text[max(at - 8, 0) : at]) if not _is_mark(c)), " ")
    if _WITHOUT_SPACES.match(text[at]) or _WITHOUT_SPACES.match(before):
        return True
    return not (text[at].isalnum() and before.isalnum())


def _is_mark(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character).startswith("M")


def _end_of_word(text: str, end: int) -> int:
    while end < len(text) and not text[end].isspace() and not begins_word(text, end):
        end += 1
    return end
