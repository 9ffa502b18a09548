"""Lengths, balance, language."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest

from stillroom.core.errors import BadInput, MissingExtra
from stillroom.data.selection import balanced, in_language, within_length


def test_lengths_are_counted_in_words() -> None:
    texts = ["", "one", "one, two", "one two three", "銀行"]
    assert within_length(texts).tolist() == [False, True, True, True, True]
    assert within_length(texts, min_words=2, max_words=2).tolist() == [False, False, True, False, True]
    assert within_length([]).tolist() == []
    with pytest.raises(BadInput, match="max_words: = 1 is below min_words = 2"):
        within_length(texts, min_words=2, max_words=1)


def test_labels_are_balanced_by_chance_and_seed() -> None:
    labels = ["a"] * 50 + ["b"] * 7 + ["c"] * 20
    rows = balanced(labels, seed=0)
    assert Counter(labels[i] for i in rows) == {"a": 7, "b": 7, "c": 7}
    assert (np.diff(rows) > 0).all()
    assert Counter(labels[i] for i in balanced(labels, per_label=10, seed=0)) == {"a": 10, "b": 7, "c": 10}
    assert balanced(labels, seed=0).tolist() == rows.tolist()
    assert balanced(labels, seed=1).tolist() != rows.tolist()
    assert balanced([], seed=0).tolist() == []
    drawn = Counter(i for seed in range(300) for i in balanced(labels, seed=seed) if i < 50)
    assert len(drawn) == 50, "every row has its chance"
    without_c = balanced(labels[:57], seed=0)
    assert [i for i in rows if i < 57] == without_c.tolist(), "other labels do not shape the choice"


def test_only_what_is_surely_another_language_goes() -> None:
    pytest.importorskip("py3langid")
    texts = ["How do I activate my new card?", "Wie kann ich meine neue Karte aktivieren?", "Моя карта не работает", "ok", "", "idk", "😀"]
    assert in_language(texts, ["en"]).tolist() == [True, False, False, True, True, True, True]
    assert in_language(texts, ["en", "de"]).tolist() == [True, True, False, True, True, True, True]
    with pytest.raises(BadInput, match="languages: = 'english' is no language"):
        in_language(texts, ["english"])
    with pytest.raises(BadInput, match="languages: is empty"):
        in_language(texts, [])


def test_the_detector_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    monkeypatch.setitem(sys.modules, "py3langid", None)
    with pytest.raises(MissingExtra, match=r"pip install 'stillroom\[language\]'"):
        in_language(["a"], ["en"])
