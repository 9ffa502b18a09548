"""LightGBM on soft labels: the objective's own gradient, and a fitted model that is an ordinary LGBMClassifier."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput
from stillroom.core.protocols import SoftLabelObjective
from stillroom.core.records import CurvePoint

Floats = NDArray[np.float64]

_NEVER = 1e300
"""A gain that no split reaches."""


def fit_lightgbm(
    estimator: Any, inputs: Any, probs: Floats, codes: NDArray[np.int64], objective: SoftLabelObjective, *, place: str
) -> tuple[Any, list[CurvePoint]]:
    """Boost from the best constant along the exact gradient and second derivative of the objective.

    Every row counts once, so num_leaves, min_child_samples, bagging and the penalties mean what they mean on hard labels.

    Args:
        estimator: an unfitted LGBMClassifier.
        inputs: (n, d) what it is fitted on.
        probs: (n, K) teacher probabilities, rows of NaN without an answer.
        codes: (n,) labels, -1 for none.
        place: for errors.

    Returns:
        An LGBMClassifier whose predict_proba is softmax of the boosted logits, its classes_ the K codes; and the
        objective after each round.

    Raises:
        BadInput: a parameter that contradicts soft labels.
    """
    from lightgbm import LGBMRegressor

    num_rows, num_classes = probs.shape
    params = _params(estimator, num_classes, place)
    start = objective.prior_logits(probs, codes)
    # In the objective a term is a mean; here, as in LightGBM's own objectives, a sum over the rows that it knows.
    per_row = float(objective.targets(probs, codes).sum()) / num_rows
    losses: list[float] = []

    def logits_of(raw: Floats) -> Floats:
        return np.column_stack([np.zeros(len(raw)), raw]) if num_classes == 2 else raw

    def derivatives(_: Floats, raw: Floats) -> tuple[Floats, Floats]:
        logits = logits_of(raw)
        losses.append(float(objective.loss(logits, probs, codes).mean()))
        first, second = objective.gradient(logits, probs, codes)
        if num_classes == 2:
            return per_row * first[:, 1], per_row * second[:, 1]
        # LightGBM's multiclass objective steps by the same factor (Friedman 2001, section 4.6, algorithm 6).
        return per_row * first, per_row * second * num_classes / (num_classes - 1)

    # Two classes are one logit, that of the second against the first.
    constant = start[1:] - start[0] if num_classes == 2 else start
    shape = {} if num_classes == 2 else {"num_class": num_classes}
    # Features that cannot be split would be dropped beforehand; a custom objective fails where none is left.
    trees = LGBMRegressor(**{"feature_pre_filter": False, **params}, **shape).set_params(objective=derivatives, metric="none")
    booster = _boost(trees, inputs, np.tile(constant, (num_rows, 1)).squeeze())
    before = np.asarray(booster.predict(inputs, raw_score=True)) + constant.squeeze()
    _add_constant(booster, constant)
    if not np.allclose(booster.predict(inputs, raw_score=True), before, rtol=1e-6, atol=1e-6):
        raise BadInput.at(place, "LightGBM with these params has no constant leaves (linear_tree); soft labels need them: remove it.")
    losses.append(float(objective.loss(logits_of(before), probs, codes).mean()))
    curve = [CurvePoint(step, "training_loss", loss) for step, loss in enumerate(losses)]
    return _as_classifier(type(estimator), params, booster, inputs, num_classes), curve


def _boost(trees: Any, inputs: Any, start: Floats) -> Any:
    """The booster of `trees` fitted from the scores `start`."""
    from lightgbm.basic import LightGBMError

    try:
        return trees.fit(inputs, np.zeros(len(start)), init_score=start).booster_
    except LightGBMError as error:
        if "num_features" not in str(error):
            raise
    # Every feature is constant: LightGBM's own objectives give a constant then, a custom one fails. The same constant comes
    # from columns that could be split, where no split ever pays.
    stand_in = np.tile(np.arange(len(start), dtype=np.float64)[:, None], (1, inputs.shape[1]))
    trees.set_params(n_estimators=1, min_split_gain=_NEVER)
    return trees.fit(stand_in, np.zeros(len(start)), init_score=start).booster_


def _params(estimator: Any, num_classes: int, place: str) -> dict[str, Any]:
    """The estimator's parameters without those that soft labels replace."""
    params = dict(estimator.get_params())
    usual = "binary" if num_classes == 2 else "multiclass"
    if params.pop("objective", None) not in (None, usual):
        raise BadInput.at(f"{place}.objective", f"soft labels come with their own objective; remove it, or give {usual!r}.")
    for key, neutral in (("class_weight", None), ("is_unbalance", False), ("unbalance", False), ("scale_pos_weight", 1.0)):
        if params.get(key, neutral) != neutral:
            raise BadInput.at(f"{place}.{key}", "would bend the probabilities that the student has to learn as they are; remove it.")
    for key in ("class_weight", "num_class"):
        params.pop(key, None)
    return params


def _add_constant(booster: Any, constant: Floats) -> None:
    """Put the starting logits into the leaves of each class's first tree: LightGBM keeps no constant beside the trees."""
    for k, tree in enumerate(booster.dump_model(num_iteration=1)["tree_info"][: len(constant)]):
        for leaf in range(tree["num_leaves"]):
            booster.set_leaf_output(k, leaf, booster.get_leaf_output(k, leaf) + constant[k])


def _as_classifier(cls: type[Any], params: dict[str, Any], booster: Any, inputs: Any, num_classes: int) -> Any:
    """An LGBMClassifier that holds the trees of `booster` under LightGBM's own binary or multiclass objective.

    It goes on from the booster by one round that cannot split, and so changes nothing: the public way to a classifier
    that predicts probabilities, saves and exports like any other, which one with a custom objective does not.
    """
    num_rows = max(inputs.shape[0], num_classes)
    rows = np.arange(num_rows) % inputs.shape[0]
    classifier = cls(n_estimators=1, min_split_gain=_NEVER, verbosity=-1, n_jobs=params.get("n_jobs"))
    data = inputs.iloc[rows] if hasattr(inputs, "iloc") else inputs[rows]
    classifier.fit(data, np.arange(num_rows) % num_classes, init_model=booster)
    assert classifier.booster_.num_trees() == booster.num_trees(), "the closing round must add nothing"
    # A deep copy keeps the model and lets go of the booster it went on from, which cannot be saved.
    return copy.deepcopy(classifier).set_params(**{"verbosity": None, "min_split_gain": 0.0, **params})
