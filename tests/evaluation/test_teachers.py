"""Several teachers: each student against the control and against the main teacher's, in every domain, and fidelity to its own teacher."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.core.arms import other_teacher, student_of, teacher_of
from stillroom.evaluation.significance import Estimate, estimate, judge
from stillroom.evaluation.statistic import Metric, Statistic, mean_of
from stillroom.evaluation.teachers import compare_teachers

LOSS = Metric("log_loss", False, mean_of, 0.0)
NUM_ROWS = 40


def losses(rng: np.random.Generator, mean: float, *, seeds: int, luck: float) -> list[Statistic]:
    """An arm finds some rows harder than others do, alike at every seed; a seed is better or worse on all of them."""
    rows = mean + rng.normal(0, 0.1, NUM_ROWS)
    return [mean_of(rows + rng.normal(0, luck)) for _ in range(seeds)]


def estimates(means: dict[str, float], seed: int, num_seeds: int = 3, luck: float = 0.01) -> tuple[dict[str, Estimate], dict[str, int]]:
    rng = np.random.default_rng(seed)
    count = {arm: 1 if arm == teacher_of(arm) else num_seeds for arm in means}
    found = estimate(
        {arm: losses(rng, mean, seeds=count[arm], luck=luck) for arm, mean in means.items()},
        groups=None,
        num_rows=NUM_ROWS,
        resamples=200,
        seed=seed,
    )
    return found, count


def test_names_of_arms() -> None:
    assert [teacher_of(arm) for arm in ("student", "control", "student-onnx", "student@a", "teacher@a")] == [
        *["teacher"] * 3,
        *["teacher@a"] * 2,
    ]
    assert (student_of("teacher"), student_of("teacher@a-0")) == ("student", "student@a-0")
    assert [other_teacher(arm) for arm in ("teacher", "student@a")] == ["", "a"]


def test_each_other_student_is_judged_at_the_shared_level_and_each_teacher_over_documents() -> None:
    means = {"teacher": 1.0, "student": 1.5, "control": 1.8, "teacher@a": 0.8, "student@a": 1.6, "teacher@b": 1.2, "student@b": 1.4}
    arms, count = estimates(means, 0)
    found = {(c.arm, c.against): c for c in compare_teachers(arms, count, LOSS, suffix="@plays", confidence=0.9)}
    pairs = [
        (f"{role}@{name}", against)
        for name in "ab"
        for role, against in (("student", "control"), ("student", "student"), ("teacher", "teacher"))
    ]
    assert list(found) == [("student", "control"), *pairs]
    assert {c.measure for c in found.values()} == {"log_loss@plays"}
    assert [round(c.confidence, 12) for c in found.values()] == [0.9, *[0.95] * 6]
    for pair in (("student@a", "control"), ("student@b", "student")):
        want = judge(arms[pair[0]], arms[pair[1]], LOSS, num_seeds=3, confidence=0.95)
        assert (found[pair].difference, found[pair].low, found[pair].high) == pytest.approx((want.difference, want.low, want.high))
    assert found["student@a", "student"].difference < 0 < found["student@b", "student"].difference
    # Teachers are not trained anew: a single model of each is no single seed, whose interval would hold 0 whatever was found.
    assert found["teacher@a", "teacher"].beyond_chance
    assert found["teacher@a", "teacher"].difference > 0


def test_one_seed_alone_shows_nothing_and_one_teacher_alone_is_not_compared() -> None:
    arms, count = estimates({"teacher": 1.0, "student": 1.5, "control": 1.8, "teacher@a": 0.8, "student@a": 1.2}, 0, num_seeds=1)
    assert not next(c for c in compare_teachers(arms, count, LOSS) if c.arm == "student@a").beyond_chance
    assert list(compare_teachers({arm: arms[arm] for arm in ("teacher", "student", "control")}, count, LOSS)) == []


def test_among_many_equal_teachers_one_seldom_stands_out() -> None:
    """Ten teachers without any difference: none of their students is called different in 19 of 20 runs."""
    means = {"teacher": 1.0, "student": 1.5, **{f"{role}@{name}": 1.5 for name in "abcdefghij" for role in ("teacher", "student")}}
    runs = 60
    alarms = 0
    for seed in range(runs):
        arms, count = estimates(means, seed, luck=0.001)
        alarms += any(c.beyond_chance for c in compare_teachers(arms, count, LOSS) if c.against == "student")
    assert alarms / runs <= 0.05 + 2 * (0.05 * 0.95 / runs) ** 0.5
