"""Exact and near duplicates among texts.

MinHash with banding proposes pairs, and each is then compared exactly: no two texts are ever called near duplicates below the
threshold, and of those at it at most 1 pair in 1,000 is missed (fewer above it), by chance over the fixed hash functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stillroom.data.normal_text import normal_form

Hashes = NDArray[np.uint64]
_SHINGLE = 5
"""Characters, as in Manku et al. 2007: words would leave a text of ten of them too few."""
_FUNCTIONS = 128
_MOST_MISSED = 1e-3
_CHUNK_CHARACTERS = 1 << 20


def exact_duplicates(texts: Sequence[str]) -> NDArray[np.int64]:
    """(n,) for each text the first that equals it, itself where it is the first; case, punctuation and white space do not count."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(normal_form(text), i) for i, text in enumerate(texts)], np.int64)


def near_duplicates(texts: Sequence[str], *, threshold: float = 0.8, fixed: int = 0) -> NDArray[np.int64]:
    """(n,) for each text the kept one that stands for it; itself where it is kept.

    In order: a text goes if its Jaccard index with a kept one is at least the threshold. So nothing goes by a chain of
    resemblances, no two kept texts resemble each other, a second pass finds nothing, and texts added later never displace
    an earlier one. Compared are the sets of 5 successive characters of the normal forms (`exact_duplicates`).

    Args:
        threshold: in (0, 1]; 0.8 lets about one word in twenty differ.
        fixed: so many texts from the first stay, though they resemble each other: later ones are held against each of them.

    Raises:
        ValueError: a threshold outside (0, 1].

    Source: MinHash, Broder 1997; banding, Leskovec, Rajaraman & Ullman 2014, section 3.4; removal of near duplicates for
    language models, Lee et al. 2022, section 4.2, arXiv:2107.06499.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold = {threshold} is outside (0, 1]; 1 removes only texts with the same shingles.")
    stands_for = exact_duplicates(texts)
    unique = np.flatnonzero(stands_for == np.arange(len(texts)))
    shingles, offsets = _shingles([normal_form(texts[i]) for i in unique.tolist()])
    proposals = _band_keys(shingles, offsets, *_banding(threshold))
    buckets: dict[int, list[int]] = {}
    for text, keys in enumerate(proposals):
        own = shingles[offsets[text] : offsets[text + 1]]
        met = dict.fromkeys(other for key in keys for other in buckets.get(key, ())) if unique[text] >= fixed else {}
        found = next((o for o in sorted(met) if _jaccard(own, shingles[offsets[o] : offsets[o + 1]], threshold) >= threshold), None)
        if found is not None:
            stands_for[unique[text]] = unique[found]
        else:
            for key in keys:
                buckets.setdefault(key, []).append(text)
    return stands_for[stands_for]


def _banding(threshold: float) -> tuple[int, int]:
    """Rows a band and bands: the longest bands, which propose the fewest pairs, that miss few at the threshold."""
    for rows in range(_FUNCTIONS, 1, -1):
        bands = _FUNCTIONS // rows
        if (1 - threshold**rows) ** bands <= _MOST_MISSED:
            return rows, bands
    return 1, _FUNCTIONS


def _jaccard(a: Hashes, b: Hashes, threshold: float) -> float:
    """Of two sorted sets; 0 where their sizes alone put it below the threshold."""
    if min(len(a), len(b)) / max(len(a), len(b)) < threshold:
        return 0.0
    both = np.concatenate([a, b])
    both.sort()
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(both) - shared)


def _shingles(texts: Sequence[str]) -> tuple[Hashes, NDArray[np.int64]]:
    """Each text's set of shingle hashes, sorted, one text after the other; and where each starts. A shorter text is one shingle."""
    parts, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for start, stop in _chunks([max(len(text), _SHINGLE) for text in texts]):
        # A lone surrogate, which JSON can hold, has no UTF-32 of its own.
        padded = [text.ljust(_SHINGLE, "\0").encode("utf-32-le", "surrogatepass") for text in texts[start:stop]]
        codes = np.frombuffer(b"".join(padded), np.uint32).astype(np.uint64)
        lengths = np.array([len(text) // 4 for text in padded])
        owner = np.repeat(np.arange(len(padded)), lengths)
        hashes = np.zeros(len(codes) - _SHINGLE + 1, np.uint64)
        for place in range(_SHINGLE):
            hashes = _mix(hashes + codes[place : place + len(hashes)])
        whole = owner[: len(hashes)] == owner[_SHINGLE - 1 :]
        owner, hashes = owner[: len(hashes)][whole], hashes[whole]
        order = np.lexsort((hashes, owner))
        owner, hashes = owner[order], hashes[order]
        new = np.ones(len(hashes), bool)
        new[1:] = (hashes[1:] != hashes[:-1]) | (owner[1:] != owner[:-1])
        parts.append(hashes[new])
        sizes.append(np.bincount(owner[new], minlength=len(padded)))
    return np.concatenate(parts), np.concatenate([[0], np.cumsum(np.concatenate(sizes))])


def _band_keys(shingles: Hashes, offsets: NDArray[np.int64], rows: int, bands: int) -> list[list[int]]:
    """For each text the keys of its bands that another text has too; only those can propose a pair."""
    num_texts = len(offsets) - 1
    keys = np.zeros((num_texts, bands), np.uint64)
    functions = _mix(np.arange(2 * rows * bands, dtype=np.uint64)).reshape(bands, rows, 2)
    for start, stop in _chunks(np.diff(offsets)):
        block, at = shingles[offsets[start] : offsets[stop]], offsets[start:stop] - offsets[start]
        for band in range(bands):
            key = np.full(stop - start, band, np.uint64)
            for factor, shift in functions[band]:
                key = _mix(key + np.minimum.reduceat(block * (factor | np.uint64(1)) + shift, at))
            keys[start:stop, band] = key
    _, number, count = np.unique(keys, return_inverse=True, return_counts=True)
    shared = (count[number] > 1).reshape(keys.shape)
    return [row[keep].tolist() for row, keep in zip(keys, shared, strict=True)]


def _chunks(sizes: Sequence[int] | NDArray[np.int64]) -> list[tuple[int, int]]:
    """Stretches of texts of at most so many characters together, or of one longer text."""
    ends = np.cumsum(sizes)
    cuts, start = [], 0
    while start < len(ends):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + _CHUNK_CHARACTERS, side="right")), start + 1)
        cuts.append((start, stop))
        start = stop
    return cuts


def _mix(values: Hashes) -> Hashes:
    """SplitMix64's finalizer (Steele, Lea & Flood 2014), modulo 2**64."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
