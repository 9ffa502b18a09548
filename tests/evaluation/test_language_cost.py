"""Language models timed in real child processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillroom.core.errors import StageFailed
from stillroom.core.records import Measure
from stillroom.evaluation import cost_worker, language_cost
from stillroom.evaluation.language_cost import measure_language_cost
from stillroom.models.language import LanguagePredictor

Make = Callable[..., tuple[Any, Any]]
PROMPTS = [np.array([1, 4, 5, 6]), np.array([1, 7])]
TEXTS = ["w1 w2 w3 w4 w5", "w6 w7"]


def test_an_arm_is_measured_in_a_fresh_process(tiny_causal: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    model, tokenizer = tiny_causal("llama")
    LanguagePredictor(model, tokenizer).save(tmp_path / "student")
    found = measure_language_cost({"student": tmp_path / "student"}, PROMPTS, TEXTS, calls=8, seed=0, new_tokens=10, budget_seconds=5)
    by_name = {m.measure: m for m in found}
    assert list(by_name) == [
        "time_to_first_token_p50_seconds",
        "time_to_first_token_p99_seconds",
        "generated_tokens_per_second",
        "scored_tokens_per_second",
        "peak_memory_bytes",
        "size_bytes",
        "parameters",
        "threads",
    ]
    assert {m.arm for m in found} == {"student"}
    first, last = by_name["time_to_first_token_p50_seconds"], by_name["time_to_first_token_p99_seconds"]
    assert 0 < first.value <= last.value < 5
    assert (first.n, last.low) == (8, None)
    assert by_name["generated_tokens_per_second"].value < 10 / (first.value / 20)
    assert by_name["parameters"].value == model.num_parameters()
    assert by_name["size_bytes"].value == sum(f.stat().st_size for f in (tmp_path / "student").iterdir())
    assert by_name["peak_memory_bytes"].value > 50 * 2**20
    assert by_name["threads"].value == 1
    (tmp_path / "student" / "model.safetensors").unlink()
    with pytest.raises(StageFailed, match=r"arm 'student': cannot measure its cost: .*cannot be loaded"):
        measure_language_cost({"student": tmp_path / "student"}, PROMPTS, TEXTS, calls=1, seed=0)


def test_rates_are_tokens_over_the_median_and_intervals_are_turned_round(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {
        "first_token_seconds": [0.1] * 20 + [0.4],
        "generation_seconds": [1.0] * 6 + [2.0] * 9 + [4.0] * 6,
        "scoring_seconds": [0.5] * 9,
        "scored_tokens": 300,
        "peak_memory_bytes": 7,
        "size_bytes": 5,
        "parameters": None,
        "threads": 2,
    }
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(language_cost, "ask_worker", lambda arm, request: (asked.append(request), answer)[1])
    found = {m.measure: m for m in measure_language_cost({"a": Path("folder")}, PROMPTS, TEXTS, calls=21, seed=3, new_tokens=64)}
    assert found["generated_tokens_per_second"] == Measure("a", "generated_tokens_per_second", 32.0, 16.0, 64.0, 21, 1)
    assert found["scored_tokens_per_second"].value == 600
    assert found["time_to_first_token_p50_seconds"].value == pytest.approx(0.1)
    assert "parameters" not in found
    assert asked[0]["prompts"] == [[1, 4, 5, 6], [1, 7]]
    assert asked[0]["seed"] == 3


def test_the_worker_counts_what_it_times(tiny_causal: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import stillroom.models.generation as generation

    LanguagePredictor(*tiny_causal("gpt2")).save(tmp_path)
    written: list[tuple[list[int], int]] = []
    true = generation.continuations

    def spy(model: Any, prompts: Any, *, max_new_tokens: int, **settings: Any) -> Any:
        found = true(model, prompts, max_new_tokens=max_new_tokens, **settings)
        assert [len(text) for text in found] == [max_new_tokens], "an end token stopped it"
        written.append((prompts[0].tolist(), max_new_tokens))
        return found

    monkeypatch.setattr(generation, "continuations", spy)
    request = {"folder": str(tmp_path), "prompts": [[1, 4], [1, 5], [1, 6]], "texts": TEXTS, "new_tokens": 7, "calls": 6, "seed": 0}
    answer = cost_worker.measure_language({**request, "budget_seconds": 5})
    assert answer["scored_tokens"] == 4 + 1
    firsts = [prompt for prompt, num in written if num == 1]
    assert len(firsts) == len(answer["first_token_seconds"]) == 6
    assert sorted(firsts[:3]) == request["prompts"]
    assert firsts[3:] == firsts[:3]
    assert len(answer["generation_seconds"]) == sum(num == 7 for _, num in written)
