"""What a run will take: requests, tokens, money and time, told from a sample of real requests; and how many of its answers can be used."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student_t

from stillroom.core.errors import BadInput
from stillroom.teachers.endpoint.breaker import Unanswered
from stillroom.teachers.endpoint.budget import Prices
from stillroom.teachers.endpoint.durable import Asker
from stillroom.teachers.tasks.rounds import Answers, Questions, ask_until_usable

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Range:
    """An estimate with its 95 % interval over the choice of the sample."""

    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """What all rows will take, the sample among them, with what is asked again because an answer cannot be used.

    Attributes:
        rows, sampled: how many rows there are; how many were asked for this.
        given_up: rows of the sample without an answer that can be used.
        complaint: why, and what to change; "" where there are none.
        asked_again: how often rows of the sample were asked again.
        requests: attempts, retries among them.
        seconds: from the latency alone at the full concurrency (low), at the sample's own rate (high).
    """

    rows: int
    sampled: int
    requests: Range
    prompt_tokens: Range
    completion_tokens: Range
    usd: Range
    seconds: Range
    given_up: int = 0
    complaint: str = ""
    asked_again: int = 0


def dry_run(asker: Asker, questions: Questions[Any], *, sample: int = 50, seed: int = 0, price_factor: float = 1.0) -> Estimate:
    """Ask about a random sample of the rows, and tell from it what all of them will take.

    The sample is real: it is paid for, and its answers are stored and never asked again.

    Args:
        price_factor: the price of all the rows as a share of the sample's, which is asked without a batch.

    Raises:
        BadInput, EndpointStopped, StageFailed: as `ask_until_usable`. Unanswered: no row of the sample was answered with its usage.
    """
    total = len(questions.requests)
    if not total or sample < 2:
        raise BadInput.at("dry-run", f"{total} rows and a sample of {sample}: an estimate needs rows, and a sample of two or more.")
    chosen = random.Random(seed).sample(range(total), min(sample, total))  # noqa: S311
    answers = ask_until_usable(asker, questions.of(chosen))
    ended = zip(answers.efforts, answers.values, answers.reasons, strict=True)
    efforts = [effort for effort, value, reason in ended if value is not None or reason is not None]
    told = [effort for effort in efforts if effort.usage is not None]
    if not any(effort.usage is not None and effort.usage.tokens for effort in told):
        raise Unanswered(_nothing_words(answers, len(efforts)))
    price = (asker.prices or Prices()).times(price_factor)
    usages = [effort.usage for effort in told if effort.usage is not None]
    ideal = _scaled([effort.seconds for effort in told], total).mean / asker.endpoint.max_concurrency
    asked, seconds = (sum(each) for each in zip(*((s.asked, s.seconds) for s in answers.standings), strict=True))
    at_rate = total * sum(effort.questions for effort in efforts) / len(efforts) * seconds / asked if asked else ideal
    return Estimate(
        rows=total, sampled=len(efforts), requests=_scaled([float(effort.attempts) for effort in efforts], total),
        prompt_tokens=_scaled([float(each.prompt_tokens) for each in usages], total),
        completion_tokens=_scaled([float(each.completion_tokens) for each in usages], total),
        usd=_scaled([price.of(each).usd for each in usages], total),
        seconds=Range(min(ideal, at_rate), math.sqrt(ideal * at_rate), max(ideal, at_rate)),
        given_up=answers.given_up.total(), complaint=answers.complaint if answers.given_up else "",
        asked_again=answers.asked_again.total(),
    )  # fmt: skip


def _nothing_words(answers: Answers[Any], ended: int) -> str:
    """Why there is no estimate."""
    head = f"dry run: no estimate, since none of {len(answers.values)} sampled rows was answered with its token counts"
    if not ended:
        return f"{head}: budget reached before any was asked. Raise the budget."
    if not answers.given_up:
        return f"{head}: the server does not tell how many tokens it took. Nothing can be said of the cost."
    return f"{head}: {answers.complaint} Mend that first."


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
