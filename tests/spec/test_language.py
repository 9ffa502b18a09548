"""A language model's job: what its sections ask of each other, and that its keys go with no other task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from stillroom.core.errors import BadInput
from stillroom.spec.job import Job
from stillroom.spec.load import dump_job, job_from, load_job

JOB: dict[str, Any] = {
    "task": "language-model",
    "data": {"source": {"kind": "file", "train": "texts.jsonl"}, "text": "text"},
    "teacher": {"kind": "huggingface", "model": "teacher", "licence": "mit"},
    "student": {"kind": "huggingface", "layers": 3, "hidden_size": 64},
}
ROWS: dict[str, Any] = {
    "task": "tabular-classification",
    "data": {"source": {"kind": "sklearn", "name": "digits"}},
    "teacher": {"kind": "estimator", "estimator": "knn"},
    "student": {"kind": "estimator", "estimator": "decision-tree"},
}


def changed(job: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {**job, **{name: {**job.get(name, {}), **section} for name, section in sections.items()}}


def test_the_simple_job_is_right_and_its_defaults_are_a_language_models() -> None:
    job = job_from(JOB)
    assert (job.primary, job.temperature, job.labelling.tokens) == ("log_loss", 1.0, "threshold")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"data": {"target": "y"}}, "data.target: has no use with task: language-model"),
        ({"data": {"messages": "m"}}, "give one of them"),
        ({"data": {"text": None, "prompt": "p"}}, "data.completion: and data.prompt go together"),
        ({"data": {"text": None}}, "names the columns to learn from"),
        ({"data": {"source": {"kind": "sklearn", "name": "digits"}}}, "data.source.kind"),
        ({"data": {"source": {"kind": "hub", "id": "a/b", "spilt": "train"}}}, "data.source.spilt: no such key; did you mean 'split'?"),
        ({"objective": {"divergence": "reverse-kl"}}, "cannot be estimated without bias"),
        ({"objective": {"temperature": {"start": 4.0, "end": 1.0}}}, "changes over the training"),
        ({"objective": {"beta": 0.3}}, "goes with divergence: jensen-shannon"),
        ({"labelling": {"tokens": "online", "tokens_number": 5}}, "labelling.tokens_number: has no use"),
        ({"evaluation": {"primary": "roc_auc"}}, "allowed: log_loss, accuracy"),
        ({"export": {"formats": ["onnx"]}}, "has no other export yet"),
        ({"student": {"init": "pretrained", "model": "m", "layers": None}}, "'hidden_size' go with init: teacher-layers"),
        ({"other_teachers": {"big": {"model": "m"}}, "objective": {"hard_label_weight": 1.0}}, "other_teachers: has no use with"),
        ({"other_teachers": {"big": {}}}, "other_teachers.big.model: is missing"),
        ({"other_teachers": {"big": {"model": "m", "modl": "m"}}}, "other_teachers.big.modl: no such key; did you mean 'model'?"),
        ({"other_teachers": {"big": {"kind": "ensemble", "model": "m"}}}, "other_teachers.big.kind: = 'ensemble' is not allowed"),
        ({"other_teachers": {"a big one": {"model": "m"}}}, "other_teachers.a big one: = 'a big one': string should match pattern"),
    ],
)
def test_sections_that_do_not_agree_are_named(sections: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        job_from(changed(JOB, **sections))
    assert expected in str(caught.value)


def test_what_needs_the_whole_distribution_goes_with_hidden_states() -> None:
    schedule = {"temperature": {"start": 4.0, "end": 1.0}, "divergence": "jensen-shannon", "beta": 0.3}
    assert job_from(changed(JOB, objective=schedule, labelling={"tokens": "hidden"})).temperature == 4.0


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"data": {"prompt": "p", "completion": "c"}}, "data.prompt: goes with task: language-model"),
        ({"data": {"source": {"kind": "hub", "id": "a/b"}, "target": "y"}}, "data.source.kind: = 'hub' goes with task: language-model"),
        ({"training": {"packing": True}}, "training.packing: goes with task: language-model"),
        ({"other_teachers": {"big": {"model": "m"}}}, "other_teachers: goes with task: language-model"),
        ({"objective": {"hard_label_weight": {"start": 0.5, "end": 0.1}}}, "objective.hard_label_weight: as a schedule"),
    ],
)
def test_its_keys_go_with_no_other_task(sections: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        job_from(changed(ROWS, **sections))
    assert expected in str(caught.value)


def test_other_teachers_are_resolved_overridden_and_in_the_schema(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump({**JOB, "other_teachers": {"big": {"model": "./big", "licence": "mit"}}}), encoding="utf-8")
    found = load_job(job, ["other_teachers.big.model=acme/big", "other_teachers.small={model: ./small, licence: unknown}"])
    assert {name: spec.model for name, spec in found.other_teachers.items()} == {"big": "acme/big", "small": f"{tmp_path}/small"}
    written = tmp_path / "resolved.yaml"
    written.write_text(dump_job(found), encoding="utf-8")
    assert load_job(written) == found
    assert "HuggingFaceTeacherSpec" in str(Job.model_json_schema()["properties"]["other_teachers"])
