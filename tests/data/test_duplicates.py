"""Which texts stand for which: against every pair compared, on made and on real texts."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.data.duplicates import _jaccard, exact_duplicates, near_duplicates
from stillroom.data.normal_text import normal_form, words


def shingles(text: str) -> frozenset[str]:
    form = normal_form(text).ljust(5, "\0")
    return frozenset(form[i : i + 5] for i in range(len(form) - 4))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)


def by_every_pair(texts: Sequence[str], threshold: float) -> list[int]:
    """The rule in plain Python."""
    first = {form: i for i, form in reversed(list(enumerate(map(normal_form, texts))))}
    sets, kept, stands_for = [shingles(text) for text in texts], [], []
    for i, text in enumerate(texts):
        same = first[normal_form(text)]
        if same < i:
            stands_for.append(stands_for[same])
            continue
        stands_for.append(next((k for k in kept if jaccard(sets[k], sets[i]) >= threshold), i))
        if stands_for[i] == i:
            kept.append(i)
    return stands_for


def corrupted(texts: Sequence[str], copies: int, seed: int) -> list[str]:
    """Each text and copies in which some characters are others: of every degree of resemblance. Shuffled."""
    rng, made = np.random.default_rng(seed), list(texts)
    for text in texts:
        for _ in range(copies):
            letters = np.array(list(text))
            letters[rng.random(len(letters)) < rng.uniform(0, 0.08)] = "q"
            made.append("".join(letters))
    return [made[i] for i in rng.permutation(len(made))]


@pytest.fixture(scope="module")
def banking(shared_data: Path) -> list[str]:
    with gzip.open(shared_data / "banking77" / "test.csv.gz", "rt", encoding="utf-8", newline="") as lines:
        return [row["text"] for row in csv.DictReader(lines)]


def test_case_punctuation_space_and_unicode_do_not_count() -> None:
    texts = ["Don't  panic!", "dont panic", "ＤＯＮ’Ｔ\u00a0panic", "do not panic", "👍", "👎", "👍 ", "", "..."]
    assert exact_duplicates(texts).tolist() == [0, 0, 0, 3, 4, 5, 4, 7, 8]
    assert near_duplicates(texts).tolist() == [0, 0, 0, 3, 4, 5, 4, 7, 8]
    assert words("Ünïcode ﬁne, 銀行の x_y") == ["ünïcode", "fine", "銀", "行", "の", "x", "y"]
    assert exact_duplicates([]).tolist() == near_duplicates([]).tolist() == []


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_it_is_the_rule_on_every_pair(banking: list[str], threshold: float) -> None:
    """Of 500 texts with copies of every degree all but one in 1,000 at most, the promise, are told alike."""
    texts = corrupted(banking[:125], 3, seed=int(100 * threshold))
    found, wanted = near_duplicates(texts, threshold=threshold), np.array(by_every_pair(texts, threshold))
    assert (wanted != np.arange(len(texts))).sum() > 20
    assert (found != wanted).sum() <= 1


def test_what_is_kept_and_what_goes(banking: list[str]) -> None:
    """No chains, no false merge, nothing left, nothing displaced: whatever the order."""
    for seed in (0, 1):
        texts = corrupted(banking[:100], 4, seed)
        found = near_duplicates(texts, threshold=0.7)
        kept = np.unique(found)
        sets = [shingles(text) for text in texts]
        assert (found[found] == found).all()
        assert (found <= np.arange(len(texts))).all()
        assert all(
            i == k or jaccard(sets[i], sets[k]) >= 0.7 or normal_form(texts[i]) == normal_form(texts[k]) for i, k in enumerate(found)
        )
        again = near_duplicates([texts[k] for k in kept], threshold=0.7)
        assert again.tolist() == list(range(len(kept)))
        assert near_duplicates(texts[:300], threshold=0.7).tolist() == found[:300].tolist()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(alphabet="ab c", max_size=12), max_size=30), st.sampled_from([0.3, 0.6, 1.0]))
def test_made_texts_obey_the_rule(texts: list[str], threshold: float) -> None:
    found = near_duplicates(texts, threshold=threshold)
    sets = [shingles(text) for text in texts]
    for i, k in enumerate(found.tolist()):
        assert k <= i
        assert found[k] == k
        assert jaccard(sets[i], sets[k]) >= threshold
    assert near_duplicates([texts[k] for k in np.unique(found)], threshold=threshold).tolist() == list(range(len(np.unique(found))))


def test_texts_in_chunks_and_strange_characters(monkeypatch: pytest.MonkeyPatch, banking: list[str]) -> None:
    texts = [*corrupted(banking[:60], 2, seed=3), "\ud800 lone surrogate", "x" * 5000, "\0\0", "😀" * 9]
    whole = near_duplicates(texts, threshold=0.6).tolist()
    monkeypatch.setattr("stillroom.data.duplicates._CHUNK_CHARACTERS", 100)
    assert near_duplicates(texts, threshold=0.6).tolist() == whole


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1, float("nan")])
def test_a_threshold_that_is_none_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=r"is outside \(0, 1\]"):
        near_duplicates(["a"], threshold=threshold)


@pytest.mark.parametrize(("shared", "size", "threshold"), [(55, 100, 0.55), (14, 25, 0.56), (7, 25, 0.28)])
def test_a_pair_just_at_the_threshold_is_compared(shared: int, size: int, threshold: float) -> None:
    assert _jaccard(np.arange(shared, dtype=np.uint64), np.arange(size, dtype=np.uint64), threshold) == shared / size
