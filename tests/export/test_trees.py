"""Thresholds in float32 decide as they did in float64."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stillroom.export.trees import floor32

numbers32 = st.floats(width=32, allow_nan=False)
numbers64 = st.floats(allow_nan=False)


@given(st.one_of(numbers64, numbers32), numbers32)
def test_floor32_keeps_every_comparison(threshold: float, x: float) -> None:
    rounded = floor32(np.array([threshold]))
    assert rounded.dtype == np.float32
    assert (x <= threshold) == bool(np.float32(x) <= rounded[0])


@given(st.floats(-(2.0**127), 2.0**127, width=32), st.floats(0, 1))
def test_floor32_between_neighbours(low: float, share: float) -> None:
    high = float(np.nextafter(np.float32(low), np.float32(np.inf)))
    threshold = low + share * (high - low)
    rounded = floor32(np.array([threshold]))[0]
    for x in (low, high):
        assert (x <= threshold) == bool(np.float32(x) <= rounded)
