"""What an arm costs to run: latency, throughput, memory, size. Every arm alone in a fresh process, all under the same conditions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from stillroom.core.errors import StageFailed
from stillroom.core.files import writing
from stillroom.core.protocols import Progress
from stillroom.core.records import Measure
from stillroom.evaluation.statistic import Floats

BUDGET_SECONDS = 3.0
"""Time for one kind of call; a slow arm is timed with fewer calls, and `n` says how many."""
_HANGS_AFTER_SECONDS = 900.0


def measure_cost(
    folders: Mapping[str, Path],
    features: pd.DataFrame,
    *,
    calls: int,
    seed: int,
    allow_code: bool = False,
    confidence: float = 0.95,
    budget_seconds: float = BUDGET_SECONDS,
    progress: Progress | None = None,
) -> list[Measure]:
    """Load each arm's saved predictor in a process of its own, one after the other, and time it on the same rows.

    The process inherits this one's environment, thread settings included; `threads` records what it had. Batches of 1, 2,
    4, ... rows warm it up. Single rows are then taken from `features` in an order fixed by `seed`, round and round.

    latency_p50_seconds, latency_p99_seconds: of `calls` calls with one row; fewer if the budget is used up.
    throughput_32_rows_per_second, throughput_1024_rows_per_second: from the median of calls with so many rows (repeated
        where `features` has fewer). Left out where a single call would overrun the budget.
    peak_memory_bytes: the process's largest resident set, interpreter, libraries and test rows included, nothing deducted.
    size_bytes: all files of the saved predictor.
    parameters: see `stillroom.models.sizes`; left out where they cannot be counted.

    Intervals are distribution-free, from order statistics; None where the calls are too few (the 99th percentile needs
    368 calls at 95 %). They treat calls as independent, and hold for this machine under its load at the time.

    Args:
        folders: arm -> folder of a saved predictor.
        features: test rows, at least one, in the predictors' columns.

    Raises:
        StageFailed: an arm that cannot be loaded, fails, or hangs; with the reason.

    Source: order-statistic intervals: Hahn & Meeker 1991, section 5.2.
    """
    found: list[Measure] = []
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch) / "features.parquet"
        with writing(table):
            features.to_parquet(table, index=False)
        for num_done, (arm, folder) in enumerate(folders.items()):
            if progress:
                progress(num_done, len(folders))
            request = {
                "folder": str(folder),
                "features": str(table),
                "calls": calls,
                "seed": seed,
                "allow_code": allow_code,
                "budget_seconds": budget_seconds,
            }
            found += _measures(arm, ask_worker(arm, request), confidence)
        if progress:
            progress(len(folders), len(folders))
    return found


def ask_worker(arm: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a fresh `cost_worker` process to a request.

    Raises:
        StageFailed: it fails, is killed, or hangs; names the arm and the reason.
    """
    # The child finds the same modules: the caller's path, which need not be in its environment.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-P", "-m", "stillroom.evaluation.cost_worker"]
    try:
        done = subprocess.run(
            command, input=json.dumps(request), capture_output=True, text=True, env=environment, timeout=_HANGS_AFTER_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise StageFailed(f"arm {arm!r}: no cost measured within {_HANGS_AFTER_SECONDS:.0f} s; set evaluation.cost: false.") from error
    if done.returncode != 0:
        reason = f"killed by signal {-done.returncode} (out of memory?)" if done.returncode < 0 else _last_line(done.stderr)
        raise StageFailed(f"arm {arm!r}: cannot measure its cost: {reason}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise StageFailed(f"arm {arm!r}: cannot measure its cost: {answer['error']}")
    return answer


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "the process ended without a message."


def _measures(arm: str, answer: Mapping[str, Any], confidence: float) -> list[Measure]:
    found = []
    latencies = np.sort(np.array(answer["latency_seconds"]))
    for name, level in (("latency_p50_seconds", 0.5), ("latency_p99_seconds", 0.99)):
        value, low, high = quantile_interval(latencies, level, confidence)
        found.append(Measure(arm, name, value, low, high, len(latencies), 1))
    for size, seconds in answer["batch_seconds"].items():
        value, low, high = quantile_interval(np.sort(np.array(seconds)), 0.5, confidence)
        slowest, fastest = (None if bound is None else int(size) / bound for bound in (high, low))
        found.append(Measure(arm, f"throughput_{size}_rows_per_second", int(size) / value, slowest, fastest, len(seconds), 1))
    return found + footprint(arm, answer)


def footprint(arm: str, answer: Mapping[str, Any]) -> list[Measure]:
    """What a worker's answer tells beside times: memory, size, parameters, threads, where known."""
    names = ("peak_memory_bytes", "size_bytes", "parameters", "threads")
    return [Measure(arm, name, float(answer[name]), None, None, 1, 1) for name in names if answer[name] is not None]


def quantile_interval(ordered: Floats, level: float, confidence: float) -> tuple[float, float | None, float | None]:
    """The quantile of ascending values and two of the values that enclose the true one with at least `confidence`."""
    n, tail = len(ordered), (1 - confidence) / 2
    value = float(np.quantile(ordered, level))
    # How many of n values lie below the true quantile is binomial. Ranks from 1:
    below, above = int(stats.binom.ppf(tail, n, level)), int(stats.binom.ppf(1 - tail, n, level)) + 1
    if below < 1 or above > n:
        return value, None, None
    return value, min(value, float(ordered[below - 1])), max(value, float(ordered[above - 1]))
