"""The plain records that areas hand to each other. All are immutable; none knows an area.

Shapes: n examples, K classes. Class order is `classes` everywhere: columns are matched by name, never by position.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from stillroom.core.provenance import Provenance, Task

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

ColumnKind = Literal["numeric", "categorical", "text"]
__all__ = [
    "Batch",
    "Calibration",
    "Column",
    "Comparison",
    "CurvePoint",
    "Dataset",
    "Details",
    "Disagreement",
    "Evidence",
    "Knowledge",
    "LeakFinding",
    "Measure",
    "ParityCheck",
    "Provenance",
    "ReliabilityBin",
    "SliceMeasure",
    "Task",
    "Verdict",
]

EVIDENCE_SCHEMA = "stillroom/evidence@1"


@dataclass(frozen=True)
class Column:
    """A feature: its name and what kind of values it holds. numeric: float64 with NaN as missing;
    categorical and text: str with None as missing."""

    name: str
    kind: ColumnKind


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples and what is known about them.

    Attributes:
        features: n rows, one column a feature, typed as `Column` says; a plain 0..n-1 index.
        keys: (n,) content fingerprint of each row's features; equal rows have equal keys.
        target: (n,) class codes (int64, into `Dataset.classes`) or float64 values; None for unlabelled examples.
        groups: (n,) str, examples that must not be divided between folds or resampled apart; None where there are none.
        times: (n,) sortable, for time-aware folds; None where there are none.
    """

    features: pd.DataFrame
    keys: NDArray[np.str_]
    target: NDArray[Any] | None = None
    groups: NDArray[np.str_] | None = None
    times: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: NDArray[np.intp]) -> Batch:
        """The examples at positions `rows`, in that order."""

        def part(values: NDArray[Any] | None) -> NDArray[Any] | None:
            return None if values is None else values[rows]

        return Batch(
            self.features.iloc[rows].reset_index(drop=True), self.keys[rows], part(self.target), part(self.groups), part(self.times)
        )

    def without_target(self) -> Batch:
        return replace(self, target=None)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a job's `data` section yields. `test` is read by the evaluation only.

    Attributes:
        classes: class names in code order; () for regression.
        unlabeled: the pool: examples of the transfer set without labels; may be None.
        shared_rows: how many test rows have the same features as a training or pool row.
        notes: findings that a reader of the report must see, one sentence each.
    """

    task: Task
    classes: tuple[str, ...]
    columns: tuple[Column, ...]
    train: Batch
    test: Batch
    validation: Batch | None = None
    unlabeled: Batch | None = None
    shared_rows: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Knowledge:
    """A teacher's answers to a batch, row for row.

    Attributes:
        keys: (n,) the examples' keys, in the batch's order.
        values: (n, K) probabilities, float64, rows sum to 1; or (n,) predicted values for regression.
        classes: the names of the K columns; () for regression.
        contexts: (n,) fingerprint of the rows the answering teacher had been fitted on; "" for a teacher fitted elsewhere.
        seen: (n,) bool, whether the answered row was among them: leakage.
        answers: (n,) the keys under which the store holds the answers; None where no single stored answer is one row's.
    """

    keys: NDArray[np.str_]
    values: NDArray[np.float64]
    classes: tuple[str, ...]
    contexts: NDArray[np.str_]
    seen: NDArray[np.bool_]
    answers: NDArray[np.str_] | None = None


@dataclass(frozen=True)
class LeakFinding:
    """In-sample against out-of-fold answers of the same teacher.

    `fit` is accuracy (classification) or R squared (regression) against the labels; entropy is in nats, None for regression.
    """

    leaks: bool
    in_sample_fit: float
    out_of_fold_fit: float
    in_sample_entropy: float | None
    out_of_fold_entropy: float | None
    n: int
    message: str


@dataclass(frozen=True)
class Calibration:
    """How teacher probabilities are corrected: softmax(log((1 - smoothing) p + smoothing * prior) / temperature).

    `kept` says whether cross-validation over the out-of-fold answers showed a gain; where not, temperature is 1 and
    smoothing 0. `gain` is the mean fall of the log loss in nats, with its interval.
    """

    kept: bool
    temperature: float = 1.0
    smoothing: float = 0.0
    prior: tuple[float, ...] = ()
    gain: float = 0.0
    low: float = 0.0
    high: float = 0.0
    message: str = ""


@dataclass(frozen=True)
class CurvePoint:
    """One point of a learning curve: `value` of `measure` after `step` optimiser steps or boosting rounds."""

    step: int
    measure: str
    value: float


@dataclass(frozen=True)
class Measure:
    """One line of evidence. `low` and `high` bound its confidence interval; None where the value has none
    (a file's size). `n` counts the test rows or timed calls behind it, `seeds` the trained students."""

    arm: str
    measure: str
    value: float
    low: float | None
    high: float | None
    n: int
    seeds: int


@dataclass(frozen=True)
class Verdict:
    """Did distillation help, against the control, on one measure? `difference` is student minus control, signed so
    that positive is better; `low` and `high` bound its paired bootstrap interval."""

    outcome: Literal["helped", "no evidence", "hurt"]
    measure: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """`arm` minus `against` on one measure ("log_loss@wikitext"), signed so that positive is better for `arm`.

    `low` and `high` bound its paired interval at the level `confidence`: above the job's where several teachers are compared,
    so that all intervals that answer one question hold together at the job's level.
    """

    arm: str
    against: str
    measure: str
    difference: float
    low: float
    high: float
    confidence: float

    @property
    def beyond_chance(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Evidence:
    """Everything measured in a run. Written as evidence.json. `comparisons`: of other teachers and their students."""

    arms: tuple[str, ...]
    measures: tuple[Measure, ...]
    verdict: Verdict | None
    comparisons: tuple[Comparison, ...] = ()

    def value(self, arm: str, measure: str) -> Measure | None:
        return next((m for m in self.measures if m.arm == arm and m.measure == measure), None)

    def compared(self, arm: str, against: str, measure: str) -> Comparison | None:
        return next((c for c in self.comparisons if (c.arm, c.against, c.measure) == (arm, against, measure)), None)

    def to_json(self) -> dict[str, Any]:
        return {"schema": EVIDENCE_SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Evidence:
        if content.get("schema") != EVIDENCE_SCHEMA:
            raise ValueError(f"evidence schema is {content.get('schema')!r}; this version reads {EVIDENCE_SCHEMA!r}.")
        verdict = content["verdict"]
        return cls(
            tuple(content["arms"]),
            tuple(Measure(**m) for m in content["measures"]),
            None if verdict is None else Verdict(**verdict),
            tuple(Comparison(**c) for c in content.get("comparisons", ())),
        )


@dataclass(frozen=True)
class ReliabilityBin:
    """The predictions whose top probability falls in [low, high): their mean confidence and accuracy."""

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Disagreement:
    """A test row on which student and teacher differ; of a language model a document, where the arms' answers are their log loss."""

    example: dict[str, str]
    label: str
    teacher: str
    student: str
    control: str | None
    size: float
    """Total variation distance (classification), absolute difference (regression), or mean KL(teacher || student) over the
    tokens in nats (language models)."""


@dataclass(frozen=True)
class SliceMeasure:
    """The primary measure of an arm on the test rows where `column` takes `group`."""

    column: str
    group: str
    arm: str
    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Details:
    """What the report shows beyond the evidence. Written as details.json."""

    reliability: dict[str, tuple[ReliabilityBin, ...]] = field(default_factory=dict)
    disagreements: tuple[Disagreement, ...] = ()
    slices: tuple[SliceMeasure, ...] = ()
    curves: dict[str, tuple[CurvePoint, ...]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Details:
        return cls(
            {arm: tuple(ReliabilityBin(**b) for b in bins) for arm, bins in content["reliability"].items()},
            tuple(Disagreement(**d) for d in content["disagreements"]),
            tuple(SliceMeasure(**s) for s in content["slices"]),
            {arm: tuple(CurvePoint(**p) for p in points) for arm, points in content["curves"].items()},
        )


@dataclass(frozen=True)
class ParityCheck:
    """An export against the student it came from, over the test split's features."""

    largest_difference: float
    tolerance: float
    label_agreement: float | None
    n: int
