"""Was it worth it? An arm beside the teacher and the control, on the primary measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from stillroom.core.arms import teacher_of
from stillroom.evaluation.significance import Estimate, Interval, quotient
from stillroom.evaluation.statistic import Metric


def worth(arm: str, of_primary: Mapping[str, Estimate], primary: Metric, confidence: float) -> Iterator[tuple[str, Interval]]:
    """(measure, value with bounds): `retention` and `gap_closed` of an arm beside its own teacher, where they are defined.

    retention: student / teacher; for a loss or an error teacher / student, so that 1 is "as good" and 0.5 "twice the error".
    gap_closed: (student - control) / (teacher - control); 0 is the control, 1 the teacher. Left out where the interval of
    teacher - control does not show the teacher as the better one: there is no gap to close, and the ratio means nothing.
    retention is left out where the interval of its denominator is not above 0 (a poor R squared, a vanishing error).
    """
    teacher = teacher_of(arm)
    if arm == teacher or teacher not in of_primary:
        return
    above, below = (arm, teacher) if primary.higher_is_better else (teacher, arm)
    if retention := quotient({above: 1.0}, {below: 1.0}, of_primary, confidence):
        yield "retention", retention
    if arm != "control" and "control" in of_primary:
        sign = 1.0 if primary.higher_is_better else -1.0
        if gap := quotient({arm: sign, "control": -sign}, {teacher: sign, "control": -sign}, of_primary, confidence):
            yield "gap_closed", gap
