"""What a language model costs to run: first token, generation, scoring, memory. Each arm alone in a fresh process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.records import Measure
from stillroom.evaluation.cost import BUDGET_SECONDS, ask_worker, footprint, quantile_interval


def measure_language_cost(
    folders: Mapping[str, Path],
    prompts: Sequence[NDArray[np.int64]],
    texts: Sequence[str],
    *,
    calls: int,
    seed: int,
    new_tokens: int = 64,
    confidence: float = 0.95,
    budget_seconds: float = BUDGET_SECONDS,
) -> list[Measure]:
    """Load each arm's saved language model in a process of its own, one after the other, and time it on the same prompts and texts.

    time_to_first_token_p50_seconds, ..._p99_seconds: from a prompt's token ids to the first new token, one prompt at a time;
        `calls` calls, fewer if the budget is used up. Prompts are taken in an order fixed by `seed`, round and round.
    generated_tokens_per_second: one prompt at a time, `new_tokens` greedy tokens with a key/value cache, reading the prompt
        included; from the median of calls. An end token does not stop it.
    scored_tokens_per_second: `texts` scored together, tokenising included; from the median of calls.
    peak_memory_bytes, size_bytes, parameters, threads: as in `measure_cost`, and so are the intervals.

    Args:
        folders: arm -> folder of a saved `LanguagePredictor`.
        prompts: token ids, at least one prompt; each with `new_tokens` fits every arm's context.
        texts: at least one.

    Raises:
        StageFailed: an arm that cannot be loaded, fails, or hangs; with the reason.
    """
    shared = {"prompts": [ids.tolist() for ids in prompts], "texts": list(texts), "new_tokens": new_tokens}
    settings = {"calls": calls, "seed": seed, "budget_seconds": budget_seconds}
    found: list[Measure] = []
    for arm, folder in folders.items():
        answer = ask_worker(arm, {"folder": str(folder), **shared, **settings})
        found += _measures(arm, answer, new_tokens, confidence)
    return found


def _measures(arm: str, answer: Mapping[str, Any], new_tokens: int, confidence: float) -> list[Measure]:
    found = []
    waits = np.sort(np.array(answer["first_token_seconds"]))
    for name, level in (("p50", 0.5), ("p99", 0.99)):
        value, low, high = quantile_interval(waits, level, confidence)
        found.append(Measure(arm, f"time_to_first_token_{name}_seconds", value, low, high, len(waits), 1))
    for name, tokens, calls in (
        ("generated_tokens_per_second", new_tokens, answer["generation_seconds"]),
        ("scored_tokens_per_second", answer["scored_tokens"], answer["scoring_seconds"]),
    ):
        value, low, high = quantile_interval(np.sort(np.array(calls)), 0.5, confidence)
        slowest, fastest = (None if bound is None else tokens / bound for bound in (high, low))
        found.append(Measure(arm, name, tokens / value, slowest, fastest, len(calls), 1))
    return found + footprint(arm, answer)
