"""Responses to prompts from a teacher behind an endpoint: asked for, read with the chain of thought apart, checked, and chosen from.

Sequence-level knowledge distillation (Kim & Rush 2016, arXiv:1606.07947): the student learns what the teacher writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillroom.core.chat import ChatParameters, ChatRequest, Choice, Reply
from stillroom.core.specification import Specification
from stillroom.teachers.checkers import Check
from stillroom.teachers.final_answers import split_thinking
from stillroom.teachers.rejection import Ballot, Sample, Verified, majority_vote, verify
from stillroom.teachers.tasks.extraction import extraction_questions
from stillroom.teachers.tasks.rounds import Questions
from stillroom.teachers.tasks.structured import Mode
from stillroom.teachers.tasks.unusable import Reading, Unusable, declined, said

Message = Mapping[str, Any]
NO_MAJORITY = Check(False, "too few of the responses agree")


@dataclass(frozen=True)
class Written:
    """A response: what is said to the user, the chain of thought, and what the server called the model."""

    answer: str
    rationale: str = ""
    model: str = ""


def response_questions(
    parameters: ChatParameters,
    conversations: Sequence[tuple[Message, ...]],
    specification: Specification | None = None,
    *,
    samples: int = 1,
    structured: Mode = "json-schema",
    asked_again: int = 2,
) -> Questions[Written]:
    """`samples` requests a conversation, one after the other.

    With an `output_schema` each is a text of the user's, and a record is asked for: what is read is JSON on one line, in the order of the
    teacher's keys. Else the specification's task, where there is one, comes first, as the system's message, and its examples as turns;
    then the conversation, unchanged; a refusal cannot be used.

    Raises:
        BadInput: a schema that servers do not take, or a worked example that is not valid under it.
    """
    read: Callable[[int, Reply], Reading[Written]] = _read_text
    if specification is not None and specification.output_schema is not None:
        texts = [str(conversation[-1]["content"]) for conversation in conversations]
        records = extraction_questions(parameters, specification, texts, structured=structured)
        once: Sequence[ChatRequest] = records.requests

        def read(row: int, reply: Reply) -> Reading[Written]:
            found = records.read(row, reply)
            return Reading(Written(written_record(found.value), rationale(reply.choices[0]), reply.model), found.repairs)
    else:
        once = [ChatRequest(_told(specification, conversation), parameters) for conversation in conversations]
    requests = [ChatRequest(each.messages, each.parameters, sample=sample) for each in once for sample in range(samples)]
    return Questions(requests, read, asked_again)


def _read_text(row: int, reply: Reply) -> Reading[Written]:
    """Raises Unusable where the answer is refused, cut or empty."""
    choice = reply.choices[0]
    answer = said(choice)
    if declined(answer):
        raise Unusable("refused", "it is a refusal.")
    return Reading(Written(answer, rationale(choice), reply.model))


def written_record(value: Any) -> str:
    """A record as a student learns to write it."""
    return json.dumps(value, ensure_ascii=False)


def rationale(choice: Choice) -> str:
    """The chain of thought: what the server gives in a field of its own, or else the `<think>` sections; "" where there is none."""
    return choice.reasoning.strip() or split_thinking(choice.text).thinking


def with_rationale(answer: str, thinking: str) -> str:
    """A response as open reasoning models write it, and `split_thinking` reads it."""
    return f"<think>\n{thinking}\n</think>\n\n{answer}" if thinking else answer


def verify_against_vote(
    samples: Sequence[Sample], checker: Callable[[str, str], Check], *, by: Ballot, agreement: float, asked: int
) -> list[Verified]:
    """`rejection.verify`, where the reference is what most samples of an example say; without such a majority none passes.

    Args:
        by: as `rejection.majority_vote`.
        agreement: the least share of the example's samples that must say so.
        asked: samples of each example that were asked for: those that cannot be used are not here, and agree with none.
    """
    of_example: dict[str, list[str]] = {}
    for sample in samples:
        of_example.setdefault(sample.example, []).append(sample.response)
    votes = {name: majority_vote([*found, *[""] * (asked - len(found))], by=by) for name, found in of_example.items()}
    agreed = {name: vote.answer for name, vote in votes.items() if vote.answer is not None and vote.share >= agreement}

    def check(sample: Sample) -> Verified:
        reference = agreed.get(sample.example)
        return Verified(
            sample, NO_MAJORITY if reference is None else verify([sample], lambda answer, _: checker(answer, reference))[0].check
        )

    return [check(sample) for sample in samples]


def _told(specification: Specification | None, conversation: tuple[Message, ...]) -> tuple[Message, ...]:
    """The conversation behind the task. One message of the system: many a server's template takes no second."""
    if specification is None:
        return conversation
    task, rest = specification.task, conversation
    if conversation[0]["role"] == "system":
        task, rest = f"{task}\n\n{conversation[0]['content']}", conversation[1:]
    examples = [
        turn
        for example in specification.examples
        for turn in ({"role": "user", "content": example.input}, {"role": "assistant", "content": _written(example.output)})
    ]
    return ({"role": "system", "content": task}, *examples, *rest)


def _written(output: Any) -> str:
    return output if isinstance(output, str) else written_record(output)
