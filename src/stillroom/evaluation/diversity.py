"""How varied are generated texts beside real ones?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import gammaln
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from stillroom.core.records import Measure
from stillroom.evaluation.generation import distinct, self_similarity
from stillroom.evaluation.significance import estimate, interval_within
from stillroom.evaluation.statistic import Metric, Statistic, mean_of

ARMS, SIZES = ("generated", "real"), (1, 2, 3)
MOST_COMPARED = 2000
"""Texts of one side whose pairs are all compared; of more, so many are drawn."""


def diversity_measures(
    generated: Sequence[str],
    real: Sequence[str],
    *,
    vectors: tuple[NDArray[Any], NDArray[Any]] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Measure]:
    """Measures of two arms, `generated` and `real`, with intervals over texts; `n` counts texts.

    distinct_1, distinct_2, distinct_3 and self_similarity: as in `generation.generation_measures`, within a text and over pairs.
    corpus_distinct_1, _2, _3: different n-grams over all n-grams of the side, if both sides were of the smaller one's size; no
    interval, since resampled texts repeat themselves. spread: the mean cosine distance between two texts, in [0, 2].

    Args:
        vectors: (generated, d) and (real, d) embeddings for the spread, none of them zero; None: TF-IDF of words, learnt on both sides.

    Source: distinct-n: Li et al. 2016, arXiv:1510.03055; made comparable by rarefaction, Hurlbert 1971 (Ecology 52:577).
    """
    rng = np.random.default_rng(seed)
    found: list[Measure] = []

    def measured(arm: str, name: str, statistic: Statistic | None, *, high: float) -> None:
        if statistic is None:
            return
        num_texts = statistic.rows.shape[0]
        [value] = estimate({name: [statistic]}, groups=None, num_rows=num_texts, resamples=resamples, seed=seed).values()
        bounds = interval_within(value, Metric(name, True, lambda _: statistic, 0.0, high), confidence)
        found.append(Measure(arm, name, bounds.value, bounds.low, bounds.high, num_texts, 1))

    for arm, texts, points in zip(ARMS, (generated, real), vectors or _tfidf(generated, real), strict=True):
        drawn = rng.permutation(len(texts))[:MOST_COMPARED]
        for size in SIZES:
            measured(arm, f"distinct_{size}", distinct(texts, size), high=1.0)
        measured(arm, "self_similarity", self_similarity([texts[i] for i in drawn]), high=1.0)
        measured(arm, "spread", spread(points), high=2.0)
    for size in SIZES:
        shares = corpus_distinct(generated, real, size)
        sides = zip(ARMS, (generated, real), shares or (), strict=False)
        found += [Measure(arm, f"corpus_distinct_{size}", share, None, None, len(texts), 1) for arm, texts, share in sides]
    return found


def spread(vectors: Any) -> Statistic | None:
    """The mean over pairs of texts of 1 - cosine; None for fewer than two texts.

    Texts carry their pseudo-values, as in `generation.self_similarity`.

    Args:
        vectors: (n, d), dense or SciPy sparse. A zero vector has the cosine 0 with every other.
    """
    num_texts = vectors.shape[0]
    if num_texts < 2:
        return None
    units = normalize(vectors)
    total = np.asarray(units.sum(axis=0)).ravel()
    with_self = np.asarray(units @ total).ravel()
    itself = np.asarray(units.multiply(units).sum(axis=1) if sparse.issparse(units) else (units * units).sum(axis=1)).ravel()
    own = 1 - (with_self - itself) / (num_texts - 1)
    return mean_of(own.mean() + 2 * (own - own.mean()))


def corpus_distinct(generated: Sequence[str], real: Sequence[str], size: int) -> tuple[float, float] | None:
    """For either side different n-grams over n-grams, expected in as many of its n-grams as the smaller side has.

    Plain distinct-n falls with the number of texts, so two sides of unequal size could not be compared. n-grams are of words, split
    at white space, within a text. None where a side has none.
    """
    counts = [Counter(gram for text in side for gram in _grams(text, size)) for side in (generated, real)]
    drawn = min(total for total in (sum(c.values()) for c in counts))
    if drawn == 0:
        return None
    first, second = (_expected_different(np.array(list(c.values())), drawn) / drawn for c in counts)
    return first, second


def _expected_different(counts: NDArray[np.int64], drawn: int) -> float:
    """How many kinds, of which there are so many each, are among `drawn` drawn without replacement (Hurlbert 1971, equation 5)."""
    kinds, repeated = np.unique(counts, return_counts=True)
    rest = counts.sum() - kinds
    # log of C(rest, drawn) / C(all, drawn); where fewer than `drawn` are of other kinds, the kind is always among them.
    possible = rest >= drawn
    log_choose = gammaln(rest + 1) - gammaln(np.where(possible, rest - drawn, 0) + 1)
    log_all = gammaln(counts.sum() + 1) - gammaln(counts.sum() - drawn + 1)
    return float((repeated * np.where(possible, -np.expm1(log_choose - log_all), 1.0)).sum())


def _grams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return zip(*(words[i:] for i in range(size)), strict=False)


def _tfidf(generated: Sequence[str], real: Sequence[str]) -> tuple[Any, Any]:
    vectors = TfidfVectorizer(tokenizer=str.split, token_pattern=None, sublinear_tf=True).fit_transform([*generated, *real])
    return vectors[: len(generated)], vectors[len(generated) :]
