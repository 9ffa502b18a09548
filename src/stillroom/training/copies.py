"""Soft targets for classifiers that only take hard labels: every row once a class, weighted by that class's mass.

Weighted cross-entropy over the copies of a row is cross-entropy with its soft target, term by term, and so is the Gini or
entropy impurity of a leaf. What a classifier *counts*, though, would count K times: those parameters are translated.
"""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from stillroom.core.errors import BadInput

Floats = NDArray[np.float64]

_PROPER = (
    "BernoulliNB",
    "ComplementNB",
    "DecisionTreeClassifier",
    "ExtraTreeClassifier",
    "ExtraTreesClassifier",
    "GaussianNB",
    "GradientBoostingClassifier",
    "HistGradientBoostingClassifier",
    "LogisticRegression",
    "MLPClassifier",
    "MultinomialNB",
    "RandomForestClassifier",
    "XGBClassifier",
)
"""Classifiers that learn weighted class copies as the distribution that the weights say. Others do not: SVC's and
CalibratedClassifierCV's inner folds put copies of one row on both sides, AdaBoost fights the copies that must disagree."""

_OFF = {"early_stopping": False, "oob_score": False}
"""Held-out rows that the estimator would choose among the copies: a row's copies would lie on both sides."""
_NEUTRAL = {"class_weight": None, "scale_pos_weight": None, "subsample": 1.0}
_TRACE = 1e-20
"""The mass of a class that a row's target leaves out. Not 0, for then a tree would not count that copy, and each row must
count exactly K times; far below rounding, so that a pure leaf stays pure."""


def takes_copies(estimator: Any) -> bool:
    """Whether this classifier learns weighted class copies as soft labels."""
    return type(estimator).__name__ in _PROPER


def fit_copies(estimator: Any, inputs: Any, masses: Floats, *, place: str) -> Any:
    """Fit `estimator` to soft targets through weighted class copies; fitted, with its parameters as they were given.

    Args:
        inputs: (n, d) array, sparse matrix or DataFrame.
        masses: (n, K) non-negative; a row's sum is its weight, a column without mass is a class left out.
        place: for errors.

    Raises:
        BadInput: a parameter under which copies would not be learnt as soft labels.
    """
    given = estimator.get_params(deep=False)
    for key, neutral in _NEUTRAL.items():
        if given.get(key, neutral) not in (neutral, None):
            raise BadInput.at(f"{place}.{key}", f"= {given[key]!r} does not go with soft labels; remove it, or set hard_label_weight to 1.")
    present = np.flatnonzero(masses.sum(axis=0) > 0)
    num_rows, num_copies = len(masses), len(present)
    rows = np.repeat(np.arange(num_rows), num_copies)
    copies = inputs.iloc[rows] if hasattr(inputs, "iloc") else inputs[rows]
    codes, weights = np.tile(present, num_rows), np.maximum(masses[:, present], _TRACE)
    draws = _draws(given, num_rows)
    translated = _translated(estimator, given, weights, draws)
    estimator.set_params(**translated)
    if draws is None:
        estimator.fit(copies, codes, sample_weight=weights.ravel())
    else:
        _fit_bagged(estimator, copies, codes, weights, draws)
    # No others: an XGBClassifier that is handed the parameters from before its fit answers no more.
    return estimator.set_params(**{key: given[key] for key in translated})


def _draws(given: dict[str, Any], num_rows: int) -> int | None:
    """How many rows a forest draws for each tree; None without a bootstrap."""
    if not given.get("bootstrap"):
        return None
    share = given["max_samples"]
    return int(share) if isinstance(share, Integral) else max(round(num_rows * (share or 1.0)), 1)


def _translated(estimator: Any, given: dict[str, Any], weights: Floats, draws: int | None) -> dict[str, Any]:
    """Parameters under which the copies are treated as the rows would be. Shares of the rows (floats) stay as they are."""
    num_rows, num_copies = weights.shape
    params: dict[str, Any] = {key: value for key, value in _OFF.items() if key in given}
    if type(estimator).__name__ == "GradientBoostingClassifier":
        params["n_iter_no_change"] = None  # elsewhere it only says how patient early_stopping is
    if type(estimator).__name__ == "MLPClassifier":
        size = min(200, num_rows) if given["batch_size"] == "auto" else given["batch_size"]
        params["batch_size"] = min(size, num_rows) * num_copies  # as many steps an epoch as on hard labels
    for key in ("min_samples_leaf", "min_samples_split"):
        if isinstance(given.get(key), Integral):
            params[key] = given[key] * num_copies
    if isinstance(given.get("min_samples_leaf"), Integral) and "min_weight_fraction_leaf" in given:
        # By weight, where that can be said: a row that hardly matters then hardly counts. A trace less, for rounding.
        total = weights.sum() * (1 if draws is None else draws / num_rows)
        share = given["min_samples_leaf"] * (1 - 1e-6) / total
        if given["min_samples_leaf"] > 1 and share <= 0.5:
            params |= {"min_samples_leaf": 1, "min_weight_fraction_leaf": max(share, given["min_weight_fraction_leaf"])}
    return params


def _fit_bagged(forest: Any, copies: Any, codes: NDArray[np.int64], weights: Floats, draws: int) -> None:
    """A bootstrap over rows. The forest's own would draw a row's copies apart and pull every leaf towards the even split."""
    num_rows = len(weights)
    random, given = check_random_state(forest.random_state), forest.get_params(deep=False)
    forest.set_params(bootstrap=False, warm_start=True, max_samples=None)
    for size in range(1, given["n_estimators"] + 1):
        counts = random.multinomial(draws, np.full(num_rows, 1 / num_rows))
        # Warm: only the newest tree is grown, and only it sees these weights.
        forest.set_params(n_estimators=size).fit(copies, codes, sample_weight=(weights * counts[:, None]).ravel())
    forest.set_params(**{key: given[key] for key in ("bootstrap", "warm_start", "max_samples", "n_estimators")})
