"""Ask, read, and ask again what cannot be used: in the same conversation, with one line on what was wrong."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from stillroom.core.asking import reasons_words
from stillroom.core.chat import ChatRequest, Choice, Failure, FailureReason, Reply, Usage
from stillroom.teachers.endpoint.breaker import Unanswered
from stillroom.teachers.endpoint.durable import Asker
from stillroom.teachers.endpoint.standing import Standing
from stillroom.teachers.final_answers import split_thinking
from stillroom.teachers.tasks.remedies import remedy
from stillroom.teachers.tasks.unusable import Reading, Repair, Unusable, UnusableReason

T = TypeVar("T")
Reason = FailureReason | UnusableReason
Outcome = Reply | Failure
_FIRST_ROWS = 8
"""So many rows show whether a server can do at all what is asked."""
_TRIAL_ROWS = 24
"""Of so many random rows one at least has an answer that can be used, where half of all have: all but once in 2^24."""
_SHOWN_AGAIN = 4000
"""Characters of a bad answer that the model sees again: one that ran astray is not paid for twice."""
_NEXT_SAMPLE = 1000
"""Further samples are numbered from here, clear of those that a caller numbers."""
_ANOTHER_SAMPLE: frozenset[Reason] = frozenset({"empty", "refused", "no-logprobs"})
"""There is nothing to correct: another draw may be better."""
_FOR_GOOD: frozenset[Reason] = frozenset({"content-filter"})


@dataclass(frozen=True)
class Questions(Generic[T]):
    """What is asked about rows, a request each, and how the answers are read.

    Attributes:
        read: read(row, reply), which raises Unusable.
        asked_again: the most further questions about a row. An answer that is wrong is shown to the model again with one line on what is
            wrong; an empty or refused one is asked for afresh.
        check: is shown the outcomes of the first rows before all are paid for; raises BadInput where the server cannot do what is asked.
    """

    requests: Sequence[ChatRequest]
    read: Callable[[int, Reply], Reading[T]]
    asked_again: int = 2
    check: Callable[[Sequence[Outcome]], None] | None = None

    def of(self, rows: Sequence[int]) -> Questions[T]:
        """The questions about some of the rows."""
        return replace(self, requests=[self.requests[row] for row in rows], read=lambda at, reply: self.read(rows[at], reply))


@dataclass
class Effort:
    """What a row took: the questions about it, the attempts at them, the tokens where they were told (None: never), the seconds of the
    replies."""

    questions: int = 0
    attempts: int = 0
    usage: Usage | None = None
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.questions += 1
        self.attempts += outcome.attempts
        self.seconds += outcome.seconds if isinstance(outcome, Reply) else 0.0
        if outcome.usage is not None:
            self.usage = outcome.usage if self.usage is None else self.usage + outcome.usage


@dataclass(frozen=True)
class Answers(Generic[T]):
    """What came of all rows.

    Attributes:
        values: by row; None where there is none.
        reasons: by row, why there is none; None where there is a value, or the row still waits.
        details: by row, one line on what was wrong last; "" where nothing was.
        efforts: by row, what it took.
        waiting: rows still to be asked, or asked again: the budget was reached.
        repaired: how many values needed which repair.
        asked_again: how often rows were asked again because of which reason.
        standings: how the asking of each round ended.
    """

    values: tuple[T | None, ...]
    reasons: tuple[Reason | None, ...]
    details: tuple[str, ...]
    efforts: tuple[Effort, ...]
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

    @property
    def complaint(self) -> str:
        """Why rows have no value, the most frequent reason first, each with its count; one row's in detail; and what to change."""
        first = next(detail for detail, reason in zip(self.details, self.reasons, strict=True) if reason is not None)
        return f"{reasons_words(self.given_up)}; for one: {first.rstrip('.')}. {remedy(self.given_up)}"


def ask_until_usable(asker: Asker, questions: Questions[T]) -> Answers[T]:
    """Ask every request, read each answer, and ask those again that cannot be used.

    Equal requests are asked once. All answers are in the store: after a kill, the same call asks only what it had not got. Reaching
    the budget is no error: what is left waits for a later call. Of more rows than that, `_TRIAL_ROWS` random ones go first, where the
    asker `tries_first`: if none of them can be used, the others are not paid for.

    Raises:
        BadInput, EndpointStopped, StageFailed: as `durable.ask_all` does; as `questions.check`. Unanswered: the trial came to nothing.
    """
    num_rows = len(questions.requests)
    if questions.check is not None:
        first = questions.requests[:_FIRST_ROWS]
        asker.ask(first)
        questions.check([outcome for outcome in asker.outcomes(first) if outcome is not None])
    if asker.tries_first and num_rows > _TRIAL_ROWS:
        tried = _ask(asker, questions.of(random.Random(num_rows).sample(range(num_rows), _TRIAL_ROWS)))  # noqa: S311
        if tried.given_up.total() == _TRIAL_ROWS:
            raise Unanswered(
                f"teacher: none of {_TRIAL_ROWS} random requests of {num_rows:,} has an answer that can be used, and the others were not "
                f"sent: {tried.complaint} Run again then."
            )
    return _ask(asker, questions)


def _ask(asker: Asker, questions: Questions[T]) -> Answers[T]:
    rows = _Rows(len(questions.requests), questions.read)
    left = {row: _Question(request, questions.asked_again) for row, request in enumerate(questions.requests)}
    standings = []
    while left:
        asked = [question.request for question in left.values()]
        standings.append(asker.ask(asked))
        settled = zip(left.items(), asker.outcomes(asked), strict=True)
        left = {row: more for (row, question), outcome in settled if (more := rows.settle(row, question, outcome))}
        if standings[-1].budget_reached:
            break
    return Answers(
        tuple(rows.values), tuple(rows.reasons), tuple(rows.details), tuple(rows.efforts), len(left), rows.repaired, rows.asked_again,
        tuple(standings),
    )  # fmt: skip


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
        self.details = [""] * num_rows
        self.efforts = [Effort() for _ in range(num_rows)]
        self.repaired: Counter[Repair] = Counter()
        self.asked_again: Counter[Reason] = Counter()

    def settle(self, row: int, question: _Question, outcome: Outcome | None) -> _Question | None:
        """Take the outcome in; what is left to ask about the row, or None."""
        if outcome is None:
            return question
        self.efforts[row].add(outcome)
        if question.because is not None:
            self.asked_again[question.because] += 1
        reason: Reason
        if isinstance(outcome, Failure):
            reason, follow_up, self.details[row] = outcome.reason, None, outcome.detail
        else:
            try:
                reading = self._read(row, outcome)
            except Unusable as wrong:
                reason, follow_up = wrong.reason, _corrected(question.request, outcome.choices[0], wrong)
                self.details[row] = wrong.detail
            else:
                self.values[row], self.details[row] = reading.value, ""
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
