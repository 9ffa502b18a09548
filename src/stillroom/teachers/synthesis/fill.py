"""Fill a plan: ask for the examples that it wants, keep the good ones, and ask again for the gaps."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stillroom.core.chat import ChatParameters, ChatRequest, Reply
from stillroom.core.specification import Specification
from stillroom.teachers.endpoint.durable import Asker
from stillroom.teachers.synthesis.plan import Cell, Plan
from stillroom.teachers.synthesis.prompts import SCHEMA, system_text, user_text
from stillroom.teachers.tasks.rounds import Answers, Questions, ask_until_usable
from stillroom.teachers.tasks.structured import Mode, instruction, structured_parameters, structured_reader
from stillroom.teachers.tasks.unusable import Reading

MODELS, WRITTEN = 3, 5
"""Worked examples that a request shows, and examples that it must not repeat."""
LEFT_OUT = "left-out"
"""The reason for an input that an answer does not hold."""

Texts = dict[int, str]
"""The inputs of one answer by number, from 1."""
Judge = Callable[[Sequence[str], Sequence[str]], Sequence[str | None]]
"""judge(new, kept) -> for each new text why it is not kept; None where it is."""


@dataclass(frozen=True)
class Example:
    """A text that was written for a cell."""

    text: str
    cell: Cell


@dataclass(frozen=True)
class Filled:
    """What came of a plan.

    Attributes:
        examples: those that are kept, in the order in which they came.
        removed: cell -> reason -> texts that were not kept; `left-out` where an answer held fewer texts than it should.
        unusable: reason -> requests without a usable answer.
        repaired, asked_again: answers that were mended; that were asked for anew.
        rounds: how often was asked.
        complete: False where the budget ended it; the same call goes on with a larger one.
    """

    examples: tuple[Example, ...]
    removed: Mapping[Cell, Counter[str]] = field(default_factory=dict)
    unusable: Counter[str] = field(default_factory=Counter)
    repaired: int = 0
    asked_again: int = 0
    rounds: int = 0
    complete: bool = True

    @property
    def accepted(self) -> Counter[Cell]:
        return Counter(example.cell for example in self.examples)


@dataclass(frozen=True)
class Writer:
    """Who writes, and what about.

    Attributes:
        mode: how the list of inputs is asked for, as in `structured`.
        asked_again: how often an answer that cannot be used is asked for anew.
    """

    asker: Asker
    parameters: ChatParameters
    specification: Specification
    mode: Mode = "json-schema"
    asked_again: int = 2

    def write(self, texts: Sequence[str], samples: Sequence[int], *, trial: bool) -> Answers[Texts]:
        """Ask with each of these user messages; `samples` tells equal ones apart, `trial`: as in `Questions`."""
        parameters = structured_parameters(self.parameters, SCHEMA, self.mode, name="inputs")
        told = f"{system_text(self.specification)}\n\n{instruction(SCHEMA, self.mode, name='inputs')}"
        requests = [
            ChatRequest(({"role": "system", "content": told}, {"role": "user", "content": text}), parameters, sample=sample)
            for text, sample in zip(texts, samples, strict=True)
        ]
        return ask_until_usable(self.asker, Questions(requests, _read, self.asked_again, trial=trial))


def fill(writer: Writer, plan: Plan, judge: Judge, *, rounds: int, per_request: int, seed: int = 0) -> Filled:
    """Ask for every example that the plan wants; where texts are not kept, ask for others, up to `rounds` times in all.

    Requests of a round do not wait for each other. Each round's requests follow from the answers of those before it, which the store
    holds: after a kill the same call asks only what it had not got.

    Args:
        per_request: examples that one request asks for, at most.
        seed: which worked and which kept examples a request shows.

    Raises:
        BadInput, EndpointStopped, StageFailed: as `durable.ask_all` does.
    """
    state = _State(writer, plan, judge, per_request, seed)
    while state.complete and state.rounds < rounds and state.gaps:
        state.next_round()
    return Filled(tuple(state.examples), state.removed, state.unusable, state.repaired, state.asked_again, state.rounds, state.complete)


class _State:
    """How far a plan is filled."""

    def __init__(self, writer: Writer, plan: Plan, judge: Judge, per_request: int, seed: int) -> None:
        self.writer, self.plan, self.judge, self.per_request, self.seed = writer, plan, judge, per_request, seed
        self.examples: list[Example] = []
        self.removed: dict[Cell, Counter[str]] = {}
        self.unusable: Counter[str] = Counter()
        self.repaired = self.asked_again = self.rounds = 0
        self.complete = True
        self._asked: Counter[str] = Counter()  # user messages so far: an equal one is a further sample

    @property
    def gaps(self) -> list[Cell]:
        """A cell for each example that is missing."""
        accepted = Counter(example.cell for example in self.examples)
        return [cell for cell, wanted in self.plan.wanted.items() for _ in range(wanted - accepted[cell])]

    def next_round(self) -> None:
        gaps, size = self.gaps, self.per_request
        batches = [gaps[i : i + size] for i in range(0, len(gaps), size)]
        texts, samples = [], []
        for number, cells in enumerate(batches):
            texts.append(self._request(cells, random.Random(f"{self.seed} {self.rounds} {number}")))  # noqa: S311
            samples.append(self._asked[texts[-1]])
            self._asked[texts[-1]] += 1
        # Later rounds ask for what could not be had before: that it cannot be had again ends nothing.
        answers = self.writer.write(texts, samples, trial=not self.examples)
        self.rounds += 1
        self.complete = answers.complete
        self.unusable.update(answers.given_up)
        self.repaired += answers.repaired.total()
        self.asked_again += answers.asked_again.total()
        self._keep(list(self._received(batches, answers)))

    def _request(self, cells: Sequence[Cell], chance: random.Random) -> str:
        labels = [cell.label for cell in cells]
        worked = self.writer.specification.examples
        models = [each.input for each in worked if each.output in labels] if None not in labels else []
        written = [example.text for example in self.examples if example.cell.label in labels]
        return user_text(
            cells, self.plan.axes,
            models=_drawn(models or [each.input for each in worked], MODELS, chance), written=_drawn(written, WRITTEN, chance),
        )  # fmt: skip

    def _received(self, batches: Sequence[Sequence[Cell]], answers: Answers[Texts]) -> Iterator[Example]:
        for cells, texts in zip(batches, answers.values, strict=True):
            if texts is None:
                continue
            for number, cell in enumerate(cells, start=1):
                if text := texts.get(number, ""):
                    yield Example(text, cell)
                else:
                    self._remove(cell, LEFT_OUT)

    def _keep(self, new: Sequence[Example]) -> None:
        reasons = self.judge([example.text for example in new], [example.text for example in self.examples])
        for example, reason in zip(new, reasons, strict=True):
            if reason is None:
                self.examples.append(example)
            else:
                self._remove(example.cell, reason)

    def _remove(self, cell: Cell, reason: str) -> None:
        self.removed.setdefault(cell, Counter())[reason] += 1


def _drawn(texts: Sequence[str], most: int, chance: random.Random) -> list[str]:
    return chance.sample(texts, min(most, len(texts)))


_parse = structured_reader(SCHEMA)


def _read(row: int, reply: Reply) -> Reading[Texts]:
    found = _parse(reply.choices[0])
    texts: Texts = {}
    for item in found.value["inputs"]:
        texts.setdefault(item["number"], item["text"].strip())
    return Reading(texts, found.repairs)
