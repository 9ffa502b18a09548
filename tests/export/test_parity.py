"""The parity check refuses what differs, and names where."""

import numpy as np
import pandas as pd
import pytest

from stillroom.core.errors import StageFailed
from stillroom.export.parity import check_parity

FEATURES = pd.DataFrame({"age": [10, 20, 30, 40], "job": ["a", "b", "<script>", None]})
ANSWERS = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5], [0.4, 0.6]])


class Fixed:
    def __init__(self, answers: np.ndarray, classes: tuple[str, ...] = ("no", "yes")) -> None:
        self.answers, self.classes = answers, classes

    def predict_values(self, features: pd.DataFrame) -> np.ndarray:
        return self.answers[: len(features)]


def moved(row: int, by: float) -> np.ndarray:
    answers = ANSWERS.copy()
    answers[row] += [by, -by]
    return answers


def test_the_largest_difference_and_the_agreement() -> None:
    check = check_parity(Fixed(ANSWERS), Fixed(moved(1, 3e-5)), FEATURES, tolerance=1e-4)
    assert check.largest_difference == pytest.approx(3e-5)
    assert (check.tolerance, check.label_agreement, check.n) == (1e-4, 1.0, 4)
    assert check_parity(Fixed(ANSWERS), Fixed(moved(2, -1e-3)), FEATURES, tolerance=0.1).label_agreement == 0.75


def test_a_difference_above_the_tolerance_is_refused_with_its_row() -> None:
    with pytest.raises(StageFailed, match=r"2 of 4 rows differ .* more than 0\.0001\. Worst is row 3 by 0\.2: .*age='40'"):
        check_parity(Fixed(ANSWERS), Fixed(moved(3, 0.2) + np.array([[0.0], [2e-4], [0.0], [0.0]])), FEATURES, tolerance=1e-4)


def test_the_tolerance_itself_is_still_right() -> None:
    one = np.array([0.5])
    check_parity(Fixed(one, ()), Fixed(one + 0.25, ()), FEATURES[:1], tolerance=0.25)
    with pytest.raises(StageFailed):
        check_parity(Fixed(one, ()), Fixed(one + 0.2500001, ()), FEATURES[:1], tolerance=0.25)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_never_within_tolerance(bad: float) -> None:
    broken = ANSWERS.copy()
    broken[2, 0] = bad
    with pytest.raises(StageFailed, match=r"1 of 4 rows .* row 2 "):
        check_parity(Fixed(ANSWERS), Fixed(broken), FEATURES, tolerance=1e9)


def test_values_are_measured_in_units_of_their_spread() -> None:
    values = np.array([100.0, 200.0, 300.0, 400.0])
    check = check_parity(Fixed(values, ()), Fixed(values + np.array([0, 0, 0, 5]), ()), FEATURES, tolerance=0.1, scale=100.0)
    assert check.largest_difference == pytest.approx(0.05)
    assert check.label_agreement is None
    with pytest.raises(StageFailed, match="row 3 by 5"):
        check_parity(Fixed(values, ()), Fixed(values + np.array([0, 0, 0, 5]), ()), FEATURES, tolerance=0.1, scale=0.0)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(StageFailed, match=r"classes are yes, no; the student's are no, yes"):
        check_parity(Fixed(ANSWERS), Fixed(ANSWERS, ("yes", "no")), FEATURES, tolerance=1)
    with pytest.raises(StageFailed, match="shape"):
        check_parity(Fixed(ANSWERS), Fixed(ANSWERS[:, :1]), FEATURES, tolerance=1)
    with pytest.raises(StageFailed, match="no row"):
        check_parity(Fixed(ANSWERS), Fixed(ANSWERS), FEATURES[:0], tolerance=1)
