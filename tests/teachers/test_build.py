from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from stillroom.core.errors import BadInput
from stillroom.core.records import Column
from stillroom.spec.teacher import EstimatorTeacherSpec, HuggingFaceTeacherSpec, PluginTeacherSpec, PythonTeacherSpec
from stillroom.teachers.build import build_teacher, teacher_notes
from stillroom.teachers.teacher import TeacherRequest

COLUMNS = (Column("a", "numeric"),)


def build_planted(spec: PluginTeacherSpec, request: TeacherRequest) -> tuple[PluginTeacherSpec, TeacherRequest]:
    return spec, request


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [EntryPoint("planted", "planted_module:build_planted", "stillroom.teachers")]
    module = type(sys)("planted_module")
    module.build_planted = build_planted
    monkeypatch.setitem(sys.modules, "planted_module", module)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: found if group == "stillroom.teachers" else [])


@pytest.mark.usefixtures("plugin")
def test_a_plugins_builder_is_called_as_the_built_in_ones_are() -> None:
    spec = PluginTeacherSpec(kind="planted", params={"depth": 3})
    got, request = build_teacher(
        spec, columns=COLUMNS, classes=("x", "y"), task="classification", seed=7, allow_code=True, mode="in-sample"
    )
    assert got is spec
    assert (request.columns, request.classes, request.seed, request.allow_code, request.mode) == (COLUMNS, ("x", "y"), 7, True, "in-sample")


def test_an_unknown_kind_and_estimator_are_told_with_the_nearest() -> None:
    with pytest.raises(BadInput, match="estimator"):
        build_teacher(PluginTeacherSpec(kind="estimater"), columns=COLUMNS, classes=("x", "y"), task="classification", seed=0)
    spec = EstimatorTeacherSpec(estimator="random-forrest")
    with pytest.raises(BadInput, match=r"teacher\.estimator.*did you mean 'random-forest'"):
        build_teacher(spec, columns=COLUMNS, classes=("x", "y"), task="classification", seed=0)


@pytest.mark.parametrize(
    ("spec", "num_notes"),
    [
        (EstimatorTeacherSpec(estimator="ridge"), 0),
        (EstimatorTeacherSpec(fitted="/m.skops"), 1),
        (EstimatorTeacherSpec(fitted="/m.skops", trained_on="these-rows"), 1),
        (EstimatorTeacherSpec(fitted="/m.skops", trained_on="other-rows"), 0),
        (HuggingFaceTeacherSpec(model="acme/x"), 1),
        (HuggingFaceTeacherSpec(model="acme/x", fine_tune={}), 0),
        (PythonTeacherSpec(object="m:f"), 1),
        (PluginTeacherSpec(kind="planted"), 0),
    ],
)
def test_notes_say_what_is_not_known_of_a_fixed_teacher(spec: object, num_notes: int) -> None:
    assert len(teacher_notes(spec)) == num_notes


def test_what_every_job_imports_is_light() -> None:
    """Also on the way to a refused section: a teacher's libraries are loaded when it is built."""
    modules = ["answers", "build", "calibration", "labelling", "leakage", "teacher"]
    script = "import sys\n" + "".join(f"import stillroom.teachers.{name}\n" for name in modules)
    script += "print([name for name in ('torch', 'transformers', 'sklearn', 'lightgbm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
