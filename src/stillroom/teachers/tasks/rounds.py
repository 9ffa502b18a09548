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
_TRIAL_ROWS = 24
"""Of so many random rows one at least has an answer that can be used, where half of all have: all but once in 2^24."""
_SHOWN_AGAIN = 4000
"""Characters of a bad answer that the model sees again: one that ran astray is not paid for twice."""
_NEXT_SAMPLE, _NEXT_DRAW = 1000, 1_000_000
"""Further samples are numbered from here, clear of those that a caller numbers; those of further draws likewise."""
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
        check: is shown the outcomes of the first round; raises BadInput where the server cannot do what is asked.
        trial: whether a few rows may go first.
    """

    requests: Sequence[ChatRequest]
    read: Callable[[int, Reply], Reading[T]]
    asked_again: int = 2
    check: Callable[[Sequence[Outcome]], None] | None = None
    trial: bool = True

    def of(self, rows: Sequence[int]) -> Questions[T]:
        """The questions about some of the rows."""
        return replace(self, requests=[self.requests[row] for row in rows], read=lambda at, reply: self.read(rows[at], reply))


@dataclass
class Effort:
    """What a row took: the questions about it, the attempts at them, the tokens (None where a reply did not tell them), the seconds of the
    replies."""

    questions: int = 0
    attempts: int = 0
    usage: Usage | None = field(default_factory=Usage)
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.questions += 1
        self.attempts += outcome.attempts
        if isinstance(outcome, Reply):
            self.seconds += outcome.seconds
        if outcome.usage is not None and self.usage is not None:
            self.usage += outcome.usage
        elif isinstance(outcome, Reply):
            self.usage = None


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
    rows, num_rows = _Rows(asker, questions), len(questions.requests)
    first: list[int] = []
    if questions.trial and asker.tries_first and num_rows > _TRIAL_ROWS:
        first = random.Random(num_rows).sample(range(num_rows), _TRIAL_ROWS)  # noqa: S311
        rows.walk(first)
        tried = rows.answers()
        if tried.given_up.total() == _TRIAL_ROWS:
            raise Unanswered(
                f"teacher: none of {_TRIAL_ROWS} random requests of {num_rows:,} has an answer that can be used, and the others were not "
                f"sent: {tried.complaint} Run again then."
            )
    rows.walk(sorted(set(range(num_rows)).difference(first)))
    return rows.answers()


@dataclass(frozen=True)
class _Question:
    """What is asked about a row, how often it may be asked after that, how often all may begin anew, and why it is asked again."""

    request: ChatRequest
    asked_again: int
    draws: int
    because: Reason | None = None


class _Rows(Generic[T]):
    """What has come so far."""

    def __init__(self, asker: Asker, questions: Questions[T]) -> None:
        self._asker, self._questions = asker, questions
        num_rows = len(questions.requests)
        self._values: list[T | None] = [None] * num_rows
        self._reasons: list[Reason | None] = [None] * num_rows
        self._details = [""] * num_rows
        self._efforts = [Effort() for _ in range(num_rows)]
        self._waiting = 0
        self._repaired: Counter[Repair] = Counter()
        self._asked_again: Counter[Reason] = Counter()
        self._standings: list[Standing] = []
        self._checked = questions.check is None

    def answers(self) -> Answers[T]:
        return Answers(
            tuple(self._values), tuple(self._reasons), tuple(self._details), tuple(self._efforts), self._waiting, self._repaired,
            self._asked_again, tuple(self._standings),
        )  # fmt: skip

    def walk(self, rows: Sequence[int]) -> None:
        """Ask about some of the rows until each is settled, or the budget is reached."""
        fresh = self._questions
        left = {row: _Question(fresh.requests[row], fresh.asked_again, self._asker.draws) for row in rows}
        while left:
            asked = [question.request for question in left.values()]
            self._standings.append(self._asker.ask(asked))
            outcomes = list(self._asker.outcomes(asked))
            self._check(outcomes)
            settled = zip(left.items(), outcomes, strict=True)
            left = {row: more for (row, question), outcome in settled if (more := self._settle(row, question, outcome))}
            if self._standings[-1].budget_reached:
                break
        self._waiting += len(left)

    def _check(self, outcomes: Sequence[Outcome | None]) -> None:
        if not self._checked and self._questions.check is not None:
            self._questions.check([outcome for outcome in outcomes if outcome is not None])
            self._checked = True

    def _settle(self, row: int, question: _Question, outcome: Outcome | None) -> _Question | None:
        """Take the outcome in; what is left to ask about the row, or None."""
        if outcome is None:
            return question
        self._efforts[row].add(outcome)
        if question.because is not None:
            self._asked_again[question.because] += 1
        reason: Reason
        if isinstance(outcome, Failure):
            reason, self._details[row], corrected = outcome.reason, outcome.detail, None
        else:
            try:
                reading = self._questions.read(row, outcome)
            except Unusable as wrong:
                reason, self._details[row] = wrong.reason, wrong.detail
                corrected = _corrected(question.request, outcome.choices[0], wrong)
            else:
                self._values[row], self._details[row] = reading.value, ""
                self._repaired.update(reading.repairs)
                return None
        follow_up = self._follow_up(row, question, reason, corrected)
        if follow_up is None:
            self._reasons[row] = reason
        return follow_up

    def _follow_up(self, row: int, question: _Question, reason: Reason, corrected: ChatRequest | None) -> _Question | None:
        """What to ask next; `corrected` is the conversation with a correction, None where no answer came."""
        again = _another_sample(question.request) if reason in _ANOTHER_SAMPLE else corrected
        if again is None or reason in _FOR_GOOD:
            return None
        if question.asked_again:
            return _Question(again, question.asked_again - 1, question.draws, reason)
        if question.draws and corrected is not None:  # requests that failed are sent again themselves
            step = (self._asker.draws - question.draws + 1) * _NEXT_DRAW
            anew = _another_sample(self._questions.requests[row], step)
            return _Question(anew, self._questions.asked_again, question.draws - 1, reason)
        return None


def _another_sample(request: ChatRequest, step: int = _NEXT_SAMPLE) -> ChatRequest:
    return replace(request, seed=None if request.seed is None else request.seed + step, sample=request.sample + step)


def _corrected(request: ChatRequest, choice: Choice, wrong: Unusable) -> ChatRequest:
    """The conversation with the bad answer and what is wrong with it."""
    bad = split_thinking(choice.text).answer or "".join(arguments for _, arguments in choice.tool_calls)
    answer = {"role": "assistant", "content": bad[:_SHOWN_AGAIN] or "(no answer)"}
    return replace(
        request, messages=(*request.messages, answer, {"role": "user", "content": f"This answer cannot be used: {wrong.detail}"})
    )
