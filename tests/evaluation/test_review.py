"""Is the teacher's error measured without bias, as surely as claimed, and with fewer rows than a simple sample?"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stillroom.evaluation.review import NUM_STRATA, agreement, draw_sample, estimate_error, stratify

Floats = NDArray[np.float64]


def answers(num_rows: int, classes: int = 6, sharpness: float = 3.0, seed: int = 0) -> Floats:
    source = np.random.default_rng(seed)
    logits = sharpness * source.normal(size=(num_rows, classes)) + np.linspace(2, 0, classes)  # labels of unequal frequency
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def errors(probs: Floats, temper: str, seed: int = 1) -> NDArray[np.bool_]:
    """Which answers are wrong, where the teacher says honestly how often it is, or does not."""
    doubt = 1 - probs.max(axis=1)
    chance = {"honest": doubt, "too sure": 0.03 + 1.2 * doubt, "too modest": 0.15 * doubt}[temper]
    return np.random.default_rng(seed).random(len(probs)) < chance


def experiments(probs: Floats, wrong: NDArray[np.bool_], size: int, times: int) -> tuple[Floats, Floats]:
    """(times,) estimates and (times, 2) bounds."""
    strata = stratify(probs)
    sizes = np.bincount(strata, minlength=NUM_STRATA)
    found = []
    for seed in range(times):
        rows = draw_sample(probs, size=size, seed=seed)
        found.append(estimate_error(wrong[rows], strata[rows], sizes, confidence=0.95))
    return np.array([f.value for f in found]), np.array([[f.low, f.high] for f in found], dtype=np.float64)


@pytest.mark.parametrize("temper", ["honest", "too sure", "too modest"])
@pytest.mark.parametrize(("num_rows", "size"), [(600, 60), (600, 200), (4000, 100)])
def test_unbiased_covers_and_beats_a_simple_sample(temper: str, num_rows: int, size: int) -> None:
    times = 500
    probs = answers(num_rows)
    wrong = errors(probs, temper)
    truth = wrong.mean()
    values, bounds = experiments(probs, wrong, size, times)
    simple = truth * (1 - truth) / size * (num_rows - size) / (num_rows - 1)
    assert abs(values.mean() - truth) < 4 * np.sqrt(values.var() / times)
    # 500 experiments know a variance to 6 %. Where doubt says little about errors, little is gained.
    assert values.var() < {"too modest": 1.0}.get(temper, 0.92) * simple
    covered = ((bounds[:, 0] <= truth) & (truth <= bounds[:, 1])).mean()
    assert 0.915 <= covered <= 0.995


def test_weights_matter_the_plain_share_of_the_sample_is_biased() -> None:
    """The control of the test above: sure rows are sampled less, so that their errors must count more."""
    probs = answers(4000)
    wrong = errors(probs, "honest")
    plain = np.array([wrong[draw_sample(probs, size=100, seed=seed)].mean() for seed in range(100)])
    assert plain.mean() - wrong.mean() > 10 * plain.std() / 10


def test_each_row_of_a_stratum_is_as_likely_as_its_neighbours() -> None:
    probs, times, size = answers(60), 4000, 20
    strata = stratify(probs)
    drawn = np.zeros(60)
    for seed in range(times):
        drawn[draw_sample(probs, size=size, seed=seed)] += 1
    for h in range(NUM_STRATA):
        members = strata == h
        inclusion = (size / NUM_STRATA) / members.sum()
        # 5 deviations of a count of `times` draws
        assert np.abs(drawn[members] / times - inclusion).max() < 5 * np.sqrt(inclusion * (1 - inclusion) / times)


def test_no_row_twice_a_longer_sample_begins_with_the_shorter_and_the_whole_is_everything() -> None:
    probs = answers(137)
    whole = draw_sample(probs, size=10_000, seed=3)
    assert sorted(whole.tolist()) == list(range(137))
    for size in (1, 7, 40, 136):
        assert draw_sample(probs, size=size, seed=3).tolist() == whole[:size].tolist()
    assert draw_sample(probs, size=40, seed=4).tolist() != whole[:40].tolist()


def test_doubtful_rows_are_looked_at_more_often_but_sure_ones_are_not_left_out() -> None:
    strata = stratify(answers(5000))
    sizes = np.bincount(strata, minlength=NUM_STRATA)
    assert (np.diff(sizes) <= 0).all()
    assert sizes[0] > 1.5 * sizes[-1]
    assert sizes[-1] / sizes[0] > 0.4  # the rate of the surest beside that of the most doubtful


def test_a_teacher_that_is_sure_of_nearly_all_is_not_taken_at_its_word() -> None:
    top = np.where(np.arange(1000) < 500, 1 - 1e-6, 0.5)
    sizes = np.bincount(stratify(np.stack([top, 1 - top], axis=1)), minlength=NUM_STRATA)
    assert sizes.min() / sizes.max() > 0.4


def test_every_label_has_its_share_of_a_sample() -> None:
    """Within a stratum, a label with share s has s of the rows to within 2; by chance alone that is often missed."""
    probs = answers(3000, classes=8)
    strata, labels = stratify(probs), probs.argmax(axis=1)
    for seed in range(20):
        rows = draw_sample(probs, size=160, seed=seed)
        for h in range(NUM_STRATA):
            taken = labels[rows[strata[rows] == h]]
            for label in range(8):
                assert abs((taken == label).sum() - (labels[strata == h] == label).mean() * len(taken)) < 2.5


def test_a_teacher_without_doubt_is_sampled_evenly() -> None:
    hard = np.eye(3)[np.arange(90) % 3]
    assert np.bincount(stratify(hard)).tolist() == pytest.approx([22.5] * 4, abs=1)
    assert len(draw_sample(hard, size=30, seed=0)) == 30


def test_the_estimate_is_the_stratified_one_by_hand() -> None:
    wrong = np.array([1, 0, 0, 0, 1, 1], dtype=bool)
    found = estimate_error(wrong, np.array([0, 0, 0, 0, 1, 1]), np.array([900, 100]), confidence=0.95)
    assert found.value == pytest.approx(0.9 * 1 / 4 + 0.1 * 2 / 2)


def test_one_stratum_is_wilson_s_own_interval() -> None:
    """Wilson 1927, with the numbers of a published table: 10 of 100 give 0.0552 to 0.1744 (Newcombe 1998, method 3)."""
    wrong = np.arange(100) < 10
    found = estimate_error(wrong, np.zeros(100, dtype=np.intp), np.array([10**9]), confidence=0.95)
    assert (found.low, found.high) == pytest.approx((0.0552, 0.1744), abs=1e-4)


def test_a_stratum_without_an_error_seen_is_not_taken_for_free_of_errors() -> None:
    """The interval by hand: 4 errors among 10 rows of one half, none among 10 of the other."""
    wrong, strata = np.arange(20) < 4, np.repeat([0, 1], 10)
    found = estimate_error(wrong, strata, np.array([10**8, 10**8]), confidence=0.95)
    p, z = 0.2, 1.959964
    drawn = [(4 + 2 * p) / 12, (0 + 2 * p) / 12]
    variance = sum(0.25 * share * (1 - share) / 10 for share in drawn)
    n = p * (1 - p) / variance
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half), abs=1e-5)


@pytest.mark.parametrize("all_wrong", [False, True])
def test_no_error_seen_is_no_certainty(all_wrong: bool) -> None:
    wrong = np.full(40, all_wrong)
    found = estimate_error(wrong, np.arange(40) % 4, np.array([400, 300, 200, 100]), confidence=0.95)
    assert found.value == float(all_wrong)
    assert found.high is not None
    assert found.low is not None
    assert 0.05 < found.high - found.low < 0.15
    assert 0 <= found.low <= found.high <= 1


def test_all_rows_reviewed_leave_nothing_to_chance() -> None:
    wrong = np.arange(40) % 5 == 0
    found = estimate_error(wrong, np.arange(40) % 4, np.full(4, 10), confidence=0.95)
    assert (found.low, found.value, found.high) == pytest.approx((0.2, 0.2, 0.2))


@pytest.mark.parametrize(
    ("seen", "joined"), [((1, 3), (0, 0, 0, 1)), ((0, 1, 2, 3), (0, 1, 2, 3)), ((2,), (0, 0, 0, 0)), ((0, 2), (0, 0, 1, 1))]
)
def test_a_stratum_that_nobody_has_looked_at_counts_with_its_neighbour(seen: tuple[int, ...], joined: tuple[int, ...]) -> None:
    sizes = np.array([400, 300, 200, 100])
    shares = {h: i % 2 for i, h in enumerate(seen)}
    found = estimate_error(np.array([shares[h] for h in seen], dtype=bool), np.array(seen), sizes, confidence=0.9)
    want = sum(size * (joined[h] % 2) for h, size in enumerate(sizes)) / sizes.sum()
    assert found.value == pytest.approx(want)


def test_kappa_is_cohen_s() -> None:
    """A table of two raters by hand: 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no: 0.7 observed, 0.5 by chance."""
    first = ["yes"] * 25 + ["no"] * 25
    second = ["yes"] * 20 + ["no"] * 5 + ["yes"] * 10 + ["no"] * 15
    assert agreement(first, second) == pytest.approx((0.7, 0.4))
    assert agreement(["a", "b"], ["a", "b"]) == (1.0, 1.0)
    assert agreement(["a", "a"], ["a", "a"]) == (1.0, None)
