"""Tabular students as ONNX: one input a column in, probabilities (or values) out, the temperature's scale inside.

Inputs are named like the columns, (n, 1) each: float32 with NaN for missing numbers, strings with "" for a missing
category or text. Output: "probabilities" (n, K) in class order, or "values" (n, 1).
"""

from __future__ import annotations

import warnings
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto
from scipy.sparse import issparse

from stillroom.core.errors import StageFailed
from stillroom.core.files import write_bytes
from stillroom.export.encode import encode
from stillroom.export.graph import ML_OPSET, OPSET, Graph, NoOnnxFormError
from stillroom.export.trees import ensemble_node, read_ensemble
from stillroom.models.labels import class_codes
from stillroom.models.manifest import write_manifest
from stillroom.models.onnx import MODEL_FILE

if TYPE_CHECKING:
    from stillroom.models.tabular import TabularPredictor

PROBABILITIES, VALUES, LOGITS = "probabilities", "values", "logits"


def export_tabular(predictor: TabularPredictor, folder: Path) -> None:
    """Write model.onnx and predictor.json (kind "onnx") into `folder`.

    Raises:
        StageFailed: the student's estimator has no ONNX form.
    """
    try:
        model = tabular_model(predictor)
    except NoOnnxFormError as error:
        name = type(predictor.estimator).__name__
        raise StageFailed(
            f"export: {name} cannot be written as ONNX: {error}. Choose another student, or set export.formats: []."
        ) from error
    write_bytes(folder / MODEL_FILE, model.SerializeToString())
    write_manifest(folder, kind="onnx", classes=predictor.classes, columns=predictor.columns)


def tabular_model(predictor: TabularPredictor) -> onnx.ModelProto:
    """The ONNX model of a student.

    Raises:
        NoOnnxFormError: a step or an estimator has none.
    """
    graph = Graph()
    kinds = {column.name: TensorProto.FLOAT if column.kind == "numeric" else TensorProto.STRING for column in predictor.columns}
    inputs = {name: graph.input(name, kind) for name, kind in kinds.items()}
    features = encode(graph, predictor.pipeline.steps[0][1], inputs)
    answer, kind = _estimate(graph, predictor.estimator, features, classifies=predictor.answers == PROBABILITIES)
    facts = {"columns": ", ".join(kinds), "classes": ", ".join(predictor.classes), "logit_scale": repr(float(predictor.logit_scale))}
    if predictor.answers == VALUES:
        column = graph.add("Reshape", answer, graph.weight(np.array([-1, 1], dtype=np.int64)))
        return graph.model(column, VALUES, [None, 1], facts)
    probs = _probabilities(graph, answer, LOGITS if predictor.answers == LOGITS else kind, predictor.logit_scale)
    return graph.model(_in_class_order(graph, probs, predictor), PROBABILITIES, [None, len(predictor.classes)], facts)


def _estimate(graph: Graph, estimator: Any, features: str, *, classifies: bool) -> tuple[str, str]:
    """The estimator's answer, and what it is: logits, probabilities or values."""
    if (ensemble := read_ensemble(estimator)) is not None:
        scores = graph.append(ensemble_node(ensemble, features, graph.fresh()))
        return _linked(graph, scores, ensemble.link)
    for base in type(estimator).__mro__:
        if base.__name__ == "LogisticRegression":
            scores = _dense(graph, features, estimator.coef_.T, estimator.intercept_)
            return _linked(graph, scores, "sigmoid" if len(estimator.classes_) == 2 else "softmax")
        if base.__name__ == "LinearModel" and not classifies:
            weights = np.atleast_2d(estimator.coef_).T
            return _dense(graph, features, weights, np.broadcast_to(estimator.intercept_, weights.shape[1])), VALUES
        if base.__name__ == "BaseMultilayerPerceptron":
            return _perceptron(graph, estimator, features)
    return _converted(graph, estimator, features, classifies=classifies)


def _linked(graph: Graph, scores: str, link: str) -> tuple[str, str]:
    """Scores of trees or a linear model as (answer, what it is)."""
    if link == "sigmoid":
        # softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)], and can be tempered like any other softmax.
        return graph.add("Concat", graph.add("Sub", scores, scores), scores, axis=1), LOGITS
    return scores, LOGITS if link == "softmax" else PROBABILITIES


def _dense(graph: Graph, values: str, weights: Any, bias: Any) -> str:
    return graph.add("Gemm", values, graph.weight(np.asarray(weights, dtype=np.float32)), graph.weight(np.asarray(bias, dtype=np.float32)))


def _perceptron(graph: Graph, network: Any, features: str) -> tuple[str, str]:
    activations = {"identity": "Identity", "logistic": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
    hidden = activations[network.activation]
    values = features
    for i, (weights, bias) in enumerate(zip(network.coefs_, network.intercepts_, strict=True)):
        values = _dense(graph, values, weights, bias)
        if i + 1 < len(network.coefs_):
            values = graph.add(hidden, values)
    if network.out_activation_ == "identity":
        return values, VALUES
    return _linked(graph, values, "sigmoid" if network.out_activation_ == "logistic" else "softmax")


def _converted(graph: Graph, estimator: Any, features: str, *, classifies: bool) -> tuple[str, str]:
    """Any other family, through skl2onnx."""
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    estimator = copy(estimator)
    if issparse(getattr(estimator, "_fit_X", None)):  # neighbours: the converter wants the training rows dense
        estimator._fit_X = estimator._fit_X.toarray()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's own deprecations are not the user's matter
            model = convert_sklearn(
                estimator,
                initial_types=[("features", FloatTensorType([None, int(estimator.n_features_in_)]))],
                target_opset={"": OPSET, "ai.onnx.ml": ML_OPSET},
                options={id(estimator): {"zipmap": False}} if classifies else None,
            )
    # Its converters fail in many ways on what they were not written for; each means the same here.
    except Exception as error:
        raise NoOnnxFormError(f"skl2onnx: {_first_line(error)}") from error
    output = model.graph.output[-1].name
    return graph.inline(model, features, output), PROBABILITIES if classifies else VALUES


def _probabilities(graph: Graph, answer: str, kind: str, scale: float) -> str:
    if kind == LOGITS:
        return graph.softmax(answer, scale)
    return answer if scale == 1.0 else graph.softmax(graph.add("Log", answer), scale)


def _in_class_order(graph: Graph, probs: str, predictor: TabularPredictor) -> str:
    """(n, K) in the task's class order; a class absent from the fit has probability 0."""
    num_classes = len(predictor.classes)
    if predictor.answers == LOGITS:
        return probs
    codes = class_codes(predictor.pipeline.classes_, predictor.classes, labels=predictor.labels)
    if np.array_equal(codes, np.arange(num_classes)):
        return probs
    placement = np.zeros((len(codes), num_classes), dtype=np.float32)
    placement[np.arange(len(codes)), codes] = 1.0
    return graph.add("MatMul", probs, graph.weight(placement))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
