"""From a name in a job file to an unfitted scikit-learn-compatible estimator."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stillroom.core.errors import BadInput, Problem, nearest
from stillroom.core.records import Task

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

ALLOWED_PACKAGES = ("sklearn", "lightgbm", "xgboost", "catboost", "tabpfn", "tabicl")
"""A job file is data: it may name classes of these packages, and nothing else."""

SHORT_NAMES: dict[Task, dict[str, str]] = {
    "classification": {
        "decision-tree": "sklearn.tree.DecisionTreeClassifier",
        "extra-trees": "sklearn.ensemble.ExtraTreesClassifier",
        "gaussian-process": "sklearn.gaussian_process.GaussianProcessClassifier",
        "gradient-boosting": "sklearn.ensemble.HistGradientBoostingClassifier",
        "knn": "sklearn.neighbors.KNeighborsClassifier",
        "lightgbm": "lightgbm.LGBMClassifier",
        "logistic-regression": "sklearn.linear_model.LogisticRegression",
        "mlp": "sklearn.neural_network.MLPClassifier",
        "naive-bayes": "sklearn.naive_bayes.GaussianNB",
        "random-forest": "sklearn.ensemble.RandomForestClassifier",
        "svm": "sklearn.svm.SVC",
        "tabicl": "tabicl.TabICLClassifier",
        "tabpfn": "tabpfn.TabPFNClassifier",
        "xgboost": "xgboost.XGBClassifier",
        "catboost": "catboost.CatBoostClassifier",
    },
    "regression": {
        "decision-tree": "sklearn.tree.DecisionTreeRegressor",
        "extra-trees": "sklearn.ensemble.ExtraTreesRegressor",
        "gaussian-process": "sklearn.gaussian_process.GaussianProcessRegressor",
        "gradient-boosting": "sklearn.ensemble.HistGradientBoostingRegressor",
        "knn": "sklearn.neighbors.KNeighborsRegressor",
        "lightgbm": "lightgbm.LGBMRegressor",
        "linear-regression": "sklearn.linear_model.LinearRegression",
        "mlp": "sklearn.neural_network.MLPRegressor",
        "random-forest": "sklearn.ensemble.RandomForestRegressor",
        "ridge": "sklearn.linear_model.Ridge",
        "svm": "sklearn.svm.SVR",
        "tabicl": "tabicl.TabICLRegressor",
        "tabpfn": "tabpfn.TabPFNRegressor",
        "xgboost": "xgboost.XGBRegressor",
        "catboost": "catboost.CatBoostRegressor",
    },
}

NO_EFFECT = frozenset({"n_jobs", "verbose", "verbosity"})
"""Parameters that cannot change an answer: no part of any fingerprint."""

_QUIET_LIGHTGBM = {"verbosity": -1, "deterministic": True, "force_row_wise": True, "n_jobs": 0}
_QUIET_CATBOOST = {"verbose": False, "allow_writing_files": False}
_DEFAULTS: dict[str, dict[str, Any]] = {
    # The library's own 100 and 200 iterations stop short of convergence on ordinary tables, with a warning.
    "sklearn.linear_model.LogisticRegression": {"max_iter": 1000},
    "sklearn.neural_network.MLPClassifier": {"max_iter": 2000},
    "sklearn.neural_network.MLPRegressor": {"max_iter": 2000},
    # deterministic needs one fixed histogram layout: two runs of one job must give the same student. n_jobs 0 is as many threads
    # as OpenMP is told to use; LightGBM's own default takes every core, so that its latency would not compare with another arm's.
    "lightgbm.LGBMClassifier": _QUIET_LIGHTGBM,
    "lightgbm.LGBMRegressor": _QUIET_LIGHTGBM,
    # Its own are a line for each of 1000 trees, and a folder in the working directory.
    "catboost.CatBoostClassifier": _QUIET_CATBOOST,
    "catboost.CatBoostRegressor": _QUIET_CATBOOST,
}
"""What differs from a library's own defaults, where the job's params are silent. Recorded in `recipe_facts` with the rest."""


def resolve_estimator(name: str, params: Mapping[str, Any], *, task: Task, seed: int, place: str) -> BaseEstimator:
    """An unfitted estimator that fits the task.

    Args:
        name: a key of `SHORT_NAMES[task]`, or the import path of a class in one of `ALLOWED_PACKAGES`.
        params: its keyword arguments; plain data.
        seed: becomes its random_state, where it has one and `params` does not set it.
        place: the job's section, for errors: "teacher" or "student".

    Returns:
        The estimator. An SVC is wrapped in CalibratedClassifierCV(ensemble=False), scikit-learn's way to its probabilities.

    Raises:
        BadInput: an unknown package, class or parameter, a value that the class refuses, a classifier for regression
            (or the reverse), or a classifier without predict_proba.
    """
    path = import_path(name, task=task, place=f"{place}.estimator")
    cls = _find_class(name, path, place=f"{place}.estimator")
    _check_params(cls, params, place=f"{place}.params")
    accepted = _parameters(cls)
    defaults = _gaussian_process(task) if name == "gaussian-process" else _DEFAULTS.get(path, {})
    arguments = {**defaults, **params}
    seeds = [key for key in ("random_state", "random_seed") if key in accepted]  # CatBoost knows both, and takes one
    if seeds and not any(key in params for key in seeds):
        arguments[seeds[0]] = seed
    try:
        estimator = cls(**arguments)
        # scikit-learn checks values in fit; asking now refuses a bad job before anything heavy starts.
        if hasattr(estimator, "_parameter_constraints"):
            estimator._validate_params()
    except (TypeError, ValueError) as error:
        raise BadInput.at(f"{place}.params", f"{cls.__name__} refuses them: {error}") from None
    return _fit_for(task, estimator, seed=seed, place=f"{place}.estimator")


def recipe_facts(estimator: BaseEstimator) -> dict[str, Any]:
    """Plain data that says which estimator this is before it is fitted: class path, parameters, version of its package.

    Parameters that cannot change the result (threads, chattiness) are left out.
    """
    cls = type(estimator)
    package = cls.__module__.split(".")[0]
    params = {key: value for key, value in estimator.get_params(deep=False).items() if key not in NO_EFFECT}
    version = getattr(importlib.import_module(package), "__version__", "")
    return {
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "params": {key: _plain(value) for key, value in params.items()},
        "package": f"{package} {version}".strip(),
    }


def import_path(name: str, *, task: Task, place: str) -> str:
    """Where the class lies that a job names; nothing is imported.

    Raises:
        BadInput: no short name for the task, nor a path into one of `ALLOWED_PACKAGES`.
    """
    path = SHORT_NAMES[task].get(name, name)
    package, _, inside = path.partition(".")
    if not inside:
        hint = nearest(name, SHORT_NAMES[task])
        raise BadInput.at(place, f"= {name!r} is not a known name for {task}; {hint} Or give an import path such as sklearn.svm.SVC.")
    if package not in ALLOWED_PACKAGES:
        allowed = ", ".join(ALLOWED_PACKAGES)
        raise BadInput.at(place, f"= {name!r} is outside the allowed packages: {allowed}. For your own object use teacher kind: python.")
    return path


def _find_class(name: str, path: str, *, place: str) -> type[BaseEstimator]:
    try:
        importlib.import_module(path.partition(".")[0])
    except ModuleNotFoundError as error:
        raise BadInput.at(place, f"= {name!r} needs the package {error.name}: pip install {error.name}") from None
    module_path, _, class_name = path.rpartition(".")
    module = _module(module_path, name=name, place=place)
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not hasattr(found, "fit") or found.__module__.split(".")[0] not in ALLOWED_PACKAGES:
        hint = nearest(class_name, _estimator_names(module))
        raise BadInput.at(place, f"= {name!r}: {module_path} has no estimator {class_name!r}; {hint}")
    return found


def _module(path: str, *, name: str, place: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        parent, _, last = path.rpartition(".")
        if error.name != path or not parent:
            raise BadInput.at(place, f"= {name!r} needs the package {error.name}: pip install {error.name}") from None
        known = getattr(_module(parent, name=name, place=place), "__all__", ())
        raise BadInput.at(place, f"= {name!r}: there is no module {path!r}; {nearest(last, known)}") from None


def _estimator_names(module: ModuleType) -> list[str]:
    names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
    return [name for name in names if isinstance(getattr(module, name, None), type) and hasattr(getattr(module, name), "fit")]


def _parameters(cls: type[Any]) -> set[str]:
    """The keyword arguments that `cls` understands."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {name for name, parameter in inspect.signature(cls).parameters.items() if parameter.kind in kinds}
    if cls.__module__.startswith("lightgbm"):
        from lightgbm.basic import _ConfigAliases

        # LightGBM takes any keyword and only prints a warning for one it does not know: a misspelt one would be lost.
        for main, aliases in _ConfigAliases._get_all_param_aliases().items():
            names |= {main, *aliases}
    return names


def _check_params(cls: type[Any], params: Mapping[str, Any], *, place: str) -> None:
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(cls).parameters.values())
    if takes_any and not cls.__module__.startswith("lightgbm"):
        return
    known = _parameters(cls)
    unknown = [key for key in params if key not in known]
    if problems := [Problem(f"{place}.{key}", f"{cls.__name__} has no such parameter; {nearest(key, known)}") for key in unknown]:
        raise BadInput(problems)


def _fit_for(task: Task, estimator: Any, *, seed: int, place: str) -> BaseEstimator:
    from sklearn.base import is_classifier, is_regressor
    from sklearn.svm import SVC, NuSVC

    name = type(estimator).__name__
    if task == "regression":
        if not is_regressor(estimator):
            raise BadInput.at(place, f"= {name} is no regressor; the task is regression: use one, {_examples(task)}.")
        return estimator
    if not is_classifier(estimator):
        raise BadInput.at(place, f"= {name} is no classifier; the task is classification: use one, {_examples(task)}.")
    if isinstance(estimator, (SVC, NuSVC)):
        return _with_probabilities(estimator, seed=seed)
    if not hasattr(estimator, "predict_proba"):
        raise BadInput.at(place, f"= {name} has no predict_proba with these params; use one that has, {_examples(task)}.")
    return estimator


def _with_probabilities(svc: Any, *, seed: int) -> BaseEstimator:
    """Platt scaling of cross-validated margins; what SVC(probability=True) did until scikit-learn 1.9 deprecated it."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import StratifiedKFold

    svc.set_params(probability="deprecated")
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return CalibratedClassifierCV(svc, cv=folds, ensemble=False)


def _gaussian_process(task: Task) -> dict[str, Any]:
    """scikit-learn's default kernel is fixed, and for regression free of noise: it repeats its training targets."""
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel() * RBF()
    return {"kernel": kernel} if task == "classification" else {"kernel": kernel + WhiteKernel(), "normalize_y": True}


def _examples(task: Task) -> str:
    return "such as " + ", ".join(("random-forest", "lightgbm", "ridge" if task == "regression" else "logistic-regression"))


def _plain(value: object) -> object:
    """A parameter as plain data; an estimator or another object by its facts or its repr."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return recipe_facts(value) if hasattr(value, "get_params") and not isinstance(value, type) else repr(value)
