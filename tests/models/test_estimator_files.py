"""A model file is input: what it may do on loading is what these tests are about."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.base import clone
from sklearn.cluster import Birch
from sklearn.datasets import fetch_openml, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils._testing import _delete_folder

from stillroom.core.errors import BadInput, StageFailed
from stillroom.models.estimator_files import load_estimator, save_estimator

X, Y = load_iris(return_X_y=True)


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.path),)


def refusal(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load_estimator(path, place="teacher.fitted")
    assert str(caught.value).startswith("teacher.fitted: ")
    return str(caught.value)


def edited(path: Path, edit: Callable[[str], str]) -> None:
    """Rewrite the schema inside a skops file, as an attacker would."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = edit(parts["schema.json"].decode())
    json.loads(schema)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, "schema.json": schema.encode()}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("dump", [pickle.dump, joblib.dump, lambda made, file: joblib.dump(made, file, compress=3)])
def test_a_pickle_is_refused_and_never_run(dump: Callable[..., Any], tmp_path: Path) -> None:
    with (tmp_path / "model.skops").open("wb") as file:
        dump(Trap(tmp_path / "ran"), file)
    assert "pickle and joblib files run code when loaded" in refusal(tmp_path / "model.skops")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (os.system, "posix.system"),
        (_delete_folder, "sklearn.utils._testing._delete_folder"),  # a function of a trusted package is no less dangerous
        (fetch_openml, "fetch_openml"),
        (clone, "sklearn.base.clone"),
    ],
)
def test_a_file_that_names_a_function_is_refused(function: Any, named: str, tmp_path: Path) -> None:
    skops.io.dump(make_pipeline(FunctionTransformer(function), LogisticRegression()), tmp_path / "model.skops")
    message = refusal(tmp_path / "model.skops")
    assert named in message
    assert "is not trusted; only classes of sklearn, lightgbm" in message


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("sklearn.datasets", "fetch_openml"),
        ("sklearn.no_such_module", "Thing"),
        ("sklearn.utils._testing", "TempMemmap"),
        ("antigravity", "fly"),
    ],
)
def test_a_file_whose_class_was_exchanged_is_refused(module: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    save_estimator(LogisticRegression().fit(X[:, :2], Y > 0), path)
    edited(
        path, lambda schema: schema.replace('"LogisticRegression"', f'"{name}"').replace('"sklearn.linear_model._logistic"', f'"{module}"')
    )
    assert f"{module}.{name}" in refusal(path)


def test_a_module_outside_the_trusted_packages_is_not_even_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trap_module.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "model.skops"
    save_estimator(LogisticRegression().fit(X[:, :2], Y > 0), path)
    edited(
        path, lambda schema: schema.replace('"LogisticRegression"', '"Thing"').replace('"sklearn.linear_model._logistic"', '"trap_module"')
    )
    assert "trap_module.Thing" in refusal(path)
    assert not (tmp_path / "ran").exists()


def test_a_method_is_refused(tmp_path: Path) -> None:
    skops.io.dump(FunctionTransformer(LogisticRegression().fit(X[:, :2], Y > 0).predict_proba), tmp_path / "model.skops")
    assert "LogisticRegression.predict_proba" in refusal(tmp_path / "model.skops")


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_refused(keep: float, tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    save_estimator(LogisticRegression().fit(X, Y > 0), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep >= 1 else keep * len(content))])
    assert "is no skops file" in refusal(path) if keep == 0 else "is damaged" in refusal(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.skops")


@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
@pytest.mark.parametrize("value", [10**9, -7, 0])
def test_a_tree_that_points_outside_itself_is_refused(field: str, value: int, tmp_path: Path) -> None:
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(X, Y)
    state = tree.tree_.__getstate__()
    nodes = state["nodes"].copy()
    nodes[field][0] = value
    tree.tree_.__setstate__({**state, "nodes": nodes})
    save_estimator(make_pipeline(tree), tmp_path / "model.skops")
    if field == "feature" and value == 0:
        load_estimator(tmp_path / "model.skops")  # another feature, but one that exists
    else:
        assert "a decision tree in it points outside itself" in refusal(tmp_path / "model.skops")


def test_boosted_trees_that_point_outside_themselves_are_refused(tmp_path: Path) -> None:
    boosted = HistGradientBoostingClassifier(max_iter=2).fit(X, Y)
    boosted._predictors[1][2].nodes["feature_idx"][0] = 99
    save_estimator(boosted, tmp_path / "model.skops")
    assert "a decision tree in it points outside itself" in refusal(tmp_path / "model.skops")


def test_honest_trees_of_every_shape_are_loaded(tmp_path: Path) -> None:
    for i, grown in enumerate(
        (RandomForestClassifier(3, random_state=0), DecisionTreeClassifier(max_leaf_nodes=5), DecisionTreeClassifier(max_depth=1))
    ):
        grown.fit(X, Y)
        save_estimator(grown, tmp_path / f"{i}.skops")
        np.testing.assert_array_equal(load_estimator(tmp_path / f"{i}.skops").predict_proba(X), grown.predict_proba(X))


@pytest.mark.parametrize(
    ("held", "named"), [(Lock(), "_thread.lock"), (lambda rows: rows, "<lambda>"), (Trap(Path("x")), "Trap"), (Birch(), "Birch")]
)
def test_what_could_not_be_loaded_again_is_refused_at_saving(held: Any, named: str, tmp_path: Path) -> None:
    holder = LogisticRegression().fit(X, Y > 0)
    holder.held = held
    with pytest.raises(StageFailed, match=f"LogisticRegression cannot be saved without pickle: .*{named}"):
        save_estimator(holder, tmp_path / "model.skops")
    assert not (tmp_path / "model.skops").exists()


def test_an_estimator_around_a_torch_model_is_refused_and_no_stack_trace(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    holder = LogisticRegression().fit(X, Y > 0)
    holder.network_ = torch.nn.Linear(2, 2)
    with pytest.raises(StageFailed, match="LogisticRegression cannot be saved without pickle"):
        save_estimator(holder, tmp_path / "model.skops")
