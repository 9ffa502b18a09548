"""`generation` in a job: what it says, and everything that it can get wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.core.errors import BadInput
from stillroom.spec.generation import complete
from stillroom.spec.job import Job
from stillroom.spec.load import dump_job, job_from, load_text

JOB: dict[str, Any] = {
    "task": "text-classification",
    "data": {"source": {"kind": "file", "train": "a.csv"}, "text": "text", "target": "label"},
    "teacher": {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m", "licence": "MIT"},
    "specification": {"task": "Sort.", "labels": {"a": "first", "b": "second"}},
    "student": {"kind": "estimator", "estimator": "logistic-regression"},
}


def job(generation: dict[str, Any], **sections: Any) -> Job:
    return job_from({**JOB, "generation": generation, **sections})


def problems(generation: dict[str, Any], **sections: Any) -> list[str]:
    with pytest.raises(BadInput) as caught:
        job(generation, **sections)
    return [str(problem) for problem in caught.value.problems]


def test_values_with_shares_and_without() -> None:
    made = job({"examples": 10, "vary": {"tone": ["calm", "angry"], "length": {"short": 0.5, "long": None, "very long": None}}})
    assert made.generation is not None
    assert made.generation.axes() == {"tone": {"calm": 0.5, "angry": 0.5}, "length": {"short": 0.5, "long": 0.25, "very long": 0.25}}
    assert complete({"a": 0.2, "b": None}) == {"a": 0.2, "b": 0.8}
    assert load_text(dump_job(made), Path("/"), "job.yaml").generation == made.generation


def test_every_mistake_of_the_section_comes_at_once() -> None:
    wrong = {
        "examples": 0,
        "vary": {"topic": [], "tone": ["a", "a"], "length": {"short": 0.5, "long": 0.6}, "form": {"x": 1.0, "y": None}, "age": [3]},
        "near_misses": [{"label": "a", "towards": "a", "share": 0.1}, {"label": "a", "towards": "b", "share": 0}],
        "hard": 1.5,
        "exmaples": 3,
    }
    assert sorted(problems(wrong, specification={})) == [
        "generation.examples: = 0: input should be greater than or equal to 1.",
        "generation.exmaples: no such key; did you mean 'examples'?",
        "generation.hard: = 1.5: input should be less than or equal to 1.",
        "generation.near_misses[0]: label and towards both name 'a'; a near miss lies between two labels.",
        "generation.near_misses[1].share: = 0: input should be greater than 0.",
        "generation.vary.age[3]: = 3 is no text; put it in quotes.",
        "generation.vary.form: its shares leave nothing for 'y'; lower them, or give it 0.",
        "generation.vary.length: its shares add up to 1.1; they must make 1, or leave one value without a share: it gets the rest.",
        "generation.vary.tone: names 'a' twice; name each value once.",
        "generation.vary.topic: has no values; name some, or remove the axis.",
        "specification.task: is missing; add it.",
    ]


def test_labels_and_shares_are_held_against_the_specification() -> None:
    near = [{"label": "q", "towards": "a", "share": 0.6}, {"label": "b", "towards": "A", "share": 0.3}]
    removal = {"min_words": 5, "max_words": 4}
    told = {"task": "Sort.", "labels": {"a": "", "b": ""}, "examples": [{"input": "x", "output": "c"}]}
    found = problems(
        {"examples": 3, "hard": 0.2, "near_misses": near, "labels": {"z": 0.7, "a": 0.6}, "remove": removal}, specification=told
    )
    assert found == [
        "specification.examples[0].output: = 'c' is no label; allowed: a, b.",
        "generation: hard and near_misses together ask for 1.1 of the examples; at most 1 can be.",
        "generation.remove.max_words: = 4 is below min_words = 5: nothing could be kept.",
        "generation.labels.z: = 'z' is no label; allowed: a, b.",
        "generation.near_misses[0].label: = 'q' is no label; allowed: a, b.",
        "generation.near_misses[1].towards: = 'A' is no label; allowed: a, b.",
        "generation.labels: its shares leave nothing for 'b'; lower them, or give it 0.",
    ]


def test_near_misses_need_labels() -> None:
    near = {"examples": 3, "near_misses": [{"label": "a", "towards": "b", "share": 0.5}]}
    told = {"task": "Read.", "output_schema": {"type": "object"}}
    assert "generation.near_misses: needs labels, and the job's answers are none; remove it." in problems(near, specification=told)


def test_it_needs_an_endpoint_and_a_specification() -> None:
    fitted = {"kind": "estimator", "estimator": "random-forest"}
    found = problems({"examples": 3}, teacher=fitted)
    assert "generation: goes with teacher.kind: endpoint; teacher.kind is 'estimator'. Remove it." in found
    alone = {name: section for name, section in JOB.items() if name != "specification"}
    with pytest.raises(BadInput, match="specification: is missing"):
        job_from({**alone, "generation": {"examples": 3}})
