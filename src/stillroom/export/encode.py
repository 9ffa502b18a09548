"""The feature encoder (`stillroom.models.tabular.feature_encoder`) as ONNX nodes: named columns in, one float32 matrix out.

Numbers are computed in float64 and rounded to float32 at the end, so that they round once, as scikit-learn's do when
the estimator reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from stillroom.export.graph import TOKENIZER_DOMAIN, Graph, NoOnnxFormError

_WORDS = r"[\p{L}\p{N}_]{2,}"
"""scikit-learn's token pattern, words of two or more letters or digits, in RE2's syntax."""

_LOCALE = "C.UTF-8"
"""Whose rules lower-case a text: present on every Linux since glibc 2.35, where ONNX Runtime's own default, en_US, often is not."""


def encode(graph: Graph, encoder: Any, inputs: dict[str, str]) -> str:
    """Add a fitted ColumnTransformer to `graph`.

    Args:
        inputs: the graph's input of each column.

    Returns:
        The name of the (n, F) float32 matrix.

    Raises:
        NoOnnxFormError: a step that the feature encoder does not make.
    """
    blocks = [_block(graph, step, names, inputs) for _, step, names in encoder.transformers_ if _is_step(step)]
    if not (parts := [block for block in blocks if block is not None]):
        raise NoOnnxFormError("the encoder keeps no column")
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def _is_step(step: Any) -> bool:
    return not (isinstance(step, str) and step == "drop")


def _block(graph: Graph, step: Any, names: Any, inputs: dict[str, str]) -> str | None:
    kind = "passthrough" if isinstance(step, str) else type(step).__name__
    columns = [inputs[name] for name in ([names] if isinstance(names, str) else names)]
    if not columns:
        return None
    match kind:
        case "passthrough":
            return _stack(graph, columns)
        case "FunctionTransformer" if step.func is None:
            return _stack(graph, columns)
        case "SimpleImputer":
            return graph.cast(_impute(graph, step, _doubles(graph, columns)), TensorProto.FLOAT)
        case "Pipeline" if [type(part).__name__ for _, part in step.steps] == ["SimpleImputer", "StandardScaler"]:
            values = _impute(graph, step.steps[0][1], _doubles(graph, columns))
            return graph.cast(_scale(graph, step.steps[1][1], values), TensorProto.FLOAT)
        case "MissingIndicator":
            kept = [columns[i] for i in step.features_]
            return graph.cast(graph.add("IsNaN", _stack(graph, kept)), TensorProto.FLOAT) if kept else None
        case "OneHotEncoder":
            return _join(graph, [_one_hot(graph, step, i, column) for i, column in enumerate(columns)])
        case "TfidfVectorizer":
            return _tf_idf(graph, step, columns[0])
    raise NoOnnxFormError(f"the encoder step {kind}")


def _stack(graph: Graph, columns: Sequence[str]) -> str:
    return _join(graph, list(columns))


def _join(graph: Graph, parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def _doubles(graph: Graph, columns: Sequence[str]) -> str:
    return graph.cast(_stack(graph, columns), TensorProto.DOUBLE)


def _impute(graph: Graph, imputer: Any, values: str) -> str:
    # A column that was empty in training is filled with 0, as SimpleImputer(keep_empty_features=True) does.
    fill = graph.weight(np.nan_to_num(imputer.statistics_.astype(np.float64)))
    return graph.add("Where", graph.add("IsNaN", values), fill, values)


def _scale(graph: Graph, scaler: Any, values: str) -> str:
    centred = graph.add("Sub", values, graph.weight(scaler.mean_))
    return graph.add("Div", centred, graph.weight(scaler.scale_))


def _one_hot(graph: Graph, encoder: Any, position: int, column: str) -> str:
    """(n, C): the column of a row's category is 1; a category unseen in training joins the rare ones, or is all zeros."""
    categories = [str(category) for category in encoder.categories_[position]]
    targets, width = _one_hot_columns(encoder, position)
    rare = encoder.infrequent_categories_[position] if encoder.handle_unknown == "infrequent_if_exist" else None
    # OneHot writes zeros for an index outside its depth.
    default = width if rare is None else width - 1
    codes = graph.add(
        "LabelEncoder",
        column,
        domain="ai.onnx.ml",
        keys_strings=categories,
        values_int64s=[int(target) for target in targets],
        default_int64=default,
    )
    flat = graph.add("Reshape", codes, graph.weight(np.array([-1], dtype=np.int64)))
    on_off = graph.weight(np.array([0.0, 1.0], dtype=np.float32))
    return graph.add("OneHot", flat, graph.weight(np.array([width], dtype=np.int64)), on_off, axis=-1)


def _one_hot_columns(encoder: Any, position: int) -> tuple[NDArray[np.int64], int]:
    """The output column of each category, and how many columns there are. Rare categories share the last."""
    categories = encoder.categories_[position]
    rare = encoder.infrequent_categories_[position]
    is_rare = np.zeros(len(categories), dtype=bool) if rare is None else np.isin(categories.astype(object), rare.astype(object))
    frequent = int((~is_rare).sum())
    targets = np.where(is_rare, frequent, np.cumsum(~is_rare) - 1)
    return targets.astype(np.int64), frequent + int(is_rare.any())


def _tf_idf(graph: Graph, vectoriser: Any, column: str) -> str:
    _check_text_settings(vectoriser)
    words = sorted(vectoriser.vocabulary_, key=vectoriser.vocabulary_.__getitem__)
    flat = graph.add("Reshape", column, graph.weight(np.array([-1], dtype=np.int64)))
    if vectoriser.lowercase:
        flat = graph.add("StringNormalizer", flat, case_change_action="LOWER", is_case_sensitive=1, locale=_LOCALE)
    tokens = graph.add("Tokenizer", flat, domain=TOKENIZER_DOMAIN, mark=0, mincharnum=1, pad_value="#", tokenexp=_WORDS)
    counts = graph.add(
        "TfIdfVectorizer",
        tokens,
        mode="TF",
        min_gram_length=1,
        max_gram_length=1,
        max_skip_count=0,
        ngram_counts=[0],
        ngram_indexes=list(range(len(words))),
        pool_strings=words,
    )
    if vectoriser.sublinear_tf:
        one = graph.weight(np.array(1.0, dtype=np.float32))
        logs = graph.add("Add", graph.add("Log", graph.add("Max", counts, one)), one)
        counts = graph.add("Where", graph.add("Greater", counts, graph.weight(np.array(0.0, dtype=np.float32))), logs, counts)
    weighted = graph.add("Mul", counts, graph.weight(vectoriser.idf_.astype(np.float32)))
    norm = graph.add("ReduceL2", weighted, graph.weight(np.array([1], dtype=np.int64)), keepdims=1)
    # A text without a known word has norm 0 and stays all zeros.
    return graph.add("Div", weighted, graph.add("Max", norm, graph.weight(np.array(1e-30, dtype=np.float32))))


def _check_text_settings(vectoriser: Any) -> None:
    as_made = {
        "analyzer": "word",
        "ngram_range": (1, 1),
        "token_pattern": r"(?u)\b\w\w+\b",
        "strip_accents": None,
        "stop_words": None,
        "preprocessor": None,
        "tokenizer": None,
        "use_idf": True,
        "norm": "l2",
        "binary": False,
    }
    if changed := [name for name, value in as_made.items() if getattr(vectoriser, name) != value]:
        raise NoOnnxFormError(f"tf-idf with another {', '.join(changed)}")
