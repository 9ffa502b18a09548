"""The examples on which the student is furthest from its teacher."""

from __future__ import annotations

from typing import Any

from stillroom.core.records import Disagreement

_SHOWN_CELLS = 4


def case(d: Disagreement, task: str) -> dict[str, Any]:
    """One of them, as the page shows it."""
    classifies = task not in ("tabular-regression", "language-model")
    sizes = {
        "language-model": f"{d.size:.4g} nats a token apart",
        "sequence-labelling": f"{d.size:.0f} of their spans differ",
        "tabular-regression": f"{d.size:.4g} apart",
    }
    answers = []
    for arm, answer in (("teacher", d.teacher), ("student", d.student), ("control", d.control)):
        if answer is not None:
            right = answer == d.label
            mood, sign = (("right", " \u2713") if right else ("wrong", "")) if classifies else ("", "")
            answers.append({"arm": arm, "text": answer, "mood": mood, "sign": sign})
    cells = [(name, cell if cell else "(missing)") for name, cell in d.example.items()]
    summary = ", ".join(f"{name} {cell}" for name, cell in cells[:_SHOWN_CELLS])
    more = len(cells) - _SHOWN_CELLS
    return {
        "label_is": "length" if task == "language-model" else "label",
        "label": d.label,
        "answers": answers,
        "size": sizes.get(task, f"distance {d.size:.2f}"),
        "text": cells[0][1] if len(cells) == 1 else None,
        "summary": f"{summary}, and {more} more" if more > 0 else summary,
        "cells": cells,
    }


def summary(cases: tuple[Disagreement, ...], task: str) -> str:
    """What they are, and who is right on how many."""
    if task == "language-model":
        return (
            f"The {len(cases)} test documents on which their next-token distributions are furthest apart (mean KL(teacher\u2016student)). "
            "Beside each arm stands its log loss."
        )
    if task == "tabular-regression":
        return f"The {len(cases)} test rows on which their values are furthest apart."
    teacher = sum(d.teacher == d.label for d in cases)
    student = sum(d.student == d.label for d in cases)
    if task == "sequence-labelling":
        return (
            f"The {len(cases)} test texts on which most spans differ. The teacher\u2019s are all right on {teacher} of them, the "
            f"student\u2019s on {student}."
        )
    return (
        f"The {len(cases)} test rows on which their probabilities are furthest apart (total variation distance, 1 is complete). "
        f"The teacher\u2019s top class is right on {teacher} of them, the student\u2019s on {student}."
    )
