"""Probabilities of labels from an endpoint: from one answer, from several, or from log-probabilities."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stillroom.core.chat import ChatParameters, ChatRequest, Choice, Failure, Reply
from stillroom.core.errors import BadInput, nearest
from stillroom.core.specification import Specification
from stillroom.teachers.endpoint.durable import Asker
from stillroom.teachers.strict_json import one_line
from stillroom.teachers.tasks.label_codes import label_codes
from stillroom.teachers.tasks.label_masses import CodeReader, LabelMasses
from stillroom.teachers.tasks.prompts import Message, beginning, with_text
from stillroom.teachers.tasks.rounds import Answers, Outcome, Questions, Reason, ask_until_usable
from stillroom.teachers.tasks.structured import Mode, instruction, structured_parameters, structured_reader
from stillroom.teachers.tasks.unusable import Reading, Repair, Unusable, refused_in_words, said

Kind = Literal["text", "logprobs", "samples"]
Floats = NDArray[np.float64]
_MOST_LOGPROBS = 20
_FEWEST_ROWS = 8
"""Fewer rows without log-probabilities say nothing of the server."""
_PLACE = "teacher.answers"


@dataclass(frozen=True)
class LabelAnswers:
    """What a teacher said about the labels of n texts.

    Attributes:
        probabilities: (n, K) in the order of the classes; rows of NaN where nothing usable was answered.
        reasons: by row, why there are none; None where there are, or where the row still waits.
        answers: the single answers with their counts: one a row, or `samples` a row, one after the other.
        missing: (n,) the mass that was not seen on any label; NaN in rows without. None but for log-probabilities.
        upper: (n, K) at most so likely is each label; likewise.
    """

    probabilities: Floats
    reasons: tuple[Reason | None, ...]
    answers: Answers[Any]
    missing: Floats | None = None
    upper: Floats | None = None

    @property
    def complete(self) -> bool:
        """Whether no row waits for the budget."""
        return self.answers.complete

    @property
    def given_up(self) -> Counter[Reason]:
        """How many rows have no probabilities for which reason."""
        return Counter(reason for reason in self.reasons if reason is not None)


@dataclass(frozen=True)
class ClassificationQuestion:
    """How texts are put to a teacher that names labels, and how its answers are read.

    Attributes:
        classes: the labels, in the order of the probabilities; those of the specification.
        kind: "text": one answer a row, which names a label. "samples": several. "logprobs": one, which is a label's code.
        structured: how an answer of the first two kinds is asked for; "prompt" is the label alone, without JSON.
        samples: how many answers a row, with kind "samples".

    Raises:
        BadInput: the classes are not the specification's labels, or too many for codes.
    """

    specification: Specification
    classes: tuple[str, ...]
    parameters: ChatParameters
    kind: Kind = "text"
    structured: Mode = "json-schema"
    samples: int = 5

    def __post_init__(self) -> None:
        defined = self.specification.labels
        if strange := [name for name in self.classes if name not in defined] or [name for name in defined if name not in self.classes]:
            words = "not both in the specification and among the classes of the data; name the same labels."
            raise BadInput.at("specification.labels", f"{', '.join(map(repr, strange[:5]))}: {words}")
        for i, example in enumerate(self.specification.examples):
            if example.output not in self.classes:
                words = f"= {example.output!r} is no label; {nearest(str(example.output), self.classes)}"
                raise BadInput.at(f"specification.examples[{i}].output", words)
        if self.kind == "logprobs":
            label_codes(len(self.classes))

    def about(self, texts: Iterable[str], *, asked_again: int = 2) -> Questions[Any]:
        """A request a text; with kind "samples", as many as are wanted of each, one after the other, and none is asked again: a corrected
        answer would be drawn from another distribution.

        What is read is the index of the label in `classes`; with kind "logprobs", its `LabelMasses`.
        """
        samples = range(self.samples if self.kind == "samples" else 1)
        requests = [ChatRequest(with_text(self._beginning, text), self._asked, sample=sample) for text in texts for sample in samples]
        return Questions(
            requests, lambda row, reply: self._read(reply.choices[0]), 0 if self.kind == "samples" else asked_again,
            _check_logprobs if self.kind == "logprobs" else None,
        )  # fmt: skip

    @cached_property
    def _codes(self) -> dict[str, str]:
        return dict(zip(self.classes, label_codes(len(self.classes)), strict=True))

    @cached_property
    def _schema(self) -> dict[str, Any]:
        label = {"type": "string", "enum": list(self.classes)}
        return {"type": "object", "properties": {"label": label}, "required": ["label"], "additionalProperties": False}

    @cached_property
    def _beginning(self) -> tuple[Message, ...]:
        if self.kind == "logprobs":
            how = "Answer with the code of one label alone: the capitals before its equals sign."
            return beginning(self.specification, how, self._codes.__getitem__, self._codes)
        if self.structured == "prompt":
            return beginning(self.specification, "Answer with one of the labels alone, exactly as it is written.", str)
        return beginning(
            self.specification, instruction(self._schema, self.structured), lambda label: json.dumps({"label": label}, ensure_ascii=False)
        )

    @cached_property
    def _asked(self) -> ChatParameters:
        if self.kind == "logprobs":
            return replace(self.parameters, top_logprobs=self.parameters.top_logprobs or _MOST_LOGPROBS)
        return structured_parameters(self.parameters, self._schema, self.structured)

    @cached_property
    def _read(self) -> Callable[[Choice], Reading[Any]]:
        if self.kind == "logprobs":
            return CodeReader(tuple(self._codes.values())).read
        reader = LabelReader(self.classes)
        return reader.read_text if self.structured == "prompt" else reader.read_json


class LabelReader:
    """Reads the name of a label: exactly one of them, but for case, white space, Unicode forms, quotes and a full stop."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._exact = {name: i for i, name in enumerate(classes)}
        plain = Counter(map(_plain, classes))
        self._plain = {key: i for i, name in enumerate(classes) if plain[key := _plain(name)] == 1}
        # The labels themselves are not part of it: what is not quite one may still be read.
        self._json = structured_reader({"type": "object", "properties": {"label": {"type": "string"}}, "required": ["label"]})

    def read_text(self, choice: Choice) -> Reading[int]:
        """The answer is the label. Raises Unusable."""
        return self._label(said(choice), ())

    def read_json(self, choice: Choice) -> Reading[int]:
        """The answer is {"label": ...}. Raises Unusable."""
        found = self._json(choice)
        return self._label(found.value["label"], found.repairs)

    def _label(self, text: str, repairs: tuple[Repair, ...]) -> Reading[int]:
        if (index := self._exact.get(text)) is not None:
            return Reading(index, repairs)
        if (index := self._plain.get(_plain(text))) is not None:
            return Reading(index, (*repairs, "spelling"))
        if refused_in_words(text):
            raise Unusable("refused", one_line(text))
        raise Unusable("off-label", f"{one_line(text)!r} is none of the labels; answer with one of them, exactly as it is written.")


def label_texts(asker: Asker, question: ClassificationQuestion, texts: Sequence[str], *, asked_again: int = 2) -> LabelAnswers:
    """Ask about every text, and make probabilities of the answers.

    "text": 1 for the label that was named. "samples": the share of each label among the usable samples, of which at least half are
    needed (self-consistency); see `shares`. "logprobs": the estimate of `label_masses`.

    Args:
        asked_again: how often an answer that cannot be used is asked for anew; not for samples.

    Raises:
        BadInput: the server gives no log-probabilities.
        EndpointStopped, StageFailed: as `ask_until_usable`.

    Source: self-consistency, Wang et al. 2023, section 2, arXiv:2203.11171.
    """
    answers = ask_until_usable(asker, question.about(texts, asked_again=asked_again))
    size = len(question.classes)
    if question.kind == "logprobs":
        masses: Sequence[LabelMasses | None] = answers.values
        upper = _stacked([None if found is None else found.upper for found in masses], size)
        missing = np.array([np.nan if found is None else found.missing for found in masses])
        probabilities = _stacked([None if found is None else found.probabilities for found in masses], size)
        return LabelAnswers(probabilities, answers.reasons, answers, missing, upper)
    return _by_row(answers, question.samples if question.kind == "samples" else 1, size)


def _by_row(answers: Answers[Any], each: int, size: int) -> LabelAnswers:
    """The shares in each row's `each` samples; a row of which some still wait has none yet."""
    probabilities: list[Floats] = []
    reasons: list[Reason | None] = []
    for start in range(0, len(answers.values), each):
        named, why = answers.values[start : start + each], answers.reasons[start : start + each]
        waits = any(index is None and reason is None for index, reason in zip(named, why, strict=True))
        row = shares(() if waits else named, size)
        probabilities.append(row)
        # The most frequent reason stands for all.
        reasons.append(Counter(r for r in why if r is not None).most_common(1)[0][0] if np.isnan(row[0]) and not waits else None)
    return LabelAnswers(_stacked(probabilities, size), tuple(reasons), answers)


def shares(named: Sequence[int | None], num_labels: int) -> Floats:
    """The share of each label among the usable samples of a row: (num_labels,), NaN where fewer than half are usable.

    Plain frequencies, which are unbiased for the distribution that the samples come from. Smoothing is not: with one added to each
    of 77 labels, five samples would give 94 % of the mass to the prior. A label of share 0 was not named; it is not impossible.
    """
    usable = [index for index in named if index is not None]
    if not usable or 2 * len(usable) < len(named):
        return np.full(num_labels, np.nan)
    return np.bincount(usable, minlength=num_labels) / len(usable)


def _stacked(rows: Sequence[Floats | None], size: int) -> Floats:
    return np.array([np.full(size, np.nan) if row is None else row for row in rows]).reshape(-1, size)


def _check_logprobs(outcomes: Sequence[Outcome]) -> None:
    """Raises BadInput where a server names no likely tokens in any of its first answers, or refuses to."""
    choices = [outcome.choices[0] for outcome in outcomes if isinstance(outcome, Reply)]
    if choices and len(outcomes) >= _FEWEST_ROWS and not any(token.top for choice in choices for token in choice.logprobs or ()):
        words = f"= 'logprobs', but the server named no likely tokens in its first {len(choices)} answers; use answers: samples."
        raise BadInput.at(_PLACE, words)
    for outcome in outcomes:
        if isinstance(outcome, Failure) and outcome.reason == "bad-request" and "logprob" in outcome.detail.lower():
            raise BadInput.at(_PLACE, f"= 'logprobs', which the server refuses ({outcome.detail}); use answers: samples.")


def _plain(label: str) -> str:
    text = unicodedata.normalize("NFKC", label).strip().strip("\"'`*“”‘’.").strip()
    return " ".join(text.casefold().split())
