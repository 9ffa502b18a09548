"""Labelling on the real store: killed for good in the middle of a fold, and gone on with."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.verify import verify
from stillroom.teachers.labelling import label_out_of_fold

from .conftest import MemoryStore, NearestRecipe, make_batch, make_fold_rows

CLASSES = ("x", "y", "z")
KILLED = """
import os, signal, sys
sys.path.insert(0, {here!r})
from conftest import NearestRecipe, make_batch, make_fold_rows
from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.labelling import label_out_of_fold

def die(done, total):
    if done >= 18:
        os.kill(os.getpid(), signal.SIGKILL)

batch = make_batch()
with KnowledgeStore({folder!r}) as store:
    label_out_of_fold(NearestRecipe(), batch, make_fold_rows(40), store, classes=("x", "y", "z"), seed=0, batch_size=4, progress=die)
"""


def test_killed_in_the_second_fold_no_answer_is_lost_or_doubled(tmp_path: Path) -> None:
    script = KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path / "knowledge"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    batch, recipe = make_batch(), NearestRecipe()
    with KnowledgeStore(tmp_path / "knowledge") as store:
        assert len(store) == 18  # 10 of the first fold, two batches of the second
        resumed = label_out_of_fold(recipe, batch, make_fold_rows(40), store, classes=CLASSES, seed=0, batch_size=4)
        store.seal()
    assert len(recipe.fits) == 3
    whole = label_out_of_fold(NearestRecipe(), batch, make_fold_rows(40), MemoryStore(), classes=CLASSES, seed=0, batch_size=4)
    np.testing.assert_array_equal(resumed.values, whole.values)
    assert not resumed.seen.any()
    idle = NearestRecipe()
    with KnowledgeStore(tmp_path / "knowledge", read_only=True) as store:
        assert len(store) == 40
        verify(store).require_whole()
        again = label_out_of_fold(idle, batch, make_fold_rows(40), store, classes=CLASSES, seed=0, batch_size=4)
    assert not idle.fits
    np.testing.assert_array_equal(again.values, whole.values)
