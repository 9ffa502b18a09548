"""lineage.json: what is written is what is read, and each fact is in it."""

import json
import subprocess
import sys

import pytest

from stillroom.core.records import Provenance
from stillroom.lineage.policy import Waiver
from stillroom.lineage.record import lineage_record, package_versions

TEACHER = Provenance("teacher", "forest", "estimator", "sr1-a", "fitted here", "conditional", ("Name the author.",))
DATA = Provenance("data", "rows", "file", "sr1-b", "CC-BY-4.0", "conditional", ("Name the author.",), "https://x.org", "2026-11-22")
STUDENT = Provenance("student", "tree", "estimator", "sr1-c", "not chosen", "conditional")


def record(**changes):
    facts = {
        "job": {"task": "tabular-classification", "seed": 0},
        "teachers": [TEACHER],
        "data": DATA,
        "student": STUDENT,
        "waiver": None,
        "seeds": (0, 1),
        "packages": {"numpy": "2.4", "abc": "1"},
    }
    return lineage_record(**(facts | changes))


def test_every_line_is_there_whole_and_in_plain_json() -> None:
    read = json.loads(json.dumps(record(), allow_nan=False))
    lines = [Provenance(**{**line, "conditions": tuple(line["conditions"])}) for line in (*read["teachers"], read["data"], read["student"])]
    assert lines == [TEACHER, DATA, STUDENT]


@pytest.mark.parametrize(
    "change",
    [
        {"job": {"task": "tabular-classification", "seed": 1}},
        {"teachers": [TEACHER, TEACHER]},
        {"data": STUDENT},
        {"student": DATA},
        {"waiver": Waiver("r", "s", "2026-11-01")},
        {"seeds": (0,)},
        {"packages": {"numpy": "2.5"}},
        {"corrected_rows": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_fact_is_recorded(change) -> None:
    assert record(**change) != record()


def test_versions_of_what_is_installed() -> None:
    found = package_versions(["numpy", "no-such-package-here"])
    assert list(found) == ["numpy"]


def test_runs_without_heavy_packages() -> None:
    code = (
        "import sys, stillroom.lineage.policy, stillroom.lineage.record;"
        "print([m for m in ('numpy', 'pandas', 'sklearn', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
