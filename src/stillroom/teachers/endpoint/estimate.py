"""What a run will take: requests, tokens, money and time, told from a sample of real requests."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student_t

from stillroom.core.chat import ChatRequest, Failure, Reply
from stillroom.core.errors import BadInput
from stillroom.core.protocols import BlockStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.breaker import Unanswered
from stillroom.teachers.endpoint.budget import Budget, Prices
from stillroom.teachers.endpoint.durable import ask_all, stored_outcomes
from stillroom.teachers.endpoint.standing import Listen

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Range:
    """An estimate with its 95 % interval over the choice of the sample."""

    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What all rows will take, the sample among them.

    Attributes:
        rows, sampled: how many rows there are; how many were asked for this.
        failed: rows of the sample that failed for good.
        requests: attempts, retries among them.
        seconds: from the latency alone at the full concurrency (low), at the sample's own rate (high).
    """

    rows: int
    sampled: int
    failed: int
    requests: Range
    prompt_tokens: Range
    completion_tokens: Range
    usd: Range
    seconds: Range


def dry_run(
    store: BlockStore, endpoint: Endpoint, requests: Sequence[ChatRequest], *, sample: int = 50, seed: int = 0,
    prices: Prices | None = None, budget: Budget | None = None, price_factor: float = 1.0,
    ask_failed_again: bool = False, listen: Listen | None = None,
) -> Estimate:  # fmt: skip
    """Ask a random sample of the rows, and tell from it what all of them will take.

    The sample is real: it is paid for, and its answers are stored and never asked again.

    Args:
        price_factor: the price of all the rows as a share of the sample's, which is asked without a batch.

    Raises:
        BadInput, EndpointStopped, StageFailed: as `ask_all`. Unanswered: no row of the sample was answered with its usage.
    """
    if not requests or sample < 2:
        raise BadInput.at("dry-run", f"{len(requests)} rows and a sample of {sample}: an estimate needs rows, and a sample of two or more.")
    chosen = random.Random(seed).sample(range(len(requests)), min(sample, len(requests)))  # noqa: S311
    rows = [requests[i] for i in chosen]
    ended = ask_all(store, endpoint, rows, prices=prices, budget=budget, ask_failed_again=ask_failed_again, listen=listen)
    outcomes = [each for each in stored_outcomes(store, endpoint, rows) if each is not None]
    replies = [each for each in outcomes if isinstance(each, Reply) and each.usage is not None]
    if not replies:
        raise Unanswered(_nothing_words(outcomes, len(rows)))
    total, price = len(requests), (prices or Prices()).times(price_factor)
    usages = [each.usage for each in replies if each.usage is not None]
    latency = _scaled([each.seconds for each in replies], total)
    rate = ended.asked / ended.seconds if ended.asked and ended.seconds else 0.0
    ideal = latency.mean / endpoint.max_concurrency
    at_rate = total / rate if rate else ideal
    return Estimate(
        rows=total, sampled=len(outcomes), failed=len(outcomes) - sum(isinstance(each, Reply) for each in outcomes),
        requests=_scaled([float(each.attempts) for each in outcomes], total),
        prompt_tokens=_scaled([float(each.prompt_tokens) for each in usages], total),
        completion_tokens=_scaled([float(each.completion_tokens) for each in usages], total),
        usd=_scaled([price.of(each).usd for each in usages], total),
        seconds=Range(min(ideal, at_rate), math.sqrt(ideal * at_rate), max(ideal, at_rate)),
    )  # fmt: skip


def _nothing_words(outcomes: Sequence[Reply | Failure], sampled: int) -> str:
    """Why there is no estimate."""
    why = Counter(outcome.reason if isinstance(outcome, Failure) else "without token counts" for outcome in outcomes)
    why.update({"not asked, for want of budget": sampled - len(outcomes)})
    found = ", ".join(f"{count} {reason}" for reason, count in why.most_common() if count)
    return f"dry run: no estimate, since none of {sampled} sampled rows was answered with its token counts: {found}. Mend that first."


def _scaled(values: Sequence[float], total: int) -> Range:
    """The sum over `total` rows that are like these: Student's t, with the correction for a finite number of rows."""
    num = len(values)
    mean = sum(values) / num
    if num < 2:
        return Range(0.0, mean * total, math.inf)
    variance = sum((value - mean) ** 2 for value in values) / (num - 1)
    unseen = max(1 - num / total, 0.0)
    half = float(student_t.ppf(0.5 + _CONFIDENCE / 2, num - 1)) * math.sqrt(variance / num * unseen)
    return Range(max(mean - half, 0.0) * total, mean * total, (mean + half) * total)
