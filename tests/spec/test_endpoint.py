"""Jobs whose teacher is behind an endpoint: what they may say, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.core.errors import BadInput
from stillroom.spec.job import Job
from stillroom.spec.load import dump_job, job_from, load_text

ENDPOINT = {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m", "licence": "mit"}
JOB: dict[str, Any] = {
    "task": "text-classification",
    "data": {"source": {"kind": "file", "train": "rows.csv"}, "target": "label", "text": "text"},
    "teacher": ENDPOINT,
    "specification": {"task": "Name the intent.", "labels": ["a", "b"], "examples": [{"input": "x", "output": "a"}]},
    "student": {"kind": "estimator", "estimator": "logistic-regression"},
}


def job(**sections: Any) -> Job:
    return job_from({**JOB, **sections}, Path("/data"))


def test_the_resolved_job_is_read_as_it_was_written() -> None:
    whole = job(teacher={**ENDPOINT, "max_tokens": 4, "prices": {"prompt": 1.0}}, budget={"usd": 5.0})
    assert load_text(dump_job(whole), Path("/data"), "job").model_copy(update={"name": None}) == whole


def test_the_address_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = {**ENDPOINT, "base_url": "${ENDPOINT_OF_TEST:-http://127.0.0.1:8000/v1}"}
    monkeypatch.delenv("ENDPOINT_OF_TEST", raising=False)
    assert job(teacher=teacher).teacher.base_url == "http://127.0.0.1:8000/v1"
    monkeypatch.setenv("ENDPOINT_OF_TEST", "https://api.example.com/v1")
    assert job(teacher=teacher).teacher.base_url == "https://api.example.com/v1"
    with pytest.raises(BadInput, match=r"teacher\.base_url: the variable NOWHERE_SET is not set"):
        job(teacher={**ENDPOINT, "base_url": "${NOWHERE_SET}"})


MEMBER = {"kind": "ensemble", "members": [{"teacher": ENDPOINT}, {"teacher": {"kind": "estimator", "estimator": "svm"}}]}


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"specification": None}, "specification: is missing"),
        ({"teacher": {**ENDPOINT, "samples": 3}}, "teacher.samples: goes with teacher.answers: samples; it is 'text'"),
        ({"teacher": {**ENDPOINT, "max_tokens": 4}, "budget": {"usd": 1.0}}, "budget.usd: cannot be kept without teacher.prices"),
        ({"budget": {"tokens": 100}}, "budget: in usd or tokens can only be kept if teacher.max_tokens"),
        ({"student": {"kind": "huggingface"}}, "student.init: = 'teacher-layers' is made of the teacher's weights"),
        ({"teacher": MEMBER, "specification": None}, "teacher.members[0].teacher.kind: = 'endpoint' cannot be one of several"),
        ({"teacher": {"kind": "estimator", "estimator": "svm"}}, "specification: goes with teacher.kind: endpoint"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_asked(sections: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput) as caught:
        job(**sections)
    assert any(str(each).startswith(problem) for each in caught.value.problems), caught.value


def test_answers_bounded_in_another_word_keep_a_budget() -> None:
    assert job(teacher={**ENDPOINT, "extra": {"max_completion_tokens": 9}}, budget={"tokens": 100}).budget is not None
