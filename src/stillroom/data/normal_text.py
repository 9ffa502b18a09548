"""What two texts have in common when case, punctuation, white space and Unicode forms do not count."""

from __future__ import annotations

import re
import unicodedata

_APOSTROPHE = re.compile(r"(?<=\w)['\u2018\u2019\u02bc](?=\w)")
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\U00020000-\U0003ffff"
"""Japanese, Chinese, Thai, Lao, Burmese, Khmer: written without spaces, where a whole sentence would be one word."""
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Its words, case folded, in Unicode's NFKC form (Standard Annex 15): "don't" is one, punctuation none, each Chinese character one."""
    return _WORD.findall(_APOSTROPHE.sub("", unicodedata.normalize("NFKC", text).casefold()))


def normal_form(text: str) -> str:
    """Its words with a space between; a text without any (only emoji, say) is itself, without white space at its ends."""
    return " ".join(words(text)) or text.strip()
