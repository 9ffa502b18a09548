"""Keep the responses that pass: rejection sampling, and the vote of several samples where there is no reference answer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from stillroom.core.responses import AcceptRate
from stillroom.teachers.checkers import Check, comparable, said
from stillroom.teachers.final_answers import final_number, split_thinking
from stillroom.teachers.strict_json import parse

Ballot = Literal["number", "text", "record"]


@dataclass(frozen=True)
class Sample:
    """One response to one example.

    Attributes:
        example: the name of the example; samples of one example share it.
        expected: its reference answer.
        model: who answered.
        difficulty: the example's group, as the caller sorts them (number of steps, a source, a rating).
        rationale: the chain of thought, where it is learnt too; "" else.
    """

    example: str
    response: str
    expected: str
    model: str = ""
    difficulty: str = ""
    rationale: str = ""


@dataclass(frozen=True)
class Verified:
    """A sample and what the checker said of its answer."""

    sample: Sample
    check: Check


@dataclass(frozen=True)
class Vote:
    """The answer of most samples.

    Attributes:
        answer: as the first sample with that answer wrote it; None where no sample has an answer, or two answers have most votes.
        share: the votes of the most frequent answer over all samples, those without an answer included: a confidence in [0, 1].
    """

    answer: str | None
    share: float


def verify(samples: Iterable[Sample], checker: Callable[[str, str], Check]) -> list[Verified]:
    """Check each sample's answer, its thinking split off; a response that was cut within its thinking does not pass.

    Args:
        checker: check(answer, expected), as in `checkers`.

    Raises:
        BadInput: from the checker: a reference that it cannot read.
    """
    found = []
    for sample in samples:
        response = split_thinking(sample.response)
        cut = Check(False, "the response ends within its thinking")
        found.append(Verified(sample, checker(response.answer, sample.expected) if response.closed else cut))
    return found


def kept(verified: Iterable[Verified], keep: Literal["all", "first", "shortest"] = "all") -> list[Sample]:
    """The samples that passed, example by example; of equal responses to one example the first, since copies would only weight it.

    Args:
        keep: of those of one example: all, the first, or the one with the fewest characters.

    Source: rejection sampling fine-tuning, Yuan et al. 2023, section 3.3, arXiv:2308.01825.
    """
    passed: dict[str, dict[tuple[str, str], Sample]] = {}
    for v in verified:
        if v.check.passed:
            passed.setdefault(v.sample.example, {}).setdefault((v.sample.rationale, v.sample.response), v.sample)
    if keep == "all":
        return [sample for samples in passed.values() for sample in samples.values()]
    length = (lambda sample: 0) if keep == "first" else (lambda sample: len(sample.rationale) + len(sample.response))
    return [min(samples.values(), key=length) for samples in passed.values()]


def accept_rates(verified: Sequence[Verified], group: Callable[[Sample], str]) -> dict[str, AcceptRate]:
    """Accept rates by group, in order of the groups' names: `accept_rates(found, lambda s: s.model)`."""
    groups: dict[str, list[Verified]] = {}
    for v in verified:
        groups.setdefault(group(v.sample), []).append(v)
    return {name: accept_rate(members) for name, members in sorted(groups.items())}


def accept_rate(verified: Iterable[Verified]) -> AcceptRate:
    """Of all samples together."""
    members = list(verified)
    passed = [v.sample.example for v in members if v.check.passed]
    return AcceptRate(len(passed), len(members), len(set(passed)), len({v.sample.example for v in members}))


def majority_vote(responses: Sequence[str], *, by: Ballot) -> Vote:
    """The most frequent final answer of several responses to one example.

    A response that was cut within its thinking, or has no final answer, votes for none.

    Args:
        by: what is compared: the numbers of the final answers, by value; their texts, but for case, white space and Unicode forms; or
            whole records, which are JSON, whatever the order of their keys.

    Raises:
        ValueError: no responses.

    Source: self-consistency, Wang et al. 2023, section 2, arXiv:2203.11171.
    """
    if not responses:
        raise ValueError("a vote needs at least one response.")
    written: dict[Fraction | str, str] = {}
    votes: Counter[Fraction | str] = Counter()
    for response in map(split_thinking, responses):
        if response.closed and (ballot := _ballot(response.answer, by)):
            key, text = ballot
            written.setdefault(key, text)
            votes[key] += 1
    most = max(votes.values(), default=0)
    leaders = [key for key, count in votes.items() if count == most]
    return Vote(written[leaders[0]] if len(leaders) == 1 else None, most / len(responses))


def _ballot(answer: str, by: Ballot) -> tuple[Fraction | str, str] | None:
    """What is compared, and what was written."""
    if by == "number":
        number = final_number(answer)
        return (number.value, number.text) if number else None
    if by == "record":
        try:
            return json.dumps(_canonical(parse(answer)), sort_keys=True), answer
        except ValueError:
            return None
    text = said(answer)
    return (comparable(text), text) if text else None


def _canonical(value: Any) -> Any:
    """As `record_match` compares: 1.0 is 1."""
    match value:
        case dict():
            return {name: _canonical(part) for name, part in value.items()}
        case list():
            return [_canonical(part) for part in value]
        case float() if value.is_integer():
            return int(value)
    return value
