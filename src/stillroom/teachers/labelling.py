"""Labelling a transfer set: every answer is stored as it arrives, and an answer that is there is never asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import AnswerStore, Progress, Teacher, TeacherRecipe
from stillroom.core.records import Batch, Knowledge
from stillroom.teachers.answers import ask, check_steady, frozen

FoldRows = tuple[NDArray[np.intp], NDArray[np.intp]]
"""(rows that the teacher is fitted on, rows that it answers), positions in the batch."""


def label_fixed(
    teacher: Teacher,
    batch: Batch,
    store: AnswerStore,
    *,
    classes: tuple[str, ...],
    batch_size: int,
    progress: Progress | None = None,
    seen: bool = False,
) -> Knowledge:
    """The answers of a teacher that was fitted elsewhere.

    Args:
        seen: it is known to have been fitted on these rows.

    Raises:
        BadInput, StageFailed: as `ask`; or the teacher changes while it answers.
    """
    question = _Question(teacher.fingerprint, "", classes, None)
    asked = [(question, np.arange(len(batch)), lambda: teacher)]
    knowledge = _label(asked, batch, store, classes, len(batch), batch_size, progress)
    return replace(knowledge, seen=np.full(len(batch), seen))


def label_out_of_fold(
    recipe: TeacherRecipe,
    batch: Batch,
    folds: Sequence[FoldRows],
    store: AnswerStore,
    *,
    classes: tuple[str, ...],
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
) -> Knowledge:
    """Each fold's rows, answered by the recipe fitted on that fold's other rows.

    A fold whose answers are all stored is not fitted again. Rows in no fold have no answer: NaN. Nor has a row whose own class
    is absent from the rows that its fold is fitted on, as happens with groups and times: that teacher calls the truth impossible,
    and the student would learn it.
    """
    answered = np.concatenate([answer_rows for _, answer_rows in folds])
    assert len(answered) == len(set(answered.tolist())), "a row is answered in two folds"
    asked = (_ask_fitted(recipe, batch.take(fit_rows), answer_rows, classes, seed) for fit_rows, answer_rows in folds)
    knowledge = _label(asked, batch, store, classes, len(answered), batch_size, progress)
    if not classes:
        return knowledge
    assert batch.target is not None
    unheard = [rows[~np.isin(batch.target[rows], batch.target[fit_rows])] for fit_rows, rows in folds]
    values = knowledge.values.copy()
    values[np.concatenate(unheard)] = np.nan
    return replace(knowledge, values=values)


def label_after_fit(
    recipe: TeacherRecipe,
    labelled: Batch,
    batch: Batch,
    store: AnswerStore,
    *,
    classes: tuple[str, ...],
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
    fitted: Callable[[], Teacher] | None = None,
) -> Knowledge:
    """The answers to `batch` (the pool) of the recipe fitted on all of `labelled`.

    Args:
        fitted: gives the teacher that `fit_teacher` made of the same recipe, rows and seed; called only if an answer is missing.
    """
    question, rows, fit = _ask_fitted(recipe, labelled, np.arange(len(batch)), classes, seed)
    return _label([(question, rows, fitted or fit)], batch, store, classes, len(batch), batch_size, progress)


def label_in_sample(
    recipe: TeacherRecipe,
    batch: Batch,
    store: AnswerStore,
    *,
    classes: tuple[str, ...],
    seed: int,
    batch_size: int,
    progress: Progress | None = None,
    fitted: Callable[[], Teacher] | None = None,
) -> Knowledge:
    """The answers of the recipe fitted on the very rows that it answers: leakage, and marked as such in `seen`."""
    return label_after_fit(recipe, batch, batch, store, classes=classes, seed=seed, batch_size=batch_size, progress=progress, fitted=fitted)


def fit_teacher(recipe: TeacherRecipe, labelled: Batch, *, classes: tuple[str, ...], seed: int) -> Teacher:
    """The recipe fitted on `labelled`, in an order that depends on their content alone."""
    return recipe.fit(labelled.take(_canonical_order(labelled)), classes, seed=seed)


def context_fingerprint(labelled: Batch, *, classes: tuple[str, ...], seed: int) -> str:
    """What a fitted teacher has seen: the multiset of (example, target) pairs, and the seed of its fit. Row order is no part of it."""
    order = _canonical_order(labelled)
    assert labelled.target is not None
    keys, target = labelled.keys[order].tolist(), labelled.target[order].tolist()
    return fingerprint("context", keys, [classes[code] for code in target] if classes else target, seed)


@dataclass(frozen=True)
class _Question:
    """All that shapes an answer, but for the example; and the rows that the context stands for."""

    teacher: str
    context: str
    classes: tuple[str, ...]
    seed: int | None
    seen_rows: tuple[str, ...] = ()

    def facts(self, example: str) -> dict[str, Any]:
        return {
            "example": example,
            "teacher": self.teacher,
            "context": self.context,
            "question": "probabilities" if self.classes else "value",
            "classes": self.class_order,
            "seed": self.seed,
        }

    @cached_property
    def class_order(self) -> str:
        """Stands for the names and their order: a list of a thousand names in every key would be most of the hashing."""
        return fingerprint("classes", list(self.classes))


_Asked = tuple[_Question, NDArray[np.intp], Callable[[], Teacher]]
"""What is asked, about which rows, and how to get the teacher who answers, should an answer be missing."""


def _ask_fitted(recipe: TeacherRecipe, labelled: Batch, rows: NDArray[np.intp], classes: tuple[str, ...], seed: int) -> _Asked:
    context = context_fingerprint(labelled, classes=classes, seed=seed)

    def fit() -> Teacher:
        return fit_teacher(recipe, labelled, classes=classes, seed=seed)

    return _Question(recipe.fingerprint, context, classes, seed, tuple(sorted(set(labelled.keys.tolist())))), rows, fit


def _label(
    asked: Iterable[_Asked],
    batch: Batch,
    store: AnswerStore,
    classes: tuple[str, ...],
    total: int,
    batch_size: int,
    progress: Progress | None,
) -> Knowledge:
    done = 0
    values = np.full((len(batch), len(classes)) if classes else len(batch), np.nan)
    contexts, seen = np.full(len(batch), "", dtype=object), np.zeros(len(batch), dtype=bool)
    answers = np.full(len(batch), "", dtype=object)
    for question, rows, teacher in asked:
        keys = [fingerprint("answer", question.facts(example)) for example in batch.keys[rows].tolist()]
        for num_new in _ask_missing(question, keys, batch.take(rows), store, teacher, batch_size):
            done += num_new
            if progress:
                progress(done, total)
        if len(rows):
            values[rows], answers[rows] = store.get(keys), keys
        if question.context and len(rows):
            contexts[rows] = question.context
            seen[rows] = np.isin(batch.keys[rows], store.context(question.context))
    return Knowledge(batch.keys, values, classes, contexts.astype(np.str_), seen, answers.astype(np.str_))


def _ask_missing(
    question: _Question, keys: list[str], batch: Batch, store: AnswerStore, teacher: Callable[[], Teacher], batch_size: int
) -> Iterator[int]:
    """Ask what is not stored, a batch at a time; yields how many rows of `batch` each step has settled."""
    # Equal rows are one question: they share a key, and are asked once.
    first = {keys[row]: row for row in reversed(store.missing(keys))}
    rows = np.array(sorted(first.values()), dtype=np.intp)
    yield len(keys) - len(rows)
    if not len(rows):
        return
    if question.context:
        # Before the first answer: none in the store is ever without the rows that its teacher had seen.
        store.put_context(question.context, question.seen_rows)
    answering = teacher()

    def put(part: NDArray[np.intp], values: NDArray[np.float64]) -> int:
        store.put([keys[row] for row in part], values, [question.facts(batch.keys[row].item()) for row in part])
        return len(part)

    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    with frozen(answering) as check:
        for i, part in enumerate(parts):
            features = batch.take(part).features
            values = ask(answering, features, question.classes)
            if i == 0:
                check_steady(answering, features, values, question.classes)
            # The last answers are stored after the last check: a teacher that fails it never completes its rows.
            if part is not parts[-1]:
                if i == 0:
                    check()
                yield put(part, values)
    yield put(parts[-1], values)


def _canonical_order(labelled: Batch) -> NDArray[np.intp]:
    """An order given by content: a fit that depends on the order of its rows is then the same however they come."""
    assert labelled.target is not None, "a teacher is fitted on labelled rows"
    return np.lexsort((labelled.target, labelled.keys))
