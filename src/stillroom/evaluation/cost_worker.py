"""The process that measures one arm: `python -m stillroom.evaluation.cost_worker`, a JSON request in, a JSON answer out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stillroom.core.errors import StillroomError
from stillroom.core.protocols import Predictor
from stillroom.models.load import load_predictor
from stillroom.models.sizes import count_parameters, size_on_disk

BATCH_SIZES = (32, 1024)
_BATCH_CALLS = 30


def main() -> None:
    """Answer one request from stdin on stdout. What libraries print goes to stderr."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        request = json.load(sys.stdin)
        answer = measure_language(request) if "prompts" in request else measure(request)
    except StillroomError as error:
        answer = {"error": str(error)}
    with answer_to:
        json.dump(answer, answer_to)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """The raw costs of one predictor.

    Args:
        request: "folder", "features" (a Parquet file), "calls", "seed", "allow_code", "budget_seconds".

    Returns:
        "latency_seconds": one number a call; "batch_seconds": batch size -> one number a call;
        "peak_memory_bytes", "size_bytes", "parameters", "threads": a number, or None where it cannot be told.
    """
    folder, budget = Path(request["folder"]), float(request["budget_seconds"])
    features = pd.read_parquet(request["features"], use_threads=False)  # they may outlive it: apache/arrow#34314
    predictor = load_predictor(folder, allow_code=request["allow_code"])
    order = np.random.default_rng(request["seed"]).permutation(len(features))
    fits = _warm_up(predictor, features, order, budget)
    # The rows are cut out beforehand: only the call itself is timed.
    singles = [_rows(features, order, i, 1) for i in range(min(request["calls"], len(order)))]
    latencies = _time_calls(predictor.predict_values, singles, request["calls"], budget)
    batches = {size: [_rows(features, order, 0, size)] for size in BATCH_SIZES if size in fits}
    return {
        "latency_seconds": latencies,
        "batch_seconds": {size: _time_calls(predictor.predict_values, rows, _BATCH_CALLS, budget) for size, rows in batches.items()},
        **_footprint(folder, predictor),
    }


def measure_language(request: dict[str, Any]) -> dict[str, Any]:
    """The raw costs of one language model.

    Args:
        request: "folder", "prompts" (lists of token ids), "texts" (as many, to be scored), "new_tokens", "calls", "seed",
            "budget_seconds".

    Returns:
        "first_token_seconds", "generation_seconds": one number a call; "scoring_seconds": one for each of "scored_tokens";
        and what `measure` gives beside times.
    """
    from stillroom.models.generation import continuations
    from stillroom.models.language import load

    folder, budget, calls = Path(request["folder"]), float(request["budget_seconds"]), int(request["calls"])
    arm = load(folder)
    prompts = [np.array(ids, np.int64) for ids in request["prompts"]]
    texts = pd.DataFrame({arm.column: request["texts"]})
    order = np.random.default_rng(request["seed"]).permutation(len(prompts))

    def write(prompt: np.ndarray[Any, Any], num: int) -> None:
        continuations(arm.model, [prompt], max_new_tokens=num, vocabulary_size=arm.vocabulary_size)  # never stopped by an end token

    turns = [prompts[number] for number in order]
    write(turns[0], 2)  # the first call also pays for lazy set-up
    arm.predict_values(texts[:1])
    return {
        "first_token_seconds": _time_calls(lambda prompt: write(prompt, 1), turns, calls, budget),
        "generation_seconds": _time_calls(lambda prompt: write(prompt, request["new_tokens"]), turns, _BATCH_CALLS, budget),
        "scoring_seconds": _time_calls(arm.predict_values, [texts], _BATCH_CALLS, budget),
        "scored_tokens": sum(max(len(arm.ids(text)) - 1, 0) for text in request["texts"]),
        **_footprint(folder, arm),
    }


def _footprint(folder: Path, predictor: Predictor) -> dict[str, Any]:
    return {
        "peak_memory_bytes": _peak_memory(),
        "size_bytes": size_on_disk(folder),
        "parameters": count_parameters(predictor),
        "threads": _threads(),
    }


def _warm_up(predictor: Predictor, features: pd.DataFrame, order: np.ndarray[Any, Any], budget: float) -> set[int]:
    """Predict batches of 1, 2, 4, ... rows; return the sizes that were reached before a call would overrun the budget."""
    sizes = [2**i for i in range(max(BATCH_SIZES).bit_length())]
    done = set()
    predictor.predict_values(_rows(features, order, 0, 1))  # the first call also pays for imports and lazy set-up
    for size in sizes:
        rows = _rows(features, order, 0, size)
        start = time.perf_counter()
        predictor.predict_values(rows)
        done.add(size)
        # Twice the rows take up to twice the time.
        if 2 * (time.perf_counter() - start) > budget:
            break
    return done


def _rows(features: pd.DataFrame, order: np.ndarray[Any, Any], start: int, size: int) -> pd.DataFrame:
    positions = order[(start + np.arange(size)) % len(order)]
    return features.iloc[positions].reset_index(drop=True)


def _time_calls(call: Callable[[Any], object], inputs: Sequence[Any], calls: int, budget: float) -> list[float]:
    """Seconds of up to `calls` calls, taking the `inputs` in turn; at least one, and none begun after the budget."""
    seconds: list[float] = []
    end = time.perf_counter() + budget
    while len(seconds) < calls and (not seconds or time.perf_counter() < end):
        given = inputs[len(seconds) % len(inputs)]
        start = time.perf_counter()
        call(given)
        seconds.append(time.perf_counter() - start)
    return seconds


def _peak_memory() -> int | None:
    """The largest resident set of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: Linux lets a child inherit its parent's high-water mark, and the parent has trained models.
        line = next((text for text in status.read_text().splitlines() if text.startswith("VmHWM:")), None)
        return None if line is None else int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _threads() -> int:
    """The largest thread pool of the numerical libraries in use, or the usable cores where none tells."""
    from threadpoolctl import threadpool_info

    pools = [int(pool["num_threads"]) for pool in threadpool_info()]
    if "torch" in sys.modules:
        pools.append(int(sys.modules["torch"].get_num_threads()))
    return max(pools, default=os.cpu_count() or 1)


if __name__ == "__main__":
    main()
