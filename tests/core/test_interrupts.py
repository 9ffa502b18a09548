"""Ctrl-C that code of others swallows."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.neural_network import MLPClassifier

from stillroom import DistilledClassifier
from stillroom.core.interrupts import heeding_interrupts
from stillroom.core.records import Batch, Column
from stillroom.objectives.soft_labels import SoftLabels
from stillroom.students.estimators import StudentRecipe
from stillroom.teachers.estimator import EstimatorRecipe
from stillroom.training.estimators import fit_classifier

X = np.random.default_rng(0).normal(size=(400, 2))
ROWS = Batch(pd.DataFrame(X, columns=["a", "b"]), np.arange(400).astype(str), (X[:, 0] > 0).astype(np.int64))
COLUMNS = (Column("a", "numeric"), Column("b", "numeric"))
ENDLESS = MLPClassifier((8,), max_iter=10**6, tol=0.0, n_iter_no_change=10**6)


@pytest.fixture(autouse=True)
def _heard() -> Iterator[None]:
    """A suite in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def student() -> Any:
    return fit_classifier(StudentRecipe(ENDLESS, COLUMNS), ROWS, None, SoftLabels(1.0, 1.0), classes=("x", "y"), seed=0)


def teacher() -> Any:
    return EstimatorRecipe(ENDLESS, COLUMNS, place="teacher").fit(ROWS, ("x", "y"), seed=0)


def of_scikit_learn() -> Any:
    return DistilledClassifier(ENDLESS, random_state=0).fit(X, ROWS.target)


@pytest.mark.parametrize("fit", [student, teacher, of_scikit_learn])
@pytest.mark.filterwarnings("ignore:Training interrupted by user")
def test_a_network_whose_training_was_interrupted_is_nobodys_result(fit: Callable[[], Any]) -> None:
    press = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    press.start()
    with pytest.raises(KeyboardInterrupt):
        fit()
    press.join()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_not_interrupted_is_left_alone() -> None:
    with heeding_interrupts():
        found = 7
    assert found == 7
    with pytest.raises(ValueError, match="its own"), heeding_interrupts():
        raise ValueError("its own")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with heeding_interrupts():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_have_no_interrupts_to_heed() -> None:
    done = []
    thread = threading.Thread(target=lambda: done.append(heeding_interrupts().__enter__()))
    thread.start()
    thread.join()
    assert done == [None]
