"""How many of a teacher's responses passed their check, in words and as rows of a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stillroom.core.responses import Accepted, AcceptRate
from stillroom.report.measures import grouped, shown_share

_CHECKS = {
    "number": "their final number was held against",
    "exact": "their final answer was held against",
    "record": "their record was held against",
    "code": "the job\u2019s own code judged them",
    "none": "nothing but that they are whole was asked of them",
}
_AGAINST = {"gold": " the data\u2019s", "vote": " what most responses to the prompt say", "": ""}


def accept_words(found: Accepted) -> list[str]:
    """What was checked, how much passed, and what is learnt, a sentence each."""
    whole, judged = found.whole, f"{_CHECKS[found.check]}{_AGAINST[found.against]}"
    passed = (
        f"{grouped(whole.accepted)} of {grouped(whole.samples)} responses were accepted ({shown_share(whole.share)}), for "
        f"{grouped(whole.examples_accepted)} of {grouped(whole.examples)} prompts at least one: {judged}."
    )
    learnt = f"The student learns {grouped(found.learnt)} responses to {grouped(found.learnt_prompts)} prompts."
    return [passed, learnt]


def section(found: Accepted | None) -> dict[str, Any] | None:
    """What the page shows; None where no responses were asked for."""
    if found is None:
        return None
    tables = {"Difficulty": found.by_difficulty, "Model": found.by_model}
    return {"sentences": accept_words(found), "tables": [(head, _rows(groups)) for head, groups in tables.items() if len(groups) > 1]}


def _rows(groups: Mapping[str, AcceptRate]) -> list[dict[str, str]]:
    return [
        {
            "group": group or "(not named)",
            "accepted": grouped(rate.accepted),
            "samples": grouped(rate.samples),
            "share": shown_share(rate.share),
            "prompts": f"{grouped(rate.examples_accepted)} of {grouped(rate.examples)}",
        }
        for group, rate in groups.items()
    ]
