"""Fitted tree ensembles as plain arrays, and as one ONNX operator that branches exactly as they do.

Inputs are float32. A threshold is rounded towards minus infinity when it becomes float32: for a float32 x, x <= t holds
exactly where x <= floor32(t) holds, so that no row changes sides, rows on a threshold included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from stillroom.export.graph import NoOnnxFormError

Link = Literal["identity", "sigmoid", "softmax"]


@dataclass
class Tree:
    """One binary tree over m nodes; node 0 is the root. A row goes left where x[feature] <= threshold, or where x[feature]
    is NaN and `missing_left`; else right. Leaves have left == -1.

    Attributes:
        values: (m, K) what a leaf adds to the K scores.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    missing_left: NDArray[np.bool_]
    values: NDArray[np.float64]


@dataclass
class Ensemble:
    """scores = base + sum of the trees; the answer is link(scores). base: (K,)."""

    trees: list[Tree]
    base: NDArray[np.float64]
    link: Link


def floor32(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above each value."""
    with np.errstate(over="ignore"):  # beyond the range of float32: infinity is rounded, then stepped back from
        rounded = values.astype(np.float32)
        return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def read_ensemble(estimator: Any) -> Ensemble | None:
    """The trees of a fitted estimator; None for a family that has none or that is not read here.

    Raises:
        NoOnnxFormError: a tree ensemble with a feature that the ONNX operator cannot express.
    """
    package = type(estimator).__module__.split(".")[0]
    if package == "lightgbm":
        return _read_lightgbm(getattr(estimator, "booster_", estimator))
    for kind in type(estimator).__mro__:
        if reader := _READERS.get(kind.__name__):
            return reader(estimator)
    return None


def ensemble_node(ensemble: Ensemble, features: str, scores: str) -> onnx.NodeProto:
    """The ONNX node that reads the float32 tensor `features` (n, F) and writes `scores` (n, K)."""
    columns: dict[str, list[Any]] = {name: [] for name in _NODE_COLUMNS + _LEAF_COLUMNS}
    for number, tree in enumerate(ensemble.trees):
        _append_tree(columns, number, tree)
    return onnx.helper.make_node(
        "TreeEnsembleRegressor",
        [features],
        [scores],
        domain="ai.onnx.ml",
        n_targets=len(ensemble.base),
        aggregate_function="SUM",
        post_transform="NONE",
        base_values=[float(value) for value in ensemble.base],
        **cast(dict[str, Any], columns),
    )


_NODE_COLUMNS = [
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_values",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
    "nodes_missing_value_tracks_true",
]
_LEAF_COLUMNS = ["target_treeids", "target_nodeids", "target_ids", "target_weights"]


def _append_tree(columns: dict[str, list[Any]], number: int, tree: Tree) -> None:
    leaf = tree.left < 0
    count, leaves, width = len(leaf), np.flatnonzero(leaf), tree.values.shape[1]
    columns["nodes_treeids"] += [number] * count
    columns["nodes_nodeids"] += range(count)
    columns["nodes_featureids"] += np.where(leaf, 0, tree.feature).tolist()
    columns["nodes_values"] += floor32(np.where(leaf, 0.0, tree.threshold)).tolist()
    columns["nodes_modes"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
    columns["nodes_truenodeids"] += np.where(leaf, 0, tree.left).tolist()
    columns["nodes_falsenodeids"] += np.where(leaf, 0, tree.right).tolist()
    columns["nodes_missing_value_tracks_true"] += np.where(leaf, 0, tree.missing_left).tolist()
    columns["target_treeids"] += [number] * (len(leaves) * width)
    columns["target_nodeids"] += np.repeat(leaves, width).tolist()
    columns["target_ids"] += np.tile(np.arange(width), len(leaves)).tolist()
    columns["target_weights"] += tree.values[leaves].ravel().tolist()


# ---- scikit-learn


def _sklearn_tree(tree: Any, values: NDArray[np.float64]) -> Tree:
    """`values`: (m, K) of every node."""
    return Tree(
        feature=tree.feature.astype(np.int64),
        threshold=tree.threshold,
        left=tree.children_left.astype(np.int64),
        right=tree.children_right.astype(np.int64),
        missing_left=tree.missing_go_to_left.astype(bool),
        values=values,
    )


def _node_means(estimator: Any) -> NDArray[np.float64]:
    """(m, K): class shares of each node, or the means of its K targets."""
    values: NDArray[np.float64] = estimator.tree_.value
    if not hasattr(estimator, "classes_"):
        return values[:, :, 0]
    shares: NDArray[np.float64] = values[:, 0, :] / values[:, 0, :].sum(axis=1, keepdims=True)
    return shares


def _read_tree(estimator: Any) -> Ensemble:
    values = _node_means(estimator)
    return Ensemble([_sklearn_tree(estimator.tree_, values)], np.zeros(values.shape[1]), "identity")


def _read_forest(estimator: Any) -> Ensemble:
    members = estimator.estimators_
    trees = [_sklearn_tree(member.tree_, _node_means(member) / len(members)) for member in members]
    return Ensemble(trees, np.zeros(trees[0].values.shape[1]), "identity")


def _read_gradient_boosting(estimator: Any) -> Ensemble:
    if estimator.init_ != "zero" and type(estimator.init_).__name__ not in ("DummyClassifier", "DummyRegressor"):
        raise NoOnnxFormError("gradient boosting that starts from a model ('init')")
    # A dummy starts from a constant: any row shows it.
    base = np.ravel(estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32)))
    trees = [
        _sklearn_tree(member.tree_, _column(estimator.learning_rate * member.tree_.value[:, 0, 0], k, len(base)))
        for stage in estimator.estimators_
        for k, member in enumerate(stage)
    ]
    return Ensemble(trees, base, _link(estimator, len(base)))


def _read_hist_gradient_boosting(estimator: Any) -> Ensemble:
    if estimator.is_categorical_ is not None and np.any(estimator.is_categorical_):
        raise NoOnnxFormError("histogram gradient boosting with native categories")
    base = np.ravel(estimator._baseline_prediction).astype(np.float64)
    trees = [
        _hist_tree(predictor.nodes, _column(predictor.nodes["value"], k, len(base)))
        for stage in estimator._predictors
        for k, predictor in enumerate(stage)
    ]
    return Ensemble(trees, base, _link(estimator, len(base)))


def _hist_tree(nodes: Any, values: NDArray[np.float64]) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        feature=nodes["feature_idx"].astype(np.int64),
        threshold=nodes["num_threshold"].astype(np.float64),
        left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
        right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        values=values,
    )


def _link(estimator: Any, num_scores: int) -> Link:
    if not hasattr(estimator, "classes_"):
        if getattr(estimator, "loss", "") in ("poisson", "gamma"):
            raise NoOnnxFormError(f"gradient boosting with loss {estimator.loss!r}")
        return "identity"
    return "sigmoid" if num_scores == 1 else "softmax"


def _read_multi_output(estimator: Any) -> Ensemble | None:
    """One single-target regressor a column."""
    members = [read_ensemble(member) for member in estimator.estimators_]
    trees: list[Tree] = []
    for k, member in enumerate(members):
        if member is None or member.link != "identity" or len(member.base) != 1:
            return None
        for tree in member.trees:
            tree.values = _column(tree.values[:, 0], k, len(members))
            trees.append(tree)
    return Ensemble(trees, np.array([member.base[0] for member in members if member is not None]), "identity")


_READERS: dict[str, Callable[[Any], Ensemble | None]] = {
    "BaseDecisionTree": _read_tree,
    "BaseForest": _read_forest,
    "BaseGradientBoosting": _read_gradient_boosting,
    "BaseHistGradientBoosting": _read_hist_gradient_boosting,
    "MultiOutputRegressor": _read_multi_output,
}
"""By the name of a base class, so that this module needs no scikit-learn to start."""


# ---- LightGBM


def _read_lightgbm(booster: Any) -> Ensemble:
    model = booster.dump_model()
    num_scores = model["num_tree_per_iteration"]
    infos = model["tree_info"]
    share = num_scores / len(infos) if model.get("average_output") and infos else 1.0
    trees = [_lightgbm_tree(info["tree_structure"], i % num_scores, num_scores, share) for i, info in enumerate(infos)]
    return Ensemble(trees, np.zeros(num_scores), _lightgbm_link(model.get("objective", "of one's own").split()))


def _lightgbm_link(objective: Sequence[str]) -> Link:
    name, *options = objective
    if name == "binary":
        if "sigmoid:1" not in options:
            raise NoOnnxFormError(f"LightGBM's objective {' '.join(objective)!r}; leave 'sigmoid' at 1")
        return "sigmoid"
    if name == "multiclass":
        return "softmax"
    if name in ("regression", "regression_l1", "huber", "fair", "quantile", "mape"):
        if "sqrt" in options:
            raise NoOnnxFormError("LightGBM's reg_sqrt")
        return "identity"
    raise NoOnnxFormError(f"LightGBM's objective {name!r}")


def _lightgbm_tree(root: dict[str, Any], score: int, num_scores: int, share: float) -> Tree:
    nodes: list[dict[str, Any]] = []
    children: list[tuple[int, int]] = []
    waiting = [(root, -1, 0)]
    while waiting:  # a loop, since leaf-wise trees can be deeper than Python's stack
        node, parent, side = waiting.pop()
        place = len(nodes)
        nodes.append(node)
        children.append((-1, -1))
        if parent >= 0:
            left, right = children[parent]
            children[parent] = (place, right) if side == 0 else (left, place)
        if "split_feature" in node:
            waiting += [(node["left_child"], place, 0), (node["right_child"], place, 1)]
    inner = [i for i, node in enumerate(nodes) if "split_feature" in node]
    threshold, missing_left, feature = np.zeros(len(nodes)), np.zeros(len(nodes), dtype=bool), np.zeros(len(nodes), dtype=np.int64)
    for i in inner:
        feature[i] = nodes[i]["split_feature"]
        if nodes[i]["decision_type"] != "<=":
            raise NoOnnxFormError("LightGBM with native categories")
        threshold[i] = nodes[i]["threshold"]
        missing_left[i] = _lightgbm_missing_left(nodes[i])
    leaf_values = np.array([share * node.get("leaf_value", 0.0) for node in nodes])
    sides = np.array(children, dtype=np.int64).reshape(-1, 2)
    return Tree(feature, threshold, sides[:, 0], sides[:, 1], missing_left, _column(leaf_values, score, num_scores))


def _lightgbm_missing_left(node: dict[str, Any]) -> bool:
    match node["missing_type"]:
        case "NaN":
            return bool(node["default_left"])
        case "None":  # no NaN was seen in training: LightGBM reads a later one as 0
            return bool(node["threshold"] >= 0.0)
        case other:
            raise NoOnnxFormError(f"LightGBM's missing type {other!r} (zero_as_missing)")


def _column(values: Iterable[float], k: int, width: int) -> NDArray[np.float64]:
    """(m, width) with `values` in column k and zeros elsewhere."""
    column = np.asarray(values, dtype=np.float64)
    table = np.zeros((len(column), width))
    table[:, k] = column
    return table
