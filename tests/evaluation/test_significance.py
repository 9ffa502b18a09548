"""The statistics are tested as statistics: how often they err over simulated experiments whose truth is known.

An experiment: students of two recipes, trained with some seeds, answer the same test rows. A student is right on a row
if skill + luck of its seed + ease of the row + their interaction is above 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.tree import ExtraTreeClassifier

from stillroom.core.records import Verdict
from stillroom.evaluation import significance
from stillroom.evaluation.metrics import accuracy, quality_metrics, rmse
from stillroom.evaluation.significance import Estimate, combine, estimate, interval, interval_within, judge, quotient
from stillroom.evaluation.statistic import Floats, Metric, Statistic, mean_of

EXPERIMENTS = 300
NORMAL_SHARE = stats.norm.cdf


def one_verdict(
    student: Sequence[Statistic],
    control: Sequence[Statistic],
    *,
    seed: int = 0,
    higher_is_better: bool = True,
    resamples: int = 250,
    low: float = -np.inf,
    high: float = np.inf,
) -> Verdict:
    arms = estimate({"s": student, "c": control}, groups=None, num_rows=student[0].rows.shape[0], resamples=resamples, seed=seed)
    num_seeds = min(len(student), len(control))
    metric = Metric("m", higher_is_better, lambda *_: None, low=low, high=high)
    return judge(arms["s"], arms["c"], metric, num_seeds=num_seeds, confidence=0.95)


def right_answers(rng: np.random.Generator, skill: float, luck: Floats, ease: Floats) -> list[Statistic]:
    """One statistic a seed: the accuracy of a student. `luck` (S,), `ease` (n,)."""
    noise = rng.normal(size=(len(luck), len(ease))) * 0.45  # ease has variance 0.8
    return [mean_of(row > 0) for row in skill + luck[:, None] + ease + noise]


def outcomes(*, seeds: int, rows: int, luck: float, effect: float = 0.0, shared: float = 0.0, count: int = EXPERIMENTS) -> Counter[str]:
    """Verdicts of simulated experiments. `luck` is the standard deviation between seeds; `shared` the part of its variance
    that student and control of a seed have in common."""
    rng = np.random.default_rng(seeds * 1000 + rows)
    found: Counter[str] = Counter()
    for i in range(count):
        ease = rng.normal(size=rows) * 0.8**0.5
        common = rng.normal(size=seeds) * shared**0.5
        lucks = [luck * (common + (1 - shared) ** 0.5 * rng.normal(size=seeds)) for _ in range(2)]
        arms = [right_answers(rng, 1.5 + extra, lot, ease) for extra, lot in zip((effect, 0.0), lucks, strict=True)]
        found[one_verdict(arms[0], arms[1], seed=i).outcome] += 1
    return found


@pytest.mark.parametrize("seeds", [1, 3, 5])
@pytest.mark.parametrize("luck", [0.0, 0.05, 0.3])
def test_without_a_difference_helped_comes_at_most_once_in_twenty(seeds: int, luck: float) -> None:
    found = outcomes(seeds=seeds, rows=200, luck=luck)
    assert found["helped"] <= 0.05 * EXPERIMENTS
    assert found["hurt"] <= 0.05 * EXPERIMENTS


def test_the_size_holds_where_seed_luck_dwarfs_the_rows_and_where_it_is_shared() -> None:
    assert outcomes(seeds=3, rows=1000, luck=0.3)["helped"] <= 0.05 * EXPERIMENTS
    assert outcomes(seeds=3, rows=200, luck=0.3, shared=0.8)["helped"] <= 0.05 * EXPERIMENTS


def test_a_planted_difference_is_found() -> None:
    # 0.25 skill is 93.3 % against 96.0 % right. Rows alone would find it nearly always at 1500 rows.
    assert outcomes(seeds=3, rows=1500, luck=0.03, effect=0.25, count=100)["helped"] >= 90
    assert outcomes(seeds=5, rows=600, luck=0.03, effect=0.25, count=100)["helped"] >= 80
    assert outcomes(seeds=3, rows=1500, luck=0.03, effect=-0.25, count=100)["hurt"] >= 90


def test_a_difference_between_students_without_randomness_is_found_from_rows_alone() -> None:
    rng = np.random.default_rng(0)
    helped = 0
    for i in range(100):
        ease = rng.normal(size=800) * 0.8**0.5
        student, control = (right_answers(rng, skill, np.zeros(1), ease) * 3 for skill in (1.75, 1.5))
        helped += one_verdict(student, control, seed=i).outcome == "helped"
    assert helped >= 80


def test_real_students_of_one_recipe_are_told_apart_at_most_once_in_twenty() -> None:
    X, y = load_digits(return_X_y=True)
    trees = [ExtraTreeClassifier(max_depth=8, random_state=i).fit(X[:900], y[:900]) for i in range(80)]
    answers = [accuracy(y[900:], tree.predict_proba(X[900:])) for tree in trees]
    assert np.std([a.value for a in answers]) > 0.01  # the luck of a seed is real, and larger than the luck of 897 rows
    rng = np.random.default_rng(1)
    for seeds in (1, 3, 5):
        found: Counter[str] = Counter()
        for i in range(200):
            chosen = [answers[k] for k in rng.permutation(80)[: 2 * seeds]]
            found[one_verdict(chosen[:seeds], chosen[seeds:], seed=i, resamples=200).outcome] += 1
        assert found["helped"] <= 10, (seeds, found)
        assert found["hurt"] <= 10, (seeds, found)


def test_intervals_cover_the_truth_over_rows_and_seeds() -> None:
    rng = np.random.default_rng(2)
    # ease, interaction and luck have variances 0.8, 0.2025 and 0.01.
    truth = float(NORMAL_SHARE(1.5 / (0.8 + 0.2025 + 0.01) ** 0.5))
    covered = 0
    for i in range(EXPERIMENTS):
        answers = right_answers(rng, 1.5, rng.normal(size=3) * 0.1, rng.normal(size=200) * 0.8**0.5)
        measured = estimate({"s": answers}, groups=None, num_rows=200, resamples=300, seed=i)["s"]
        found = interval(measured, 0.95)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= truth <= found.high
    assert covered >= 0.92 * EXPERIMENTS


@pytest.mark.parametrize("name", ["roc_auc", "macro_f1", "log_loss", "r2", "rmse", "mae"])
def test_intervals_of_one_model_cover_and_are_no_wider_than_they_should(name: str) -> None:
    task = "regression" if name in ("r2", "rmse", "mae") else "classification"
    metric = next(m for m in quality_metrics(task) if m.name == name)  # type: ignore[arg-type]
    rng = np.random.default_rng(3)

    def sample(n: int) -> Statistic:
        if task == "regression":
            target = rng.normal(size=n)
            statistic = metric.statistic(target, target + rng.normal(size=n) * 0.5)
        else:
            codes = rng.integers(3, size=n)
            logits = rng.normal(size=(n, 3))
            logits[np.arange(n), codes] += 1.5
            probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            statistic = metric.statistic(codes, probs)
        assert statistic is not None
        return statistic

    truth = sample(200_000).value
    hits = 0
    for i in range(EXPERIMENTS):
        found = interval(estimate({0: [sample(150)]}, groups=None, num_rows=150, resamples=200, seed=i)[0], 0.95)
        hits += found.low is not None and found.high is not None and found.low <= truth <= found.high
    assert 0.91 * EXPERIMENTS <= hits <= 0.99 * EXPERIMENTS


def test_a_single_normal_observation_is_covered_whatever_its_spread() -> None:
    rng = np.random.default_rng(4)
    reach = 2 * stats.norm.pdf(1) / 0.05
    assert reach == pytest.approx(9.68, abs=0.01)  # the published constant
    for mean in (0.0, 0.1, 1.0, 3.0):
        d = mean + rng.normal(size=200_000)
        assert (np.abs(d - mean) <= reach * np.abs(d)).mean() >= 0.949


def test_identical_predictions_differ_by_exactly_nothing() -> None:
    rng = np.random.default_rng(5)
    answers = [mean_of(rng.random(100) < share) for share in (0.7, 0.8, 0.9)]
    for same in (answers[:1], answers[:1] * 3):
        verdict = one_verdict(same, same)
        assert (verdict.outcome, verdict.difference, verdict.low, verdict.high) == ("no evidence", 0.0, 0.0, 0.0)
    verdict = one_verdict(answers, answers)
    assert (verdict.outcome, verdict.difference) == ("no evidence", 0.0)


def test_one_seed_is_no_evidence_however_large_the_difference() -> None:
    good, bad = mean_of(np.ones(500)), mean_of(np.arange(500) < 50)
    verdict = one_verdict([good], [bad])
    assert verdict.outcome == "no evidence"
    assert verdict.low < 0 < verdict.difference < verdict.high


def test_the_interval_of_a_difference_ends_where_differences_end() -> None:
    rng = np.random.default_rng(0)
    student, control = ([mean_of(rng.random(20) < share) for share in shares] for shares in ((0.2, 0.9), (0.3, 0.8)))
    free, cut = one_verdict(student, control), one_verdict(student, control, low=0.0, high=1.0)
    assert free.low < -1 < 1 < free.high
    assert (cut.low, cut.high, cut.difference) == (-1.0, 1.0, free.difference)


@pytest.mark.parametrize(("differing", "outcome"), [(3, "no evidence"), (4, "no evidence"), (8, "helped")])
def test_few_differing_rows_are_few_rows_of_evidence(differing: int, outcome: str) -> None:
    # All differences favour the student. By the exact sign test 4 of 4 has p = 0.125, 8 of 8 has p = 0.008.
    rows = np.arange(1000)
    student, control = mean_of(rows < 900), mean_of(rows < 900 - differing)
    assert one_verdict([student] * 3, [control] * 3, resamples=2000).outcome == outcome


def test_positive_is_better_whatever_the_direction() -> None:
    rng = np.random.default_rng(6)
    target = rng.normal(size=400)
    near, far = (rmse(target, target + spread * rng.normal(size=400)) for spread in (0.5, 1.0))
    better = one_verdict([near] * 2, [far] * 2, higher_is_better=False)
    worse = one_verdict([far] * 2, [near] * 2, higher_is_better=False)
    assert (better.outcome, worse.outcome) == ("helped", "hurt")
    assert better.difference == pytest.approx(far.value - near.value)
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))


@pytest.mark.parametrize("n", [8, 60])
def test_the_interval_of_a_mean_is_students(n: int) -> None:
    values = np.linspace(-1, 1, n)
    found = interval(estimate({0: [mean_of(values)]}, groups=None, num_rows=n, resamples=20_000, seed=0)[0], 0.9)
    want = stats.t.interval(0.9, n - 1, values.mean(), values.std(ddof=1) / n**0.5)
    assert (found.low, found.high) == pytest.approx(want, abs=0.005 * (want[1] - want[0]))


def seeds_alone(values: Sequence[float]) -> Estimate:
    """Students whose every row is alike: all that varies is the seed."""
    return estimate({0: [mean_of(np.full(20, v)) for v in values]}, groups=None, num_rows=20, resamples=50, seed=0)[0]


def test_where_only_seeds_vary_the_interval_is_students_and_of_a_difference_welchs() -> None:
    a, b = [0.80, 0.84, 0.85], [0.70, 0.71, 0.75, 0.60]
    found = interval(seeds_alone(a), 0.95)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, np.mean(a), stats.sem(a)))
    difference = interval(combine([(1.0, seeds_alone(a)), (-1.0, seeds_alone(b))]), 0.95)
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (difference.low, difference.high) == pytest.approx((welch.low, welch.high))
    doubled = interval(combine([(2.0, seeds_alone(a))]), 0.95)
    assert (doubled.low, doubled.high) == pytest.approx((2 * found.low, 2 * found.high))  # type: ignore[operator]


def test_groups_are_drawn_together() -> None:
    values = np.random.default_rng(8).normal(size=40)

    def found(rows: Floats, groups: np.ndarray | None) -> tuple[float | None, float | None]:  # type: ignore[type-arg]
        measured = estimate({0: [mean_of(rows)]}, groups=groups, num_rows=len(rows), resamples=300, seed=0)
        bounds = interval(measured[0], 0.95)
        return bounds.low, bounds.high

    alone = found(values, None)
    # Five copies of every row, grouped, are no more evidence than one; ungrouped they would seem to be.
    assert found(np.repeat(values, 5), np.repeat([f"{i:02}" for i in range(40)], 5)) == pytest.approx(alone)
    narrow = found(np.repeat(values, 5), None)
    assert alone[0] is not None
    assert narrow[0] is not None
    assert alone[0] < narrow[0]
    assert found(values, np.array(["one"] * 40)) == (None, None)


def test_a_group_of_large_size_weighs_by_its_rows() -> None:
    groups = np.array(["a"] * 8 + ["b"] * 2 + ["c"] * 5)
    values = np.arange(15.0)
    measured = estimate({0: [mean_of(values)]}, groups=groups, num_rows=15, resamples=50, seed=0)[0]
    assert measured.value == pytest.approx(7.0)
    # Draws are means over the rows drawn, however many those are: of a constant, the constant.
    constant = estimate({0: [mean_of(np.ones(15))]}, groups=groups, num_rows=15, resamples=50, seed=0)[0]
    assert constant.draws == pytest.approx(np.ones(50))
    assert measured.influence == pytest.approx([7.0 - values[groups != name].mean() for name in "abc"])


def test_resamples_depend_on_the_seed_only() -> None:
    values = mean_of(np.random.default_rng(9).normal(size=50))

    def draws(seed: int) -> Floats:
        return estimate({0: [values]}, groups=None, num_rows=50, resamples=40, seed=seed)[0].draws

    assert (draws(1) == draws(1)).all()
    assert (draws(1) != draws(2)).any()
    assert len(draws(1)) == 40


def test_working_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(10)
    codes, probs = rng.integers(3, size=64), rng.dirichlet(np.ones(3), size=64)
    statistics = {m.name: [s] for m in quality_metrics("classification") if (s := m.statistic(codes, probs)) is not None}

    def results() -> dict[str, Estimate]:
        return estimate(statistics, groups=None, num_rows=64, resamples=100, seed=0)

    whole = results()
    monkeypatch.setattr(significance, "_CHUNK_CELLS", 64 * 7)
    for name, measured in results().items():
        np.testing.assert_allclose(measured.draws, whole[name].draws, rtol=1e-12)
        np.testing.assert_allclose(measured.influence, whole[name].influence, rtol=1e-12, atol=1e-15)


def test_a_share_of_all_rows_still_has_an_interval() -> None:
    share = next(m for m in quality_metrics("classification") if m.name == "accuracy")
    measured = estimate({0: [mean_of(np.ones(100))]}, groups=None, num_rows=100, resamples=100, seed=0)[0]
    found = interval_within(measured, share, 0.95)
    assert found.high == 1.0
    # With this true share, 100 of 100 comes in 2.5 % of experiments.
    assert found.low is not None
    assert found.low**100 == pytest.approx(0.025)


def arms_of(values: Callable[[np.random.Generator], dict[str, Floats]], seed: int = 0) -> dict[str, Estimate]:
    arms = values(np.random.default_rng(seed))
    return estimate({arm: [mean_of(v)] for arm, v in arms.items()}, groups=None, num_rows=len(arms["t"]), resamples=300, seed=seed)


def test_a_ratio_covers_its_truth_and_is_left_out_where_its_denominator_may_be_zero() -> None:
    def paired(rng: np.random.Generator) -> dict[str, Floats]:
        noise = rng.normal(size=100)
        return {"t": 4 + noise + rng.normal(size=100), "s": 3 + noise + rng.normal(size=100), "z": rng.normal(size=100)}

    hits = 0
    for seed in range(60):
        found = quotient({"s": 1.0}, {"t": 1.0}, arms_of(paired, seed), 0.9)
        assert found is not None
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.value < found.high
        hits += found.low <= 0.75 <= found.high
    assert 48 <= hits <= 59
    arms = arms_of(paired)
    assert quotient({"s": 1.0}, {"z": 1.0}, arms, 0.95) is None
    same = quotient({"s": 1.0}, {"s": 1.0}, arms, 0.95)
    assert same is not None
    assert (same.value, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0), abs=1e-6)


def test_a_ratio_is_above_zero_exactly_when_its_numerator_is() -> None:
    def gap(rng: np.random.Generator) -> dict[str, Floats]:
        shift = rng.uniform(0, 0.6)
        return {"t": 3 + rng.normal(size=100), "s": shift + rng.normal(size=100), "c": rng.normal(size=100)}

    seen = set()
    for seed in range(20):
        arms = arms_of(gap, seed)
        found = quotient({"s": 1.0, "c": -1.0}, {"t": 1.0, "c": -1.0}, arms, 0.95)
        above = interval(combine([(1.0, arms["s"]), (-1.0, arms["c"])]), 0.95)
        assert found is not None
        assert found.low is not None
        assert above.low is not None
        assert (found.low > 0) == (above.low > 0)
        seen.add(found.low > 0)
    assert seen == {True, False}


def test_a_difference_that_is_the_same_on_every_row_shows_what_the_sign_test_shows() -> None:
    for num_rows, verdict in ((2, "no evidence"), (5, "no evidence"), (6, "helped")):
        right, wrong = mean_of(np.ones(num_rows)), mean_of(np.zeros(num_rows))
        assert one_verdict([right] * 2, [wrong] * 2, low=0.0, high=1.0).outcome == verdict


def test_all_right_of_few_has_an_interval_as_wide_as_they_are_few() -> None:
    labels, probs = np.array([0] * 30 + [1] * 3), np.array([[0.9, 0.1]] * 30 + [[0.2, 0.8]] * 3)
    low = {}
    for metric in quality_metrics("classification")[:3]:
        measured = estimate({"m": [metric.statistic(labels, probs)]}, groups=None, num_rows=33, resamples=250, seed=0)["m"]
        low[metric.name] = interval_within(measured, metric, 0.95).low
    assert low == pytest.approx({"accuracy": 0.025 ** (1 / 33), "macro_f1": 0.025 ** (1 / 33), "roc_auc": 0.025 ** (1 / 3)})
