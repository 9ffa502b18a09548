"""Real tables, against counts taken independently with pandas' own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stillroom.core.records import Dataset
from stillroom.data.build import build_dataset
from stillroom.data.folds import make_folds
from stillroom.spec.data import DataSpec


def dataset(source: dict[str, Any], task: Any = "tabular-classification", **section: Any) -> Dataset:
    return build_dataset(DataSpec.model_validate({"source": {"kind": "file", **source}, **section}), task=task, seed=0)


def test_adult_keeps_its_categories_missing_cells_and_counts_shared_rows(shared_data: Path) -> None:
    paths = {part: str(shared_data / f"tabular/adult_{part}.csv.gz") for part in ("train", "test")}
    data = dataset({**paths, "missing_values": ["?"]}, target="income")
    frames = {part: pd.read_csv(path, na_values=["?"], keep_default_na=False) for part, path in paths.items()}
    numeric = ["age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week"]
    assert [c.name for c in data.columns if c.kind == "numeric"] == numeric
    assert [c.name for c in data.columns if c.kind == "categorical"] == [
        c for c in frames["train"].columns if c not in (*numeric, "income")
    ]
    for batch, frame in ((data.train, frames["train"]), (data.test, frames["test"])):
        features = frame.drop(columns="income")
        assert batch.features.isna().sum().to_dict() == features.isna().sum().to_dict()
        assert batch.features["native_country"].value_counts().to_dict() == features["native_country"].value_counts().to_dict()
        np.testing.assert_array_equal(batch.features["fnlwgt"], features["fnlwgt"])
        assert [data.classes[code] for code in batch.target] == frame["income"].tolist()  # type: ignore[union-attr]
    seen = set(frames["train"].drop(columns="income").fillna("?").itertuples(index=False, name=None))
    rows = frames["test"].drop(columns="income").fillna("?").itertuples(index=False, name=None)
    assert data.shared_rows == sum(row in seen for row in rows) > 0


def test_chronic_kidney_disease_loses_neither_stray_tabs_nor_columns(shared_data: Path) -> None:
    path = str(shared_data / "tabular/chronic_kidney_disease.csv")
    data = dataset({"train": path, "missing_values": ["?"]}, target="class")
    kinds = {c.name: c.kind for c in data.columns}
    assert len(kinds) == 24
    numeric = ["age", "bp", "sg", "al", "su", "bgr", "bu", "sc", "sod", "pot", "hemo", "pcv", "wbcc", "rbcc"]
    assert [name for name, kind in kinds.items() if kind == "numeric"] == numeric
    raw = pd.read_csv(path, skipinitialspace=False)
    stripped = raw.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
    rows = pd.concat([data.train.features, data.test.features])
    assert rows.isna().sum().to_dict() == (stripped.drop(columns="class") == "?").sum().to_dict()
    assert set(rows["dm"].dropna()) == {"yes", "no"}  # " yes" and "\tno" are no categories of their own
    assert data.classes == ("ckd", "notckd")
    undeclared = dataset({"train": path}, target="class")
    (note,) = undeclared.notes
    assert "'?'" in note
    assert all(name in note for name in numeric)


def test_telco_churn_notes_the_identifier_and_keeps_blanks(shared_data: Path) -> None:
    data = dataset({"train": str(shared_data / "tabular/telco_churn.csv.gz")}, target="Churn")
    kinds = {c.name: c.kind for c in data.columns}
    assert (len(kinds), kinds["TotalCharges"], kinds["Contract"], kinds["customerID"]) == (20, "numeric", "categorical", "categorical")
    assert sum(int(part.features["TotalCharges"].isna().sum()) for part in (data.train, data.test)) == 11
    (note,) = data.notes
    assert "identifiers" in note
    assert note.endswith(": customerID.")
    shares = [np.mean(part.target) for part in (data.train, data.test)]  # type: ignore[arg-type]
    assert shares[0] == pytest.approx(shares[1], abs=1e-3)


def test_credit_g_is_what_pandas_reads(shared_data: Path) -> None:
    path = str(shared_data / "tabular/credit_g.csv")
    data = dataset({"train": path}, target="class")
    raw = pd.read_csv(path, keep_default_na=False)
    rows = pd.concat([data.train.features, data.test.features])
    for column in data.columns:
        want = raw[column.name].value_counts().to_dict()
        assert rows[column.name].value_counts().to_dict() == want
        assert (column.kind == "numeric") == (raw[column.name].dtype.kind in "iuf")


def test_blood_transfusion_copies_never_cross(shared_data: Path) -> None:
    data = dataset({"train": str(shared_data / "tabular/blood_transfusion.csv")}, target="Class", unlabeled_share=0.3)
    assert data.unlabeled is not None
    parts = [set(data.train.keys), set(data.unlabeled.keys), set(data.test.keys)]
    raw = pd.read_csv(shared_data / "tabular/blood_transfusion.csv").drop(columns="Class")
    assert sum(map(len, parts)) == len(raw.drop_duplicates())
    assert any(f"{raw.duplicated().sum()} of 748" in note for note in data.notes)


def test_bike_rentals_split_by_date(shared_data: Path) -> None:
    path = str(shared_data / "tabular/regression_bike_daily.csv")
    data = dataset(
        {"train": path}, "tabular-regression", target="cnt", ignore=["instant", "casual"], split={"kind": "time", "column": "dteday"}
    )
    raw = pd.read_csv(path).sort_values("dteday")
    assert sorted(data.test.target) == sorted(raw["cnt"].tolist()[-len(data.test) :])  # type: ignore[arg-type]
    folds = make_folds(data.train, task="regression", num_folds=4, kind="time", seed=0)
    assert data.train.times is not None
    assert all(data.train.times[f.fit_rows].max() < data.train.times[f.answer_rows].min() for f in folds)


def test_banking77_keeps_every_intent_and_every_text(shared_data: Path) -> None:
    paths = {part: str(shared_data / f"banking77/{part}.csv.gz") for part in ("train", "test")}
    data = dataset(paths, "text-classification", target="category", text="text", unlabeled_share=0.5)
    assert (len(data.classes), len(data.test), data.shared_rows) == (77, 3080, 0)
    assert data.unlabeled is not None
    assert data.train.target is not None
    raw = pd.read_csv(paths["train"])
    assert sorted([*data.train.features["text"], *data.unlabeled.features["text"]]) == sorted(raw["text"])
    kept = np.bincount(data.train.target, minlength=77)
    whole = raw["category"].value_counts().reindex(list(data.classes)).to_numpy()
    assert np.abs(kept - whole / 2).max() <= 1
    folds = make_folds(data.train, task=data.task, num_folds=5, kind="random", seed=0, classes=data.classes)
    assert sorted(np.concatenate([f.answer_rows for f in folds])) == list(range(len(data.train)))
    trial = dataset({**paths, "limit": 400}, "text-classification", target="category", text="text")
    assert (len(trial.train), len(trial.test), len(trial.classes)) == (400, 400, 77)


def test_questions_shared_by_both_files_are_counted(shared_data: Path) -> None:
    data = dataset(
        {"train": str(shared_data / "trec6/train.csv.gz"), "test": str(shared_data / "trec6/test.csv")},
        "text-classification",
        target="coarse",
        text="text",
    )
    texts = {part: pd.read_csv(shared_data / f"trec6/{name}")["text"] for part, name in (("train", "train.csv.gz"), ("test", "test.csv"))}
    assert data.shared_rows == texts["test"].isin(set(texts["train"])).sum() == 10
