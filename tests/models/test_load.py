from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stillroom.core.errors import BadInput
from stillroom.core.records import Calibration
from stillroom.models.calibrated import CalibratedPredictor
from stillroom.models.load import load_predictor
from stillroom.models.manifest import write_manifest
from stillroom.models.mean import MeanPredictor
from stillroom.models.python import PythonPredictor
from stillroom.models.tabular import TabularPredictor

Fit = Callable[..., TabularPredictor]

USERS_MODULE = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()

class Teacher:
    classes_ = ["yes", "no"]
    def __init__(self, share): self.share = share
    def predict_proba(self, X): return [[self.share, 1 - self.share]] * len(X)

class Values:
    def predict(self, X): return X["size"] * 2

class Nothing: pass

NUMBER = 3
"""


class Fixed:
    """Answers every row alike."""

    def __init__(self, classes: tuple[str, ...], values: Any) -> None:
        self.classes, self.values = classes, np.array(values, dtype=np.float64)

    def predict_values(self, features: pd.DataFrame) -> np.ndarray[Any, Any]:
        return np.tile(self.values, (len(features), 1)) if self.classes else np.full(len(features), self.values)

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@pytest.fixture
def users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"users_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(USERS_MODULE)
    monkeypatch.chdir(tmp_path)
    return name


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(BadInput) as caught:
        load_predictor(folder, **options)
    return str(caught.value)


def test_a_folder_that_holds_no_predictor_is_refused(tmp_path: Path) -> None:
    assert "it has no predictor.json" in refusal(tmp_path)
    assert "it has no predictor.json" in refusal(tmp_path / "absent")
    (tmp_path / "predictor.json").write_text('{"kind": ')
    assert "is not valid JSON" in refusal(tmp_path)
    (tmp_path / "predictor.json").write_text("[1]")
    assert "schema None" in refusal(tmp_path)
    write_manifest(tmp_path, kind="tabulr", classes=("a",))
    assert "did you mean 'tabular'?" in refusal(tmp_path)
    content = json.loads((tmp_path / "predictor.json").read_text())
    (tmp_path / "predictor.json").write_text(json.dumps({**content, "schema": "stillroom/predictor@9"}))
    assert "'stillroom/predictor@9'; this version reads 'stillroom/predictor@1'" in refusal(tmp_path)
    del content["classes"]
    (tmp_path / "predictor.json").write_text(json.dumps(content))
    assert "lacks" in refusal(tmp_path)


def test_nested_predictors_come_back_whole(fitted: Fit, table: pd.DataFrame, tmp_path: Path) -> None:
    correction = Calibration(kept=True, temperature=0.7, smoothing=0.1, prior=(0.2, 0.5, 0.3), message="kept")
    member = CalibratedPredictor(fitted("decision-tree"), correction)
    whole = MeanPredictor([member, fitted("logistic-regression")], [1.0, 3.0])
    whole.save(tmp_path)
    again = load_predictor(tmp_path)
    assert again.classes == whole.classes
    np.testing.assert_array_equal(again.predict_values(table), whole.predict_values(table))
    assert (again.predict_values(table) != member.predict_values(table)).any()


def test_the_mean_is_weighted_and_matches_classes_by_name(table: pd.DataFrame) -> None:
    first, second = Fixed(("a", "b", "c"), [0.2, 0.3, 0.5]), Fixed(("c", "a", "b"), [0.1, 0.6, 0.3])
    mean = MeanPredictor([first, second], [1.0, 3.0]).predict_values(table)
    np.testing.assert_allclose(mean, np.tile([0.25 * 0.2 + 0.75 * 0.6, 0.25 * 0.3 + 0.75 * 0.3, 0.25 * 0.5 + 0.75 * 0.1], (200, 1)))
    np.testing.assert_allclose(MeanPredictor([Fixed((), 1.0), Fixed((), 5.0)], [3, 1]).predict_values(table), np.full(200, 2.0))


@pytest.mark.parametrize("others", [("a", "b"), ("a", "b", "d"), ()])
def test_members_with_other_classes_are_refused_with_both_lists(others: tuple[str, ...]) -> None:
    with pytest.raises(BadInput, match=r"members\[1\].*first member answers a, b, c"):
        MeanPredictor([Fixed(("a", "b", "c"), [0, 0, 1]), Fixed(others, [1.0] * len(others) or 1.0)], [1, 1])


def test_the_users_object_is_loaded_only_where_code_is_allowed(users_module: str, table: pd.DataFrame, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    write_manifest(folder, kind="python", classes=("no", "yes"), object=f"{users_module}:Teacher", params={"share": 0.9})
    assert "--allow-code" in refusal(folder)
    assert not (tmp_path / "imported").exists()

    teacher = load_predictor(folder, allow_code=True)
    np.testing.assert_allclose(teacher.predict_values(table.head(2)), [[0.1, 0.9], [0.1, 0.9]])
    teacher.save(tmp_path / "again")
    np.testing.assert_allclose(load_predictor(tmp_path / "again", allow_code=True).predict_values(table.head(1)), [[0.1, 0.9]])

    MeanPredictor([CalibratedPredictor(teacher, Calibration(kept=False))], [1.0]).save(tmp_path / "mean")
    assert "--allow-code" in refusal(tmp_path / "mean")
    np.testing.assert_allclose(load_predictor(tmp_path / "mean", allow_code=True).predict_values(table.head(1)), [[0.1, 0.9]])


@pytest.mark.parametrize(
    ("name", "classes", "says"),
    [
        ("Absent", ("yes",), "has no 'Absent'"),
        ("NUMBER", ("yes",), "is a int; name a function or class"),
        ("Nothing", ("yes",), "Nothing without predict_proba"),
        ("Nothing", (), "Nothing without predict"),
        ("Values", ("yes",), "Values without predict_proba"),
    ],
)
def test_a_users_object_that_lacks_something_is_refused(name: str, classes: tuple[str, ...], says: str, users_module: str) -> None:
    with pytest.raises(BadInput, match=says):
        PythonPredictor(f"{users_module}:{name}", {}, classes, allow_code=True)


def test_a_users_object_with_other_classes_is_refused(users_module: str) -> None:
    with pytest.raises(BadInput, match="knows no, which the data has not"):
        PythonPredictor(f"{users_module}:Teacher", {"share": 0.5}, ("yes", "never"), allow_code=True)


def test_a_users_object_may_predict_values(users_module: str, table: pd.DataFrame) -> None:
    predictor = PythonPredictor(f"{users_module}:Values", {}, (), allow_code=True)
    np.testing.assert_array_equal(predictor.predict_values(table), 2 * table["size"])


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot import 'no_such_module'"):
        PythonPredictor("no_such_module:make", {}, (), allow_code=True)


def test_choosing_a_loader_imports_no_heavy_package() -> None:
    code = "import sys, stillroom.models.load; print(sorted({'torch', 'sklearn', 'pandas', 'onnxruntime'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
