"""What the evidence is worth: no help found where there is none, leakage shown where it is, and the known gain reproduced."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stillroom
from stillroom.core.records import Verdict
from stillroom.spec.load import job_from

QUICK: dict[str, Any] = {"cost": False, "resamples": 200, "seeds": 2}


def verdict(content: dict[str, Any], run: Path, *, allow_code: bool = False) -> Verdict:
    found = stillroom.run(job_from(content), run_dir=run, allow_code=allow_code, until="evaluate").evidence.verdict
    assert found is not None
    return found


@pytest.mark.slow
def test_a_null_teacher_is_seldom_said_to_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    found = []
    for seed in range(100):
        name, student = [("breast_cancer", "decision-tree"), ("wine", "logistic-regression")][seed % 2]
        job = {
            "task": "tabular-classification",
            "seed": seed,
            "data": {"source": {"kind": "sklearn", "name": name}},
            "teacher": {
                "kind": "python", "object": "null_teacher:make_shuffled", "params": {"name": name, "seed": seed},
                "trained_on": "other-rows", "licence": "mit",
            },
            "student": {"kind": "estimator", "estimator": student},
            # From nearly all soft to nearly all hard labels: in the last the student is close to the control.
            "objective": {"hard_label_weight": [0.1, 0.5, 0.9][seed % 3]},
            "evaluation": QUICK,
        }  # fmt: skip
        found.append(verdict(job, tmp_path / str(seed), allow_code=True))
    outcomes = [one.outcome for one in found]
    assert outcomes.count("helped") <= 5, outcomes
    mostly_noise = [one.difference for one in found[::3]]
    assert np.mean(mostly_noise) < -0.02, "a teacher of noise does no harm? then the student does not listen to it"
    sys.modules.pop("null_teacher", None)


def diabetes(seed: int, mode: str) -> dict[str, Any]:
    return {
        "task": "tabular-regression",
        "seed": seed,
        "data": {"source": {"kind": "sklearn", "name": "diabetes"}},
        "teacher": {"kind": "estimator", "estimator": "extra-trees", "params": {"n_estimators": 100}},
        "labelling": {"mode": mode},
        "student": {"kind": "estimator", "estimator": "decision-tree", "params": {"max_leaf_nodes": 12}},
        "objective": {"hard_label_weight": 0.0},
        "evaluation": {**QUICK, "seeds": 1},
    }


@pytest.mark.slow
def test_out_of_fold_labels_gain_where_in_sample_labels_gain_nothing(tmp_path: Path) -> None:
    out_of_fold = [verdict(diabetes(seed, "out-of-fold"), tmp_path / f"out-{seed}").difference for seed in range(20)]
    in_sample = [verdict(diabetes(seed, "in-sample"), tmp_path / f"in-{seed}").difference for seed in range(5)]
    assert np.mean(out_of_fold) >= 0.08, out_of_fold
    # Its in-sample answers are the labels themselves: the student is the control.
    assert np.abs(in_sample).max() < 1e-9, in_sample


@pytest.mark.parametrize("name", ["breast_cancer", "digits", "iris", "wine"])
def test_an_interpolating_teacher_is_flagged_every_time(tmp_path: Path, name: str) -> None:
    for seed in range(3):
        job = {
            "task": "tabular-classification",
            "seed": seed,
            "data": {"source": {"kind": "sklearn", "name": name}},
            "teacher": {"kind": "estimator", "estimator": "knn", "params": {"n_neighbors": 1}},
            "student": {"kind": "estimator", "estimator": "decision-tree"},
        }
        run = stillroom.run(job_from(job), run_dir=tmp_path / str(seed), until="label")
        record = json.loads((run.folder.path / "stages" / "label.json").read_text())
        assert record["leak"]["leaks"], record["leak"]["message"]
