"""Which new texts go and why; the first rule that says so names the reason."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from stillroom.data.removal import Removal


def test_each_rule_names_its_reason_and_the_first_text_stays() -> None:
    pytest.importorskip("py3langid")
    removal = Removal(["how do I get my card to another country"], ["where is my parcel"], min_words=2, max_words=12, languages=("en",))
    new = {
        "My card has not arrived yet, what should I do?": None,
        "help": "length",
        "word " * 13: "length",
        "Où est passée ma nouvelle carte bancaire, s'il vous plaît ?": "language",
        "Hello! How do I get my card to ANOTHER country?": "leak",
        "half a pair \ud83d here": "unreadable",
        "my card has not arrived yet; what should i do": "duplicate",
        "My card has not arrived yet, so what should I do?": "near-duplicate",
        "Where is my parcel?": "duplicate",
        "I was charged twice for one taxi ride": "duplicate",
        "The machine kept my money and gave no receipt": None,
    }
    assert removal.reasons(list(new), ["I was charged twice for one taxi ride"]) == list(new.values())


def test_no_rule_no_removal_and_nothing_in_nothing_out() -> None:
    texts = ["one", "two {{ braces }}", "\x00 and \x1b[31m"]
    assert Removal().reasons(texts) == [None, None, None]
    assert Removal(texts, texts).reasons([]) == []


def test_every_planted_leak_is_caught(shared_data: Path) -> None:
    """Whole test texts, edited ones, and ones inside other texts, beside real training texts."""
    folder = shared_data / "banking77"
    train, test = (pd.read_csv(folder / f"{part}.csv.gz")["text"].tolist() for part in ("train", "test"))
    hidden = [text for text in test[::40] if len(text.split()) >= 8]
    planted = [*hidden, *(text.upper().replace(",", "") for text in hidden), *(f"Good morning. {text} Thank you." for text in hidden)]
    planted += [" ".join("thing" if i == 3 else word for i, word in enumerate(text.split())) for text in hidden]
    assert len(planted) > 150
    reasons = Removal(test).reasons(planted)
    assert set(reasons) == {"leak"}
    assert Removal(test).reasons(train[:2000]).count("leak") < 200, "and real texts are not all called leaks"


def test_a_near_copy_of_an_evaluation_text_is_a_leak_even_where_its_words_differ() -> None:
    evaluation = "please unblock mycard immediately"
    assert Removal([evaluation], threshold=0.7).reasons(["please unblock mycards immediately"]) == ["leak"]
    assert Removal([evaluation], threshold=1.0).reasons(["please unblock mycards immediately"]) == [None]


@pytest.mark.parametrize("kept", [[], ["a b c d e f"]])
def test_texts_beside_it_never_change_a_verdict_that_came_before(kept: list[str]) -> None:
    texts = ["a b c d e f g", "unlike all others here", "a b c d e f g h"]
    alone = Removal().reasons(texts[:2], kept)
    assert Removal().reasons(texts, kept)[:2] == alone


@pytest.mark.parametrize("reason", ["leak", "near-duplicate"])
def test_a_text_is_held_against_each_though_they_resemble_each_other(reason: str) -> None:
    first = "please explain international transaction processing charges immediately"
    second = "please explain international transaction processing charge immediately"
    new = "please explain international transactions processing charge immediately"  # near the second, not the first
    for stay in ([second], [first, second], [second, first]):
        removal = Removal(stay) if reason == "leak" else Removal((), stay)
        assert removal.reasons([new]) == [reason]
    assert Removal([first]).reasons([new]) == [None]
