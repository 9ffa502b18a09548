from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from stillroom.core.errors import BadInput
from stillroom.core.fingerprint import fingerprint
from stillroom.core.records import Batch, Knowledge
from stillroom.teachers.labelling import context_fingerprint, fit_teacher, label_after_fit, label_fixed, label_in_sample, label_out_of_fold
from stillroom.teachers.leakage import refuse_leakage

from .conftest import MemoryStore, NearestRecipe, TableTeacher, make_batch, make_fold_rows

CLASSES = ("x", "y", "z")


def out_of_fold(store: MemoryStore, recipe: NearestRecipe, batch: Batch, **change: object) -> Knowledge:
    settings: dict = {"classes": CLASSES, "seed": 0, "batch_size": 4, **change}
    folds = settings.pop("folds", make_fold_rows(len(batch)))
    return label_out_of_fold(recipe, batch, folds, store, **settings)


def test_no_row_is_answered_by_a_teacher_that_had_seen_it(store: MemoryStore) -> None:
    batch, recipe = make_batch(), NearestRecipe()
    knowledge = out_of_fold(store, recipe, batch)
    assert len(recipe.fits) == 4
    for row, context in enumerate(knowledge.contexts.tolist()):
        seen_rows = store.contexts[context]
        assert batch.keys[row] not in seen_rows
        assert len(seen_rows) == 30
    assert not knowledge.seen.any()
    # An independent nearest neighbour, fold by fold.
    x = batch.features.to_numpy()
    for fit_rows, answer_rows in make_fold_rows(len(batch)):
        for row in answer_rows:
            nearest = fit_rows[((x[fit_rows] - x[row]) ** 2).sum(axis=1).argmin()]
            assert knowledge.values[row].tolist() == np.eye(3)[batch.target[nearest]].tolist()


def test_a_row_whose_class_the_fold_has_not_seen_has_no_answer(store: MemoryStore) -> None:
    """All rows of class z lie in one fold, as the rows of one group do."""
    batch, rows = make_batch(), np.arange(40)
    lonely = np.flatnonzero(batch.target == 2)
    others = np.setdiff1d(rows, lonely)
    folds = [(others, lonely), (np.concatenate([lonely, others[:10]]), others[10:]), (np.concatenate([lonely, others[10:]]), others[:10])]
    knowledge = out_of_fold(store, NearestRecipe(), batch, folds=folds)
    assert np.isnan(knowledge.values[lonely]).all()
    assert np.isfinite(knowledge.values[others]).all()


def test_in_sample_answers_are_marked_as_seen_and_refused_for_training(store: MemoryStore) -> None:
    batch = make_batch()
    knowledge = label_in_sample(NearestRecipe(), batch, store, classes=CLASSES, seed=0, batch_size=7)
    assert knowledge.seen.all()
    assert (knowledge.values.argmax(axis=1) == batch.target).all()
    with pytest.raises(BadInput, match=r"labelling\.mode: = 'out-of-fold', but 40 of 40 answers .*in-sample"):
        refuse_leakage(knowledge, mode="out-of-fold")
    refuse_leakage(knowledge, mode="in-sample")
    refuse_leakage(out_of_fold(store, NearestRecipe(), batch), mode="out-of-fold")


def test_seen_comes_from_the_recorded_context_even_where_folds_share_a_row(store: MemoryStore) -> None:
    """A planted mistake in the folds: row 5 is fitted on and answered."""
    batch = make_batch(8)
    rows = np.arange(8)
    knowledge = out_of_fold(store, NearestRecipe(), batch, folds=[(rows[:6], rows[5:]), (rows[5:], rows[:5])])
    assert knowledge.seen.tolist() == [False] * 5 + [True] + [False] * 2


def test_pool_rows_equal_to_a_labelled_row_count_as_seen(store: MemoryStore) -> None:
    batch = make_batch(20)
    pool = make_batch(6, seed=9).without_target()
    mixed = Batch(
        features=pool.features.copy().combine_first(pool.features), keys=np.concatenate([pool.keys[:4], batch.keys[:2]]), target=None
    )
    mixed.features.iloc[4:] = batch.features.iloc[:2].to_numpy()
    knowledge = label_after_fit(NearestRecipe(), batch, mixed, store, classes=CLASSES, seed=0, batch_size=3)
    assert knowledge.seen.tolist() == [False] * 4 + [True] * 2


@pytest.mark.parametrize("puts", range(12))
def test_killed_between_any_two_batches_nothing_is_lost_doubled_or_refitted(store: MemoryStore, puts: int) -> None:
    """4 folds of 10 rows in batches of 4: 12 puts. `MemoryStore.put` refuses an answer that is there already."""
    batch, whole = make_batch(), MemoryStore()
    uninterrupted = out_of_fold(whole, NearestRecipe(), batch)
    store.puts_left, first = puts, NearestRecipe()
    with pytest.raises(KeyboardInterrupt):
        out_of_fold(store, first, batch)
    stored = len(store.answers)
    store.puts_left, second = None, NearestRecipe()
    resumed = out_of_fold(store, second, batch)
    assert store.answers.keys() == whole.answers.keys()
    assert len(second.fits) == 4 - puts // 3
    # The first eight rows of a fit are asked twice, see `check_steady`; every other answer is asked exactly once.
    asked = sum(size for teacher in second.teachers for size in teacher.calls)
    repeated = sum((min(teacher.calls[0], 8) + 1) // 2 for teacher in second.teachers)
    assert asked - repeated == len(batch) - stored
    assert (resumed.values == uninterrupted.values).all()
    assert (resumed.contexts == uninterrupted.contexts).all()
    assert not resumed.seen.any()


def test_a_finished_labelling_fits_and_asks_nobody(store: MemoryStore) -> None:
    batch, idle = make_batch(), NearestRecipe()
    done = out_of_fold(store, NearestRecipe(), batch)
    again = out_of_fold(store, idle, batch)
    assert not idle.fits
    assert (done.values == again.values).all()


def test_the_order_of_rows_changes_neither_keys_nor_answers(store: MemoryStore) -> None:
    batch = make_batch()
    order = np.random.default_rng(3).permutation(len(batch))
    place = np.argsort(order)
    folds = [(place[fit], place[answer]) for fit, answer in make_fold_rows(len(batch))]
    first, idle = out_of_fold(store, NearestRecipe(), batch), NearestRecipe()
    shuffled = out_of_fold(store, idle, batch.take(order), folds=folds)
    assert not idle.fits
    assert (shuffled.values == first.values[order]).all()


def test_a_fit_sees_its_rows_in_an_order_given_by_content() -> None:
    batch, recipe = make_batch(), NearestRecipe()
    for order in (np.arange(40), np.arange(40)[::-1]):
        fit_teacher(recipe, batch.take(order), classes=CLASSES, seed=0)
    one, other = recipe.fits
    assert (one.keys == other.keys).all()
    assert (one.target == other.target).all()
    assert one.features.equals(other.features)


CHANGES: dict[str, Callable[[dict], dict]] = {
    "example": lambda s: {**s, "batch": make_batch(seed=1)},
    "teacher": lambda s: {**s, "recipe": NearestRecipe("another")},
    "context": lambda s: {**s, "folds": make_fold_rows(40, 5)},
    "a label of the context": lambda s: {**s, "batch": replace(s["batch"], target=(s["batch"].target + 1) % 3)},
    "classes": lambda s: {**s, "classes": ("x", "z", "y")},
    "seed": lambda s: {**s, "seed": 1},
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_fact_changes_the_key(store: MemoryStore, name: str) -> None:
    settings = {"recipe": NearestRecipe(), "batch": make_batch()}
    out_of_fold(store, **settings)
    before = set(store.answers)
    out_of_fold(store, **CHANGES[name](settings))
    # One changed class code moves every row's context here; no key may be shared.
    assert not before & (set(store.answers) - before)
    assert len(store.answers) == 80


def test_the_question_is_in_the_key_values_and_probabilities_never_meet(store: MemoryStore) -> None:
    labelled, unlabelled = make_batch(regression=True), make_batch()
    out_of_fold(store, NearestRecipe(), labelled, classes=())
    out_of_fold(store, NearestRecipe(), unlabelled)
    assert {fact["question"] for fact in store.facts.values()} == {"value", "probabilities"}
    assert len(store.answers) == 80


def test_context_is_a_multiset_of_examples_with_their_targets() -> None:
    batch = make_batch()
    context = context_fingerprint(batch, classes=CLASSES, seed=0)
    twice = batch.take(np.array([*range(40), 0]))
    assert context_fingerprint(batch.take(np.arange(40)[::-1]), classes=CLASSES, seed=0) == context
    others = [
        context_fingerprint(twice, classes=CLASSES, seed=0),
        context_fingerprint(batch.take(np.arange(39)), classes=CLASSES, seed=0),
        context_fingerprint(replace(batch, target=(batch.target + 1) % 3), classes=CLASSES, seed=0),
        context_fingerprint(batch, classes=CLASSES, seed=1),
    ]
    assert len({context, *others}) == 5
    # The same labels under another numbering of the classes are the same context.
    renamed = replace(batch, target=2 - batch.target)
    assert context_fingerprint(renamed, classes=("z", "y", "x"), seed=0) == context


def test_equal_rows_are_asked_once_and_all_get_the_answer(store: MemoryStore) -> None:
    teacher = fit_teacher(NearestRecipe(), make_batch(), classes=CLASSES, seed=0)
    assert isinstance(teacher, TableTeacher)
    batch = make_batch(5, seed=2).take(np.array([0, 1, 0, 2, 0, 3, 4, 1]))
    knowledge = label_fixed(teacher, batch, store, classes=CLASSES, batch_size=100)
    assert teacher.calls == [5, 3]
    assert len(store.answers) == 5
    assert (knowledge.values[0] == knowledge.values[[2, 4]]).all()
    assert knowledge.contexts.tolist() == [""] * 8
    assert not knowledge.seen.any()


def test_rows_in_no_fold_have_no_answer(store: MemoryStore) -> None:
    """Forward chaining in time: nothing is known before the first block."""
    batch, rows = make_batch(12), np.arange(12)
    knowledge = out_of_fold(store, NearestRecipe(), batch, folds=[(rows[:4], rows[4:8]), (rows[:8], rows[8:])])
    assert np.isnan(knowledge.values[:4]).all()
    assert np.isfinite(knowledge.values[4:]).all()
    assert knowledge.contexts[:4].tolist() == [""] * 4


def test_a_row_in_two_folds_is_a_bug_of_ours(store: MemoryStore) -> None:
    rows = np.arange(8)
    with pytest.raises(AssertionError, match="two folds"):
        out_of_fold(store, NearestRecipe(), make_batch(8), folds=[(rows[4:], rows[:5]), (rows[:4], rows[4:])])


def test_progress_counts_every_row_once_stored_ones_too(store: MemoryStore) -> None:
    batch, calls = make_batch(), []
    store.puts_left = 4
    with pytest.raises(KeyboardInterrupt):
        out_of_fold(store, NearestRecipe(), batch)
    store.puts_left = None
    out_of_fold(store, NearestRecipe(), batch, progress=lambda done, total: calls.append((done, total)))
    done = [d for d, _ in calls]
    assert {total for _, total in calls} == {40}
    assert done == sorted(done)
    assert done[-1] == 40
    assert done[0] == 10


def test_regression_answers_are_values(store: MemoryStore) -> None:
    batch = make_batch(regression=True)
    knowledge = out_of_fold(store, NearestRecipe(), batch, classes=())
    assert knowledge.values.shape == (40,)
    assert np.isin(knowledge.values, batch.target).all()


def test_a_fitted_teacher_at_hand_is_used_and_not_fitted_again(store: MemoryStore) -> None:
    batch, pool, recipe = make_batch(), make_batch(9, seed=4).without_target(), NearestRecipe()
    teacher = fit_teacher(recipe, batch, classes=CLASSES, seed=0)
    settings: dict = {"classes": CLASSES, "seed": 0, "batch_size": 4}
    given = label_after_fit(recipe, batch, pool, store, fitted=lambda: teacher, **settings)
    assert len(recipe.fits) == 1
    alone = label_after_fit(NearestRecipe(), batch, pool, MemoryStore(), **settings)
    assert (given.values == alone.values).all()
    assert (given.contexts == alone.contexts).all()


def test_a_fixed_teachers_answers_serve_every_seed_and_fold(store: MemoryStore) -> None:
    """Its key holds its own fingerprint and nothing of the job's."""
    teacher = fit_teacher(NearestRecipe(), make_batch(), classes=CLASSES, seed=0)
    label_fixed(teacher, make_batch(3, seed=5), store, classes=CLASSES, batch_size=10)
    (facts,) = {fingerprint({**fact, "example": ""}): fact for fact in store.facts.values()}.values()
    assert {name: facts[name] for name in ("teacher", "context", "seed")} == {"teacher": teacher.fingerprint, "context": "", "seed": None}


def test_a_fixed_teacher_known_to_have_seen_the_rows_is_marked(store: MemoryStore) -> None:
    teacher = fit_teacher(NearestRecipe(), make_batch(), classes=CLASSES, seed=0)
    knowledge = label_fixed(teacher, make_batch(), store, classes=CLASSES, batch_size=10, seen=True)
    assert knowledge.seen.all()
    with pytest.raises(BadInput, match="leakage"):
        refuse_leakage(knowledge, mode="out-of-fold")


def test_the_same_teacher_asked_in_another_class_order_is_another_question(store: MemoryStore) -> None:
    """Else a second job that sorts its classes differently would read the stored columns under the wrong names."""
    batch = make_batch(6, seed=5)
    teacher = fit_teacher(NearestRecipe(), make_batch(), classes=CLASSES, seed=0)
    first = label_fixed(teacher, batch, store, classes=CLASSES, batch_size=10)
    turned = label_fixed(teacher, batch, store, classes=("z", "y", "x"), batch_size=10)
    assert (turned.values == first.values[:, ::-1]).all()
    assert len(store.answers) == 12
