"""Small pieces of SVG: escaped elements, axes and their ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element. Children that are not Markup are escaped; `class_` and `stroke_width` become class and stroke-width."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _number(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = Markup("").join(escape(child) for child in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, inside)


def picture(width: int, height: int, title: str, description: str, parts: Iterable[str], *, key: str) -> Markup:
    """A whole picture with an accessible name; `key` makes its ids unique in the page."""
    return tag(
        "svg",
        tag("title", title, id=f"{key}-title"),
        tag("desc", description, id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
        class_="plot",
    )


def text(x: float, y: float, content: str, *, class_: str = "", anchor: str = "start") -> Markup:
    """A text whose baseline begins (or has its middle or end) at x, y."""
    return tag("text", content, x=x, y=y, class_=class_ or None, text_anchor=None if anchor == "start" else anchor)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """A straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


@dataclass(frozen=True)
class Axis:
    """Maps values in [low, high] to positions in [start, end]; logarithmic where `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, most: int = 5) -> list[float]:
        """Round values inside the axis, at most `most`."""
        return _log_ticks(self.low, self.high, most) if self.log else _linear_ticks(self.low, self.high, most)


def axis_over(
    values: Sequence[float], start: float, end: float, *, log: bool = False, pad: float = 0.08, around_zero: bool = False
) -> Axis:
    """An axis on which all `values` have room."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 1.0)
    if log:
        grown = max((high / low) ** pad, 1.25)
        return Axis(low / grown, high * grown, start, end, log=True)
    if around_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    room = pad * (high - low) or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


@dataclass(frozen=True)
class Box:
    """A rectangle, for finding free places."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that two boxes share."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(across, 0.0) * max(down, 0.0)

    def outside(self, frame: Box) -> float:
        """How far it sticks out of `frame`."""
        over = (frame.left - self.left, self.right - frame.right, frame.top - self.top, self.bottom - frame.bottom)
        return sum(max(side, 0.0) for side in over)


_BESIDE = tuple(
    (side * dx, dy, anchor) for dx, dy in ((11, 4), (9, -9), (9, 17), (9, -24), (9, 32)) for side, anchor in ((1, "start"), (-1, "end"))
)
_NAME_OVER_NAME = 20
"""A name over a bar can be read; over another name it cannot."""
_LETTER_WIDTH = 7.0
"""Of a bold letter at 12 units, generously."""


def place_names(
    names: Sequence[str], places: Sequence[tuple[float, float]], taken: Sequence[Box], frame: Box
) -> list[tuple[float, float, str]]:
    """(x, y, anchor) of a name beside each place, where it covers least of what is `taken` and of the other names."""
    marks = [Box(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    placed: list[Box] = []
    found = []
    for name, (x, y) in zip(names, places, strict=True):
        width = _LETTER_WIDTH * len(name)
        choices = []
        for preference, (dx, dy, anchor) in enumerate(_BESIDE):
            left = x + dx if anchor == "start" else x + dx - width
            box = Box(left, y + dy - 11, left + width, y + dy + 3)
            covered = sum(box.overlap(other) for other in (*taken, *marks)) + _NAME_OVER_NAME * sum(box.overlap(other) for other in placed)
            choices.append((covered + 50 * box.outside(frame) + preference, (x + dx, y + dy, anchor), box))
        _, chosen, box = min(choices, key=lambda choice: choice[0])
        found.append(chosen)
        placed.append(box)
    return found


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least `gap` apart, inside [low, high] if there is room: for labels."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [0.0] * len(wanted)
    last = -math.inf
    for i in order:
        last = placed[i] = max(wanted[i], last + gap, low)
    ceiling = high
    for i in reversed(order):
        ceiling = placed[i] = min(placed[i], ceiling)
        ceiling -= gap
    return placed


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    decade = math.floor(math.log10((high - low) / most))
    for step in (factor * 10.0**power for power in range(decade, decade + 3) for factor in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            break
    # Multiples, not sums: 0.1 + 0.2 would be written as 0.30000000000000004.
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [float(f"{tick:.6g}") for tick in ticks if low <= tick <= high]
        if len(inside) <= most:
            # Less than a decade is seen as well by evenly spaced numbers.
            return inside if len(inside) > 1 else _linear_ticks(low, high, most)
    return inside[:: math.ceil(len(inside) / most)]


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
