from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

from stillroom.core.errors import BadInput
from stillroom.export.onnx_text import export_text
from stillroom.models.load import load_predictor
from stillroom.models.onnx_text import OnnxTextPredictor
from stillroom.models.text import TextPredictor

CLASSES = ("bad", "fine", "good")
Make = Callable[..., tuple[Any, Any]]
TEXTS = pd.DataFrame({"text": ["good", "my card was not very good", None, "", "money " * 100, "where is the money", "an unheard-of word"]})


@pytest.fixture(scope="module")
def exported(tiny_bert: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextPredictor, Path]:
    """A student in training mode, whose labels stand in another order than the job's classes; max_length 20 cuts one text."""
    model, tokenizer = tiny_bert(("good", "bad", "fine"))
    predictor = TextPredictor(model.train(), tokenizer, CLASSES, column="text", max_length=20)
    folder = tmp_path_factory.mktemp("exports") / "onnx"
    export_text(predictor, folder)
    assert model.training
    return predictor, folder


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_it_answers_like_the_student_at_every_batch_size_and_length(exported: tuple[TextPredictor, Path], batch_size: int) -> None:
    student, folder = exported
    predictor = load_predictor(folder)
    assert isinstance(predictor, OnnxTextPredictor)
    assert predictor.classes == CLASSES
    predictor.batch_size = batch_size
    want = student.predict_values(TEXTS)
    assert np.ptp(want, axis=0).min() > 0.01
    np.testing.assert_allclose(predictor.predict_values(TEXTS), want, atol=1e-6)
    for row in range(len(TEXTS)):
        np.testing.assert_allclose(predictor.predict_values(TEXTS.iloc[[row]])[0], want[row], atol=1e-6)
    assert predictor.predict_values(TEXTS.iloc[:0]).shape == (0, 3)


def test_the_graph_is_valid_and_names_what_it_takes(exported: tuple[TextPredictor, Path]) -> None:
    folder = exported[1]
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "predictor.json", "tokenizer.json"]
    graph = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(graph)
    assert {node.name for node in graph.graph.input} == {"input_ids", "attention_mask", "token_type_ids"}
    assert [node.name for node in graph.graph.output] == ["logits"]
    sizes = [dim.dim_param for node in graph.graph.input for dim in node.type.tensor_type.shape.dim]
    assert set(sizes) == {"batch", "length"}


def test_serving_imports_neither_torch_nor_transformers(exported: tuple[TextPredictor, Path]) -> None:
    script = (
        "import sys, pandas\nfrom pathlib import Path\nfrom stillroom.models.load import load_predictor\n"
        "values = load_predictor(Path(sys.argv[1])).predict_values(pandas.DataFrame({'text': ['good']}))\n"
        "assert values.shape == (1, 3) and not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(exported[1])], check=True)


def test_saved_again_it_is_the_same_and_a_torn_folder_is_told(exported: tuple[TextPredictor, Path], tmp_path: Path) -> None:
    predictor = load_predictor(exported[1])
    predictor.save(tmp_path / "copy")
    np.testing.assert_array_equal(load_predictor(tmp_path / "copy").predict_values(TEXTS), predictor.predict_values(TEXTS))
    (tmp_path / "copy" / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"lacks tokenizer\.json"):
        load_predictor(tmp_path / "copy")


def test_a_tokenizer_that_pads_on_the_left_is_refused(tiny_bert: Make, tmp_path: Path) -> None:
    model, tokenizer = tiny_bert(CLASSES)
    tokenizer.padding_side = "left"
    with pytest.raises(BadInput, match=r"export\.formats"):
        export_text(TextPredictor(model, tokenizer, CLASSES, column="text"), tmp_path)


@pytest.mark.parametrize(("given", "threads"), [("3", 3), ("2,1", 2), ("", 0)])
def test_it_takes_the_threads_that_every_other_arm_gets(
    exported: tuple[TextPredictor, Path], monkeypatch: pytest.MonkeyPatch, given: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    predictor = load_predictor(exported[1])
    assert isinstance(predictor, OnnxTextPredictor)
    assert predictor.session.get_session_options().intra_op_num_threads == threads
