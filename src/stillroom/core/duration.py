"""Times as people take them in at a glance."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A time at a glance: "40 s", "12 min", "3 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
