"""`responses`: how a teacher's responses to prompts are checked, and which of them a language model's student learns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from stillroom.core.errors import Problem
from stillroom.spec.base import Spec, described


class ResponsesSpec(Spec):
    """With task: language-model and teacher.kind: endpoint. Refused, cut and empty responses are never learnt, whatever stands here."""

    check: Literal["none", "number", "exact", "code"] = described(
        "What a response must pass. number: its final number is the reference's. exact: its final answer is the reference's text, or with "
        "specification.output_schema its record. code: your function says yes (--allow-code). A record must fit the schema in any case.",
        default="none",
    )
    against: Literal["gold", "vote"] = described(
        "number, exact: the reference. gold: the data's own answer, data.completion or the last turn of data.messages. vote: what most of "
        "teacher.samples responses to the prompt say.",
        default="gold",
    )
    agreement: Annotated[float, Field(gt=0, le=1)] = described(
        "vote: the least share of a prompt's responses that must say so; with less, none of them is learnt.", default=0.5
    )
    tolerance: Annotated[float, Field(ge=0)] = described("number: the largest difference that passes.", default=0.0)
    object: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = described(
        "code: 'module:function' in the working directory; function(answer: str, row: dict) -> bool, where row is the data's.", default=None
    )
    keep: Literal["all", "first", "shortest"] = described(
        "Which of the responses to one prompt that pass are learnt; equal ones count once.", default="all"
    )
    rationale: Literal["drop", "keep"] = described(
        "Whether the student learns to think before it answers: what the teacher wrote between <think> and </think>, or in a field of "
        "its own (reasoning).",
        default="drop",
    )
    difficulty: str | None = described(
        "The column by which accept rates are told apart; absent: thirds of the prompts by the length of the data's answers, or of the "
        "prompts themselves.",
        default=None,
    )

    @property
    def needs_gold(self) -> bool:
        return self.check in ("number", "exact") and self.against == "gold"

    def problems(self, samples: int | None) -> Iterator[Problem]:
        """What the section gets wrong by itself, and beside teacher.samples."""
        if (self.check == "code") != (self.object is not None):
            yield Problem("responses.object", "names the function of check: code, and goes only with it.")
        if self.tolerance and self.check != "number":
            yield Problem("responses.tolerance", f"goes with check: number; check is {self.check!r}. Remove it.")
        if self.against == "vote":
            if self.check not in ("number", "exact"):
                yield Problem("responses.against", f"= 'vote' goes with check: number or exact; check is {self.check!r}.")
            if samples is None:
                yield Problem("responses.against", "= 'vote' needs several responses to each prompt; set teacher.samples, to 5 or so.")
        elif self.agreement != type(self).model_fields["agreement"].default:
            yield Problem("responses.agreement", "goes with against: vote; remove it.")
