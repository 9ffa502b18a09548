"""Ten ways in which a teacher can be unfit to answer, each caught with what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.teachers.answers import ask, check_steady, frozen
from stillroom.teachers.labelling import label_fixed

from .conftest import MemoryStore, make_batch

CLASSES = ("x", "y", "z")
Answer = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def honest(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return softmax(np.column_stack([x[:, 0], x[:, 1], x[:, 0] - x[:, 1]]))


@dataclass
class Scripted:
    """A teacher that answers by a given function, and counts its calls in its state if asked to."""

    answer: Answer = honest
    classes: tuple[str, ...] = CLASSES
    counts: bool = False
    calls: list[int] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        return fingerprint("scripted", len(self.calls) if self.counts else 0)

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        self.calls.append(len(features))
        return self.answer(features.to_numpy())

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def label(teacher: Scripted, classes: tuple[str, ...] = CLASSES, num: int = 20) -> NDArray[np.float64]:
    return label_fixed(teacher, make_batch(num), MemoryStore(), classes=classes, batch_size=8).values


def test_an_honest_teachers_answers_come_through_unchanged() -> None:
    np.testing.assert_allclose(label(Scripted()), honest(make_batch(20).features.to_numpy()), rtol=1e-12)


def test_permuted_classes_are_matched_by_name() -> None:
    permuted = Scripted(lambda x: honest(x)[:, [2, 0, 1]], ("z", "x", "y"))
    np.testing.assert_allclose(label(permuted), label(Scripted()), rtol=1e-12)


@pytest.mark.parametrize(
    ("classes", "listed"),
    [(("x", "y"), r"\['x', 'y'\]"), (("x", "y", "w"), r"\['x', 'y', 'w'\]"), (("x", "y", "z", "w"), "'w'"), ((), "predicts values")],
)
def test_other_classes_than_the_datas_are_refused_listing_both(classes: tuple[str, ...], listed: str) -> None:
    with pytest.raises(BadInput, match=f"{listed}.*the data's are \\['x', 'y', 'z'\\]"):
        label(Scripted(classes=classes))


def test_a_class_named_twice_is_refused() -> None:
    with pytest.raises(BadInput, match="twice"):
        label(Scripted(classes=("x", "y", "z", "z")))


@pytest.mark.parametrize("columns", [2, 4])
def test_a_wrong_number_of_columns_is_refused(columns: int) -> None:
    with pytest.raises(BadInput, match=rf"shape \(8, {columns}\), where \(8, 3\)"):
        label(Scripted(lambda x: softmax(np.tile(x[:, :1], columns))))


def test_a_wrong_number_of_rows_is_refused() -> None:
    with pytest.raises(BadInput, match=r"shape \(7, 3\), where \(8, 3\)"):
        label(Scripted(lambda x: honest(x)[1:]))


@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_a_nan_or_infinite_answer_names_the_example(fault: float) -> None:
    batch = make_batch(20)
    bad = batch.features.to_numpy()[11]

    def answer(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where((x == bad).all(axis=1)[:, None], fault, honest(x))

    with pytest.raises(StageFailed, match=rf"a={bad[0]}"):
        label(Scripted(answer))


def test_rows_that_do_not_sum_to_one_are_refused_and_rounding_is_not() -> None:
    for unfit in (lambda x: honest(x) * 0.9, lambda x: np.log(honest(x)), lambda x: honest(x) + [[0.3, -0.3, 0.0]] * len(x)):
        with pytest.raises(BadInput, match="sum to 1"):
            label(Scripted(unfit))
    rounded = label(Scripted(lambda x: honest(x).astype(np.float32) * np.float32(1 + 1e-6)))
    np.testing.assert_allclose(rounded.sum(axis=1), 1.0, rtol=0, atol=1e-15)


def test_a_teacher_that_changes_its_own_state_is_caught() -> None:
    with pytest.raises(BadInput, match="changed its own state while it was answering"):
        label(Scripted(counts=True))
    teacher = Scripted(counts=True)
    guard = frozen(teacher)
    guard.__enter__()
    teacher.calls.append(1)
    error = RuntimeError("must not be hidden by a second one about the state")
    with pytest.raises(RuntimeError, match="must not be hidden"):
        guard.__exit__(RuntimeError, error, None) or _raise(error)


def _raise(error: Exception) -> None:
    raise error


def test_dropout_left_on_is_caught() -> None:
    source = np.random.default_rng(0)

    def answer(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return honest(x * (source.random(x.shape) > 0.1) / 0.9)

    with pytest.raises(BadInput, match=r"differently when asked twice.*dropout"):
        label(Scripted(answer))


def test_batch_statistics_are_caught() -> None:
    with pytest.raises(BadInput, match=r"differently when asked twice.*batch normalisation"):
        label(Scripted(lambda x: honest((x - x.mean(axis=0)) / x.std(axis=0))))
    with pytest.raises(BadInput, match="asked twice"):
        label(Scripted(lambda x: x[:, 0] - x[:, 0].mean(), ()), classes=())


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_steadiness_of_values_does_not_depend_on_their_unit(scale: float, offset: float) -> None:
    features = make_batch(20).features
    rounding = np.random.default_rng(0)
    steady = Scripted(lambda x: scale * (x[:, 0] + offset) * (1 + 1e-7 * rounding.standard_normal(len(x))), ())
    check_steady(steady, features, ask(steady, features, ()), ())
    shaky = Scripted(lambda x: scale * (x[:, 0] + offset + 0.005 * len(x)), ())
    with pytest.raises(BadInput, match="asked twice"):
        check_steady(shaky, features, ask(shaky, features, ()), ())


@pytest.mark.parametrize("num", [5, 40])
def test_a_changing_teacher_never_completes_its_rows(num: int) -> None:
    """Else a second run would find all its answers stored, and ask nobody."""
    store = MemoryStore()
    with pytest.raises(BadInput, match="changed its own state"):
        label_fixed(Scripted(counts=True), make_batch(num), store, classes=CLASSES, batch_size=8)
    assert not store.answers
    late = Scripted(counts=True)
    late.calls = LateList(5)
    with pytest.raises(BadInput, match="changed its own state"):
        label_fixed(late, make_batch(40), store, classes=CLASSES, batch_size=8)
    assert len(store.answers) < 40


class LateList(list[int]):
    """Stays empty for the first calls."""

    def __init__(self, quiet: int) -> None:
        self.quiet = quiet

    def append(self, item: int) -> None:
        self.quiet -= 1
        if self.quiet < 0:
            super().append(item)


def test_nothing_is_stored_of_a_faulty_batch() -> None:
    store = MemoryStore()
    with pytest.raises(BadInput):
        label_fixed(Scripted(lambda x: honest(x) * 0.9), make_batch(20), store, classes=CLASSES, batch_size=8)
    assert not store.answers
