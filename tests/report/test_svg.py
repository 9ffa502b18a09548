"""Axes, ticks and labels: inside, in order, apart."""

import math
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stillroom.report.svg import Axis, Box, axis_over, place_names, spread, tag

numbers = st.floats(-1e9, 1e9)
positive = st.floats(1e-9, 1e9)


@given(st.lists(numbers, min_size=1, max_size=20), st.integers(2, 6))
def test_linear_ticks_are_few_inside_and_round(values: list[float], most: int) -> None:
    axis = axis_over(values, 0, 100)
    ticks = axis.ticks(most)
    assert len(ticks) <= most
    assert all(axis.low <= tick <= axis.high or math.isclose(tick, axis.low) or math.isclose(tick, axis.high) for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert all(0 <= axis(value) <= 100 for value in values)


@given(st.lists(positive, min_size=1, max_size=20))
def test_logarithmic_ticks(values: list[float]) -> None:
    axis = axis_over(values, 0, 100, log=True)
    ticks = axis.ticks(4)
    assert len(ticks) <= 4
    assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in ticks)
    assert all(0 <= axis(value) <= 100 for value in values)
    if axis.high / axis.low > 10:
        assert ticks


def test_equal_steps_on_a_logarithmic_axis() -> None:
    axis = Axis(1, 10_000, 0, 400, log=True)
    assert [axis(x) for x in (1, 10, 100, 10_000)] == [0, 100, 200, 400]


def test_an_axis_over_one_value_or_none_is_still_an_axis() -> None:
    for values in ([5.0], [0.0], [], [math.nan, math.inf]):
        axis = axis_over(values, 0, 100)
        assert axis.low < axis.high
        assert axis.ticks()


@given(st.lists(st.floats(0, 200), min_size=1, max_size=8))
def test_labels_are_spread(wanted: list[float]) -> None:
    placed = spread(wanted, 15, 0, 200)
    ordered = sorted(placed)
    assert all(b - a >= 15 - 1e-9 for a, b in pairwise(ordered))
    assert ordered[0] >= 0
    assert ordered[-1] <= 200


def test_names_do_not_cover_each_other_where_there_is_room() -> None:
    places = [(100.0, 100.0), (103.0, 101.0), (180.0, 100.0), (340.0, 100.0)]
    frame = Box(0, 0, 360, 200)
    found = place_names(["teacher", "student", "control", "student-onnx"], places, [], frame)
    boxes = [
        Box(x if anchor == "start" else x - 7 * len(name), y - 11, x + 7 * len(name) if anchor == "start" else x, y + 3)
        for name, (x, y, anchor) in zip(["teacher", "student", "control", "student-onnx"], found, strict=True)
    ]
    assert all(a.overlap(b) == 0 for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert all(box.outside(frame) == 0 for box in boxes)


def test_everything_written_into_an_element_is_escaped() -> None:
    assert tag("text", '<a>&"', class_='"x', x=1.50) == '<text class="&#34;x" x="1.5">&lt;a&gt;&amp;&#34;</text>'
    assert tag("g", tag("text", "<")) == "<g><text>&lt;</text></g>"
    assert tag("line", stroke_width=2, fill=None) == '<line stroke-width="2"></line>'
