"""What was generated for a job, in words and as rows of a table: for the terminal, the report and the card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillroom.core.generated import Generated
from stillroom.core.records import Measure
from stillroom.report.measures import STYLES, grouped, percent, shown, shown_range, shown_usd, style

ARMS = ("generated", "real")
_REASONS = {
    "near-duplicate": "nearly as another",
    "duplicate": "the same as another",
    "leak": "giving an evaluation text away",
    "length": "too short or too long",
    "language": "in another language",
    "unreadable": "no valid text",
    "left-out": "left out of an answer",
}
_TOLD = 3
"""Cells without their examples that the summary names."""


def summary(made: Generated, confidence: float | None = None) -> list[str]:
    """What came of the plan, what was removed, what it took, and how good it is, a sentence or two each."""
    sentences = [
        _accepted(made),
        _removed(made),
        _unfilled(made),
        _asking(made),
        told_apart(made, confidence),
        agreed(made),
        _balance(made),
    ]
    return [sentence for sentence in (*sentences, *made.remarks) if sentence]


def section(made: Generated | None, confidence: float | None) -> dict[str, Any] | None:
    """What the page shows; None where nothing was generated."""
    return None if made is None else {"sentences": summary(made, confidence), "rows": _rows(made)}


def told_apart(made: Generated, confidence: float | None = None) -> str:
    """Can a model tell the generated from the real?"""
    auc = made.value("generated", "two_sample_auc")
    if auc is None:
        return ""
    if auc.low is not None and auc.low > 0.5:
        answer = "A model can tell generated texts from real ones"
    elif auc.high is not None and auc.high < 0.5:
        # What is held out has its twin on the other side of what was fitted.
        answer = "Generated texts are close copies of real ones, of which this test cannot judge"
    else:
        answer = "Nothing shows that a model could tell generated texts from real ones"
    return f"{answer}: AUC {_with_interval(auc, confidence)}; 0.5 is chance, 1 tells every pair apart."


def agreed(made: Generated) -> str:
    """Does the teacher give the examples the label that they were written for?"""
    whole = made.value("generated", "label_agreement")
    if whole is None:
        return ""
    of_cases = [m for m in made.measures if m.measure.startswith("label_agreement@")]
    cases = "".join(f", {m.measure.partition('@')[2]} {shown(m.measure, m.value)}" for m in of_cases)
    return (
        f"Asked anew, the teacher gave {shown(whole.measure, whole.value)} of them the label that they were written for "
        f"({grouped(whole.n)} answers{cases})."
    )


def _accepted(made: Generated) -> str:
    rounds = "one round" if made.rounds == 1 else f"{made.rounds} rounds"
    ended = "" if made.complete else " The budget ended it."
    return f"{grouped(made.accepted)} of {grouped(made.planned)} planned examples were accepted, in {rounds} of asking.{ended}"


def _removed(made: Generated) -> str:
    parts = [_counts(made.removed, _REASONS, "Removed")] if made.removed else []
    if made.unusable:
        parts.append(_counts(made.unusable, {}, "Requests without a usable answer"))
    if made.asked_again or made.repaired:
        parts.append(f"Answers asked for anew: {grouped(made.asked_again)}; repaired: {grouped(made.repaired)}.")
    return " ".join(parts)


def _counts(counts: Mapping[str, int], words: Mapping[str, str], what: str) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return f"{what}: {', '.join(f'{grouped(count)} {words.get(reason, reason)}' for reason, count in ordered)}."


def _unfilled(made: Generated) -> str:
    pairs = f" {grouped(made.covered)} of {grouped(made.pairs)} planned pairs of values are met." if made.pairs else ""
    if not made.unfilled_cells:
        return f"Every cell of the plan is filled ({grouped(made.cells)}).{pairs}"
    named = "; ".join(f"{cell.cell}: {cell.accepted} of {cell.wanted}" for cell in made.unfilled[:_TOLD])
    more = "; \u2026" if made.unfilled_cells > _TOLD else ""
    return f"{grouped(made.unfilled_cells)} of {grouped(made.cells)} cells of the plan are not filled ({named}{more}).{pairs}"


def _asking(made: Generated) -> str:
    money = "" if made.usd is None else f", {shown_usd(made.usd)} at the job\u2019s prices"
    return f"All that was asked so far took {grouped(made.requests)} requests and {grouped(made.tokens)} tokens{money}."


def _balance(made: Generated) -> str:
    even = made.value("generated", "label_balance")
    return "" if even is None else f"Balance of the labels: {shown(even.measure, even.value)}; 1 is an equal share each."


def _rows(made: Generated) -> list[dict[str, Any]]:
    """A row a measure that both sides have."""
    names = dict.fromkeys(m.measure for m in made.measures if made.value("real", m.measure) is not None)
    order = sorted(names, key=[*STYLES, *names].index)
    return [
        {
            "label": style(name).label,
            "explanation": style(name).explanation,
            "cells": [_cell(made.value(arm, name)) for arm in ARMS],
        }
        for name in order
    ]


def _cell(measure: Measure | None) -> dict[str, str] | None:
    if measure is None:
        return None
    return {"value": shown(measure.measure, measure.value), "range": _range(measure)}


def _range(measure: Measure) -> str:
    if measure.low is None or measure.high is None:
        return ""
    return shown_range(measure.measure, measure.low, measure.high, like=measure.value)


def _with_interval(measure: Measure, confidence: float | None) -> str:
    level = "" if confidence is None else f"{percent(confidence)} "
    bounds = _range(measure)
    return shown(measure.measure, measure.value) + (f" ({level}interval {bounds})" if bounds else "")
