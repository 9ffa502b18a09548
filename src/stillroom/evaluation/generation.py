"""What arms write: exact answers, and whether a student's texts are narrower than its teacher's.

Texts are compared by their words, split at white space: arms with other tokenizers stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from stillroom.core.arms import teacher_of
from stillroom.core.records import Measure, Verdict
from stillroom.evaluation.significance import Estimate, combine, estimate, interval, interval_within, judge
from stillroom.evaluation.statistic import Floats, Metric, Statistic, mean_of, ratio
from stillroom.evaluation.worth import worth

Texts = Mapping[str, Sequence[Sequence[str]]]
"""Arm -> for each training seed a text for each prompt; the prompts are the same for all."""
_PAIR_WORDS = 2


def generation_measures(
    *,
    greedy: Texts | None = None,
    sampled: Texts | None = None,
    references: Sequence[str] | None = None,
    same: Callable[[str, str], bool] | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> list[Measure]:
    """Measures of the arms' continuations, with intervals over prompts (and training seeds); `n` counts prompts.

    exact_match: the share of greedy texts that are the reference. Of sampled texts: distinct_1, distinct_2, distinct_3, the
    mean over texts of different n-grams over n-grams; self_similarity, the mean over pairs of texts of the Jaccard index of
    their sets of bigrams; and of every arm but a teacher narrowing, its self_similarity less its teacher's: above 0, the arm
    repeats itself over prompts more than the teacher does.

    Args:
        greedy, sampled: texts of at most as many tokens for every arm, since longer texts repeat more.
        references: the right answer to each prompt; without them there is no exact_match.
        same: same(text, reference); absent: equal but for white space at the ends.

    Source: distinct-n: Li et al. 2016, arXiv:1510.03055, here within a text as intra-dist in Gu et al. 2018, arXiv:1805.12352,
    since bootstrapped sets of texts repeat themselves; pairwise similarity of samples as a sign of narrowing: Zhu et al. 2018
    (self-BLEU), arXiv:1802.01886, with Jaccard 1901's index in the place of BLEU, which is symmetrical and has no smoothing.
    """
    found: list[Measure] = []
    if greedy and references is not None:
        metric = _share("exact_match", lambda texts: _share_right(texts, references, same or _equal))
        found += _measured(greedy, (metric,), confidence, resamples, seed)
    if sampled:
        found += _measured(sampled, _DIVERSITY, confidence, resamples, seed)
    return found


def right_answers(
    greedy: Texts,
    references: Sequence[str],
    same: Callable[[str, str], bool],
    *,
    measure: str = "exact_match",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[list[Measure], Verdict | None]:
    """The share of an arm's texts that are right, retention and gap_closed on it (`worth`), and the verdict where both student and
    control are there; paired over prompts.

    Args:
        same: same(text, reference).
        measure: what the share is called.
    """
    statistics = {arm: [_share_right(each, references, same) for each in seeds] for arm, seeds in greedy.items()}
    metric = _share(measure, lambda texts: _share_right(texts, references, same))
    estimates = estimate(statistics, groups=None, num_rows=len(references), resamples=resamples, seed=seed)
    found = []
    for arm, seeds in greedy.items():
        named = [(measure, interval_within(estimates[arm], metric, confidence)), *worth(arm, estimates, metric, confidence)]
        found += [Measure(arm, name, each.value, each.low, each.high, len(references), len(seeds)) for name, each in named]
    if not {"student", "control"} <= greedy.keys():
        return found, None
    num_seeds = min(len(greedy["student"]), len(greedy["control"]))
    return found, judge(estimates["student"], estimates["control"], metric, num_seeds=num_seeds, confidence=confidence)


def distinct(texts: Sequence[str], size: int) -> Statistic | None:
    """The mean over texts of different n-grams over n-grams; a text of fewer words does not count. None where none counts."""
    counts = [list(_grams(text, size)) for text in texts]
    shares = np.array([len(set(grams)) / len(grams) if grams else 0.0 for grams in counts])
    counted = np.array([float(bool(grams)) for grams in counts])
    if not counted.any():
        return None
    return Statistic(np.column_stack([shares, counted]), lambda means: ratio(means[..., 0], means[..., 1]))


def self_similarity(texts: Sequence[str]) -> Statistic | None:
    """The mean over pairs of texts of shared bigrams over all bigrams of the two; two texts without any are alike.

    Texts carry their pseudo-values: the mean of all pairs plus twice what the text's own pairs differ from it. Their resampled
    mean has the variance of the mean over pairs (Hoeffding 1948, Ann. Math. Stat. 19:293). None for fewer than two texts.
    """
    if len(texts) < 2:
        return None
    index = _jaccard(texts)
    np.fill_diagonal(index, 0.0)
    own = index.sum(axis=1) / (len(texts) - 1)
    return mean_of(own.mean() + 2 * (own - own.mean()))


_DIVERSITY = (
    *(Metric(f"distinct_{n}", True, lambda texts, n=n: distinct(texts, n), 0.0, 1.0) for n in (1, 2, 3)),
    Metric("self_similarity", False, self_similarity, 0.0, 1.0),
)


def _equal(text: str, reference: str) -> bool:
    return text.strip() == reference.strip()


def _share_right(texts: Sequence[str], references: Sequence[str], same: Callable[[str, str], bool]) -> Statistic:
    return mean_of(np.array([same(*pair) for pair in zip(texts, references, strict=True)]))


def _share(name: str, statistic: Callable[[Sequence[str]], Statistic]) -> Metric:
    return Metric(name, True, statistic, 0.0, 1.0, is_share=True)


def _measured(texts: Texts, metrics: Sequence[Metric], confidence: float, resamples: int, seed: int) -> Iterator[Measure]:
    num_prompts = len(next(iter(texts.values()))[0])
    statistics: dict[tuple[str, str], list[Statistic]] = {}
    for arm, seeds in texts.items():
        assert all(len(each) == num_prompts for each in seeds), f"{arm}: not one text a prompt"
        for metric in metrics:
            defined = [s for s in (metric.statistic(each) for each in seeds) if s is not None]
            if len(defined) == len(seeds):
                statistics[arm, metric.name] = defined
    estimates = estimate(statistics, groups=None, num_rows=num_prompts, resamples=resamples, seed=seed)
    for arm, seeds in texts.items():
        for metric in metrics:
            if (arm, metric.name) in estimates:
                bounds = interval_within(estimates[arm, metric.name], metric, confidence)
                yield Measure(arm, metric.name, bounds.value, bounds.low, bounds.high, num_prompts, len(seeds))
        if narrowing := _narrowing(arm, estimates):
            bounds = interval(narrowing, confidence)
            yield Measure(arm, "narrowing", bounds.value, bounds.low, bounds.high, num_prompts, len(seeds))


def _narrowing(arm: str, estimates: Mapping[tuple[str, str], Estimate]) -> Estimate | None:
    """An arm's self-similarity less its teacher's, on the same prompts."""
    own, teacher = estimates.get((arm, "self_similarity")), estimates.get((teacher_of(arm), "self_similarity"))
    return None if arm == teacher_of(arm) or own is None or teacher is None else combine([(1.0, own), (-1.0, teacher)])


def _jaccard(texts: Sequence[str]) -> Floats:
    """(n, n) Jaccard index of the sets of bigrams."""
    sets = [set(_grams(text, _PAIR_WORDS)) for text in texts]
    numbers = {gram: i for i, gram in enumerate(dict.fromkeys(gram for grams in sets for gram in grams))}
    columns = np.array([numbers[gram] for grams in sets for gram in grams], np.int64)
    sizes = np.array([len(grams) for grams in sets])
    rows = np.repeat(np.arange(len(sets)), sizes)
    member = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(sets), max(len(numbers), 1)))
    shared: NDArray[np.float64] = (member @ member.T).toarray()
    union = sizes[:, None] + sizes[None, :] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1.0), 1.0)


def _grams(text: str, size: int) -> Iterator[tuple[str, ...]]:
    words = text.split()
    return zip(*(words[i:] for i in range(size)), strict=False)
