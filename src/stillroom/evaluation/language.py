"""Evidence for language models: from sums over documents to measures with intervals, in domain and out of it.

Documents are what would differ if the test set were drawn again, so documents are resampled, whole; every measure is a ratio
of sums over them, and tokens of long documents weigh no less than those of short ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.language_records import LanguageScores
from stillroom.core.records import Comparison, CurvePoint, Details, Disagreement, Evidence, Measure, ReliabilityBin
from stillroom.evaluation.significance import Estimate, Interval, estimate, interval_within, judge
from stillroom.evaluation.slices import MAX_DISAGREEMENTS, short_cell
from stillroom.evaluation.statistic import Floats, Metric, Statistic, ratio
from stillroom.evaluation.teachers import compare_teachers
from stillroom.evaluation.worth import worth

Scores = Mapping[str, Sequence[LanguageScores]]
"""Arm -> its scores on the same examples, one for each training seed."""


def language_evidence(
    *,
    in_domain: Scores,
    other_domains: Mapping[str, Scores] | None = None,
    costs: Sequence[Measure] = (),
    primary: str = "log_loss",
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    curves: Mapping[str, Sequence[CurvePoint]] | None = None,
    show: Callable[[int], str] | None = None,
) -> tuple[Evidence, Details]:
    """Measure every arm on the test documents, and judge the student against the control; where other teachers were asked, compare
    them and their students on `primary` in every domain (`evaluation.teachers`).

    log_loss: nats a token. perplexity: exp(log_loss), with its bounds. bits_per_byte: of the text; an end-of-text token costs
    bits and stands for no byte. accuracy: the share of tokens that the model holds for the likeliest. ece: the calibration error of
    that choice. Against the arm's own teacher, for arms that were compared with it: agreement, forward_kl in nats a token, and top5_overlap
    (or of as many tokens as were compared). retention and gap_closed on `primary`, as `worth` defines them.

    Measures on another domain have its name behind an "@": log_loss@wikitext. `n` counts documents.

    Args:
        in_domain: "teacher" has one set of scores; "student" and "control" have as many as there are seeds; other arms any. Another
            teacher is "teacher@NAME", and "student@NAME" its student.
        other_domains: the same for texts of another kind, by name.
        costs: measures taken elsewhere, added as they are.
        primary: what the verdict is on; the scores are of one text for all arms, so that the comparison is paired.
        show: the text of a document, by its row in the test set; called for the few on which student and teacher differ most.

    Returns:
        The evidence, with a verdict if both student and control are there; and the details for the report.

    Raises:
        BadInput: no such primary measure, or one that this text leaves undefined.
        StageFailed: a score that is not finite; names arm and document.

    Source: ece: Guo et al. 2017, arXiv:1706.04599; bits_per_byte: Gao et al. 2020, section 3.1, arXiv:2101.00027.
    """
    domains = {"": in_domain, **{f"@{name}": scores for name, scores in (other_domains or {}).items()}}
    by_name = {metric.name: metric for metric in _metrics(in_domain)}
    if primary not in by_name:
        raise BadInput.at("evaluation.primary", f"= {primary!r} is not one of {', '.join(by_name)}.")
    measures: list[Measure] = []
    comparisons: list[Comparison] = []
    verdict = None
    for suffix, scores in domains.items():
        estimates = _estimates(scores, suffix, resamples, seed)
        of_primary = {arm: estimates[arm, primary] for arm in scores if (arm, primary) in estimates}
        if not suffix and len(of_primary) < len(scores):
            raise BadInput.at("evaluation.primary", f"= {primary!r} is undefined on the test documents of some arm; take log_loss.")
        num_documents = len(np.unique(next(iter(scores.values()))[0].rows))
        measures += [
            Measure(arm, name + suffix, found.value, found.low, found.high, num_documents, len(scores[arm]))
            for arm in scores
            for name, found in _of_arm(arm, scores, estimates, of_primary, by_name[primary], confidence)
        ]
        num_seeds = {arm: len(seeds) for arm, seeds in scores.items()}
        comparisons += compare_teachers(of_primary, num_seeds, by_name[primary], suffix=suffix, confidence=confidence)
        if not suffix and {"student", "control"} <= scores.keys():
            seeds = min(num_seeds["student"], num_seeds["control"])
            verdict = judge(of_primary["student"], of_primary["control"], by_name[primary], num_seeds=seeds, confidence=confidence)
    details = Details(
        reliability={arm: _reliability(seeds) for arm, seeds in in_domain.items()},
        disagreements=_disagreements(in_domain, show),
        curves={arm: tuple(points) for arm, points in (curves or {}).items()},
    )
    arms = tuple(dict.fromkeys([*in_domain, *(m.arm for m in measures), *(cost.arm for cost in costs)]))
    return Evidence(arms, (*measures, *costs), verdict, tuple(comparisons)), details


def _metrics(scores: Scores) -> tuple[Metric, ...]:
    """In the order of evidence.json. A statistic is None where the scores lack what it needs."""
    compared = [s.comparison.top_k for seeds in scores.values() for s in seeds if s.comparison is not None]
    return (
        Metric("log_loss", False, lambda s: _per_token(s, s.nll), 0.0),
        Metric("bits_per_byte", False, lambda s: _quotient(s.nll / np.log(2), s.num_bytes), 0.0),
        Metric("accuracy", True, lambda s: _per_token(s, s.hits), 0.0, 1.0, is_share=True),
        Metric("ece", False, _calibration_error, 0.0, 1.0),
        Metric("agreement", True, lambda s: s.comparison and _per_token(s, s.comparison.agreements), 0.0, 1.0, is_share=True),
        Metric("forward_kl", False, lambda s: s.comparison and _per_token(s, s.comparison.forward_kl), 0.0),
        Metric(
            f"top{compared[0] if compared else 5}_overlap",
            True,
            lambda s: s.comparison and _per_token(s, s.comparison.top_overlap),
            0.0,
            1.0,
            is_share=True,
        ),
    )


def _per_token(scores: LanguageScores, sums: NDArray[np.generic]) -> Statistic:
    return _quotient(sums, scores.num_tokens)


def _quotient(numerator: NDArray[np.generic], denominator: NDArray[np.generic]) -> Statistic:
    rows = np.column_stack([numerator, denominator]).astype(np.float64)
    return Statistic(rows, lambda means: ratio(means[..., 0], means[..., 1]))


def _calibration_error(scores: LanguageScores) -> Statistic:
    """Sum over bins of |hits - confidence|, over all tokens."""
    rows = np.column_stack([scores.bin_hits - scores.bin_confidence, scores.num_tokens])
    return Statistic(rows, lambda means: ratio(np.abs(means[..., :-1]).sum(axis=-1), means[..., -1]))


def _estimates(scores: Scores, suffix: str, resamples: int, seed: int) -> dict[tuple[str, str], Estimate]:
    """(arm, measure) -> estimate, where defined."""
    first = next(iter(scores.values()))[0]
    statistics: dict[tuple[str, str], list[Statistic]] = {}
    for arm, seeds in scores.items():
        for each in seeds:
            _check(arm + suffix, each, first)
        for metric in _metrics(scores):
            found = [metric.statistic(each) for each in seeds]
            defined = [s for s in found if s is not None and np.isfinite(s.value)]
            if len(defined) == len(seeds):
                statistics[arm, metric.name] = defined
    return estimate(statistics, groups=first.rows, num_rows=len(first), resamples=resamples, seed=seed)


def _check(arm: str, scores: LanguageScores, first: LanguageScores) -> None:
    assert np.array_equal(scores.rows, first.rows), f"{arm}: scored on other documents than the first arm"
    assert np.array_equal(scores.num_tokens, first.num_tokens), f"{arm}: scored on other tokens than the first arm"
    if not np.isfinite(scores.nll).all():
        row = int(scores.rows[~np.isfinite(scores.nll)][0])
        raise StageFailed(f"arm {arm!r}: test document {row} has a log likelihood that is not finite; its weights are damaged.")


def _of_arm(
    arm: str,
    scores: Scores,
    estimates: Mapping[tuple[str, str], Estimate],
    of_primary: Mapping[str, Estimate],
    primary: Metric,
    confidence: float,
) -> Iterator[tuple[str, Interval]]:
    for metric in _metrics(scores):
        if (arm, metric.name) not in estimates:
            continue
        found = interval_within(estimates[arm, metric.name], metric, confidence)
        yield metric.name, found
        if metric.name == "log_loss":
            yield "perplexity", _exponential(found)
    if arm in of_primary:
        yield from worth(arm, of_primary, primary, confidence)


def _exponential(found: Interval) -> Interval:
    # Of the bounds, not of every resample: perplexities of a few hard documents have no symmetrical interval.
    value, low, high = (None if x is None else float(np.exp(x)) for x in (found.value, found.low, found.high))
    assert value is not None
    return Interval(value, low, high)


def _reliability(seeds: Sequence[LanguageScores]) -> tuple[ReliabilityBin, ...]:
    """Bins that hold a token; the models of several seeds are counted together."""
    counts, confidence, hits = (
        np.sum([getattr(s, name).sum(axis=0) for s in seeds], axis=0) for name in ("bin_counts", "bin_confidence", "bin_hits")
    )
    size = len(counts)
    return tuple(
        ReliabilityBin(i / size, (i + 1) / size, float(confidence[i] / counts[i]), float(hits[i] / counts[i]), int(counts[i]))
        for i in np.flatnonzero(counts)
    )


def _disagreements(scores: Scores, show: Callable[[int], str] | None) -> tuple[Disagreement, ...]:
    """Up to 20 documents by mean KL(teacher || first seed's student) a token, the largest first."""
    if not {"teacher", "student"} <= scores.keys() or scores["student"][0].comparison is None:
        return ()
    student = scores["student"][0]
    assert student.comparison is not None
    rows, part = np.unique(student.rows, return_inverse=True)
    tokens = np.bincount(part, student.num_tokens).astype(np.float64)

    def by_document(sums: Floats) -> Floats:
        return ratio(np.bincount(part, sums).astype(np.float64), tokens)

    def loss(arm: str, document: int) -> str:
        return f"{by_document(scores[arm][0].nll)[document]:.3f} nats a token"

    distances = np.nan_to_num(by_document(student.comparison.forward_kl))
    found = [int(i) for i in np.argsort(-distances, kind="stable")[:MAX_DISAGREEMENTS] if distances[i] > 0]
    return tuple(
        Disagreement(
            example={"document": str(rows[i]), **({"text": short_cell(show(int(rows[i])))} if show else {})},
            label=f"{int(tokens[i])} tokens",
            teacher=loss("teacher", i),
            student=loss("student", i),
            control=loss("control", i) if "control" in scores else None,
            size=float(distances[i]),
        )
        for i in found
    )
