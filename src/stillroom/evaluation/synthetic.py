"""How good are generated examples? Varied, like the real ones, balanced, and of the label that they were written for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy import stats

from stillroom.core.errors import BadInput
from stillroom.core.records import Measure
from stillroom.evaluation.diversity import MOST_COMPARED, diversity_measures
from stillroom.evaluation.two_sample import two_sample_test

GENERATED = "generated"


def synthetic_measures(
    generated: Sequence[str], real: Sequence[str], *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[list[Measure], list[str]]:
    """The measures of `diversity_measures`, and two_sample_auc with its two_sample_p_value (`two_sample_test`), arm `generated`.

    Of more than 2,000 texts a side, so many are drawn: pairs of texts are compared.

    Returns:
        The measures, and one sentence for each that could not be taken.
    """
    if not generated or not real:
        return [], ["There are no generated texts to measure." if not generated else "There are no real texts to compare with."]
    if not any(text.split() for text in (*generated, *real)):
        return [], ["Neither the generated nor the real texts hold a word to compare."]
    sides = [_drawn(side, seed) for side in (generated, real)]
    found = diversity_measures(*sides, confidence=confidence, resamples=resamples, seed=seed)
    try:
        test = two_sample_test(*sides, seed=seed, confidence=confidence)
    except BadInput as error:
        return found, [
            f"Whether generated texts can be told from real ones was not tested: {problem.place} {problem.message}"
            for problem in error.problems
        ]
    num_texts = test.num_generated + test.num_real
    found.append(Measure(GENERATED, "two_sample_auc", test.auc, test.low, test.high, num_texts, 1))
    found.append(Measure(GENERATED, "two_sample_p_value", test.p_value, None, None, num_texts, 1))
    return found, []


def balance(labels: Sequence[str], num_labels: int) -> float | None:
    """The entropy of the labels' shares over that of equal shares, in [0, 1]; None where there are no examples or one label alone.

    Args:
        num_labels: how many labels there are, those without an example among them.

    Source: evenness, Pielou 1966 (J. Theor. Biol. 13:131).
    """
    counts = np.array(list(Counter(labels).values()))
    return float(stats.entropy(counts) / np.log(num_labels)) if len(counts) and num_labels > 1 else None


def agreement(name: str, agrees: Sequence[bool], confidence: float = 0.95) -> Measure:
    """The share of examples, at least one, that the teacher gives the label that they were written for, with Wilson's interval.

    Source: Wilson 1927 (J. Am. Stat. Assoc. 22:209).
    """
    found = stats.binomtest(sum(agrees), len(agrees))
    low, high = found.proportion_ci(confidence, method="wilson")
    return Measure(GENERATED, name, float(found.statistic), float(low), float(high), len(agrees), 1)


def _drawn(texts: Sequence[str], seed: int) -> list[str]:
    order = np.random.default_rng(seed).permutation(len(texts))[:MOST_COMPARED]
    return [texts[i] for i in np.sort(order)]
