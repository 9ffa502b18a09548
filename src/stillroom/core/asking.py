"""What happened when rows were put to an endpoint: what a stage records, and the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Asked:
    """Attributes:
    rows: how many there were; equal ones count each, and are asked once.
    answered: those with an answer that can be used.
    failed: reason -> rows that have none.
    repaired: answers that were mended mechanically before they could be read.
    asked_again: requests that were made because an answer could not be used.
    off_labels: the mean share of the probability that was not seen on any label; None where answers have no log-probabilities.
    requests, prompt_tokens, completion_tokens, usd: by all attempts on the run's store so far; usd is None where the job names no prices.
    served: what the server called the model, each name once.
    retries: further attempts at the rows' requests, after a fault of server or network or a refusal for the rate.
    batches: of all batches so far, how many `ended`; in their results, lines that were `duplicates` or about rows `unknown` to us, and rows
        that they were `silent` about; {} where the rows go one by one.
    """

    rows: int = 0
    answered: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    repaired: int = 0
    asked_again: int = 0
    off_labels: float | None = None
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = None
    served: tuple[str, ...] = ()
    retries: int = 0
    batches: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "failed": dict(self.failed), "batches": dict(self.batches), "served": list(self.served)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Asked:
        return cls(**{**content, "served": tuple(content["served"])})

    @property
    def reasons(self) -> str:
        """Why rows have no answer: see `reasons_words`."""
        return reasons_words(self.failed)


def reasons_words(counts: Mapping[Any, int]) -> str:
    """Reasons with their counts, the most frequent first: "8 off-label, 4 truncated"."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {reason}" for reason, count in ordered)
