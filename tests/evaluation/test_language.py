from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.language_records import LanguageScores, TeacherComparison
from stillroom.core.records import CurvePoint, Details, Evidence, Measure
from stillroom.evaluation.language import language_evidence

BINS = 4


def scores(loss: float, seed: int = 0, *, num: int = 60, documents: int = 30, compared: bool = True) -> LanguageScores:
    """Examples of 5 to 40 tokens with about `loss` nats a token; documents differ in how hard they are, alike for all arms."""
    hard = np.random.default_rng(99)
    num_tokens, rows = hard.integers(5, 41, num), np.sort(hard.integers(documents, size=num))
    difficulty = hard.normal(1, 0.2, documents)[rows]
    rng = np.random.default_rng(seed)
    nll = num_tokens * (loss * difficulty + rng.normal(0, 0.02, num))
    bin_counts = np.array([rng.multinomial(n, [1 / BINS] * BINS) for n in num_tokens])
    bin_hits = rng.binomial(bin_counts, 0.5)
    confidence = bin_counts * (np.arange(BINS) + 0.5) / BINS
    comparison = None
    if compared:
        comparison = TeacherComparison(
            rng.binomial(num_tokens, 0.7), num_tokens * (0.1 + 0.1 * rng.random(num)), num_tokens * rng.random(num), 5
        )
    return LanguageScores(rows, num_tokens, 4 * num_tokens, nll, bin_hits.sum(axis=1), bin_counts, confidence, bin_hits, comparison)


def arms(student: float = 1.5, control: float = 1.7, teacher: float = 1.3) -> dict[str, list[LanguageScores]]:
    return {
        "teacher": [scores(teacher, compared=False)],
        "student": [scores(student, seed) for seed in (1, 2, 3)],
        "control": [scores(control, seed) for seed in (4, 5, 6)],
    }


def build(**changes: Any) -> tuple[Evidence, Details]:
    return language_evidence(**{"in_domain": arms(), "resamples": 300, **changes})


def value(evidence: Evidence, arm: str, measure: str) -> float:
    found = evidence.value(arm, measure)
    assert found is not None, (arm, measure)
    return found.value


OWN = ["log_loss", "perplexity", "bits_per_byte", "accuracy", "ece"]
FIDELITY = ["agreement", "forward_kl", "top5_overlap"]


def test_every_arm_has_its_measures_in_order_with_intervals_around_them() -> None:
    evidence, _ = build(other_domains={"wikitext": arms(3.0, 3.1, 2.5)})
    names = {arm: [m.measure for m in evidence.measures if m.arm == arm] for arm in evidence.arms}
    other = [f"{name}@wikitext" for name in OWN]
    assert names["teacher"] == OWN + other
    assert names["control"][: len(OWN) + 4] == [*OWN, *FIDELITY, "retention"]
    assert names["student"][: len(OWN) + 5] == [*OWN, *FIDELITY, "retention", "gap_closed"]
    assert names["student"][len(OWN) + 5 :] == [f"{n}@wikitext" for n in (*OWN, *FIDELITY, "retention", "gap_closed")]
    for m in evidence.measures:
        assert m.low is not None
        assert m.high is not None
        assert m.low <= m.value <= m.high
        assert (m.n, m.seeds) == (len(np.unique(scores(1).rows)), 1 if m.arm == "teacher" else 3)


def test_values_are_ratios_of_sums_and_means_over_seeds() -> None:
    evidence, _ = build()
    students = arms()["student"]
    tokens = students[0].num_tokens.sum()
    loss = np.mean([s.nll.sum() / tokens for s in students])
    assert value(evidence, "student", "log_loss") == pytest.approx(loss)
    assert value(evidence, "student", "perplexity") == pytest.approx(math.exp(loss))
    assert value(evidence, "student", "bits_per_byte") == pytest.approx(loss / math.log(2) / 4)
    assert value(evidence, "student", "accuracy") == pytest.approx(np.mean([s.hits.sum() / tokens for s in students]))
    gaps = [np.abs((s.bin_hits - s.bin_confidence).sum(axis=0)).sum() / tokens for s in students]
    assert value(evidence, "student", "ece") == pytest.approx(np.mean(gaps))
    for name, field in (("agreement", "agreements"), ("forward_kl", "forward_kl"), ("top5_overlap", "top_overlap")):
        want = np.mean([getattr(s.comparison, field).sum() / tokens for s in students])
        assert value(evidence, "student", name) == pytest.approx(want)
    teacher, control = (value(evidence, arm, "log_loss") for arm in ("teacher", "control"))
    assert value(evidence, "student", "retention") == pytest.approx(teacher / loss)
    assert value(evidence, "student", "gap_closed") == pytest.approx((control - loss) / (control - teacher))


def test_a_case_by_hand() -> None:
    """Two documents of 2 and 6 tokens: a mean over tokens, not over documents."""
    sums = LanguageScores(
        np.array([0, 1, 1]), np.array([2, 2, 4]), np.array([4, 8, 20]), np.array([2.0, 4.0, 2.0]), np.array([1, 1, 2]),
        np.array([[2, 0], [1, 1], [0, 4]]), np.array([[0.5, 0.0], [0.25, 0.75], [0.0, 3.0]]), np.array([[1, 0], [0, 1], [0, 2]]),
    )  # fmt: skip
    evidence, details = language_evidence(in_domain={"student": [sums]}, resamples=50)
    want = {"log_loss": 1.0, "perplexity": math.e, "bits_per_byte": 8 / math.log(2) / 32, "accuracy": 0.5, "ece": (0.25 + 0.75) / 8}
    assert {m.measure: m.value for m in evidence.measures} == pytest.approx(want)
    assert evidence.verdict is None
    assert [(b.low, b.high, b.confidence, b.accuracy, b.count) for b in details.reliability["student"]] == [
        (0.0, 0.5, 0.25, pytest.approx(1 / 3), 3),
        (0.5, 1.0, 0.75, 0.6, 5),
    ]


def test_a_lower_loss_helps_and_a_higher_one_hurts() -> None:
    assert [build(in_domain=arms(student=loss))[0].verdict.outcome for loss in (1.5, 1.9)] == ["helped", "hurt"]  # type: ignore[union-attr]
    twins = arms()
    twins["student"] = twins["control"]
    verdict = build(in_domain=twins)[0].verdict
    assert verdict is not None
    assert (verdict.outcome, verdict.measure, verdict.difference) == ("no evidence", "log_loss", 0.0)
    by_hits = build(primary="accuracy")[0].verdict
    assert by_hits is not None
    assert by_hits.measure == "accuracy"


def test_seldom_helped_where_nothing_differs() -> None:
    """60 experiments on fresh documents, student and control alike; at 95 % two or three would be at the limit on each side."""
    helped = 0
    for trial in range(60):
        alike = {"student": [scores(1.5, 10 * trial + i) for i in range(3)], "control": [scores(1.5, 10 * trial + 5 + i) for i in range(3)]}
        verdict = build(in_domain=alike, resamples=100)[0].verdict
        assert verdict is not None
        helped += verdict.outcome == "helped"
    assert helped <= 4


def test_documents_are_resampled_whole() -> None:
    """A document cut into parts is no further evidence: as one example it gives the same interval, as several documents a narrower one."""
    whole = scores(1.5, num=60, documents=12)
    parts = {
        name: np.add.reduceat(getattr(whole, name), np.unique(whole.rows, return_index=True)[1]) for name in ("nll", "num_tokens", "hits")
    }

    def merged(values: Any) -> Any:
        return np.add.reduceat(values, np.unique(whole.rows, return_index=True)[1], axis=0)

    joined = LanguageScores(
        np.unique(whole.rows), parts["num_tokens"], merged(whole.num_bytes), parts["nll"], parts["hits"],
        merged(whole.bin_counts), merged(whole.bin_confidence), merged(whole.bin_hits),
    )  # fmt: skip
    apart = replace(whole, rows=np.arange(len(whole)), comparison=None)

    def width(each: LanguageScores) -> float:
        found = build(in_domain={"student": [each]})[0].value("student", "log_loss")
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        return found.high - found.low

    assert width(replace(whole, comparison=None)) == pytest.approx(width(joined), rel=1e-9)
    assert width(apart) < 0.8 * width(joined)


def test_what_the_text_leaves_undefined_is_left_out() -> None:
    silent = [replace(each, num_bytes=np.zeros_like(each.num_bytes)) for each in arms()["student"]]
    evidence, _ = build(in_domain={"student": silent})
    assert "bits_per_byte" not in {m.measure for m in evidence.measures}
    with pytest.raises(BadInput, match=r"evaluation\.primary: = 'bits_per_byte' is undefined"):
        build(in_domain={"student": silent}, primary="bits_per_byte")
    with pytest.raises(BadInput, match="'f1' is not one of log_loss, bits_per_byte, accuracy"):
        build(primary="f1")


def test_scores_that_are_not_finite_are_named() -> None:
    broken = arms()
    broken["control"][1].nll[7] = math.nan
    with pytest.raises(StageFailed, match=f"arm 'control': test document {broken['control'][1].rows[7]} has a log likelihood"):
        build(in_domain=broken)


def test_details_show_the_documents_that_differ_most() -> None:
    known = arms()
    assert known["student"][0].comparison is not None
    document = int(known["student"][0].rows[11])
    known["student"][0].comparison.forward_kl[known["student"][0].rows == document] *= 50
    curve = [CurvePoint(1, "loss", 2.0)]
    _, details = build(in_domain=known, show=lambda row: f"once {row} " + "x" * 500, curves={"student": curve})
    first = details.disagreements[0]
    assert first.example["document"] == str(document)
    assert first.example["text"].startswith(f"once {document} ")
    assert len(first.example["text"]) <= 160
    mine = known["student"][0].rows == document
    tokens = known["student"][0].num_tokens[mine].sum()
    assert first.size == pytest.approx(known["student"][0].comparison.forward_kl[mine].sum() / tokens)
    assert first.teacher == f"{known['teacher'][0].nll[mine].sum() / tokens:.3f} nats a token"
    assert first.label == f"{tokens} tokens"
    assert [d.size for d in details.disagreements] == sorted((d.size for d in details.disagreements), reverse=True)
    assert len(details.disagreements) == 20
    assert details.curves == {"student": tuple(curve)}
    assert Details.from_json(details.to_json()) == details


def test_costs_and_other_arms_join_in_and_seeds_decide() -> None:
    cost = Measure("int8", "size_bytes", 5.0, None, None, 1, 1)
    evidence, _ = build(in_domain={**arms(), "top-k": [scores(1.6, 9)]}, costs=[cost])
    assert evidence.arms == ("teacher", "student", "control", "top-k", "int8")
    assert evidence.measures[-1] == cost
    assert evidence.value("top-k", "gap_closed") is not None
    assert build()[0].to_json() == build()[0].to_json()
    assert Evidence.from_json(evidence.to_json()) == evidence


def test_worth_and_comparisons_are_each_arms_own_and_survive_the_file() -> None:
    domain = {
        "teacher": [scores(1.3, compared=False)],
        "student": [scores(1.5, seed) for seed in (1, 2, 3)],
        "control": [scores(1.7, seed) for seed in (4, 5, 6)],
        "teacher@a": [scores(1.1, 7, compared=False)],
        "student@a": [scores(1.6, seed) for seed in (8, 9, 10)],
    }
    evidence, _ = language_evidence(in_domain=domain, other_domains={"plays": domain}, resamples=100)

    assert value(evidence, "student@a", "retention") == pytest.approx(
        value(evidence, "teacher@a", "log_loss") / value(evidence, "student@a", "log_loss")
    )
    gap = (value(evidence, "control", "log_loss") - value(evidence, "student@a", "log_loss")) / (
        value(evidence, "control", "log_loss") - value(evidence, "teacher@a", "log_loss")
    )
    assert value(evidence, "student@a", "gap_closed") == pytest.approx(gap)
    assert evidence.value("teacher@a", "retention") is None
    for measure in ("log_loss", "log_loss@plays"):
        against = evidence.compared("student@a", "student", measure)
        assert against is not None
        assert against.difference == pytest.approx(value(evidence, "student", measure) - value(evidence, "student@a", measure))
    assert Evidence.from_json(evidence.to_json()).comparisons == evidence.comparisons
    old = {name: part for name, part in evidence.to_json().items() if name != "comparisons"}
    assert Evidence.from_json(old).comparisons == (), "written before teachers were compared"
