"""What people found about the teacher's answers, in words and as rows of a table."""

from __future__ import annotations

from typing import Any

from stillroom.core.review import Overlap, ReviewFinding
from stillroom.report.measures import NARROW_SPACE

_SHOWN_CONFUSIONS = 10
_TOLD_CONFUSIONS = 3


def section(found: ReviewFinding) -> dict[str, Any]:
    """What the page shows."""
    return {
        "sentences": [_error(found), *map(_overlap, found.overlaps)],
        "confusions": [(c.teacher, c.label, c.rows) for c in found.confusions[:_SHOWN_CONFUSIONS]],
    }


def review_words(found: ReviewFinding) -> list[str]:
    """The finding, a sentence or two each: the teacher's error, what it confuses, and how far reviewers agree."""
    told = found.confusions[:_TOLD_CONFUSIONS]
    pairs = ", ".join(f"{c.teacher} for {c.label} ({_rows(c.rows)})" for c in told)
    rest = len(found.confusions) - len(told)
    more = f", and {rest} further {'pair' if rest == 1 else 'pairs'} of labels" if rest else ""
    confused = [f"It said {pairs}{more}."] if told else []
    return [_error(found), *confused, *map(_overlap, found.overlaps)]


def _error(found: ReviewFinding) -> str:
    error, low, high = (f"{100 * share:.1f}" for share in (found.error, found.low, found.high))
    were = "was" if found.num_skipped == 1 else "were"
    skipped = f" {_rows(found.num_skipped).capitalize()} {were} skipped." if found.num_skipped else ""
    return (
        f"The teacher was wrong on {error}{NARROW_SPACE}% ({low} to {high}{NARROW_SPACE}%) of the {found.num_rows} rows it labelled, by "
        f"{found.num_reviewed} reviewed {'row' if found.num_reviewed == 1 else 'rows'}. What it gets wrong is what a student learns from "
        f"it.{skipped}"
    )


def _overlap(overlap: Overlap) -> str:
    kappa = "" if overlap.kappa is None else f" (Cohen\u2019s kappa {overlap.kappa:.2f})"
    return f"Two reviewers of {_rows(overlap.rows)} agreed on {100 * overlap.agreement:.1f}{NARROW_SPACE}% of them{kappa}."


def _rows(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
