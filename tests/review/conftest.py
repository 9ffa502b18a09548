"""A made-up sample, and a reviewer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stillroom.core.review import ReviewItem
from stillroom.review.journal import DecisionJournal
from stillroom.review.session import Session

CLASSES = ("card lost", "card arrival", "refund", "-1", "=SUM(A1)")
TEXTS = (
    "I lost my card, what now?",
    '<script>document.title = "broken in"</script><img src=x onerror="document.title = 1">',
    "=1+1",
    'two\nlines, "quoted"; with\ttab',
    "'already guarded",
    "a long text without end " * 60,
)


def make_session(folder: Path, texts: tuple[str, ...] = TEXTS, reviewer: str = "Ann", columns: tuple[str, ...] = ("text",)) -> Session:
    """A session whose teacher says the first label at 0.6, and the others share the rest."""
    probs = (0.6, 0.2, 0.1, 0.06, 0.04)
    items = [
        ReviewItem(
            row=10 + i, example=f"sr1-e{i}", answer=f"sr1-a{i}", cells=tuple((c, text) for c in columns), probs=probs, teacher=CLASSES[0]
        )
        for i, text in enumerate(texts)
    ]
    definitions = {"card lost": "The card is gone.", "refund": "Money is to come back, <b>soon</b>."}
    return Session("intents", items, CLASSES, definitions, DecisionJournal(folder / "decisions.jsonl"), reviewer, "sr1-sample", 7)


@pytest.fixture
def make() -> Callable[..., Session]:
    return make_session


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_session(tmp_path)
