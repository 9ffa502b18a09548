"""What `stillroom check` refuses before a library or a row is loaded: absent files, undeclared and forbidding licences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stillroom.core.errors import BadInput, PolicyRefused
from stillroom.pipeline.terms import check_job, check_terms, missing_key
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


def test_a_misspelt_estimator_is_refused_before_any_library_is_loaded(tmp_path: Path) -> None:
    names = ("svm", "extra-tree", "os.system")
    members = [{"teacher": {"kind": "estimator", "estimator": name}} for name in names]
    with pytest.raises(BadInput) as caught:
        check_job(job({"kind": "ensemble", "members": members}, tmp_path, student={"kind": "estimator", "estimator": "mpl"}))
    assert [problem.place for problem in caught.value.problems] == [
        "teacher.members[1].teacher.estimator",
        "teacher.members[2].teacher.estimator",
        "student.estimator",
    ]
    assert "= 'mpl' is not a known name for classification; did you mean 'mlp'?" in str(caught.value)
    assert "= 'os.system' is outside the allowed packages" in str(caught.value)


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


def hub_job(name: str, folder: Path, **data: Any) -> Job:
    sections = {
        "task": "language-model",
        "data": {"source": {"kind": "hub", "id": name, "subset": "small"}, "text": "text", **data},
        "student": {"kind": "huggingface"},
    }
    return job({"kind": "huggingface", "model": "a/b", "licence": "mit"}, folder, **sections)


def test_the_licence_on_a_data_sets_card_is_its_line_in_the_lineage(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data.source.id: no such folder"):
        check_job(hub_job("./stories", tmp_path))
    (tmp_path / "stories").mkdir()
    assert check_job(hub_job("./stories", tmp_path)).data.licence == "unknown"
    (tmp_path / "stories" / "README.md").write_text("---\nlicense: mit\n---\n")
    found = check_job(hub_job("./stories", tmp_path)).data
    assert (found.name, found.kind, found.licence) == ("stories (small)", "hub", "MIT")
    assert check_job(hub_job("./stories", tmp_path, licence="apache-2.0")).data.licence == "Apache-2.0"
    (tmp_path / "stories" / "README.md").write_text("---\nlicense: other\nlicense_name: openai\n---\n")
    with pytest.raises(PolicyRefused, match="stories"):
        check_job(hub_job("./stories", tmp_path))


def test_a_card_that_the_hub_has_sent_is_read_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert check_job(hub_job("owner/stories", tmp_path)).data.licence == "unknown"
    repo = tmp_path / "hub" / "datasets--owner--stories"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0123")
    (repo / "snapshots" / "0123").mkdir(parents=True)
    (repo / "snapshots" / "0123" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    found = check_job(hub_job("owner/stories", tmp_path)).data
    assert (found.name, found.licence) == ("owner/stories (small)", "Apache-2.0")


def test_the_terms_of_every_other_teacher_count(tmp_path: Path) -> None:
    """All problems at once, each at its place; what is allowed stands in the lineage, and binds the student that ships no further."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("")
    (tmp_path / "main").mkdir()
    for file in ("config.json", "tokenizer.json"):
        (tmp_path / "main" / file).write_text("{}")
    main = {"kind": "huggingface", "model": str(tmp_path / "main"), "licence": "mit"}
    data = {"source": {"kind": "file", "train": str(rows)}, "text": "x"}
    sections = {"task": "language-model", "data": data, "student": {"kind": "huggingface"}}

    def with_others(**others: dict[str, Any]) -> Job:
        return job(main, tmp_path, **sections, other_teachers=others)

    with pytest.raises(BadInput) as caught:
        check_job(with_others(a={"model": "./none", "licence": "mit"}, b={"model": "acme/b"}, c={"model": "acme/c", "licence": "MTI"}))
    assert [problem.place for problem in caught.value.problems] == [
        "other_teachers.a.model",
        "other_teachers.b.licence",
        "other_teachers.c.licence",
    ]
    with pytest.raises(PolicyRefused, match=r"other_teachers\.b\.licence: teacher 'acme/b' is under"):
        check_job(with_others(b={"model": "acme/b", "licence": "llama2"}))
    terms = check_job(with_others(b={"model": "acme/b", "licence": "unknown"}))
    assert [(line.role, line.output_training) for line in terms.teachers] == [("teacher", "allowed"), ("other teacher", "unknown")]
    assert any("acme/b" in note for note in terms.notes)
    alone = check_job(job(main, tmp_path, **sections))
    assert terms.student == alone.student


def test_the_lineage_does_not_say_where_on_a_disk_a_model_lies(tmp_path: Path) -> None:
    teacher = {"kind": "huggingface", "licence": "mit"}
    texts = {"task": "text-classification", "data": {"source": {"kind": "file", "train": "rows.csv"}, "text": "text", "target": "y"}}
    for model, name in (("./models/judge", "judge"), ("acme/judge", "acme/judge")):
        lines = check_terms(job({**teacher, "model": model}, tmp_path, **texts, student={"kind": "huggingface"})).lines
        assert lines[0].name == name
        assert not [line for line in lines if str(tmp_path) in str(line)]


def test_a_vendors_terms_are_known_by_its_host_and_refused_unless_they_are_waived(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("x,y\n")
    teacher = {"kind": "endpoint", "base_url": "https://api.openai.com/v1", "model": "gpt-9"}
    sections = {
        "task": "text-classification",
        "data": {"source": {"kind": "file", "train": "rows.csv"}, "target": "y", "text": "x"},
        "specification": {"task": "Name it."},
    }
    with pytest.raises(PolicyRefused, match=r"teacher 'gpt-9' is under 'OpenAI"):
        check_job(job(teacher, tmp_path, **sections))
    waived = check_terms(job(teacher, tmp_path, **sections, policy={"waiver": WAIVER}), served=["gpt-9-2026-11-01"])
    (line,) = waived.teachers
    assert (line.provider, line.served, line.output_training) == ("OpenAI (api.openai.com)", ("gpt-9-2026-11-01",), "waived")
    assert (line.source, line.checked_on) == ("https://openai.com/policies/", "2026-11-22")
    with pytest.raises(BadInput, match=r"teacher\.base_url: 'ftp://x'"):
        check_job(job({**teacher, "base_url": "ftp://x", "licence": "mit"}, tmp_path, **sections))


def test_a_key_that_is_not_there_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = {"kind": "endpoint", "base_url": "http://h/v1", "model": "m", "licence": "mit", "api_key_env": "SOME_KEY"}
    data = {"source": {"kind": "file", "train": "rows.csv"}, "target": "y", "text": "x"}
    asked = job(teacher, tmp_path, task="text-classification", data=data, specification={"task": "Name it."})
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert missing_key(asked) == [
        "teacher.api_key_env: the environment variable 'SOME_KEY' is not set here; nothing can be asked without it."
    ]
    monkeypatch.setenv("SOME_KEY", "k")
    assert missing_key(asked) == []
