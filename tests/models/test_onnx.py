"""OnnxPredictor against graphs written by hand, so that the convention is tested without the exporter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper

from stillroom.core.errors import BadInput
from stillroom.core.records import Column
from stillroom.models.load import load_predictor
from stillroom.models.onnx import OnnxPredictor

COLUMNS = (Column("size", "numeric"), Column("colour", "categorical"))


def graph(path: Path, *, output: str = "probabilities", numeric_input: str = "size") -> Path:
    """probabilities = softmax([size or -5 if missing, 2 if red, 1 if missing, 0 else])."""
    nodes = [
        helper.make_node("IsNaN", [numeric_input], ["absent"]),
        helper.make_node("Where", ["absent", "filler", numeric_input], ["number"]),
        helper.make_node(
            "LabelEncoder",
            ["colour"],
            ["shade"],
            domain="ai.onnx.ml",
            keys_strings=["red", ""],
            values_floats=[2.0, 1.0],
            default_float=0.0,
        ),
        helper.make_node("Concat", ["number", "shade"], ["logits"], axis=1),
        helper.make_node("Softmax", ["logits"], [output], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info(numeric_input, TensorProto.FLOAT, [None, 1]),
        helper.make_tensor_value_info("colour", TensorProto.STRING, [None, 1]),
    ]
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, [None, 2])]
    filler = numpy_helper.from_array(np.array([-5.0], dtype=np.float32), "filler")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    model = helper.make_model(helper.make_graph(nodes, "hand", inputs, outputs, [filler]), opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def table() -> pd.DataFrame:
    return pd.DataFrame({"colour": ["red", None, "blue"], "size": [0.5, np.nan, 3.0], "unused": [1, 2, 3]})


def softmax(*logits: float) -> Any:
    weights = np.exp(logits)
    return weights / weights.sum()


def test_columns_go_in_by_name_and_missing_values_as_nan_and_empty_string(tmp_path: Path) -> None:
    predictor = OnnxPredictor(graph(tmp_path / "model.onnx"), ("no", "yes"), COLUMNS)
    want = [softmax(0.5, 2), softmax(-5, 1), softmax(3, 0)]
    np.testing.assert_allclose(predictor.predict_values(table()), want, rtol=1e-6)
    assert predictor.predict_values(table()).dtype == np.float64
    assert predictor.predict_values(table().head(0)).shape == (0, 2)


def test_it_survives_saving(tmp_path: Path) -> None:
    predictor = OnnxPredictor(graph(tmp_path / "model.onnx"), ("no", "yes"), COLUMNS)
    predictor.save(tmp_path / "saved")
    again = load_predictor(tmp_path / "saved")
    assert again.classes == ("no", "yes")
    np.testing.assert_array_equal(again.predict_values(table()), predictor.predict_values(table()))


def test_values_of_a_regression_are_one_a_row(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["size", "size"], ["values"])
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 1])] for name in ("size", "values")]
    model = helper.make_model(helper.make_graph([node], "hand", *ends), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    # The graph reads one of the two columns.
    values = OnnxPredictor(tmp_path / "model.onnx", (), COLUMNS).predict_values(table().fillna({"size": 1.0}))
    np.testing.assert_allclose(values, [1.0, 2.0, 6.0])


def test_a_file_that_breaks_the_convention_is_refused(tmp_path: Path) -> None:
    def refusal(path: Path) -> str:
        with pytest.raises(BadInput) as caught:
            OnnxPredictor(path, ("no", "yes"), COLUMNS)
        return str(caught.value)

    assert "no such file" in refusal(tmp_path / "absent.onnx")
    (tmp_path / "damaged.onnx").write_bytes(b"not a graph")
    assert "is no ONNX graph" in refusal(tmp_path / "damaged.onnx")
    assert "outputs answer; one called 'probabilities' is expected" in refusal(graph(tmp_path / "a.onnx", output="answer"))
    assert "inputs that are no columns: weight" in refusal(graph(tmp_path / "b.onnx", numeric_input="weight"))
    with pytest.raises(BadInput, match="answers 2 classes"):
        OnnxPredictor(graph(tmp_path / "c.onnx"), ("no", "maybe", "yes"), COLUMNS)


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("2,4", 2), ("", 0), ("many", 0)])
def test_it_runs_on_as_many_threads_as_the_environment_says(
    variable: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    predictor = OnnxPredictor(graph(tmp_path / "model.onnx"), ("no", "yes"), COLUMNS)
    assert predictor._session.get_session_options().intra_op_num_threads == threads


def test_an_export_runs_without_the_libraries_that_trained_it(tmp_path: Path) -> None:
    OnnxPredictor(graph(tmp_path / "model.onnx"), ("a", "b"), COLUMNS).save(tmp_path / "saved")
    script = (
        "import sys, pandas\nfrom pathlib import Path\nfrom stillroom.evaluation.cost_worker import load_predictor\n"
        "values = load_predictor(Path(sys.argv[1])).predict_values(pandas.DataFrame({'size': [1.0], 'colour': ['red']}))\n"
        "assert values.shape == (1, 2)\n"
        # Its peak memory would be theirs.
        "assert not (found := {'sklearn', 'scipy', 'lightgbm', 'torch'} & set(sys.modules)), found\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "saved")], check=True)
