"""Putting rows of text to a teacher behind an endpoint: the same way for the transfer set, the test rows and a trial run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.asking import Asked
from stillroom.core.chat import ChatRequest, Failure, Reply, Usage
from stillroom.core.errors import StageFailed
from stillroom.core.protocols import BlockStore
from stillroom.core.records import Batch
from stillroom.core.specification import Specification
from stillroom.knowledge.store import KnowledgeStore
from stillroom.pipeline.folder import read_record
from stillroom.pipeline.progress import Listener, Silence
from stillroom.pipeline.work import Work
from stillroom.spec.teacher import EndpointTeacherSpec
from stillroom.teachers.endpoint.batch import ask
from stillroom.teachers.endpoint.batch_records import BatchRecords
from stillroom.teachers.endpoint.breaker import EndpointStopped, Unanswered
from stillroom.teachers.endpoint.budget import Budget
from stillroom.teachers.endpoint.build import EndpointTeacher, build_endpoint_teacher
from stillroom.teachers.endpoint.durable import Asker
from stillroom.teachers.endpoint.ledger import spent_so_far
from stillroom.teachers.endpoint.standing import Standing
from stillroom.teachers.tasks.classification import ClassificationQuestion, label_texts
from stillroom.teachers.tasks.extraction import span_questions
from stillroom.teachers.tasks.remedies import remedy
from stillroom.teachers.tasks.rounds import Answers as Readings
from stillroom.teachers.tasks.rounds import Questions, Reason, ask_until_usable

MOST_UNANSWERED = 0.5
"""Where more than this share of the rows has no answer, something is wrong with the job or the server, and training hides it."""
_STOPS = "stops"
"""The record of askings that ended in an error; see `asked_anew`."""


@dataclass
class Tally:
    """What the requests behind some rows took, as their outcomes say; and what the server called its model."""

    outcomes: dict[int, tuple[ChatRequest, Reply | Failure]] = field(default_factory=dict)

    def add(self, request: ChatRequest, outcome: Reply | Failure | None) -> None:
        """Equal rows count each, and a request that is looked up again counts once: hence by identity."""
        if outcome is not None:
            self.outcomes[id(request)] = request, outcome

    @property
    def seconds(self) -> list[float]:
        """Of each reply that came by itself: what came in a batch tells no latency."""
        return [outcome.seconds for _, outcome in self.outcomes.values() if isinstance(outcome, Reply) and outcome.seconds]

    @property
    def usage(self) -> list[Usage]:
        return [outcome.usage for _, outcome in self.outcomes.values() if outcome.usage is not None]

    @property
    def retries(self) -> int:
        attempts = {(each.messages_json, each.seed, each.sample): outcome.attempts for each, outcome in self.outcomes.values()}
        return sum(attempts.values()) - len(attempts)

    @property
    def served(self) -> tuple[str, ...]:
        models = [outcome.model for _, outcome in self.outcomes.values() if isinstance(outcome, Reply)]
        return tuple(dict.fromkeys(filter(None, models)))


@dataclass(frozen=True, eq=False)
class Answers:
    """What came of rows that were put to an endpoint.

    Attributes:
        values: (n, K) probabilities in the order of the job's classes, rows of NaN where there is no answer; of a job on spans (n,) object,
            tuples of `Span`, None where there is no answer.
    """

    values: NDArray[Any]
    asked: Asked
    tally: Tally


@dataclass(frozen=True)
class ToldAsker(Asker):
    """An asker that tells a listener how it stands, counts what it reads, and sends nothing where the store holds every answer:
    then no key is needed, and no server."""

    listener: Listener = field(default_factory=Silence)
    batch: bool = False
    ask_failed_again: bool = False
    tally: Tally = field(default_factory=Tally)

    @property
    def tries_first(self) -> bool:
        """Not in a batch, which may take a day."""
        return not self.batch

    def ask(self, requests: Iterable[ChatRequest]) -> Standing:
        rows = list(requests)
        settled = (Reply,) if self.ask_failed_again else (Reply, Failure)
        if all(isinstance(outcome, settled) for outcome in super().outcomes(rows)):
            return Standing(len(rows), len(rows))
        return ask(
            self.store, self.endpoint, rows, batch=self.batch, prices=self.prices, budget=self.budget,
            ask_failed_again=self.ask_failed_again, listen=tell(self.listener, len(rows), "asking the teacher"),
        )  # fmt: skip

    def outcomes(self, requests: Iterable[ChatRequest]) -> Iterator[Reply | Failure | None]:
        rows = list(requests)
        for request, outcome in zip(rows, super().outcomes(rows), strict=True):
            self.tally.add(request, outcome)
            yield outcome


@dataclass(frozen=True)
class Anew:
    """How an asking treats what came to nothing before.

    Attributes:
        ask_failed_again: requests that failed for good are sent again.
        draws: as in `Asker`.
    """

    ask_failed_again: bool
    draws: int


@contextmanager
def asked_anew(work: Work, what: str, *, done: bool = False) -> Iterator[Anew]:
    """Around the asking of something.

    What failed, or could not be used, is asked again after every asking, of whatever, that ended because the endpoint was down, or the job
    or the server wrong: the cause is mended by then, and rows that failed of it would stay lost. A budget that was reached is no such end.

    Args:
        done: it was asked to its end before, and the answers of that time are wanted.
    """
    known = read_record(work.folder.record(_STOPS))
    stops, heeded = known.get("stops", 0), known.get("heeded", {})
    before = heeded.get(what, 0)
    try:
        yield Anew(False, before) if done else Anew(before < stops, stops)
    except (EndpointStopped, Unanswered):
        work.folder.finish(_STOPS, "", stops=stops + 1, heeded=heeded)
        raise
    if before < stops and not done:
        work.folder.finish(_STOPS, "", stops=stops, heeded={**heeded, what: stops})


def tell(listener: Listener, total: int, description: str) -> Callable[[Standing], None]:
    """A function that tells a person how the asking of `total` rows stands: done, rate, retries, tokens, money, time left."""
    told = listener.task(description)
    return lambda standing: told(standing.done, total, str(standing))


def endpoint_of(work: Work) -> EndpointTeacher:
    """The job's teacher behind its endpoint."""
    assert isinstance(work.job.teacher, EndpointTeacherSpec), "the caller looked"
    return build_endpoint_teacher(work.job.teacher, work.job.budget)


def asker_of(work: Work, store: BlockStore, anew: Anew) -> ToldAsker:
    """What asks the job's teacher, through `store`."""
    teacher = endpoint_of(work)
    return ToldAsker(
        store, teacher.endpoint, teacher.prices, teacher.budget, draws=anew.draws, listener=work.listener, batch=teacher.batch,
        ask_failed_again=anew.ask_failed_again,
    )  # fmt: skip


def open_store(work: Work) -> KnowledgeStore:
    """The job's knowledge store."""
    return KnowledgeStore(work.job.labelling.store or work.folder.knowledge)


def specification_of(work: Work) -> Specification:
    """What the teacher is told; its labels are those of the data, where it names none."""
    assert work.job.specification is not None, "checked by the job"
    return work.job.specification.record(work.given.classes)


def question_of(work: Work) -> ClassificationQuestion:
    """What the teacher is asked about each text of a classification."""
    teacher = endpoint_of(work)
    return ClassificationQuestion(
        specification_of(work), work.given.classes, teacher.parameters, teacher.answers, teacher.structured, teacher.samples
    )


def questions_of(work: Work, texts: Sequence[str]) -> Questions[Any]:
    """What is asked about the texts.

    Raises:
        BadInput: a worked example of the specification is not what answers are.
    """
    teacher = endpoint_of(work)
    if work.job.kind_of_task == "spans":
        return span_questions(
            teacher.parameters, specification_of(work), texts, structured=teacher.structured, asked_again=teacher.asked_again
        )
    return question_of(work).about(texts, asked_again=teacher.asked_again)


def texts_of(batch: Batch) -> list[str]:
    """The rows of a text job as they are asked."""
    return ["" if text is None else str(text) for text in batch.features.iloc[:, 0].tolist()]


def ask_rows(work: Work, batch: Batch, what: str, *, done: bool = False) -> Answers:
    """The teacher's answers to the rows; what the store does not hold is asked.

    Args:
        what: the rows in words, for messages.
        done: they were asked before, and that is what is wanted.

    Raises:
        BadInput, EndpointStopped: as `durable.ask_all`.
        StageFailed: the budget is reached, or too few rows have an answer that can be used. What was answered is kept.
    """
    texts = texts_of(batch)
    with asking(work, what, done=done) as asker:
        if work.job.kind_of_task == "spans":
            spans = ask_until_usable(asker, questions_of(work, texts))
            values = np.fromiter(spans.values, dtype=object, count=len(texts))
            return Answers(values, settled(work, asker, what, spans, spans.given_up, rows=len(texts)), asker.tally)
        labels = label_texts(asker, question_of(work), texts, asked_again=endpoint_of(work).asked_again)
        unseen = None if labels.missing is None or np.isnan(labels.missing).all() else float(np.nanmean(labels.missing))
        asked = settled(work, asker, what, labels.answers, labels.given_up, rows=len(texts), off_labels=unseen)
        return Answers(labels.probabilities, asked, asker.tally)


@contextmanager
def asking(work: Work, what: str, *, done: bool = False) -> Iterator[ToldAsker]:
    """The job's endpoint, through the job's store, to be asked about `what`."""
    with asked_anew(work, what, done=done) as anew, open_store(work) as store:
        yield asker_of(work, store, anew)


def settled(
    work: Work, asker: ToldAsker, what: str, answers: Readings[Any], given_up: Mapping[Reason, int], *, rows: int,
    off_labels: float | None = None,
) -> Asked:  # fmt: skip
    """What is recorded of rows that were put to an `asker`.

    Args:
        answers: the single answers, one or more a row.
        given_up: why rows have no answer that can be used, and how many.

    Raises:
        StageFailed: the budget is reached. Unanswered: too few rows have an answer that can be used.
    """
    teacher, spent = endpoint_of(work), spent_so_far(asker.store)
    batches = BatchRecords(asker.store, teacher.endpoint.name).found() if teacher.batch else {}
    asked = Asked(
        rows=rows,
        answered=rows - sum(given_up.values()),
        failed={str(reason): count for reason, count in given_up.items()},
        repaired=answers.repaired.total(),
        asked_again=answers.asked_again.total(),
        off_labels=off_labels,
        requests=spent.requests,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        usd=None if teacher.prices is None else spent.usd,
        served=asker.tally.served,
        retries=asker.tally.retries,
        batches=dict(batches),
    )
    if not answers.complete:
        raise StageFailed(_budget_words(teacher.budget, asked, answers.waiting, what))
    if rows - asked.answered > MOST_UNANSWERED * rows:
        raise Unanswered(_unanswered_words(asked, what))
    return asked


def every_question(work: Work) -> Questions[Any]:
    """What a whole run asks: about the training rows, the pool and the test rows, equal ones once."""
    from stillroom.pipeline.label import pool_of

    data = work.dataset
    batches = [batch for batch in (data.train, pool_of(work), data.test) if batch is not None]
    return questions_of(work, list(dict.fromkeys(text for batch in batches for text in texts_of(batch))))


def _budget_words(budget: Budget | None, asked: Asked, waiting: int, what: str) -> str:
    """What is left to do, and what to change."""
    tokens = asked.prompt_tokens + asked.completion_tokens
    found = f"{waiting} of {asked.rows} {what} wait for an answer"
    return budget_reached(budget, found, usd=asked.usd, requests=asked.requests, tokens=tokens)


def budget_reached(budget: Budget | None, found: str, **spent: float | None) -> str:
    """That a budget ended a stage: what was `spent` (usd, requests, tokens), what is `found`, and what to change."""
    assert budget is not None, "only a budget leaves requests waiting"
    bounds = {name: most for name in spent if (most := getattr(budget, name)) is not None}
    used = ", ".join(f"{spent[name]:.6g} of {most:g} {name}" for name, most in bounds.items())
    return (
        f"budget: reached, {used}: the next request might exceed it. {found}. What was answered is kept: raise "
        f"{' or '.join(f'budget.{name}' for name in bounds)}, and the same command goes on from there."
    )


def _unanswered_words(asked: Asked, what: str) -> str:
    return (
        f"teacher: {asked.rows - asked.answered} of {asked.rows} {what} have no answer that can be used ({asked.reasons}); more "
        f"than half are needed. {remedy(asked.failed)} Run again then: those rows are asked once more, and what was answered is kept."
    )
