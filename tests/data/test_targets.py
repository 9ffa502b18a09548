"""The target: named classes or finite values, and every row that has none is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from stillroom.core.errors import BadInput
from stillroom.data.targets import class_names, encode, read_labels, read_values


def test_class_order_is_by_number_or_by_alphabet() -> None:
    assert class_names(["10", "9", "-1", "9"]) == ("-1", "9", "10")
    assert class_names(["b", "10", "a", "9"]) == ("10", "9", "a", "b")


def test_labels_agree_between_formats() -> None:
    for values in ([1, 2], [1.0, 2.0], ["1", " 2"], ["1.0", "2.0"]):
        assert read_labels(pd.Series(values, name="y"), place="here").tolist() == ["1", "2"]


def test_encoding_is_undone_by_the_class_names() -> None:
    labels = np.array(["c", "a", "b", "a"], dtype=object)
    classes = class_names(labels)
    assert [classes[code] for code in encode(labels, classes, part="training")] == labels.tolist()


def test_missing_labels_are_counted_with_the_remedy() -> None:
    with pytest.raises(BadInput) as caught:
        read_labels(pd.Series(["a", None, " ", "b", "", np.nan, None], name="y"), place="data.source.train")
    assert str(caught.value).startswith("data.source.train: 5 of 7 rows have no target 'y' (rows 2, 3, 5 and 2 more); ")
    assert "data.source.unlabeled" in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, np.nan, 2.0], "1 of 3 rows have no target 'y' (row 2)"),
        (["1", "inf", "-inf"], "target 'y', rows 2, 3: infinite"),
        ([1.0, 2.0, -np.inf], "target 'y', row 3: infinite"),
        (["1", "2", "low"], "target 'y', row 3: 'low' is not a number"),
        ([True, False, True], "target 'y', rows 1, 2, 3: 'True' is not a number"),
    ],
)
def test_values_that_are_not_finite_numbers_are_named_by_row(values: list[Any], message: str) -> None:
    with pytest.raises(BadInput) as caught:
        read_values(pd.Series(values, name="y"), place="here")
    assert str(caught.value).startswith(f"here: {message}")


def test_a_class_that_training_lacks_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        encode(np.array(["a", "z", "q"], dtype=object), ("a", "b"), part="test")
    assert str(caught.value).startswith("data.target: the test rows have class 'q', 'z', which no training row has (training: a, b); ")
