"""Records of a review: people look at a sample of the teacher's answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class ReviewItem:
    """One sampled answer, as it is shown.

    Attributes:
        row: its position in the transfer set.
        example: the content fingerprint of the row's features.
        answer: the key of the teacher's answer.
        cells: (column, text) of each feature.
        probs: the teacher's probabilities, in the order of the classes.
        teacher: the label with the highest of them.
    """

    row: int
    example: str
    answer: str
    cells: tuple[tuple[str, str], ...]
    probs: tuple[float, ...]
    teacher: str


@dataclass(frozen=True)
class Decision:
    """What a person said about one answer. `label`: the right one, which may be the teacher's; None for a row that was skipped.

    Attributes:
        sample: fingerprint of the answers and the seed from which the sample was drawn; `row` counts among them.
        seed: the sample's.
        example, answer, teacher: as in `ReviewItem`.
        at: when, ISO 8601 with its offset from UTC.
    """

    sample: str
    seed: int
    row: int
    example: str
    answer: str
    teacher: str
    label: str | None
    reviewer: str
    at: str

    @property
    def corrects(self) -> bool:
        return self.label is not None and self.label != self.teacher


def standing(decisions: Iterable[Decision]) -> dict[tuple[str, int, str], Decision]:
    """(sample, row, reviewer) -> the last decision of each reviewer on each row, the latest at the end; skipped rows among them."""
    last: dict[tuple[str, int, str], Decision] = {}
    for decision in decisions:
        key = (decision.sample, decision.row, decision.reviewer)
        last.pop(key, None)
        last[key] = decision
    return last


def opinions(decisions: Iterable[Decision]) -> dict[tuple[str, int], Decision]:
    """(sample, row) -> the last decision on each row that is judged. Where reviewers differ, the later one has seen more."""
    return {(d.sample, d.row): d for d in standing(decisions).values() if d.label is not None}


def corrections(decisions: Iterable[Decision]) -> list[Decision]:
    """The last decision on each example that is judged, of those that correct the teacher."""
    last = {d.example: d for d in standing(decisions).values() if d.label is not None}
    return [decision for decision in last.values() if decision.corrects]


@dataclass(frozen=True)
class Confusion:
    """The teacher said `teacher` where people said `label`, on so many reviewed rows."""

    teacher: str
    label: str
    rows: int


@dataclass(frozen=True)
class Overlap:
    """Two reviewers on the `rows` rows that both have judged: the share of equal labels, and Cohen's kappa.

    `kappa` is None where both gave one and the same label to all rows: chance alone would have them agree.
    """

    rows: int
    agreement: float
    kappa: float | None


@dataclass(frozen=True)
class ReviewFinding:
    """How often the teacher is wrong by people's judgement, over all rows that it labelled.

    Attributes:
        error, low, high: the estimated share of wrong top labels, and its interval at the level `confidence`.
        num_reviewed, num_wrong, num_skipped: rows of the sample.
        num_rows: the rows that the sample stands for.
        num_reviewers: how many people have judged a row.
        confusions: the most frequent first.
        overlaps: one for each pair of reviewers who have judged the same rows.
    """

    error: float
    low: float
    high: float
    confidence: float
    num_reviewed: int
    num_wrong: int
    num_skipped: int
    num_rows: int
    num_reviewers: int
    confusions: tuple[Confusion, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
