"""`generation`: synthetic examples of the specification's job: how many, what varies, what is hard, what is removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stillroom.core.errors import Problem, nearest
from stillroom.spec.base import Count, Names, Share, Spec, described
from stillroom.spec.specification import SpecificationSpec, Words


def _with_shares(values: object) -> object:
    """A list of values as values without shares; what is neither is left for pydantic to refuse."""
    if not values and isinstance(values, list | tuple | dict):
        raise ValueError("has no values; name some, or remove the axis.")
    if not isinstance(values, list | tuple) or not all(isinstance(value, Hashable) for value in values):
        return values
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise ValueError(f"names {twice[0]!r} twice; name each value once.")
    return dict.fromkeys(values)


def _whole(values: dict[str, float | None]) -> dict[str, float | None]:
    total = _total(values)
    open_ones = [value for value, share in values.items() if share is None]
    if open_ones and total > 1 - _ROUNDING:
        raise ValueError(f"its shares leave nothing for {open_ones[0]!r}; lower them, or give it 0.")
    if not open_ones and abs(total - 1) > _ROUNDING:
        raise ValueError(f"its shares add up to {total:.4g}; they must make 1, or leave one value without a share: it gets the rest.")
    return values


def _total(values: Mapping[str, float | None]) -> float:
    return sum(share for share in values.values() if share is not None)


_ROUNDING = 1e-6
Shares = dict[Words, Share | None]
"""Values with a share or without; those without one divide what is left equally."""
Axis = Annotated[Shares, BeforeValidator(_with_shares, json_schema_input_type=Shares | tuple[Words, ...]), AfterValidator(_whole)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


class NearMissSpec(Spec):
    """Inputs of one label that a hasty reader would take for another."""

    label: Words = described("The right label.")
    towards: Words = described("The label that they could be mistaken for.")
    share: PositiveShare = described("Of all examples.")

    @model_validator(mode="after")
    def _two_labels(self) -> NearMissSpec:
        if self.label == self.towards:
            raise ValueError(f"label and towards both name {self.label!r}; a near miss lies between two labels.")
        return self


class RemovalSpec(Spec):
    """What is removed, besides copies, and what gives an evaluation text away."""

    near_duplicates: PositiveShare = described(
        "Of two texts whose Jaccard index (of 5 successive characters) is at least this, the later goes.", default=0.8
    )
    min_words: Count = described("Shorter ones go.", default=1)
    max_words: Count | None = described("Longer ones go.", default=None)
    languages: Names = described("ISO 639-1 codes, such as en; what is clearly in another language goes. Empty: any.", default=())


class GenerationSpec(Spec):
    """Examples that the teacher writes from `specification`."""

    examples: Count = described("How many are wanted.")
    vary: dict[Words, Axis] = described(
        "What varies, by any name (topic, tone, length, language): its values, [a, b] or {a: 0.7, b: 0.3}.", default={}
    )
    labels: Shares = described(
        "Shares of the labels among ordinary and hard cases; a label that is not named divides the rest equally with the others.",
        default={},
    )
    hard: Share = described("Share of hard cases: the right answer is clear to an expert alone.", default=0.0)
    near_misses: Annotated[tuple[NearMissSpec, ...], Field(strict=False)] = described("Pairs of labels to tell apart.", default=())
    per_request: Annotated[int, Field(ge=1, le=100)] = described("Examples that one request asks for, at most.", default=5)
    rounds: Count = described("How often is asked, gaps after the first time.", default=4)
    sampling_temperature: Annotated[float, Field(ge=0, le=2)] = described("Of the server's sampling.", default=1.0)
    max_tokens: Count = described("Tokens of an answer, at most.", default=2048)
    remove: RemovalSpec = RemovalSpec()

    def axes(self) -> dict[str, dict[str, float]]:
        """Each axis with the shares of its values."""
        return {name: complete(values) for name, values in self.vary.items()}

    def problems(self, specification: SpecificationSpec | None, *, has_labels: bool) -> Iterator[Problem]:
        """What the section gets wrong as a whole and beside the specification.

        Args:
            has_labels: whether the job's answers are labels.
        """
        kinds = self.hard + sum(pair.share for pair in self.near_misses)
        if kinds > 1 + _ROUNDING:
            yield Problem("generation", f"hard and near_misses together ask for {kinds:.4g} of the examples; at most 1 can be.")
        least, most = self.remove.min_words, self.remove.max_words
        if most is not None and most < least:
            yield Problem("generation.remove.max_words", f"= {most} is below min_words = {least}: nothing could be kept.")
        if has_labels:
            known = () if specification is None else tuple(specification.labels)
            yield from self.label_problems(known) if known else ()
            return
        for key in ("labels", "near_misses"):
            if getattr(self, key):
                yield Problem(f"generation.{key}", "needs labels, and the job's answers are none; remove it.")

    def label_problems(self, known: Collection[str]) -> Iterator[Problem]:
        """Labels that are none of `known`, and shares of labels that do not add up."""
        named = {f"generation.labels.{label}": label for label in self.labels}
        for i, pair in enumerate(self.near_misses):
            named |= {f"generation.near_misses[{i}].label": pair.label, f"generation.near_misses[{i}].towards": pair.towards}
        for place, label in named.items():
            if label not in known:
                yield Problem(place, f"= {label!r} is no label; {nearest(label, known)}")
        if self.labels:
            try:
                _whole({**dict.fromkeys(known), **self.labels})
            except ValueError as error:
                yield Problem("generation.labels", str(error))


def complete(values: Mapping[str, float | None]) -> dict[str, float]:
    """Values with a share each; those without one divide equally what the others leave."""
    open_ones = sum(share is None for share in values.values())
    rest = max(1 - _total(values), 0.0)
    return {value: rest / open_ones if share is None else share for value, share in values.items()}
