"""What an endpoint costs, from what its requests took."""

from __future__ import annotations

import numpy as np
import pytest

from stillroom.core.records import Measure
from stillroom.evaluation.endpoint_cost import endpoint_cost


def measures(**given) -> dict[str, Measure]:
    settings = {"seconds": [], "tokens": [], "usd": None, "num_rows": 3, "confidence": 0.95} | given
    return {m.measure: m for m in endpoint_cost("teacher", **settings)}


def test_prices_are_of_a_thousand_rows_with_students_interval() -> None:
    found = measures(tokens=[100, 200, 300], usd=[1e-5, 2e-5, 3e-5])
    assert found["tokens_per_row"].value == 200
    price = found["usd_per_1000_rows"]
    half = 4.302652729911275 * 0.01 / np.sqrt(3)  # t(2 degrees, 97.5 %) times the standard error of a thousand times the mean
    assert (price.value, price.low, price.high) == pytest.approx((0.02, max(0.02 - half, 0), 0.02 + half))
    assert price.n == 3


def test_a_row_that_took_two_requests_costs_both() -> None:
    assert measures(tokens=[100, 200, 300], num_rows=2)["tokens_per_row"].value == pytest.approx(300)


def test_latency_is_a_quantile_of_the_real_requests() -> None:
    seconds = np.random.default_rng(0).permutation(np.arange(1, 402) / 100)
    found = measures(seconds=seconds)
    assert found["latency_p50_seconds"].value == pytest.approx(2.01)
    assert found["latency_p50_seconds"].low < 2.01 < found["latency_p50_seconds"].high
    assert found["latency_p99_seconds"].value == pytest.approx(3.97)


def test_what_is_not_known_is_left_out() -> None:
    assert measures() == {}
    assert set(measures(tokens=[7.0], num_rows=1)) == {"tokens_per_row"}
    assert measures(tokens=[7.0], num_rows=1)["tokens_per_row"].low is None
