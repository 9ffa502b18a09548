"""The whole `data` section: what a job says is what its parts hold, and what is wrong is said once, with a remedy."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from stillroom.core.errors import BadInput
from stillroom.core.fingerprint import row_fingerprints
from stillroom.core.records import Batch, Dataset
from stillroom.data.build import build_dataset
from stillroom.data.folds import make_folds
from stillroom.spec.data import DataSpec

N = 120


def patients(n: int = N, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "age": rng.normal(50, 9, n).round(6),
            "ward": rng.choice(["north", "south", None], n),
            "y": rng.permutation(np.resize(["well", "well", "well", "ill"], n)),
            "clinic": rng.permutation(np.resize([f"c{i}" for i in range(12)], n)),
            "seen_on": pd.date_range("2026-01-01", periods=n).strftime("%Y-%m-%d"),
        }
    )


def all_rows(dataset: Dataset) -> pd.DataFrame:
    parts = (dataset.train, dataset.unlabeled, dataset.validation, dataset.test)
    return pd.concat([part.features for part in parts if part is not None])


def check_typed(batch: Batch, dataset: Dataset) -> None:
    assert list(batch.features.columns) == [c.name for c in dataset.columns]
    assert list(batch.features.index) == list(range(len(batch)))
    assert batch.keys.tolist() == row_fingerprints(batch.features)
    for column in dataset.columns:
        assert str(batch.features[column.name].dtype) == ("float64" if column.kind == "numeric" else "object")


def test_a_file_becomes_typed_parts_and_no_row_is_lost(build_from: Any) -> None:
    frame = patients()
    data = build_from(frame, ignore=["clinic", "seen_on"], split={"validation": 0.1}, unlabeled_share=0.3)
    assert data.classes == ("ill", "well")
    assert [(c.name, c.kind) for c in data.columns] == [("age", "numeric"), ("ward", "categorical")]
    assert [len(part) for part in (data.train, data.unlabeled, data.validation, data.test)] == [54, 27, 9, 30]
    for part in (data.train, data.unlabeled, data.validation, data.test):
        check_typed(part, data)
    assert data.unlabeled.target is None
    assert data.train.target.dtype == np.int64
    assert sorted(all_rows(data)["age"]) == sorted(frame["age"])
    label_of = dict(zip(frame["age"], frame["y"], strict=True))  # every age is different
    for part in (data.train, data.validation, data.test):
        assert [data.classes[code] for code in part.target] == [label_of[age] for age in part.features["age"]]
    ward_of = dict(zip(frame["age"], frame["ward"], strict=True))
    for age, ward in zip(data.train.features["age"], data.train.features["ward"], strict=True):
        assert ward == ward_of[age] if isinstance(ward_of[age], str) else ward is None
    assert np.bincount(data.test.target).tolist() in ([7, 23], [8, 22])
    assert data.notes == ()


def test_the_same_seed_gives_the_same_parts_and_another_seed_others(build_from: Any) -> None:
    one, again, other = (build_from(patients(), ignore=["clinic", "seen_on"], seed=seed).test.keys for seed in (3, 3, 4))
    assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_files_for_each_part(build_from: Any) -> None:
    pool = patients(20, seed=2).drop(columns="y")
    data = build_from(patients(), test=patients(40, seed=1), unlabeled=pool, ignore=["clinic", "seen_on"])
    assert (len(data.train), len(data.test), len(data.unlabeled)) == (120, 40, 20)
    assert data.unlabeled.target is None
    assert data.unlabeled.features["age"].tolist() == pool["age"].tolist()
    assert data.shared_rows == 0
    noted = build_from(patients(), test=patients(40, seed=1), unlabeled=patients(20, seed=2), ignore=["clinic", "seen_on"]).notes
    assert noted == ("data.source.unlabeled has the target 'y'; it is not read.",)


def test_kinds_come_from_the_training_file_alone(build_from: Any) -> None:
    test = patients(40, seed=1).astype({"age": object})
    test.loc[6, "age"] = "old"
    with pytest.raises(BadInput, match=r"^data.source.test: column 'age', row 7: 'old' is not a number; ") as caught:
        build_from(patients(), test=test)
    assert len(caught.value.problems) == 1


def test_declared_numbers_and_categories(build_from: Any) -> None:
    frame = patients().assign(code=np.arange(N) % 3, dose=["?", *["1.5"] * (N - 1)])
    data = build_from(frame, categorical=["code"], numeric=["dose"], source={"missing_values": ["?"]})
    kinds = {c.name: c.kind for c in data.columns}
    assert (kinds["code"], kinds["dose"]) == ("categorical", "numeric")
    assert sorted(set(all_rows(data)["code"])) == ["0", "1", "2"]
    assert int(all_rows(data)["dose"].isna().sum()) == 1
    with pytest.raises(BadInput, match=r"^data.source.train: column 'dose', row 1: '\?' is not a number"):
        build_from(frame, numeric=["dose"])


def test_groups_stay_together_and_are_no_feature(build_from: Any) -> None:
    split = {"kind": "group", "column": "clinic", "validation": 0.2}
    data = build_from(patients(), ignore=["seen_on"], split=split, unlabeled_share=0.3)
    parts = [data.train, data.unlabeled, data.validation, data.test]
    assert sum(len(set(part.groups)) for part in parts) == 12
    assert "clinic" not in [c.name for c in data.columns]
    assert data.train.times is None
    folds = make_folds(data.train, task=data.task, num_folds=2, kind="group", seed=0, classes=data.classes)
    assert not set(data.train.groups[folds[0].fit_rows]) & set(data.train.groups[folds[0].answer_rows])
    crossing = build_from(patients(), test=patients(40, seed=1), ignore=["seen_on"], split={"kind": "group", "column": "clinic"})
    assert crossing.notes == ("Test rows of a group that the training rows also hold: 40 of 40.",)


@pytest.mark.parametrize("column", ["seen_on", "day"])
def test_the_test_rows_are_the_latest(column: str, build_from: Any) -> None:
    frame = patients().assign(day=np.arange(N) * 1.5).sample(frac=1, random_state=0)
    other = {"seen_on": "day", "day": "seen_on"}[column]
    split = {"kind": "time", "column": column, "validation": 0.2}
    data = build_from(frame, ignore=["clinic", other], split=split, unlabeled_share=0.3)
    parts = [data.train, data.unlabeled, data.validation, data.test]
    assert [len(part) for part in parts] == [45, 27, 18, 30]
    assert all(a.times.max() < b.times.min() for a, b in itertools.pairwise(parts))
    in_order = frame.sort_values(column)["age"].tolist()
    assert sorted(data.test.features["age"]) == sorted(in_order[-30:])
    assert column not in [c.name for c in data.columns]
    early = build_from(frame, test=frame[:10], ignore=["clinic", other], split={"kind": "time", "column": column})
    assert any(
        re.fullmatch(r"Rows of the training part that are not earlier than the first test row: \d+ of 120\.", n) for n in early.notes
    )


def test_copies_stay_in_one_part_and_are_reported(build_from: Any) -> None:
    once = patients().drop(columns=["clinic", "seen_on"])
    thrice = pd.concat([once, once, once.assign(y="well")])
    for seed in range(5):
        data = build_from(thrice, seed=seed, unlabeled_share=0.3, split={"validation": 0.1})
        keys = [set(part.keys) for part in (data.train, data.unlabeled, data.validation, data.test)]
        assert sum(map(len, keys)) == N
        assert data.shared_rows == 0
    (note,) = data.notes
    assert note == (
        "Labelled rows with exactly the features of an earlier one: 240 of 360, 30 of them with another target. "
        "Copies are kept in one part and one fold."
    )


def test_shared_rows_are_counted_by_content(build_from: Any) -> None:
    train, pool = patients(), patients(30, seed=2).drop(columns="y")
    test = pd.concat([patients(40, seed=1), train[5:8], pool[:2].assign(y="ill"), train[:1].assign(y="well")])
    columns = ["y", "ward", "age", "clinic", "seen_on"]  # another column order, another format of the same numbers
    test = test.astype({"age": str})[columns]
    data = build_from(train, test=test, unlabeled=pool, ignore=["clinic", "seen_on"])
    assert data.shared_rows == 6
    assert data.notes == (
        "Test rows with exactly the features of a training or pool row: 6 of 46 (13.0%); what is measured may flatter every arm.",
    )
    known = build_from(train, test=patients(40, seed=1), unlabeled=pd.concat([pool, train[:4]]), ignore=["clinic", "seen_on"])
    assert "Pool rows with exactly the features of a training row, whose labels are known: 4 of 34." in known.notes
    dated = patients().assign(age=1.0, ward="north", day=np.arange(N))
    spread = build_from(dated, ignore=["clinic", "seen_on"], split={"kind": "time", "column": "day"})
    assert spread.shared_rows == 30


def test_a_limit_is_a_noted_trial_of_each_file(build_from: Any) -> None:
    for seed in range(5):
        data = build_from(patients(), test=patients(40, seed=1), ignore=["clinic", "seen_on"], source={"limit": 30}, seed=seed)
        assert (len(data.train), len(data.test)) == (30, 30)
        assert np.bincount(data.train.target).tolist() in ([7, 23], [8, 22])
    assert "A trial on part of the data: 30 of the 120 rows of data.source.train (data.source.limit)." in data.notes


def test_odd_columns_are_kept_and_noted(build_from: Any) -> None:
    frame = patients().assign(flat="x", gone="", id=range(N))
    data = build_from(frame, ignore=["clinic", "seen_on"])
    assert [c.name for c in data.columns] == ["age", "ward", "flat", "gone", "id"]
    assert len(data.notes) == 3
    assert [re.search(r": ([\w, ]+)\.$", note)[1] for note in data.notes] == ["flat", "gone", "id"]  # type: ignore[index]


def test_classes_that_the_test_rows_lack_are_noted(build_from: Any) -> None:
    frame = patients().assign(y=["early", *["a", "b"] * 59, "a"])
    data = build_from(frame, ignore=["clinic"], split={"kind": "time", "column": "seen_on"})
    assert data.classes == ("a", "b", "early")
    assert data.notes == ("Classes without a test row, on which nothing is measured: 'early'.",)


def test_a_regression(build_from: Any) -> None:
    frame = patients().assign(y=np.arange(N) * 0.5)
    data = build_from(frame, task="tabular-regression", ignore=["clinic", "seen_on"], unlabeled_share=0.3)
    assert data.classes == ()
    assert data.task == "regression"
    assert data.train.target.dtype == np.float64
    value_of = dict(zip(frame["age"], frame["y"], strict=True))
    assert data.test.target.tolist() == [value_of[age] for age in data.test.features["age"]]


def texts(n: int = 60) -> pd.DataFrame:
    return pd.DataFrame({"say": [f" what about card {i}? " for i in range(n)], "y": ["a", "b"] * (n // 2), "fine": range(n)})


def test_a_text_task_reads_the_text_verbatim_and_alone(build_from: Any) -> None:
    data = build_from(texts(), task="text-classification", text="say")
    assert [(c.name, c.kind) for c in data.columns] == [("say", "text")]
    assert sorted(all_rows(data)["say"]) == sorted(texts()["say"])
    assert data.notes == ("Columns that are not read, since a text task reads data.text alone: fine.",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"say": [str(i) for i in range(60)]}, "data.text: column 'say' of data.source.train holds only numbers, such as '0'; "),
        ({"say": ["  ", None, *["hi you"] * 58]}, "data.source.train: text column 'say', rows 1, 2: no text; "),
    ],
)
def test_a_text_column_without_text_is_refused(change: dict[str, Any], message: str, build_from: Any) -> None:
    with pytest.raises(BadInput) as caught:
        build_from(texts().assign(**change), task="text-classification", text="say")
    assert str(caught.value).startswith(message)


def test_every_misnamed_column_is_found_at_once(build_from: Any) -> None:
    with pytest.raises(BadInput) as caught:
        build_from(
            patients(), target="yy", numeric=["agee"], categorical=["warrd"], ignore=["x"], split={"kind": "group", "column": "clinics"}
        )
    assert [(p.place, p.message) for p in caught.value.problems] == [
        ("data.target", "= 'yy' is no column of the training rows; did you mean 'y'?"),
        ("data.split.column", "= 'clinics' is no column of the training rows; did you mean 'clinic'?"),
        ("data.categorical", "= 'warrd' is no column of the training rows; did you mean 'ward'?"),
        ("data.numeric", "= 'agee' is no column of the training rows; did you mean 'age'?"),
        ("data.ignore", "= 'x' is no column of the training rows; allowed: age, clinic, seen_on, ward, y."),
    ]


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "one class": ({"y": "well"}, {}, "data.target: has one class, 'well', among the 90 training rows; "),
    "one value": ({"y": 3}, {"task": "tabular-regression"}, "data.target: is 3.0 in every row among the 90 training rows; "),
    "no labels": ({"y": [None, *["a", "b"] * 59, None]}, {}, "data.source.train: 2 of 120 rows have no target 'y' (rows 1, 120); "),
    "infinite": (
        {"y": [1.0, np.inf] + [2.0] * 118},
        {"task": "tabular-regression"},
        "data.source.train: target 'y', row 2: infinite; ",
    ),
    "target as feature": ({}, {"numeric": ["y"]}, "data.numeric: names 'y', the target; "),
    "no feature left": ({}, {"ignore": ["age", "ward", "clinic", "seen_on"]}, "data.ignore: leaves no feature column; "),
    "no group": (
        {"clinic": [None] + ["c1", "c2"] * 59 + ["c3"]},
        {"split": {"kind": "group", "column": "clinic"}},
        "data.source.train: group column 'clinic', row 1: no group; ",
    ),
    "one group": ({"clinic": "c"}, {"split": {"kind": "group", "column": "clinic"}}, "data.split.test: cannot divide the rows, "),
    "no time": (
        {"seen_on": [*["2026-01-01", "2026-01-02"] * 59, None, ""]},
        {"split": {"kind": "time", "column": "seen_on"}},
        "data.source.train: time column 'seen_on', rows 119, 120: no time; ",
    ),
    "odd time": (
        {"seen_on": ["01/02/2026"] * 120},
        {"split": {"kind": "time", "column": "seen_on"}},
        "data.source.train: time column 'seen_on', rows 1, 2, 3 and 117 more: '01/02/2026' is no time; allowed: numbers, or dates as ",
    ),
    "endless time": (
        {"seen_on": [*range(119), np.inf]},
        {"split": {"kind": "time", "column": "seen_on"}},
        "data.source.train: time column 'seen_on', row 120: 'inf' is no time; allowed: numbers, or dates as ",
    ),
    "class of the latest rows only": (
        {"y": ["a", "b"] * 50 + ["late"] * 20},
        {"split": {"kind": "time", "column": "seen_on"}},
        "data.target: the test rows have class 'late', which no training row has (training: a, b); ",
    ),
    "ignored text": (
        {"say": "hello there"},
        {"task": "text-classification", "text": "say", "ignore": ["say"]},
        "data.text: = 'say' is also a split or ignored column; ",
    ),
    "kind in a text task": (
        {"say": "hello there"},
        {"task": "text-classification", "text": "say", "categorical": ["ward"]},
        "data.categorical: has no use with task: text-classification",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_clear_line(case: str, build_from: Any) -> None:
    change, section, message = BAD[case]
    with pytest.raises(BadInput) as caught:
        build_from(patients().assign(**change), **section)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_class_of_the_test_file_that_training_lacks_is_refused(build_from: Any) -> None:
    with pytest.raises(
        BadInput, match=r"^data.target: the test rows have class 'dead', which no training row has \(training: ill, well\); "
    ):
        build_from(patients(), test=patients(40, seed=1).assign(y=["dead"] + ["well"] * 39))


def test_measurements_taken_for_classes_are_recognised(build_from: Any) -> None:
    with pytest.raises(BadInput, match=r"^data.target: .* Fractions are predicted as numbers by task: tabular-regression.$"):
        build_from(patients().assign(y=np.linspace(0.1, 9.3, N)))


@pytest.mark.parametrize(
    ("change", "section", "message"),
    [
        ({"y": [["well", "ill"]] * N}, {}, "target 'y', rows 1, 2, 3 and 117 more: a list is no single value; a row has one class."),
        ({"y": [b"well"] * N}, {}, "target 'y', rows 1, 2, 3 and 117 more: a bytes is no single value; a row has one class."),
        ({"clinic": [["c1"]] * N}, {"split": {"kind": "group", "column": "clinic"}}, "group column 'clinic', rows 1, 2, 3 and 117 more: a"),
    ],
    ids=["several classes", "bytes", "several groups"],
)
def test_a_list_is_no_class_and_no_group(change: dict[str, Any], section: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    patients().assign(**change).to_parquet(path)
    spec = DataSpec.model_validate({"source": {"kind": "file", "train": str(path)}, "target": "y", **section})
    with pytest.raises(BadInput) as caught:
        build_dataset(spec, task="tabular-classification", seed=0)
    assert str(caught.value).startswith(f"data.source.train: {message}")


@pytest.mark.parametrize(("train", "test"), [("numbers", "dates"), ("dates", "numbers")])
def test_times_that_cannot_be_compared_are_refused(train: str, test: str, build_from: Any) -> None:
    times = {"dates": patients()["seen_on"], "numbers": np.arange(N)}
    tables = [patients(seed=seed).assign(seen_on=times[kind]) for seed, kind in enumerate((train, test))]
    with pytest.raises(BadInput) as caught:
        build_from(tables[0], test=tables[1], split={"kind": "time", "column": "seen_on"})
    assert str(caught.value).startswith(f"data.source.test: time column 'seen_on' holds {test} here, but {train} in data.source.train; ")


def test_what_is_wrong_with_several_files_is_told_at_once(build_from: Any) -> None:
    with pytest.raises(BadInput) as caught:
        build_from(patients().assign(y=None), test=patients(40).assign(age="old"), unlabeled=patients(40).drop(columns="ward"))
    assert [problem.place for problem in caught.value.problems] == ["data.source.train", "data.source.test", "data.source.unlabeled"]
    with pytest.raises(BadInput) as caught:
        build_from("", test=pd.DataFrame({"age": []}))
    assert [problem.place for problem in caught.value.problems] == ["data.source.train", "data.source.test"]


def test_a_test_file_without_target_or_features_is_refused(build_from: Any) -> None:
    with pytest.raises(BadInput, match=r"^data.source.test: no column 'y' \(data.target\)$"):
        build_from(patients(), test=patients(40).drop(columns="y"))
    with pytest.raises(BadInput, match=r"^data.source.unlabeled: no column 'age'; allowed: "):
        build_from(patients(), unlabeled=patients(40)[["y", "ward", "clinic", "seen_on"]])


def test_absent_files_are_all_named_with_the_path_that_a_variable_gave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLROOM_DATA", str(tmp_path / "elsewhere"))
    files = {"train": "${STILLROOM_DATA:-../shared/data}/train.csv.gz", "test": "test.csv"}
    spec = DataSpec.model_validate({"source": {"kind": "file", **files}, "target": "y"}, context={"folder": str(tmp_path)})
    with pytest.raises(BadInput) as caught:
        build_dataset(spec, task="tabular-classification", seed=0)
    first, second = map(str, caught.value.problems)
    assert first.startswith(f"data.source.train: no such file: {tmp_path}/elsewhere/train.csv.gz. ")
    assert second.startswith(f"data.source.test: no such file: {tmp_path}/test.csv. ")


def test_bundled_sets_build(build_from: Any) -> None:
    shares = {"breast_cancer": ("benign", "malignant"), "digits": tuple("0123456789"), "iris": ("setosa", "versicolor", "virginica")}
    for name, classes in shares.items():
        spec = DataSpec.model_validate({"source": {"kind": "sklearn", "name": name}})
        assert build_dataset(spec, task="tabular-classification", seed=0).classes == classes
    spec = DataSpec.model_validate({"source": {"kind": "sklearn", "name": "diabetes"}})
    with pytest.raises(BadInput, match=r"^data\.ignore: leaves no feature"):  # all columns ignored is still an error there
        build_dataset(
            spec.model_copy(update={"ignore": ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")}),
            task="tabular-regression",
            seed=0,
        )
    data = build_dataset(spec, task="tabular-regression", seed=0)
    assert (len(data.train), len(data.test), len(data.columns)) == (332, 110, 10)
