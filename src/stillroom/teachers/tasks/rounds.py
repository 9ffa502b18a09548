"""Ask, read, and ask again what cannot be used: in the same conversation, with one line on what was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from stillroom.core.chat import ChatRequest, Choice, Failure, FailureReason, Reply
from stillroom.teachers.endpoint.durable import Asker
from stillroom.teachers.endpoint.standing import Standing
from stillroom.teachers.final_answers import split_thinking
from stillroom.teachers.tasks.unusable import Reading, Repair, Unusable, UnusableReason

T = TypeVar("T")
Reason = FailureReason | UnusableReason
_SHOWN_AGAIN = 4000
"""Characters of a bad answer that the model sees again: one that ran astray is not paid for twice."""
_NEXT_SAMPLE = 1000
"""Further samples are numbered from here, clear of those that a caller numbers."""
_ANOTHER_SAMPLE: frozenset[Reason] = frozenset({"empty", "refused", "no-logprobs"})
"""There is nothing to correct: another draw may be better."""
_FOR_GOOD: frozenset[Reason] = frozenset({"content-filter"})


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What came of all rows.

    Attributes:
        values: by row; None where there is none.
        reasons: by row, why there is none; None where there is a value, or the row still waits.
        waiting: rows still to be asked, or asked again: the budget was reached.
        repaired: how many values needed which repair.
        asked_again: how often rows were asked again because of which reason.
        standings: how the asking of each round ended.
    """

    values: tuple[T | None, ...]
    reasons: tuple[Reason | None, ...]
    waiting: int = 0
    repaired: Counter[Repair] = field(default_factory=Counter)
    asked_again: Counter[Reason] = field(default_factory=Counter)
    standings: tuple[Standing, ...] = ()

    @property
    def complete(self) -> bool:
        return self.waiting == 0

    @property
    def given_up(self) -> Counter[Reason]:
        """How many rows have no value for which reason."""
        return Counter(reason for reason in self.reasons if reason is not None)


def ask_until_usable(
    asker: Asker, requests: Sequence[ChatRequest], read: Callable[[Reply], Reading[T]], *, asked_again: int = 2
) -> Answers[T]:
    """Ask every request, read each answer, and ask those again that cannot be used.

    Equal requests are asked once. All answers are in the store: after a kill, the same call asks only what it had not got. Reaching
    the budget is no error: what is left waits for a later call.

    Args:
        read: raises Unusable.
        asked_again: the most further questions about a row. An answer that is wrong is shown to the model again with one line on
            what is wrong; an empty or refused one is asked for afresh.

    Raises:
        BadInput, EndpointStopped, StageFailed: as `durable.ask_all` does.
    """
    return ask_rows_until_usable(asker, requests, lambda row, reply: read(reply), asked_again=asked_again)


def ask_rows_until_usable(
    asker: Asker, requests: Sequence[ChatRequest], read: Callable[[int, Reply], Reading[T]], *, asked_again: int = 2
) -> Answers[T]:
    """`ask_until_usable` where reading an answer takes its row: read(row, reply)."""
    rows = _Rows(len(requests), read)
    questions = {row: _Question(request, asked_again) for row, request in enumerate(requests)}
    standings = []
    while questions:
        asked = [question.request for question in questions.values()]
        standings.append(asker.ask(asked))
        settled = zip(questions.items(), asker.outcomes(asked), strict=True)
        questions = {row: left for (row, question), outcome in settled if (left := rows.settle(row, question, outcome))}
        if standings[-1].budget_reached:
            break
    return Answers(tuple(rows.values), tuple(rows.reasons), len(questions), rows.repaired, rows.asked_again, tuple(standings))


@dataclass(frozen=True)
class _Question:
    """What is asked about a row, how often it may be asked after that, and why it is asked again."""

    request: ChatRequest
    asked_again: int
    because: Reason | None = None


class _Rows(Generic[T]):
    """What has come so far."""

    def __init__(self, num_rows: int, read: Callable[[int, Reply], Reading[T]]) -> None:
        self._read = read
        self.values: list[T | None] = [None] * num_rows
        self.reasons: list[Reason | None] = [None] * num_rows
        self.repaired: Counter[Repair] = Counter()
        self.asked_again: Counter[Reason] = Counter()

    def settle(self, row: int, question: _Question, outcome: Reply | Failure | None) -> _Question | None:
        """Take the outcome in; what is left to ask about the row, or None."""
        if outcome is None:
            return question
        if question.because is not None:
            self.asked_again[question.because] += 1
        reason: Reason
        if isinstance(outcome, Failure):
            reason, follow_up = outcome.reason, None
        else:
            try:
                reading = self._read(row, outcome)
            except Unusable as wrong:
                reason, follow_up = wrong.reason, _corrected(question.request, outcome.choices[0], wrong)
            else:
                self.values[row] = reading.value
                self.repaired.update(reading.repairs)
                return None
        if reason in _ANOTHER_SAMPLE:
            follow_up = _another_sample(question.request)
        if follow_up is None or reason in _FOR_GOOD or not question.asked_again:
            self.reasons[row] = reason
            return None
        return _Question(follow_up, question.asked_again - 1, reason)


def _another_sample(request: ChatRequest) -> ChatRequest:
    seed = None if request.seed is None else request.seed + _NEXT_SAMPLE
    return replace(request, seed=seed, sample=request.sample + _NEXT_SAMPLE)


def _corrected(request: ChatRequest, choice: Choice, wrong: Unusable) -> ChatRequest:
    """The conversation with the bad answer and what is wrong with it."""
    bad = split_thinking(choice.text).answer or "".join(arguments for _, arguments in choice.tool_calls)
    answer = {"role": "assistant", "content": bad[:_SHOWN_AGAIN] or "(no answer)"}
    return replace(
        request, messages=(*request.messages, answer, {"role": "user", "content": f"This answer cannot be used: {wrong.detail}"})
    )
