"""Which texts to keep: by length, by language, balanced over labels."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, nearest, needs_extra
from stillroom.data.normal_text import words

_LIKELIER = 20
"""A single word has no language that it is sure of, but one that is 20 times likelier shows: of 6,000 short English requests one
went, of 20 sentences in other languages all."""


def within_length(texts: Sequence[str], *, min_words: int = 1, max_words: int | None = None) -> NDArray[np.bool_]:
    """(n,) whether a text has so many words (`normal_text.words`); None: no upper limit.

    Raises:
        BadInput: the limits leave nothing.
    """
    if max_words is not None and max_words < min_words:
        raise BadInput.at("max_words", f"= {max_words} is below min_words = {min_words}: no text could be kept.")
    lengths = np.array([len(words(text)) for text in texts], np.int64)
    return (lengths >= min_words) & (lengths <= (lengths if max_words is None else max_words))


def balanced(labels: Sequence[Hashable], *, per_label: int | None = None, seed: int) -> NDArray[np.int64]:
    """(k,) rising indices: of each label at most `per_label` rows, drawn without replacement; None: as many as the rarest has.

    Rows are drawn for each label by itself, so that rows of one label do not shape the choice among another's.
    """
    rows: dict[Hashable, list[int]] = {}
    for i, label in enumerate(labels):
        rows.setdefault(label, []).append(i)
    most = min(map(len, rows.values()), default=0) if per_label is None else per_label
    chosen = [np.random.default_rng(seed).permutation(members)[:most] for members in rows.values()]
    return np.sort(np.concatenate([np.zeros(0, np.int64), *chosen]))


def in_language(texts: Sequence[str], languages: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) False where another language is at least 20 times as likely as each of these; True else: a text may be too short to tell.

    Args:
        languages: ISO 639-1 codes: ("en",).

    Raises:
        BadInput: no language; a code that the detector does not know.
        MissingExtra: py3langid is not installed.

    Source: langid.py, Lui & Baldwin 2012 (ACL demonstrations), in the package py3langid, whose model comes with it.
    """
    with needs_extra("language", "Choosing texts by language"):
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    detector = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = detector.labels
    if not languages:
        raise BadInput.at("languages", "is empty: no text could be kept.")
    if unknown := [code for code in languages if code not in known]:
        raise BadInput.at("languages", f"= {unknown[0]!r} is no language of the detector; {nearest(unknown[0], known)}")
    ranked = (detector.rank(text) for text in texts)
    return np.array([max(p for code, p in found if code in languages) > found[0][1] / _LIKELIER for found in ranked], bool)
