"""What `stillroom check` refuses before a library or a row is loaded: absent files, undeclared and forbidding licences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.core.errors import BadInput, PolicyRefused
from stillroom.pipeline.terms import check_job, check_terms
from stillroom.spec.job import Job
from stillroom.spec.load import job_from

FITTED = {"kind": "estimator", "fitted": "none.skops"}
WAIVER = {"reason": "written consent", "signed_by": "A. Person", "date": "2026-11-01"}


def job(teacher: dict[str, Any], folder: Path, **sections: Any) -> Job:
    content = {
        "task": "tabular-classification",
        "data": {"source": {"kind": "sklearn", "name": "iris"}},
        "teacher": teacher,
        "student": {"kind": "estimator", "estimator": "lightgbm"},
    }
    return job_from(content | sections, folder)


def test_every_absent_file_and_undeclared_licence_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").mkdir()
    (tmp_path / "pool.xlsx").write_text("")
    source = {"kind": "file", "train": "none.csv", "test": "rows.csv", "unlabeled": "pool.xlsx"}
    members = [{"teacher": teacher} for teacher in (FITTED, {"kind": "estimator", "estimator": "svm"}, FITTED | {"licence": "MTI"})]
    with pytest.raises(BadInput) as caught:
        check_job(job({"kind": "ensemble", "members": members}, tmp_path, data={"source": source, "target": "y"}))
    assert [problem.place for problem in caught.value.problems] == [
        "data.source.train",
        "data.source.test",
        "data.source.unlabeled",
        "teacher.members[0].teacher.fitted",
        "teacher.members[2].teacher.fitted",
        "teacher.members[0].teacher.licence",
        "teacher.members[2].teacher.licence",
    ]
    assert f"no such file: {tmp_path}/none.skops" in str(caught.value)
    assert "pool.xlsx is of no known format; allowed: .csv" in str(caught.value)


def test_one_forbidding_member_stops_the_ensemble_unless_it_is_waived(tmp_path: Path) -> None:
    (tmp_path / "none.skops").write_text("")
    members = [{"teacher": FITTED | {"licence": "mit"}}, {"teacher": FITTED | {"licence": "openai", "name": "gpt"}}]
    teacher = {"kind": "ensemble", "members": members}
    with pytest.raises(PolicyRefused, match=r"teacher\.members\[1\]\.teacher\.licence: teacher 'gpt' is under"):
        check_job(job(teacher, tmp_path))
    terms = check_job(job(teacher, tmp_path, policy={"waiver": WAIVER}))
    assert [line.output_training for line in terms.teachers] == ["allowed", "waived", "waived"]
    assert terms.student.output_training == "waived"
    assert any("A. Person" in note for note in terms.notes)


@pytest.mark.parametrize(("estimator", "declared"), [("svm", True), ("sklearn.svm.SVC", True), ("tabpfn.TabPFNClassifier", False)])
def test_what_is_fitted_here_needs_no_licence_but_pretrained_estimators_do(estimator: str, declared: bool, tmp_path: Path) -> None:
    fitted_here = job({"kind": "estimator", "estimator": estimator}, tmp_path)
    if declared:
        assert check_job(fitted_here).teachers[0].licence == "fitted here"
    else:
        with pytest.raises(BadInput, match=r"teacher\.licence: is missing, and the weights of 'tabpfn\.TabPFNClassifier' come from"):
            check_job(fitted_here)


def test_the_card_beside_local_weights_names_their_licence_and_need_not_be_utf_8(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_bytes(b"---\nlicense: llama2\n---\nby Ren\xe9\n")
    teacher = {"kind": "huggingface", "model": str(tmp_path / "model")}
    sections = {
        "task": "text-classification",
        "data": {"source": {"kind": "file", "train": __file__ + ".csv"}, "target": "y", "text": "x"},
        "student": {"kind": "huggingface"},
    }
    with pytest.raises(PolicyRefused, match="Llama 2"):
        check_job(job(teacher, tmp_path, **sections))
    with pytest.raises(BadInput, match=r"teacher\.model: = 'package:no_such_package_here/x': the package"):
        check_job(job(teacher | {"model": "package:no_such_package_here/x"}, tmp_path, **sections))


def test_the_lineage_does_not_say_where_on_a_disk_a_model_lies(tmp_path: Path) -> None:
    teacher = {"kind": "huggingface", "licence": "mit"}
    texts = {"task": "text-classification", "data": {"source": {"kind": "file", "train": "rows.csv"}, "text": "text", "target": "y"}}
    for model, name in (("./models/judge", "judge"), ("acme/judge", "acme/judge")):
        lines = check_terms(job({**teacher, "model": model}, tmp_path, **texts, student={"kind": "huggingface"})).lines
        assert lines[0].name == name
        assert not [line for line in lines if str(tmp_path) in str(line)]
