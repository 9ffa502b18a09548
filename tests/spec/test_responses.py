"""A job whose student learns responses: what its sections ask of each other, and that its keys go with no other."""

from __future__ import annotations

from typing import Any

import pytest

from stillroom.core.errors import BadInput
from stillroom.spec.load import dump_job, job_from, load_job

JOB: dict[str, Any] = {
    "task": "language-model",
    "data": {"source": {"kind": "file", "train": "asks.jsonl"}, "prompt": "ask", "completion": "answer"},
    "teacher": {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m", "licence": "mit"},
    "student": {"kind": "huggingface", "init": "pretrained", "model": "acme/small"},
    "responses": {"check": "number"},
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}


def changed(**sections: Any) -> dict[str, Any]:
    return {**JOB, **{name: {**JOB.get(name, {}), **section} for name, section in sections.items()}}


@pytest.mark.parametrize(
    ("sections", "primary"),
    [
        ({}, "exact_match"),
        ({"responses": {"check": "none"}}, "log_loss"),
        ({"responses": {"check": "none"}, "specification": {"task": "x", "output_schema": SCHEMA}}, "exact_match"),
        ({"responses": {"check": "code", "object": "mine:check"}}, "passed"),
        ({"responses": {"against": "vote"}, "teacher": {"samples": 5}}, "exact_match"),
        (
            {
                "data": {"completion": None},
                "responses": {"against": "vote"},
                "teacher": {"samples": 5},
                "evaluation": {"control": False},
            },
            "log_loss",
        ),
        ({"data": {"prompt": None, "completion": None, "messages": "chat"}}, "exact_match"),
        ({"evaluation": {"primary": "log_loss"}}, "log_loss"),
    ],
)
def test_the_verdict_is_about_right_answers_where_they_can_be_told(sections: dict[str, Any], primary: str) -> None:
    assert job_from(changed(**sections)).primary == primary


def test_a_resolved_job_reads_back(tmp_path: Any) -> None:
    job = job_from(changed(responses={"keep": "shortest", "rationale": "keep"}), tmp_path)
    (tmp_path / "job.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "job.yaml") == job


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"labelling": {"tokens": "top-k"}}, "labelling.tokens: has no use with teacher.kind: endpoint"),
        ({"labelling": {"calibrate": False}}, "labelling.calibrate: has no use"),
        ({"objective": {"temperature": 2.0}}, "objective.temperature: has no use"),
        ({"objective": {"hard_label_weight": 0.5}}, "objective.hard_label_weight: has no use"),
        ({"other_teachers": {"big": {"model": "m"}}}, "other_teachers: has no use"),
        ({"data": {"other_domains": {"far": "far.jsonl"}}}, "data.other_domains: has no use"),
        ({"data": {"prompt": None, "completion": None, "text": "text"}}, "data.prompt: or data.messages is missing"),
        (
            {"data": {"completion": None}},
            "responses.check: = 'number' needs the data's own answers: give data.completion, or against: vote",
        ),
        ({"data": {"completion": None}, "responses": {"check": "none"}}, "evaluation.control: = true needs answers of the data's own"),
        (
            {"data": {"completion": None, "split": {"validation": 0.1}}, "evaluation": {"control": False}},
            "data.split.validation: needs answers",
        ),
        ({"evaluation": {"prompts": 0}}, "evaluation.prompts: = 0 leaves nothing to measure the arms on"),
        ({"evaluation": {"primary": "passed"}}, "= 'passed' is not measured in this job; allowed: log_loss, accuracy, exact_match"),
        ({"student": {"init": "fresh", "model": None}}, "student.init: = 'fresh' is made of the teacher's weights"),
        ({"teacher": {"answers": "logprobs"}}, "teacher.answers: are labels' log-probabilities"),
        ({"specification": {"task": "x", "labels": ["a", "b"]}}, "specification.labels: are those of a text-classification"),
        ({"specification": {"task": "x", "output_schema": SCHEMA}}, "responses.check: = 'number' reads a text"),
        (
            {
                "data": {"prompt": None, "completion": None, "messages": "chat"},
                "specification": {"task": "x", "output_schema": SCHEMA},
                "responses": {"check": "exact"},
            },
            "specification.output_schema: asks about a text",
        ),
        ({"responses": {"check": "code"}}, "responses.object: names the function of check: code"),
        ({"responses": {"object": "a:b"}}, "responses.object: names the function of check: code, and goes only with it"),
        ({"responses": {"check": "exact", "tolerance": 0.1}}, "responses.tolerance: goes with check: number; check is 'exact'"),
        ({"responses": {"against": "vote"}}, "responses.against: = 'vote' needs several responses to each prompt; set teacher.samples"),
        ({"responses": {"check": "none", "against": "vote"}, "teacher": {"samples": 3}}, "= 'vote' goes with check: number or exact"),
        ({"responses": {"agreement": 0.7}}, "responses.agreement: goes with against: vote"),
        ({"responses": {"chek": "number"}}, "responses.chek: no such key; did you mean 'check'?"),
        ({"responses": {"check": "numbers"}}, "responses.check: = 'numbers'"),
    ],
)
def test_sections_that_do_not_agree_are_named(sections: dict[str, Any], expected: str) -> None:
    with pytest.raises(BadInput) as caught:
        job_from(changed(**sections))
    assert expected in str(caught.value)


def test_the_section_goes_with_no_other_teacher_or_task() -> None:
    local = {"kind": "huggingface", "model": "acme/big", "licence": "mit"}
    with pytest.raises(BadInput, match=r"responses: goes with task: language-model and teacher\.kind: endpoint; they are 'language-model'"):
        job_from({**JOB, "teacher": local})
    rows = {
        "task": "tabular-classification",
        "data": {"source": {"kind": "sklearn", "name": "digits"}},
        "teacher": {"kind": "estimator", "estimator": "knn"},
        "student": {"kind": "estimator", "estimator": "decision-tree"},
    }
    with pytest.raises(BadInput, match="they are 'tabular-classification' and 'estimator'"):
        job_from({**rows, "responses": {}})
    with pytest.raises(BadInput, match=r"evaluation\.primary: = 'exact_match' does not fit task"):
        job_from({**rows, "evaluation": {"primary": "exact_match"}})
