"""What two texts have in common when case, punctuation, white space and Unicode forms do not count."""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHE = re.compile(r"(?<=\w)['`\u00b4\u2018\u2019\u02bc\u2032\uff07](?=\w)")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_UNSEEN = dict.fromkeys([0x00AD, 0x200C, 0x200D, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2060, 0x2065), 0xFEFF])
"""Soft hyphens, joiners and marks of direction, as pages and PDF files leave them in words. A space of no width stays: it divides."""
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
"""Japanese, Chinese, Thai, Lao, Burmese, Khmer: written without spaces, where a whole sentence would be one word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Its words, case folded, in Unicode's NFKC form (Standard Annex 15): "don't" and "1,000" are one, punctuation none,
    each Chinese character one."""
    if not text.isascii():
        text = text.translate(_UNSEEN)
    text = unicodedata.normalize("NFKC", _APOSTROPHE.sub("", text)).casefold()
    return _WORD.findall(_THOUSANDS.sub("", text))


def normal_form(text: str) -> str:
    """Its words with a space between; a text without any (only emoji, say) is itself, without white space at its ends."""
    return " ".join(words(text)) or text.strip()
