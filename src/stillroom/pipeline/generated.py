"""What the generate stage leaves in a run: examples.jsonl, plan.json and quality.json, written and read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.core.errors import StageFailed
from stillroom.core.files import write_json, write_text
from stillroom.core.fingerprint import row_fingerprints
from stillroom.core.generated import Generated
from stillroom.core.records import Batch, Dataset
from stillroom.pipeline.folder import RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stillroom.teachers.synthesis.fill import Filled
    from stillroom.teachers.synthesis.plan import Cell, Plan

EXAMPLES, PLAN, QUALITY = "examples.jsonl", "plan.json", "quality.json"


def save_generated(folder: RunFolder, plan: Plan, filled: Filled, quality: Generated) -> None:
    """Write the three files. A text may hold anything: it is written in ASCII, escaped."""
    from stillroom.teachers.synthesis.prompts import describe

    lines = (json.dumps({"text": each.text, **describe(each.cell, plan.axes)}) for each in filled.examples)
    write_text(folder.generated / EXAMPLES, "".join(f"{line}\n" for line in lines))
    accepted = filled.accepted
    cells = [
        {
            **describe(cell, plan.axes),
            "wanted": wanted,
            "accepted": accepted[cell],
            "removed": dict(filled.removed.get(cell, {})),
        }
        for cell, wanted in plan.wanted.items()
    ]
    write_json(folder.generated / PLAN, {"coverage": _coverage(plan, accepted), "cells": cells})
    write_json(folder.generated / QUALITY, quality.to_json())


def _coverage(plan: Plan, accepted: Mapping[Cell, int]) -> dict[str, dict[str, dict[str, int]]]:
    """Label, case and each axis -> value -> how many examples were wanted and are there."""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for cell, wanted in plan.wanted.items():
        # An axis may be called "label": it then stands beside the labels under its own words.
        traits = [
            ("label", cell.label),
            ("case", cell.kind),
            *((f"with {axis}" if axis in ("label", "case") else axis, value) for axis, value in zip(plan.axes, cell.values, strict=True)),
        ]
        for name, value in traits:
            if value is not None:
                counts = found.setdefault(name, {}).setdefault(value, {"wanted": 0, "accepted": 0})
                counts["wanted"] += wanted
                counts["accepted"] += accepted[cell]
    return found


def read_generated(folder: RunFolder) -> Generated:
    """What the stage found.

    Raises:
        StageFailed: it has not run.
    """
    path = folder.generated / QUALITY
    try:
        return Generated.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StageFailed(f"{path} is missing or damaged; run `stillroom generate` on the job again.") from error


def read_examples(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of examples.jsonl: text, label, case, with, as `prompts.describe` names them."""
    with (folder.generated / EXAMPLES).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def with_generated(dataset: Dataset, folder: RunFolder) -> Dataset:
    """A dataset with the generated texts in its pool. What they were written for stays behind."""
    import pandas as pd

    texts = [line["text"] for line in read_examples(folder)]
    if not texts:
        return dataset
    features, pool = _features(dataset, texts), dataset.unlabeled
    keys = np.array(row_fingerprints(features))
    if pool is not None:
        features, keys = pd.concat([pool.features, features], ignore_index=True), np.concatenate([pool.keys, keys])
    note = f"{len(texts)} rows of the pool were written by the teacher, which answered them anew."
    return replace(dataset, unlabeled=Batch(features, keys), notes=(*dataset.notes, note))


def record_agreement(folder: RunFolder, dataset: Dataset, answers: Mapping[str, NDArray[np.float64]], confidence: float) -> Generated:
    """Add to quality.json how often the teacher gives an example the label that it was written for: a check of the generator.

    label_agreement over all, and label_agreement@CASE for each case where there are several.

    Args:
        answers: a row's key -> its (K,) probabilities; NaN where there is none.
    """
    from stillroom.evaluation.synthetic import agreement

    lines = read_examples(folder)
    keys = row_fingerprints(_features(dataset, [line["text"] for line in lines]))
    agrees: dict[str, list[bool]] = {}
    for line, key in zip(lines, keys, strict=True):
        probs = answers.get(key)
        if probs is not None and np.isfinite(probs).all():
            agrees.setdefault(line["case"], []).append(dataset.classes[int(probs.argmax())] == line["label"])
    found = {"label_agreement": [agreed for part in agrees.values() for agreed in part]}
    if len(agrees) > 1:
        found |= {f"label_agreement@{case}": part for case, part in agrees.items()}
    measures = tuple(agreement(name, part, confidence) for name, part in found.items() if part)
    quality = read_generated(folder)
    if (changed := quality.with_measures(measures)) != quality:
        write_json(folder.generated / QUALITY, changed.to_json())
    return changed


def _features(dataset: Dataset, texts: list[str]) -> Any:
    import pandas as pd

    return pd.DataFrame({dataset.columns[0].name: pd.Series(texts, dtype=object)})
