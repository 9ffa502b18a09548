"""What a teacher behind an endpoint costs to ask, from what its real requests took: no process to measure, no memory, no size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

from stillroom.core.records import Measure
from stillroom.evaluation.cost import quantile_interval
from stillroom.evaluation.statistic import Floats


def endpoint_cost(
    arm: str, *, seconds: Sequence[float], tokens: Sequence[float], usd: Sequence[float] | None, num_rows: int, confidence: float
) -> list[Measure]:
    """latency_p50_seconds, latency_p99_seconds, tokens_per_row, usd_per_1000_rows.

    Latencies are those of the requests as they were sent, many at once: a server that is asked less may be quicker. Their intervals are
    distribution-free, as in `measure_cost`; those of means are Student's t over requests, as if each row took equally many of them.

    Args:
        seconds: of each answered request, its last attempt alone.
        tokens: of each request whose tokens the server counted, retries left out.
        usd: the same, at the job's prices; None where it names none.
        num_rows: that the requests are about.
    """
    found = []
    if len(seconds):
        ordered = np.sort(np.asarray(seconds, dtype=np.float64))
        for name, level in (("latency_p50_seconds", 0.5), ("latency_p99_seconds", 0.99)):
            found.append(Measure(arm, name, *quantile_interval(ordered, level, confidence), len(ordered), 1))
    for name, values, of_rows in (("tokens_per_row", tokens, 1), ("usd_per_1000_rows", usd, 1000)):
        if values is not None and len(values):
            scale = of_rows * len(values) / num_rows
            value, low, high = _mean_interval(scale * np.asarray(values, dtype=np.float64), confidence)
            found.append(Measure(arm, name, value, low, high, len(values), 1))
    return found


def _mean_interval(values: Floats, confidence: float) -> tuple[float, float | None, float | None]:
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    half = float(stats.t.ppf((1 + confidence) / 2, len(values) - 1)) * float(values.std(ddof=1)) / np.sqrt(len(values))
    return mean, max(mean - half, 0.0), mean + half
