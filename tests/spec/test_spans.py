"""Jobs of sequence labelling: what goes together, and one clear problem for each thing that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.core.errors import BadInput
from stillroom.spec.job import Job
from stillroom.spec.load import job_from

CONTENT: dict[str, Any] = {
    "task": "sequence-labelling",
    "data": {"source": {"kind": "file", "train": "a.jsonl"}, "target": "spans", "text": "text"},
    "teacher": {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m", "licence": "mit"},
    "specification": {"task": "Find the names.", "labels": {"person": "a human being"}},
    "student": {"kind": "huggingface", "init": "pretrained", "model": "owner/name"},
}


def job(**changes: Any) -> Job:
    """Sections by name; {"data.text": None} changes one key, None removes it."""
    content = {name: dict(section) if isinstance(section, dict) else section for name, section in CONTENT.items()}
    for place, value in changes.items():
        section, _, key = place.replace("__", ".").partition(".")
        if not key:
            content[section] = value
        elif value is None:
            content[section].pop(key)
        else:
            content.setdefault(section, {})[key] = value
    return job_from({name: section for name, section in content.items() if section is not None}, Path())


def test_defaults() -> None:
    found = job()
    assert (found.kind_of_task, found.primary, found.temperature, found.formats) == ("spans", "span_f1", 1.0, ())
    assert job(data__text=None, data__tokens="words").data.tokens == "words"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__tokens": "words"}, r"data\.text: or data\.tokens names the column"),
        ({"data__text": None}, r"data\.text: or data\.tokens names the column"),
        ({"data__target": None}, r"data\.target: is missing"),
        ({"data__numeric": ["a"]}, r"data\.numeric: has no use with task: sequence-labelling"),
        ({"teacher": {"kind": "estimator", "estimator": "ridge"}, "specification": None}, r"teacher\.kind: = 'estimator' finds no spans"),
        ({"teacher__answers": "logprobs"}, r"teacher\.answers: = 'logprobs': a list of mentions has no probabilities"),
        ({"teacher__samples": 3}, r"teacher\.samples: = 3: a list of mentions has no probabilities"),
        ({"student": {"kind": "estimator", "estimator": "ridge"}}, r"student\.kind: = 'estimator' tags no words"),
        ({"student": {"kind": "huggingface"}}, r"student\.init: = 'teacher-layers' is made of the teacher's weights"),
        ({"specification": None}, r"specification: is missing"),
        ({"specification": {"task": "x", "output_schema": {}}}, r"specification\.output_schema: is made of specification\.labels"),
        ({"generation": {"examples": 3}}, r"generation: has no use"),
        ({"export__formats": ["onnx"]}, r"export\.formats: a token classifier is saved as transformers loads it"),
        ({"evaluation__primary": "accuracy"}, r"evaluation\.primary: = 'accuracy' does not fit .*; allowed: span_f1, span_precision"),
        ({"evaluation__slices": ["a"]}, r"evaluation\.slices: has no use"),
        ({"labelling__corrections": "use"}, r"labelling\.corrections: = 'use' goes with labels"),
    ],
)
def test_one_problem_each(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words) as caught:
        job(**changes)
    assert len(caught.value.problems) == 1, caught.value


def test_words_and_span_measures_go_with_no_other_task() -> None:
    with pytest.raises(BadInput, match=r"data\.tokens: goes with task: sequence-labelling"):
        job(task="text-classification", data__tokens="words")
    with pytest.raises(BadInput, match=r"evaluation\.primary: = 'span_f1' does not fit task 'text-classification'"):
        job(task="text-classification", evaluation__primary="span_f1")


def test_a_worked_example_with_data_for_an_answer_is_a_problem_of_a_classification_and_no_crash() -> None:
    example = {"input": "Ann", "output": {"entities": []}}
    specification = {"task": "x", "labels": {"person": ""}, "examples": [example]}
    assert job(specification=specification)
    with pytest.raises(BadInput, match=r"specification\.examples\[0\]\.output: = .* is no label"):
        job(task="text-classification", specification=specification)
