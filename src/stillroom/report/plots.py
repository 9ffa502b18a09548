"""The pictures of the report as inline SVG. Colours are CSS variables, so that they follow the page's light or dark scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from stillroom.core.arms import other_teacher, student_of
from stillroom.core.records import CurvePoint, Evidence, Measure, ReliabilityBin, Verdict
from stillroom.report.measures import MINUS, NARROW_SPACE, shown, shown_difference, style
from stillroom.report.svg import Axis, Box, axis_over, line, picture, place_names, spread, tag, text

WIDTH = 360
"""User units; at the width of a phone one unit is about one CSS pixel, so that text keeps its size."""


INTERVAL_TICKS = 4
"""In a cell of a table there is room for a few."""


@dataclass(frozen=True)
class Interval:
    """A value with its bounds, for one arm. `arm` chooses the colour and the mark."""

    arm: str
    value: float
    low: float | None
    high: float | None


def arm_class(arm: str) -> str:
    """The CSS class of an arm."""
    known, role = ("teacher", "student", "control"), arm.partition("@")[0]
    return f"arm-{role}" if role in known else "arm-export" if arm.startswith("student-") else "arm-other"


def mark(arm: str, x: float, y: float, size: float = 5.0) -> Markup:
    """The arm's mark: shapes as well as colours tell arms apart."""
    kind = f"mark {arm_class(arm)}"
    match arm:
        case "teacher":
            points = (
                f"{x:.1f},{y - 1.25 * size:.1f} {x + 1.25 * size:.1f},{y:.1f} {x:.1f},{y + 1.25 * size:.1f} {x - 1.25 * size:.1f},{y:.1f}"
            )
            return tag("polygon", points=points, class_=kind)
        case "control":
            return tag("rect", x=x - size * 0.9, y=y - size * 0.9, width=1.8 * size, height=1.8 * size, class_=kind)
        case "student":
            return tag("circle", cx=x, cy=y, r=size, class_=kind)
    points = f"{x:.1f},{y - 1.2 * size:.1f} {x + 1.15 * size:.1f},{y + 0.8 * size:.1f} {x - 1.15 * size:.1f},{y + 0.8 * size:.1f}"
    return tag("polygon", points=points, class_=kind)


def key_mark(arm: str) -> Markup:
    """The mark alone, for tables and legends."""
    return tag("svg", mark(arm, 7, 7, 4.5), viewBox="0 0 14 14", width=14, height=14, aria_hidden="true", class_="key")


# ---- quality against cost


def trade_off(evidence: Evidence, quality: str, cost: str, *, key: str) -> Markup | None:
    """Every arm as a point: cost to the right on a logarithmic axis, quality upwards with its interval."""
    points = [
        (arm, x, y)
        for arm in evidence.arms
        if (x := evidence.value(arm, cost)) is not None and x.value > 0 and (y := _quality_of(evidence, arm, quality)) is not None
    ]
    if len(points) < 2:
        return None
    height, top, bottom, left = 270, 16, 228, 46
    across = axis_over([x.value for _, x, _ in points], left + 14, WIDTH - 22, log=True)
    up = axis_over([v for _, _, y in points for v in _extent(y)], bottom - 8, top)
    drawn = [*_grid_up(up, quality, left, WIDTH), *_grid_across(across, cost, left, bottom)]
    places = [(across(x.value), up(y.value)) for _, x, y in points]
    bars = [Box(px - 2, up(max(_extent(y))), px + 2, up(min(_extent(y)))) for (_, _, y), (px, _) in zip(points, places, strict=True)]
    names = place_names([arm for arm, _, _ in points], places, bars, Box(left, top - 8, WIDTH, bottom))
    for (arm, _, _), box, (name_x, name_y, anchor) in zip(points, bars, names, strict=True):
        drawn += [line(box.left + 2, box.top, box.left + 2, box.bottom, f"bar {arm_class(arm)}")]
        drawn += [text(name_x, name_y, arm, class_=f"name {arm_class(arm)}", anchor=anchor)]
    # Marks last, on top of every bar.
    drawn += [mark(arm, px, py) for (arm, _, _), (px, py) in zip(points, places, strict=True)]
    drawn.append(text((left + WIDTH) / 2, height - 4, _axis_title(cost), class_="axis-title", anchor="middle"))
    told = "; ".join(f"{arm}: {shown(quality, y.value)} at {shown(cost, x.value)}" for arm, x, y in points)
    title = f"{style(quality).label} against {style(cost).label.lower()}"
    return picture(WIDTH, height, title, told, drawn, key=key)


def _quality_of(evidence: Evidence, arm: str, quality: str) -> Measure | None:
    """An export has no quality of its own: it answers as the student does, which its parity check holds it to."""
    return evidence.value(arm, quality) or (evidence.value("student", quality) if arm.startswith("student-") else None)


def _extent(measure: Measure) -> list[float]:
    return [v for v in (measure.value, measure.low, measure.high) if v is not None]


def _axis_title(measure: str) -> str:
    unit = "rows per second" if style(measure).kind == "rate" else ""
    better = {"higher": "more is better", "lower": "less is better", "": ""}[style(measure).better]
    return ", ".join(part for part in (unit, "logarithmic", better) if part)


def _grid_up(axis: Axis, measure: str, left: float, right: float) -> list[Markup]:
    ticks = axis.ticks(5)
    drawn = []
    for tick, words in zip(ticks, tick_labels(measure, ticks), strict=True):
        y = axis(tick)
        drawn += [line(left, y, right, y, "grid"), text(left - 6, y + 4, words, class_="tick", anchor="end")]
    return drawn


def _grid_across(axis: Axis, measure: str, left: float, bottom: float) -> list[Markup]:
    drawn = [line(left, bottom, WIDTH, bottom, "axis")]
    for tick in axis.ticks(4):
        x = axis(tick)
        words = shown(measure, tick, plain=True).removesuffix("rows/s").rstrip()  # the axis title has it
        drawn += [line(x, bottom, x, bottom + 4, "axis"), text(x, bottom + 17, words, class_="tick", anchor="middle")]
    return drawn


def tick_labels(measure: str, ticks: Sequence[float]) -> list[str]:
    """Ticks as short text: "92 %", "0.85"; as many decimals as the finest of them needs."""
    share = style(measure).kind == "share"
    values = [100 * tick if share else tick for tick in ticks]
    decimals = max((len(f"{value:.6g}".partition(".")[2]) for value in values), default=0)
    large = max((abs(value) for value in values), default=0.0) >= 1e6
    texts = [f"{value:.1e}" if large else f"{value:,.{decimals}f}".replace(",", NARROW_SPACE) for value in values]
    return [words.replace("-", MINUS) + (f"{NARROW_SPACE}%" if share else "") for words in texts]


# ---- several teachers


def teacher_curve(evidence: Evidence, measure: str, teachers: Sequence[str], *, key: str) -> Markup:
    """Every teacher as a point: how good it is itself to the right, how good its student is upwards, with the student's interval."""
    height, top, bottom, left = 270, 16, 228, 46
    found = [(teacher, evidence.value(teacher, measure), evidence.value(student_of(teacher), measure)) for teacher in teachers]
    points = sorted(((teacher, x.value, y) for teacher, x, y in found if x is not None and y is not None), key=lambda point: point[1])
    control = evidence.value("control", measure)
    names = [other_teacher(teacher) or "main" for teacher, _, _ in points]
    # The name of the rightmost has room beside it: left of its point it would seem to be its neighbour's.
    across = axis_over([x for _, x, _ in points], left + 16, WIDTH - 18 - 7 * len(names[-1]), pad=0.02)
    up = axis_over([v for _, _, y in points for v in _extent(y)] + ([control.value] if control else []), bottom - 8, top)
    ticks = across.ticks(4)
    drawn = [*_grid_up(up, measure, left, WIDTH), line(left, bottom, WIDTH, bottom, "axis")]
    for x, words in zip(map(across, ticks), tick_labels(measure, ticks), strict=True):
        drawn += [line(x, bottom, x, bottom + 4, "axis"), text(x, bottom + 17, words, class_="tick", anchor="middle")]
    places = [(across(x), up(y.value)) for _, x, y in points]
    taken = [Box(px - 2, up(max(_extent(y))), px + 2, up(min(_extent(y)))) for (_, _, y), (px, _) in zip(points, places, strict=True)]
    bars = tuple(taken)
    if control:
        level = up(control.value)
        drawn += [
            line(left, level, WIDTH, level, "curve arm-control"),
            text(WIDTH - 2, level - 5, "control", class_="name arm-control", anchor="end"),
        ]
        taken.append(Box(WIDTH - 54, level - 16, WIDTH, level + 2))
    drawn.append(tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in places), class_="curve arm-student faint"))
    for name, box, (x, y, anchor) in zip(names, bars, place_names(names, places, taken, Box(left, top - 8, WIDTH, bottom)), strict=True):
        drawn += [line(box.left + 2, box.top, box.left + 2, box.bottom, "bar arm-student")]
        drawn += [text(x, y, name, class_="name arm-teacher", anchor=anchor)]
    drawn += [mark(student_of(teacher), px, py) for (teacher, _, _), (px, py) in zip(points, places, strict=True)]
    label = style(measure.partition("@")[0]).label.lower()
    drawn.append(text((left + WIDTH) / 2, height - 4, f"the teacher\u2019s own {label}", class_="axis-title", anchor="middle"))
    values = [f"{shown(measure, x)}, its student {shown(measure, y.value)}" for _, x, y in points]
    told = "; ".join(f"{name}: {both}" for name, both in zip(names, values, strict=True))
    return picture(WIDTH, height, f"{style(measure).label}: the student\u2019s against its teacher\u2019s own", told, drawn, key=key)


# ---- intervals: cells of a table, so that the rows share one axis at any width


def interval_axis(intervals: Sequence[Interval]) -> Axis:
    """The axis, in percent of the cell's width, that a column of cells shares."""
    return axis_over([v for i in intervals for v in (i.value, i.low, i.high) if v is not None], 3, 97)


def interval_cell(intervals: Sequence[Interval], axis: Axis, told: str) -> Markup:
    """Values and their bounds on a shared axis; the cell takes the width that it is given. `told`: the same in words."""
    height, gap = 14 + 12 * len(intervals), 12
    drawn = [_percent_line(axis(tick), 0, height, "grid") for tick in axis.ticks(INTERVAL_TICKS)]
    for i, interval in enumerate(intervals):
        y = 13 + gap * i
        if interval.low is not None and interval.high is not None:
            ends = {"x1": f"{axis(interval.low):.2f}%", "x2": f"{axis(interval.high):.2f}%"}
            drawn.append(tag("line", **ends, y1=y, y2=y, class_=f"bar {arm_class(interval.arm)}"))
        # An inner picture of its own: its place is in percent, its mark in pixels.
        drawn.append(tag("svg", mark(interval.arm, 0, y, 4.5), x=f"{axis(interval.value):.2f}%", overflow="visible"))
    return tag("svg", tag("title", told), *drawn, width="100%", height=height, role="img", class_="cell")


def interval_ticks(measure: str, axis: Axis) -> Markup:
    """The last cell of the column: the axis itself."""
    ticks = axis.ticks(INTERVAL_TICKS)
    drawn = [
        tag("text", words, x=f"{axis(tick):.2f}%", y=13, class_="tick", text_anchor="middle")
        for tick, words in zip(ticks, tick_labels(measure, ticks), strict=True)
    ]
    return tag("svg", *drawn, width="100%", height=18, aria_hidden="true", class_="cell")


def _percent_line(x: float, y1: float, y2: float, class_: str) -> Markup:
    return tag("line", x1=f"{x:.2f}%", x2=f"{x:.2f}%", y1=y1, y2=y2, class_=class_)


def verdict_strip(verdict: Verdict) -> Markup:
    """The difference with its interval on an axis with the zero line: left of it the control is better, right the student."""
    measure, bounds = verdict.measure, (verdict.low, verdict.high)
    reach = max(abs(verdict.low), abs(verdict.high), abs(verdict.difference)) or 1.0
    axis = Axis(-1.15 * reach, 1.15 * reach, 0, 100)
    low, high = (axis(bound) for bound in bounds)
    drawn = [
        tag("line", x1="0%", x2="100%", y1=34, y2=34, class_="axis"),
        _percent_line(50, 17, 44, "zero"),
        tag("text", "control better", x="0%", y=12, class_="tick"),
        tag("text", "0", x="50%", y=12, class_="tick", text_anchor="middle"),
        tag("text", "student better", x="100%", y=12, class_="tick", text_anchor="end"),
        tag("line", x1=f"{low:.2f}%", x2=f"{high:.2f}%", y1=34, y2=34, class_="bar verdict-bar"),
        tag("svg", tag("circle", cx=0, cy=34, r=6, class_="mark verdict-mark"), x=f"{axis(verdict.difference):.2f}%", overflow="visible"),
    ]
    between = " to ".join(shown_difference(measure, bound) for bound in bounds)
    # Bounds that would run into each other, or beyond the picture's edge, are one text.
    written = [((low + high) / 2, between, 25)]
    if high - low >= 16:
        written = [(at, shown_difference(measure, bound), 10) for at, bound in zip((low, high), bounds, strict=True)]
    for at, words, edge in written:
        drawn.append(tag("text", words, x=f"{at:.2f}%", y=58, class_="tick", text_anchor=_inside(at, edge)))
    told = f"Difference {shown_difference(measure, verdict.difference)}, interval {between}"
    return tag("svg", tag("title", told), *drawn, width="100%", height=64, role="img", class_="cell strip")


def _inside(at: float, edge: float = 10) -> str:
    """Where a text at `at` percent of a cell's width is anchored, so that it stays in the cell; half of it takes `edge` percent."""
    return "start" if at < edge else "end" if at > 100 - edge else "middle"


# ---- learning curves


def learning_curve(measure: str, curves: Mapping[str, Sequence[CurvePoint]], *, key: str) -> Markup:
    """One line an arm, its name at the line's end."""
    height, top, bottom, left, right = 230, 14, 190, 46, WIDTH - 66
    points = [point for curve in curves.values() for point in curve]
    across = axis_over([point.step for point in points], left, right, pad=0.0)
    up = axis_over([point.value for point in points], bottom - 4, top)
    drawn = [*_grid_up(up, measure, left, right), line(left, bottom, right, bottom, "axis")]
    for tick in across.ticks(4):
        drawn.append(text(across(tick), bottom + 17, f"{tick:,.6g}".replace(",", "\u202f"), class_="tick", anchor="middle"))
    drawn.append(text((left + right) / 2, height - 4, "steps", class_="axis-title", anchor="middle"))
    ends = spread([up(curve[-1].value) for curve in curves.values()], 15, top + 4, bottom - 4)
    for (arm, curve), label_y in zip(curves.items(), ends, strict=True):
        path = " ".join(f"{across(p.step):.1f},{up(p.value):.1f}" for p in _thinned(curve))
        drawn.append(tag("polyline", points=path, class_=f"curve {arm_class(arm)}"))
        drawn.append(text(right + 7, label_y + 4, arm, class_=f"name {arm_class(arm)}"))
    told = "; ".join(f"{arm}: {curve[0].value:.4g} at first, {curve[-1].value:.4g} at last" for arm, curve in curves.items())
    return picture(WIDTH, height, f"Learning curves: {style(measure).label.lower()}", told, drawn, key=key)


def _gap(x: float, y1: float, y2: float, share: float, arm: str) -> Markup:
    """From the diagonal to a point: faint where few answers stand behind it."""
    return tag("line", x1=x, y1=y1, x2=x, y2=y2, class_=f"gap {arm_class(arm)}", stroke_opacity=0.1 + 0.6 * share**0.5)


def _thinned(curve: Sequence[CurvePoint], most: int = 300) -> list[CurvePoint]:
    """At most about `most` points, the last one kept: more than pixels are no use."""
    every = max(1, len(curve) // most)
    return [*curve[:-1:every], curve[-1]]


# ---- reliability


def reliability(arm: str, bins: Sequence[ReliabilityBin], *, key: str) -> Markup:
    """Accuracy against confidence; on the diagonal an arm is as right as it says. Below: how many answers each bin has."""
    size, left, top = 190, 52, 10
    total_height, bars = 296, 26
    across, up = Axis(0, 1, left, left + size), Axis(0, 1, top + size, top)
    drawn = [tag("rect", x=left, y=top, width=size, height=size, class_="frame"), line(across(0), up(0), across(1), up(1), "diagonal")]
    for tick in (0.0, 0.5, 1.0):
        words = f"{100 * tick:.0f}\u202f%"
        drawn += [
            text(left - 6, up(tick) + 4, words, class_="tick", anchor="end"),
            text(across(tick), top + size + bars + 24, words, class_="tick", anchor="middle"),
        ]
    most = max((b.count for b in bins), default=1)
    floor = top + size + bars + 8
    for b in bins:
        share = b.count / most
        x = across((b.low + b.high) / 2)
        drawn += [
            _gap(across(b.confidence), up(b.confidence), up(b.accuracy), share, arm),
            tag("rect", x=x - 4, y=floor - bars * share, width=8, height=bars * share, class_=f"count {arm_class(arm)}"),
        ]
    drawn += [mark(arm, across(b.confidence), up(b.accuracy), 1.5 + 3.5 * (b.count / most) ** 0.5) for b in bins]
    drawn += [
        text(left + size / 2, total_height - 24, "confidence", class_="axis-title", anchor="middle"),
        tag("text", "accuracy", class_="axis-title", text_anchor="middle", transform=f"translate(12 {top + size / 2}) rotate(-90)"),
    ]
    told = "; ".join(f"{b.confidence:.0%} sure, {b.accuracy:.0%} right, {b.count} answers" for b in bins)
    return picture(left + size + 18, total_height - 16, f"Reliability of the {arm}", told, drawn, key=key)
