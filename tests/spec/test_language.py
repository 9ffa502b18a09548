"""A language model's job: what its sections ask of each other, and that its keys go with no other task."""

from __future__ import annotations

from typing import Any

import pytest

from stillroom.core.errors import BadInput
from stillroom.spec.load import job_from

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
        ({"objective": {"hard_label_weight": {"start": 0.5, "end": 0.1}}}, "objective.hard_label_weight: as a schedule"),
    ],
)
def test_its_keys_go_with_no_other_task(sections: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        job_from(changed(ROWS, **sections))
    assert expected in str(caught.value)
