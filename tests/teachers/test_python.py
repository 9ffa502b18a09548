"""The user's own object: run only where allowed, and its faults are told as the user's, not as ours."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.protocols import Teacher
from stillroom.core.records import Column
from stillroom.models.load import load_predictor
from stillroom.spec.teacher import PythonTeacherSpec
from stillroom.teachers.answers import ask
from stillroom.teachers.build import build_teacher
from stillroom.teachers.labelling import label_fixed

from .conftest import MemoryStore, make_batch

COLUMNS = (Column("a", "numeric"), Column("b", "numeric"))
CLASSES = ("no", "yes")

MODULE = '''
import threading
import numpy as np

class Model:
    """Fair by default; each fault has a name."""

    def __init__(self, fault="", scale=1.0):
        self.fault, self.scale, self.asked = fault, scale, 0
        self.classes_ = {"ints": [1, 0], "other": ["no", "maybe"], "one": ["no"]}.get(fault, ["yes", "no"])
        if fault == "lock":
            self.lock = threading.Lock()
        if fault == "broken":
            raise RuntimeError("no licence key")

    def predict_proba(self, frame):
        if self.fault == "counts":
            self.asked += 1
        if self.fault == "raises":
            raise KeyError("colour")
        p = 1 / (1 + np.exp(-self.scale * frame["a"].to_numpy()))
        if self.fault == "nan":
            p = np.where(p > p.mean(), np.nan, p)
        if self.fault == "sum":
            return np.column_stack([p, p])
        if self.fault == "narrow":  # NumPy would spread it over both columns, where 0.5 + 0.5 even sums to 1
            return np.full((len(p), 1), 0.5)
        if self.fault == "wide":
            return np.column_stack([p, 1 - p, 0 * p])
        return np.column_stack([p, 1 - p])

    def predict(self, frame):
        return self.scale * frame["a"].to_numpy()

class OnlyPredict:
    classes_ = ["yes", "no"]
    def predict(self, frame):
        return ["yes"] * len(frame)

number = 3
'''


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "own_teachers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_teachers", raising=False)
    return tmp_path


def build(
    fault: str = "", *, made_by: str = "Model", classes: tuple[str, ...] = CLASSES, allow_code: bool = True, **section: object
) -> Teacher:
    params = {"fault": fault, **section.pop("params", {})} if made_by == "Model" else {}
    spec = PythonTeacherSpec(object=f"own_teachers:{made_by}", params=params, **section)
    task = "classification" if classes else "regression"
    return build_teacher(spec, columns=COLUMNS, classes=classes, task=task, seed=0, allow_code=allow_code)


def label(teacher: Teacher, classes: tuple[str, ...] = CLASSES) -> np.ndarray:
    return label_fixed(teacher, make_batch(), MemoryStore(), classes=classes, batch_size=16).values


def test_answers_are_matched_by_name_and_come_back_after_saving(tmp_path: Path) -> None:
    teacher, batch = build(), make_batch()
    want = 1 / (1 + np.exp(-batch.features["a"].to_numpy()))
    np.testing.assert_allclose(label(teacher)[:, CLASSES.index("yes")], want)
    teacher.save(tmp_path / "saved")
    again = load_predictor(tmp_path / "saved", allow_code=True)
    np.testing.assert_array_equal(again.predict_values(batch.features), teacher.predict_values(batch.features))
    with pytest.raises(BadInput, match="--allow-code"):
        load_predictor(tmp_path / "saved")


def test_is_refused_without_allow_code_before_anything_is_imported() -> None:
    with pytest.raises(BadInput, match=r"teacher\.object: .*--allow-code"):
        build(allow_code=False)
    assert "own_teachers" not in sys.modules


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other", r"teacher\.object.*maybe"),
        ("one", r"the teacher's are \['no'\], the data's are \['no', 'yes'\]"),
        ("broken", r"teacher\.object: = 'own_teachers:Model' failed with .*no licence key"),
    ],
)
def test_faults_seen_at_building(fault: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(fault)


def test_wrong_arguments_a_missing_name_and_a_missing_method_are_told() -> None:
    with pytest.raises(BadInput, match=r"failed with .*temprature"):
        build(params={"temprature": 1})
    with pytest.raises(BadInput, match="has no 'Modell'"):
        build(made_by="Modell")
    with pytest.raises(BadInput, match="predict_proba"):
        build(made_by="OnlyPredict")
    with pytest.raises(BadInput, match="is a int"):
        build(made_by="number")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ("sum", BadInput, "sum to 1"),
        ("nan", StageFailed, r"\(a=.*, b=.*\)"),
        ("counts", BadInput, "changed its own state"),
        ("raises", StageFailed, r"teacher\.object: 'own_teachers:Model' failed on 16 rows: KeyError: 'colour'"),
        ("wide", BadInput, r"shape \(16, 3\), where \(16, 2\)"),
        ("narrow", BadInput, r"shape \(16, 1\), where \(16, 2\)"),
    ],
)
def test_faults_seen_while_answering(fault: str, error: type[Exception], message: str) -> None:
    teacher = build(fault)
    with pytest.raises(error, match=message):
        label(teacher)


def test_int_labels_are_the_names_of_the_data() -> None:
    values = label(build("ints", classes=("0", "1")), ("0", "1"))
    np.testing.assert_allclose(values[:, 1], 1 / (1 + np.exp(-make_batch().features["a"].to_numpy())))


def test_regression_uses_predict() -> None:
    values = label(build(classes=(), params={"scale": 3.0}), ())
    np.testing.assert_allclose(values, 3 * make_batch().features["a"].to_numpy())


def test_fingerprint_covers_arguments_state_and_source(own_module: Path) -> None:
    teacher = build()
    assert build().fingerprint == teacher.fingerprint
    assert build(params={"scale": 2.0}).fingerprint != teacher.fingerprint
    assert build("lock").fingerprint  # what cannot be read is left out
    before = teacher.fingerprint
    teacher.predictor.predictor.object.scale = 2.0
    assert teacher.fingerprint != before
    teacher.predictor.predictor.object.scale = 1.0
    (own_module / "own_teachers.py").write_text(MODULE + "# another version\n")
    assert teacher.fingerprint != before


def test_a_teacher_of_these_rows_is_refused() -> None:
    with pytest.raises(BadInput, match=r"teacher\.trained_on.*labelling\.mode"):
        build(trained_on="these-rows")


TORCH_MODULE = '''
import torch

class Net:
    """Dropout and batch normalisation, left in training mode as a careless script leaves them."""

    classes_ = ["no", "yes"]

    def __init__(self, stubborn=False, what="dropout"):
        torch.manual_seed(0)
        layer = torch.nn.Dropout(0.5) if what == "dropout" else torch.nn.BatchNorm1d(8)
        self.parts = {"body": torch.nn.Sequential(torch.nn.Linear(2, 8), layer, torch.nn.ReLU())}
        self.head, self.stubborn = torch.nn.Linear(8, 2), stubborn

    def predict_proba(self, frame):
        if self.stubborn:
            self.parts["body"].train()
        logits = self.head(self.parts["body"](torch.tensor(frame.to_numpy(), dtype=torch.float32)))
        assert not logits.requires_grad
        return logits.softmax(dim=1).numpy()
'''


@pytest.mark.parametrize("what", ["dropout", "batch-norm"])
def test_torch_modules_are_put_in_evaluation_mode_and_answer_without_gradients(what: str, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / f"torch_teachers_{what[:5]}.py").write_text(TORCH_MODULE)

    def build_net(stubborn: bool) -> Teacher:
        spec = PythonTeacherSpec(object=f"torch_teachers_{what[:5]}:Net", params={"what": what, "stubborn": stubborn})
        return build_teacher(spec, columns=COLUMNS, classes=CLASSES, task="classification", seed=0, allow_code=True)

    teacher = build_net(stubborn=False)
    first = label(teacher)
    np.testing.assert_allclose(ask(teacher, make_batch().features.iloc[:3], CLASSES), first[:3], rtol=1e-5)
    teacher.save(tmp_path / "saved")  # as the evaluation loads it
    np.testing.assert_allclose(load_predictor(tmp_path / "saved", allow_code=True).predict_values(make_batch().features), first, rtol=1e-5)
    # One that goes back to training mode by itself gets no further than its first batch.
    with pytest.raises(BadInput, match=r"evaluation mode"):
        label(build_net(stubborn=True))


def test_a_torch_teachers_fingerprint_is_that_of_its_numbers(tmp_path: Path) -> None:
    """Two equal nets lie elsewhere in memory, as those of two processes do; pickled tensors would name their addresses."""
    torch = pytest.importorskip("torch")
    (tmp_path / "torch_teachers.py").write_text(TORCH_MODULE)
    spec = PythonTeacherSpec(object="torch_teachers:Net", params={"what": "batch-norm"})
    one, other = (build_teacher(spec, columns=COLUMNS, classes=CLASSES, task="classification", seed=0, allow_code=True) for _ in range(2))
    before = one.fingerprint
    assert other.fingerprint == before
    net = one.predictor.predictor.object
    for tensor in (net.head.bias, net.parts["body"][1].running_mean):
        with torch.no_grad():
            tensor[0] += 1e-3
        assert one.fingerprint != before
        with torch.no_grad():
            tensor.copy_(other_tensor(other, tensor.shape))
    net.parts["body"].train()
    assert one.fingerprint != before


def other_tensor(teacher: Teacher, shape: tuple[int, ...]) -> object:
    net = teacher.predictor.predictor.object
    return net.head.bias if shape == net.head.bias.shape else net.parts["body"][1].running_mean
