"""lineage.json: who taught what, from which data, under which terms, with which versions and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stillroom.core.fingerprint import fingerprint
from stillroom.core.provenance import Provenance
from stillroom.lineage.policy import Waiver

LINEAGE_SCHEMA = "stillroom/lineage@1"

RECORDED_PACKAGES = (
    "stillroom",
    "numpy",
    "pandas",
    "scikit-learn",
    "lightgbm",
    "xgboost",
    "catboost",
    "tabpfn",
    "tabicl",
    "torch",
    "transformers",
    "tokenizers",
    "skops",
    "onnx",
    "onnxruntime",
    "skl2onnx",
)
"""What may shape a student; those that are not installed are left out."""


def lineage_record(
    *,
    job: Mapping[str, Any],
    teachers: Sequence[Provenance],
    data: Provenance,
    student: Provenance,
    waiver: Waiver | None,
    seeds: Sequence[int],
    packages: Mapping[str, str],
    corrected_rows: int = 0,
) -> dict[str, Any]:
    """The content of lineage.json: plain data, the same for the same run.

    Args:
        job: the resolved job as plain data; its fingerprint is recorded, not its content (job.yaml lies beside it).
        teachers: the members of an ensemble before the ensemble itself.
        seeds: of the trained students, in order.
        corrected_rows: in how many rows the student learnt what people said instead of the teacher's answer.
    """
    return {
        "schema": LINEAGE_SCHEMA,
        "job": fingerprint("job", job),
        "teachers": [_plain(teacher) for teacher in teachers],
        "data": _plain(data),
        "student": _plain(student),
        "waiver": None if waiver is None else asdict(waiver),
        "seeds": list(seeds),
        "packages": dict(sorted(packages.items())),
        "corrected_rows": corrected_rows,
    }


def package_versions(names: Iterable[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """The installed versions of `names`, without importing them."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(line: Provenance) -> dict[str, Any]:
    content = {**asdict(line), "conditions": list(line.conditions)}
    if not line.provider:  # no endpoint
        return {name: value for name, value in content.items() if name not in ("provider", "served")}
    return {**content, "served": list(line.served)}
