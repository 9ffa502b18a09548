"""A job file in; a frozen job, or every problem at once with its place and a remedy."""

from __future__ import annotations

import copy
import importlib.metadata
import os
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stillroom.core.errors import BadInput
from stillroom.spec.job import Job
from stillroom.spec.load import dump_job, job_from, load_job, load_text

TEXT = """
task: tabular-classification
data:
  source: {kind: sklearn, name: digits}
teacher: {kind: estimator, estimator: extra-trees}
student: {kind: estimator, estimator: lightgbm}
"""
TABLE: dict[str, Any] = yaml.safe_load(TEXT)


def changed(**places: Any) -> dict[str, Any]:
    """TABLE with values set at dotted places ("__" for a dot)."""
    content = copy.deepcopy(TABLE)
    for place, value in places.items():
        *parents, last = place.split("__")
        here = content
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = value
    return content


def messages(content: dict[str, Any]) -> list[str]:
    with pytest.raises(BadInput) as caught:
        job_from(content)
    return [str(problem) for problem in caught.value.problems]


def test_ten_lines_suffice_and_every_default_is_written_out(tmp_path: Path) -> None:
    assert len(TEXT.strip().splitlines()) <= 10
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    job = load_job(path)
    assert job.name == "mine"
    resolved = yaml.safe_load(dump_job(job))
    assert resolved["labelling"]["folds"] == 5
    assert job_from(resolved) == job  # the resolved file is a job file that says the same


def test_a_job_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        job_from(TABLE).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("objective__temprature", 4, "objective.temprature: no such key; did you mean 'temperature'?"),
        ("tecaher", {}, "tecaher: no such key; did you mean 'teacher'?"),
        ("teacher__parms", {}, "teacher.parms: no such key; did you mean 'params'?"),
        ("data__source__nam", "x", "data.source.nam: no such key; did you mean 'name'?"),
        ("data__source__name", "digit", "data.source.name: = 'digit' is not allowed; did you mean 'digits'?"),
        ("student__kind", "hugingface", "student: kind = 'hugingface' is not one of them; did you mean 'huggingface'?"),
        ("objective__hard_label_weight", 2, "objective.hard_label_weight: = 2: input should be less than or equal to 1."),
        ("seed", "7", "seed: = '7': input should be a valid integer."),
        ("objective__temperature", True, "objective.temperature: = True: input should be a valid number."),
        ("objective__temperature", float("nan"), "objective.temperature: = nan: input should be a finite number."),
        ("data", 3, "data: = 3 must be a section with keys and values."),
        ("evaluation__slices", ["a", "a"], "evaluation.slices: a given more than once; name each column once."),
        ("evaluation__primary", "r2", "evaluation.primary: = 'r2' does not fit task 'tabular-classification'"),
        ("data__split__kind", "group", "data.split.column: goes with split.kind group or time, and each of these needs it."),
        ("data__target", "y", "data.target: = 'y', but bundled sets know their own target; remove it."),
        ("teacher", {"kind": "huggingface", "model": "x"}, "teacher.kind: = 'huggingface' reads text;"),
        ("teacher", {"kind": "estimator"}, "teacher: give either 'estimator' (fitted on the spot) or 'fitted'"),
        (
            "teacher",
            {"estimator": "svm"},
            "teacher: has no 'kind' that is a word; give one of estimator, huggingface, endpoint, ensemble, python.",
        ),
        ("student", {"kind": "plugin"}, "student: kind = 'plugin' is not one of them; allowed: estimator, huggingface."),
        ("data__source__kind", "csv", "data.source: kind = 'csv' is not one of them; allowed: file, hub, sklearn."),
        ("teacher", "svm", "teacher: = 'svm' must be a section with keys and values."),
        ("teacher__params", {"a": [1, float("inf")]}, "teacher.params.a[1]: = inf: input should be a finite number."),
        ("data__ignore", [2020], "data.ignore[0]: = 2020 is no text; put it in quotes."),
        ("data__source", {"kind": "file", "train": ""}, "data.source.train: is empty; give a path, or leave the key out."),
        ("data__source", {"kind": "file", "train": "rows/${A}.csv"}, "data.source.train: = 'rows/${A}.csv': a variable is written ${NAME}"),
        ("name", "..", "name: = '..': string should match pattern"),
        ("policy__waiver", {"reason": " ", "signed_by": "A. Person", "date": "2026-11-01"}, "policy.waiver.reason: = ' ': string should"),
        ("policy__waiver", {"reason": "x", "signed_by": "y", "date": "20261101"}, "policy.waiver.date: = '20261101' is no date;"),
    ],
)
def test_a_mistake_names_its_place_and_the_remedy(place: str, value: Any, expected: str) -> None:
    found = messages(changed(**{place: value}))
    assert any(message.startswith(expected) for message in found), found


def test_all_problems_come_at_once() -> None:
    found = messages(changed(objective__temprature=4, seed=-1, data__source__name="digit", evaluation__seeds=0))
    assert [message.split(":")[0] for message in found] == ["seed", "data.source.name", "objective.temprature", "evaluation.seeds"]


def test_a_misspelt_key_hides_nothing_that_shows_only_between_sections() -> None:
    found = messages(changed(objective__temprature=4, evaluation__primary="r2"))
    assert [message.split(":")[0] for message in found] == ["objective.temprature", "evaluation.primary"]


def test_a_missing_section_is_named() -> None:
    content = copy.deepcopy(TABLE)
    del content["teacher"]
    assert messages(content) == ["teacher: is missing; add it."]


def test_members_of_an_ensemble_are_checked_where_they_stand() -> None:
    member = {"teacher": {"kind": "estimator", "estimator": "svm", "parms": {}}}
    found = messages(changed(teacher={"kind": "ensemble", "members": [member, {"weight": 0, "teacher": member["teacher"]}]}))
    assert "teacher.members[0].teacher.parms: no such key; did you mean 'params'?" in found
    assert any(message.startswith("teacher.members[1].weight: = 0") for message in found)


def test_an_ensemble_has_the_licences_of_its_members_and_no_other() -> None:
    member = {"teacher": {"kind": "estimator", "estimator": "svm"}}
    found = messages(changed(teacher={"kind": "ensemble", "members": [member, member], "licence": "openai"}))
    assert found == ["teacher.licence: no such key; allowed: kind, members, name."]


def test_a_kind_that_an_installed_package_adds_is_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    added = EntryPoints([EntryPoint("mine", "json:dumps", "stillroom.teachers")])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **wanted: added.select(**wanted))
    job = job_from(changed(teacher={"kind": "mine", "licence": "MIT", "params": {"a": 1}}))
    assert (job.teacher.kind, job.teacher.params) == ("mine", {"a": 1})  # type: ignore[union-attr]
    assert messages(changed(teacher={"kind": "mine", "parms": {}})) == ["teacher.parms: no such key; did you mean 'params'?"]
    assert messages(changed(student={"kind": "mine"}))[0].startswith("student: kind = 'mine' is not one of them;")


def test_the_temperature_is_two_and_one_where_it_has_no_meaning() -> None:
    assert job_from(changed()).temperature == 2.0
    assert job_from(changed(objective={"temperature": 4.0})).temperature == 4.0
    assert job_from(changed(task="tabular-regression")).temperature == 1.0


def test_set_overrides_any_key(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(TEXT)
    job = load_job(path, ["objective.temperature=4", "evaluation.slices=[a, b]", "name=other"])
    assert (job.objective.temperature, job.evaluation.slices, job.name) == (4, ("a", "b"), "other")


def test_set_reaches_the_members_of_an_ensemble_and_an_empty_section(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    member = "teacher: {kind: estimator, estimator: svm}"
    path.write_text(TEXT.replace("kind: estimator, estimator: extra-trees", f"kind: ensemble, members: [{{{member}}}, {{{member}}}]"))
    job = load_job(path, ["teacher.members[1].weight=3", "teacher.members[0].teacher.params.C=2"])
    assert [member.weight for member in job.teacher.members] == [1.0, 3]  # type: ignore[union-attr]
    assert [member.teacher.params for member in job.teacher.members] == [{"C": 2}, {}]  # type: ignore[union-attr]
    path.write_text(TEXT + "objective:\n")
    assert load_job(path, ["objective.temperature=4"]).temperature == 4


def test_set_changes_one_section_where_an_alias_makes_two_of_one(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "task: tabular-classification\ndata: {source: {kind: sklearn, name: digits}}\n"
        "teacher: {kind: estimator, estimator: extra-trees, params: &shared {max_depth: 3}}\n"
        "student: {kind: estimator, estimator: lightgbm, params: *shared}\n"
    )
    job = load_job(path, ["student.params.max_depth=9"])
    assert (job.teacher.params, job.student.params) == ({"max_depth": 3}, {"max_depth": 9})  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "override",
    ["objective.temperature", "=3", "task.kind=x", "seed=[1", "seed=" + "9" * 5000, "objective..seed=3", "data.ignore[0]=x", "[0]=1"],
    ids=lambda override: override[:30],
)
def test_a_bad_override_says_so(tmp_path: Path, override: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(TEXT)
    with pytest.raises(BadInput, match="--set"):
        load_job(path, [override])


def test_every_bad_override_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(TEXT)
    with pytest.raises(BadInput) as caught:
        load_job(path, ["seed", "seed=3", "=4"])
    assert [problem.place for problem in caught.value.problems] == ["--set seed", "--set =4"]


def test_numbers_and_dates_are_read_as_people_write_them(tmp_path: Path) -> None:
    """YAML 1.1, which PyYAML reads, takes 5e-5 for a word and 2026-11-01 for a date."""
    path = tmp_path / "job.yaml"
    path.write_text(TEXT + "policy: {waiver: {reason: consent, signed_by: A. Person, date: 2026-11-01}}\n")
    job = load_job(path, ["training.learning_rate=5e-5", "training.weight_decay=1.e-3", "data.ignore=[2026-13-45, e5, '5e-5']"])
    assert (job.training.learning_rate, job.training.weight_decay) == (5e-5, 1e-3)
    assert job.policy.waiver is not None
    assert job.policy.waiver.date == "2026-11-01"
    assert job.data.ignore == ("2026-13-45", "e5", "5e-5")
    assert load_text(dump_job(job), tmp_path, "job") == job


def test_a_file_name_with_blanks_names_the_run_all_the_same(tmp_path: Path) -> None:
    for file, name in (("my job (2).yaml", "my-job-2"), ("..yaml", "job"), ("zähler.v2.yaml", "zähler.v2")):
        (tmp_path / file).write_text(TEXT)
        assert load_job(tmp_path / file).name == name


def test_paths_follow_the_file_and_variables_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "task: tabular-classification\ndata: {source: {kind: file, train: '%s'}, target: y}\n"
        "teacher: {kind: estimator, estimator: svm}\nstudent: {kind: estimator, estimator: lightgbm}\n"
    )

    def train(path: str) -> str:
        return load_text(text % path, tmp_path, "job").data.source.train  # type: ignore[union-attr]

    monkeypatch.delenv("ROWS", raising=False)
    assert train("rows.csv") == str(tmp_path / "rows.csv")
    assert train("${ROWS:-../rows}/a.csv") == str(tmp_path.parent / "rows" / "a.csv")
    monkeypatch.setenv("ROWS", "elsewhere")
    assert train("${ROWS:-../rows}/a.csv") == os.path.join(os.getcwd(), "elsewhere", "a.csv")  # noqa: PTH109, PTH118
    monkeypatch.setenv("ROWS", "")  # as good as unset: "/a.csv" would be a file that nobody named
    assert train("${ROWS:-../rows}/a.csv") == str(tmp_path.parent / "rows" / "a.csv")
    monkeypatch.delenv("ROWS")
    with pytest.raises(BadInput, match="the variable ROWS is not set"):
        train("${ROWS}/a.csv")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("task: [", "is not valid YAML"),
        ("a: 1\na: 2\n", "the key 'a' is given twice"),
        ("- 1\n", "must hold keys and values"),
        ("a: 1\n? [b, c]\n: 2\n", r"job\.yaml:2: is not valid YAML: a key must be a single word"),
        ("a: 1\n2: x\n", r"job\.yaml:2: is not valid YAML: the key '2' is no text; put it in quotes"),
        ("a: !!timestamp 2026-13-45\n", "is not valid YAML: month must be in 1..12"),
        ("a: \a\n", "is not valid YAML: unacceptable character"),
        ("!!python/object/apply:os.system ['true']\n", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_job(tmp_path: Path, content: str, expected: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    with pytest.raises(BadInput, match=expected):
        load_job(path)


def test_a_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such job file; `stillroom init` writes one"):
        load_job(tmp_path / "none.yaml")
    with pytest.raises(BadInput, match="is a folder"):
        load_job(tmp_path)
    with pytest.raises(BadInput, match="cannot be read: File name too long"):
        load_job(tmp_path / ("x" * 300))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is not UTF-8"):
        load_job(tmp_path / "b.yaml")


def test_the_schema_accepts_what_the_job_accepts_and_refuses_a_typo() -> None:
    import jsonschema

    schema = Job.model_json_schema()
    jsonschema.validate(TABLE, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(objective__temprature=4), schema)
    assert "KL" in schema["$defs"]["ObjectiveSpec"]["description"]
