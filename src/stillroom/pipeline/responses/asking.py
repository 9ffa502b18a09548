"""Prompts put to the teacher: the training prompts, as often as the job says, and the test prompts once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from stillroom.core.asking import Asked
from stillroom.data.exchanges import Exchange
from stillroom.pipeline.asking import Tally, asking, endpoint_of, settled
from stillroom.pipeline.responses.work import ResponsesWork
from stillroom.teachers.responses import Written, response_questions
from stillroom.teachers.tasks.rounds import Questions, Reason, ask_until_usable


@dataclass(frozen=True, eq=False)
class Responses:
    """What came: by prompt, and for each as many as were asked; None where there is none, and the reason why."""

    written: list[tuple[Written | None, ...]]
    reasons: list[tuple[Reason | None, ...]]
    asked: Asked
    tally: Tally


def ask_prompts(work: ResponsesWork, exchanges: Sequence[Exchange], what: str, *, samples: int) -> Responses:
    """The teacher's responses; what the store does not hold is asked.

    Args:
        what: the requests in words, for messages.

    Raises:
        BadInput, EndpointStopped, StageFailed: as `pipeline.asking.ask_rows`.
    """
    questions = _questions(work, exchanges, samples)
    with asking(work, what) as asker:
        found = ask_until_usable(asker, questions)
        asked = settled(work, asker, what, found, found.given_up, rows=len(questions.requests))
    parts = [slice(at, at + samples) for at in range(0, len(questions.requests), samples)]
    return Responses([found.values[part] for part in parts], [found.reasons[part] for part in parts], asked, asker.tally)


def every_question(work: ResponsesWork) -> Questions[Written]:
    """What a whole run asks; equal requests once."""
    trained = _questions(work, work.exchanges.train, endpoint_of(work).samples)
    requests = [*trained.requests, *_questions(work, work.test_prompts, 1).requests]
    once = list({(each.messages_json, each.sample): each for each in requests}.values())
    return replace(trained, requests=once)


def _questions(work: ResponsesWork, exchanges: Sequence[Exchange], samples: int) -> Questions[Written]:
    teacher = endpoint_of(work)
    conversations = [each.messages for each in exchanges]
    return response_questions(
        teacher.parameters, conversations, work.told, samples=samples, structured=teacher.structured, asked_again=teacher.asked_again
    )
