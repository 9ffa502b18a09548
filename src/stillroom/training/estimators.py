"""Fitting estimator students: the teacher's soft labels in a way that each family can take, or hard labels as they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from stillroom.core.errors import BadInput
from stillroom.core.interrupts import heeding_interrupts
from stillroom.core.protocols import SoftLabelObjective
from stillroom.core.records import Batch, Column, CurvePoint
from stillroom.models.prepared import prepare
from stillroom.models.tabular import TabularPredictor
from stillroom.training.copies import fit_copies, takes_copies
from stillroom.training.lightgbm import fit_lightgbm

Floats = NDArray[np.float64]

_LEAST = 1e-4
"""Where regression on log-probabilities cuts a share off: a teacher's 0 has no logarithm."""


class Recipe(Protocol):
    """An unfitted student: what `students.build_student` gives."""

    @property
    def estimator(self) -> Any: ...

    @property
    def columns(self) -> Sequence[Column]: ...

    def encoder(self) -> Any:
        """A new, unfitted transformer of prepared features into what the estimator takes."""
        ...


@dataclass(frozen=True, eq=False)
class Learnt:
    """A fitted estimator and how to read it; see `models.tabular.TabularPredictor`."""

    estimator: Any
    answers: Literal["probabilities", "logits", "values"] = "probabilities"
    logit_scale: float = 1.0
    curve: list[CurvePoint] = field(default_factory=list)


def fit_classifier(
    recipe: Recipe, batch: Batch, probs: Floats | None, objective: SoftLabelObjective, *, classes: Sequence[str], seed: int
) -> tuple[TabularPredictor, list[CurvePoint]]:
    """Fit a student of classes.

    Args:
        batch: n rows; target codes, -1 for a row without a label.
        probs: (n, K) teacher probabilities in the order of `classes`, rows of NaN without an answer; None: hard labels
            only, the control. An objective that never looks at the teacher (w = 1) gives that very student.
        seed: for every random_state that the recipe leaves open.

    Returns:
        The student, and its loss on the transfer set as it was trained, where the estimator tells.

    Raises:
        BadInput: the estimator, or one of its parameters, does not go with soft labels; or it refuses the rows.
    """
    codes = np.full(len(batch), -1) if batch.target is None else np.asarray(batch.target, dtype=np.int64)
    used = rows_used(codes, probs, objective)
    features = prepare(batch.features.iloc[used].reset_index(drop=True), recipe.columns)
    codes, probs = codes[used], None if probs is None else probs[used]
    encoder = recipe.encoder()
    inputs = encoder.fit_transform(features)
    learnt = learn_classes(recipe.estimator, inputs, codes, probs, objective, num_classes=len(classes), seed=seed)
    pipeline = Pipeline([("features", encoder), ("estimator", learnt.estimator)])
    student = TabularPredictor(pipeline, classes, recipe.columns, logit_scale=learnt.logit_scale, answers=learnt.answers)
    return student, learnt.curve


def fit_regressor(
    recipe: Recipe, batch: Batch, values: Floats | None, *, hard_label_weight: float, seed: int
) -> tuple[TabularPredictor, list[CurvePoint]]:
    """Fit a student of values to the mean over rows of (1 - w) * (q - p)**2 + w * (q - y)**2.

    Args:
        batch: n rows; target values, NaN for a row without one.
        values: (n,) the teacher's, NaN without an answer; None: the control.

    Returns, Raises: as `fit_classifier`.
    """
    labels = np.full(len(batch), np.nan) if batch.target is None else np.asarray(batch.target, dtype=np.float64)
    targets, weights = value_targets(labels, values, hard_label_weight)
    used = np.flatnonzero(weights > 0)
    features: pd.DataFrame = prepare(batch.features.iloc[used].reset_index(drop=True), recipe.columns)
    encoder = recipe.encoder()
    inputs = encoder.fit_transform(features)
    learnt = learn_values(recipe.estimator, inputs, targets[used], weights[used], seed=seed)
    pipeline = Pipeline([("features", encoder), ("estimator", learnt.estimator)])
    return TabularPredictor(pipeline, (), recipe.columns, answers="values"), learnt.curve


def rows_used(codes: NDArray[np.int64], probs: Floats | None, objective: SoftLabelObjective) -> NDArray[np.intp]:
    """Positions of the rows that the objective gives any weight; all others must not shape even the encoder."""
    return np.flatnonzero(codes >= 0 if probs is None else objective.targets(probs, codes).sum(axis=1) > 0)


def value_targets(labels: Floats, values: Floats | None, hard_label_weight: float) -> tuple[Floats, Floats]:
    """(n,) targets and (n,) weights whose weighted square loss is, up to a constant, the one of `fit_regressor`.

    A row with both has the target (1-w) p + w y and weight 1; one without a label p and 1-w; one without an answer y and w.
    """
    w = 1.0 if values is None else hard_label_weight
    p = np.full(len(labels), np.nan) if values is None else values
    soft, hard = (1 - w) * np.isfinite(p), w * np.isfinite(labels)
    weights = soft + hard
    total = soft * np.nan_to_num(p) + hard * np.nan_to_num(labels)
    return total / np.where(weights > 0, weights, 1.0), weights


def learn_classes(
    estimator: Any,
    inputs: Any,
    codes: NDArray[np.int64],
    probs: Floats | None,
    objective: SoftLabelObjective,
    *,
    num_classes: int,
    seed: int,
    place: str = "student.params",
) -> Learnt:
    """Fit a copy of `estimator` to encoded rows, all of which the objective uses; see `fit_classifier`."""
    estimator = seeded(estimator, seed)
    # Every row without the soft term: the loss is the ordinary one, and the estimator's own fit is the control.
    if probs is None or not objective.targets(probs, np.full_like(codes, -1)).any():
        _call(estimator, estimator.fit, inputs, codes)
        return Learnt(estimator, curve=_curve(estimator))
    assert probs.shape == (len(codes), num_classes), f"answers {probs.shape} for {len(codes)} rows, {num_classes} classes"
    if type(estimator).__module__.startswith("lightgbm"):
        fitted, curve = _call(estimator, fit_lightgbm, estimator, inputs, probs, codes, objective, place=place)
        return Learnt(fitted, curve=curve)
    if takes_copies(estimator):
        fitted = _call(estimator, fit_copies, estimator, inputs, objective.targets(probs, codes), place=place)
        return Learnt(fitted, logit_scale=objective.logit_scale(probs, codes), curve=_curve(fitted))
    return _learn_logits(estimator, inputs, codes, probs, objective)


def learn_values(estimator: Any, inputs: Any, targets: Floats, weights: Floats, *, seed: int) -> Learnt:
    """Fit a copy of `estimator` to encoded rows by weighted squares, where its loss is the square."""
    estimator = seeded(estimator, seed)
    if np.ptp(weights) > 0:
        _require_weights(estimator)
        _call(estimator, estimator.fit, inputs, targets, sample_weight=weights)
    else:
        _call(estimator, estimator.fit, inputs, targets)
    return Learnt(estimator, "values", curve=_curve(estimator))


def _learn_logits(estimator: Any, inputs: Any, codes: NDArray[np.int64], probs: Floats, objective: SoftLabelObjective) -> Learnt:
    """The regressor of the estimator's family on (n, K) logits: the teacher's, moved by how much a label surprises it.

    Squared error on logits is what T**2 * KL becomes as T grows (Hinton et al. 2015, eq. 4), so that at w = 0 T cancels.
    The logarithm of a soft target with a label in it would teach overconfidence: the mean logarithm is below the logarithm
    of the mean. Hence the difference to its expectation under the teacher, which is 0 on average where the labels follow
    the teacher. Such estimators take no row weights.
    """
    regressor = _regressor_like(estimator)
    weights = objective.targets(probs, codes).sum(axis=1)
    if not np.allclose(weights, weights[0], rtol=1e-9):
        _require_weights(regressor)
    logits = np.log(np.maximum(probs, _LEAST))
    if (codes >= 0).all():

        def log_targets(labels: NDArray[np.int64]) -> Floats:
            masses = objective.targets(probs, labels)
            return np.asarray(np.log(np.maximum(masses / masses.sum(axis=1, keepdims=True), _LEAST)))

        expected = sum(probs[:, [k]] * log_targets(np.full_like(codes, k)) for k in range(probs.shape[1]))
        logits = logits + objective.logit_scale(probs, codes) * (log_targets(codes) - expected)
    with warnings.catch_warnings():
        # Answers that follow the features exactly leave a Gaussian process no noise to find: its least is right then.
        warnings.filterwarnings(
            "ignore", "The optimal value found for dimension .* of parameter .*noise_level is close to the specified lower"
        )
        _call(regressor, regressor.fit, inputs, logits - logits.mean(axis=1, keepdims=True))
    return Learnt(regressor, "logits")


def _regressor_like(classifier: Any) -> Any:
    from sklearn.gaussian_process import GaussianProcessClassifier, GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, RadiusNeighborsClassifier, RadiusNeighborsRegressor

    params = classifier.get_params(deep=False)
    if isinstance(classifier, KNeighborsClassifier):
        return KNeighborsRegressor(**params)
    if isinstance(classifier, RadiusNeighborsClassifier):
        return RadiusNeighborsRegressor(**{key: value for key, value in params.items() if key != "outlier_label"})
    if isinstance(classifier, GaussianProcessClassifier):
        # A classifier's likelihood has noise of its own; a regressor without any would run through every answer.
        kernel = (params["kernel"] or ConstantKernel() * RBF()) + WhiteKernel()
        shared = ("optimizer", "n_restarts_optimizer", "copy_X_train", "random_state")
        return GaussianProcessRegressor(kernel, **{key: params[key] for key in shared})
    raise BadInput.at(
        "student.estimator",
        f"{type(classifier).__name__} cannot learn soft labels. Use lightgbm, gradient-boosting, random-forest, decision-tree, "
        "logistic-regression, mlp, knn or gaussian-process; or set objective.hard_label_weight to 1.",
    )


def _require_weights(estimator: Any) -> None:
    from sklearn.utils.validation import has_fit_parameter

    if not has_fit_parameter(estimator, "sample_weight"):
        raise BadInput.at(
            "student.estimator",
            f"{type(estimator).__name__} takes no row weights, which rows without a label or an answer need beside rows with both. "
            "Use another student, or set objective.hard_label_weight to 0 or 1.",
        )


def seeded(estimator: Any, seed: int) -> Any:
    """An unfitted copy, with `seed` for every random_state that is still open."""
    copy = clone(estimator)
    open_ones = {key: seed for key, value in copy.get_params().items() if key.split("__")[-1] == "random_state" and value is None}
    return copy.set_params(**open_ones)


def _call(estimator: Any, fit: Any, *arguments: Any, **keywords: Any) -> Any:
    """`fit(...)`, its refusal of the parameters or the rows turned into one clear error."""
    try:
        with heeding_interrupts():
            return fit(*arguments, **keywords)
    except BadInput:
        raise
    except Exception as error:
        # By name: LightGBM's own error is no ValueError, and LightGBM need not be imported to know it.
        if isinstance(error, ValueError) or type(error).__name__ == "LightGBMError":
            raise BadInput.at("student", f"{type(estimator).__name__} cannot be fitted: {error}") from error
        raise


def _curve(estimator: Any) -> list[CurvePoint]:
    """The training loss that some estimators keep: MLP's after each epoch, gradient boosting's after each tree."""
    kept = getattr(estimator, "loss_curve_", None)
    if kept is None and type(estimator).__name__.startswith("GradientBoosting"):
        kept = estimator.train_score_
    return [CurvePoint(step, "training_loss", float(loss)) for step, loss in enumerate([] if kept is None else kept, 1)]
