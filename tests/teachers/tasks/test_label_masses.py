"""Label probabilities from log-probabilities: against a language model whose whole distribution is known."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.core.chat import Choice, TokenLogprobs
from stillroom.core.errors import BadInput
from stillroom.teachers.tasks.label_codes import label_codes
from stillroom.teachers.tasks.label_masses import CodeReader, LabelMasses
from stillroom.teachers.tasks.unusable import Unusable

CODES = ("AB", "AC", "BA", "CC", "ZZ")
PIECES = ["A", "B", "C", " A", "a", "b", " b", "AB", " AB", "ab", "Ac", "Ba", " BA", "CC", " cc", "Z", " ", '"', "x", "AX", "BB", "<end>"]
PIECES += ['"A', '"BA', '" c', '" ', ' "', '""']


class Model:
    """Next-token distributions over PIECES, one of its own after each beginning."""

    def __init__(self, seed: int, sharpness: float, pieces: Sequence[str] = PIECES) -> None:
        self.seed, self.sharpness, self.pieces = seed, sharpness, pieces

    def after(self, beginning: tuple[str, ...]) -> dict[str, float]:
        rng = random.Random(f"{self.seed} {beginning}")
        weights = [math.exp(self.sharpness * rng.gauss(0, 1)) for _ in self.pieces]
        return {piece: weight / sum(weights) for piece, weight in zip(self.pieces, weights, strict=True)}

    def answer(self, number: int, named: int) -> tuple[tuple[str, ...], Choice]:
        """An answer that is drawn, as a server gives it, with so many of the likeliest tokens named at each place."""
        rng = random.Random(f"{self.seed} answer {number}")
        given: list[str] = []
        tokens = []
        while len(given) < 5 and (not given or given[-1] != "<end>") and "".join(given).strip(' "').upper() not in CODES:
            p = self.after(tuple(given))
            (token,) = rng.choices(list(p), list(p.values()))
            top = sorted(p.items(), key=lambda item: -item[1])[:named]
            tokens.append(TokenLogprobs(token, math.log(p[token]), tuple((t, math.log(q)) for t, q in top)))
            given.append(token)
        return tuple(given), Choice("".join(given), "stop", logprobs=tuple(tokens))

    def probability(self, label: str, given: tuple[str, ...]) -> float:
        """Of all answers that say the label: its code in any case, after at most one space, after what opened the given answer or less."""
        text = "".join(given)
        opener = text[: len(text) - len(text.lstrip(' "'))]
        paths = {path for n in range(len(opener) + 1) for lead in ("", " ") for path in self.paths(label, opener[:n] + lead)}
        return sum(math.prod(self.after(path[:i])[path[i]] for i in range(len(path))) for path in paths)

    def paths(self, label: str, lead: str) -> list[tuple[str, ...]]:
        def spell(rest: str) -> list[tuple[str, ...]]:
            if not rest:
                return [()]
            fitting = [piece for piece in self.pieces if piece != "<end>" and rest.startswith(piece.upper())]
            return [(piece, *more) for piece in fitting for more in spell(rest[len(piece) :])]

        return spell(lead + label)


def usable(model: Model, named: int) -> tuple[tuple[str, ...], LabelMasses] | None:
    for number in range(50):
        given, choice = model.answer(number, named)
        if "".join(given).strip(' "').upper() in CODES:
            return given, CodeReader(CODES).read(choice).value
    return None


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 2.0, 4.0]), st.integers(1, len(PIECES)))
def test_the_bounds_hold_against_the_known_distribution(seed: int, sharpness: float, named: int) -> None:
    model = Model(seed, sharpness)
    if (found := usable(model, named)) is None:
        return
    given, masses = found
    truth = np.array([model.probability(label, given) for label in CODES])
    assert (masses.seen <= truth + 1e-12).all()
    assert (truth <= masses.upper + 1e-12).all()
    assert masses.missing == pytest.approx(1 - masses.seen.sum(), abs=1e-12)
    assert masses.missing >= 1 - truth.sum() - 1e-12
    assert masses.probabilities.sum() == pytest.approx(1, abs=1e-12)
    assert (masses.probabilities >= 0).all()
    total = masses.upper.sum()
    assert (masses.probabilities * masses.seen.sum() <= masses.upper + 1e-12).all()
    assert (masses.probabilities * total >= masses.seen - 1e-12).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_where_whole_codes_are_tokens_and_all_are_named_it_is_the_distribution(seed: int) -> None:
    pieces = ["AB", "ab", " AC", "AC", "BA", "CC", "zz", "no", "x", "<end>"]
    model = Model(seed, 2.0, pieces)
    if (found := usable(model, len(pieces))) is None:
        return
    given, masses = found
    truth = np.array([model.probability(label, given) for label in CODES])
    np.testing.assert_allclose(masses.seen, truth, rtol=1e-12)
    np.testing.assert_allclose(masses.upper, truth, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(masses.probabilities, truth / truth.sum(), rtol=1e-9)


def tokens(*places: tuple[str, dict[str, float]]) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(t, math.log(p[t]), tuple((u, math.log(q)) for u, q in p.items())) for t, p in places)


def read(text: str, *places: tuple[str, dict[str, float]], finish_reason: str = "stop") -> LabelMasses:
    return CodeReader(CODES).read(Choice(text, finish_reason, logprobs=tokens(*places))).value


def test_a_mass_is_spread_as_it_is_written_down() -> None:
    masses = read("AB", ("A", {"A": 0.6, "B": 0.2, " CC": 0.1, "no": 0.05}), ("B", {"B": 0.9, "c": 0.05}))
    # "B" begins BA alone; 0.05 of the first place is unseen, and 0.05 of the second, which only A's labels can share.
    np.testing.assert_allclose(masses.seen, [0.54, 0.03, 0, 0.1, 0])
    np.testing.assert_allclose(masses.upper, [0.62, 0.11, 0.25, 0.15, 0.05])
    estimate = np.array([0.54 + 0.01 + 0.006, 0.03 + 0.01 + 0.006, 0.2 + 0.01, 0.1 + 0.01, 0.01])
    np.testing.assert_allclose(masses.probabilities, estimate / estimate.sum())
    assert masses.missing == pytest.approx(0.33)


def test_an_unseen_label_has_no_more_than_its_spellings_times_the_least_named() -> None:
    masses = read("AB", ("AB", {"AB": 0.7, "CC": 1e-5, "x": 1e-6}))
    # 13 spellings begin ZZ: a space; Z and z, ZZ in four cases, each of them with a space or without.
    assert masses.upper[4] == pytest.approx(13e-6)
    assert masses.upper[3] == pytest.approx(1e-5 + 12e-6)  # one of its spellings was named
    assert masses.probabilities[4] < 13e-6 / 0.7 * 1.01


def test_the_mass_of_a_beginning_is_shared_by_the_labels_that_begin_so() -> None:
    masses = read("BA", ("BA", {"BA": 0.6, "A": 0.3, "no": 0.1}))
    np.testing.assert_allclose(masses.probabilities, np.array([0.15, 0.15, 0.6, 0, 0]) / 0.9, atol=1e-12)
    np.testing.assert_allclose(masses.upper, [0.3, 0.3, 0.6, 0, 0], atol=1e-12)


@pytest.mark.parametrize("spelled", ["AB", " AB", "ab", "ĠAB", "▁aB"])
def test_other_spellings_are_the_same_label(spelled: str) -> None:
    text = spelled.replace("Ġ", " ").replace("▁", " ")
    masses = read(text, (spelled, {spelled: 0.5, "AC": 0.2, " ac": 0.2, "<end>": 0.1}))
    np.testing.assert_allclose(masses.seen, [0.5, 0.4, 0, 0, 0])


@pytest.mark.parametrize("text", ['"AB"', "**AB**", "AB.", "AB = the label", "AB\nsince", "AB: a"])
def test_what_surrounds_a_code_is_left_out_and_counted(text: str) -> None:
    places = [(c, {c: 0.5, "x": 0.1}) for c in (["**"] if text[0] == "*" else ['"'] if text[0] == '"' else [])]
    choice = Choice(text, "length", logprobs=tokens(*places, ("AB", {"AB": 0.5, "x": 0.1}), ("=", {"=": 0.3, "x": 0.1})))
    found = CodeReader(CODES).read(choice)
    assert found.repairs == ("spelling",)
    assert found.value.seen[0] == pytest.approx(0.5 ** (1 + len(places)))


@pytest.mark.parametrize("token", ["AB.", "AB=", '"AB', "(ab)", "AB\n"])
def test_a_token_that_holds_more_than_the_code_is_read_if_it_was_given(token: str) -> None:
    text = "(ab)" if token == "(ab)" else '"AB"' if token[0] == '"' else token
    assert read(text, (token, {token: 0.8, "AC": 0.1})).seen[:2] == pytest.approx([0.8, 0.1])


def test_thinking_is_skipped() -> None:
    thought = [(t, {t: 0.5, "AC": 0.4}) for t in ("<think>", "AB?", "</think>", "\n\n")]
    assert read("<think>AB?</think>\n\nAB", *thought, ("AB", {"AB": 0.9, "AC": 0.1})).seen[0] == pytest.approx(0.45)


@pytest.mark.parametrize("tag", [("</think>",), ("</", "think", ">"), ("</", "think", ">\n\n")])
def test_the_end_of_thinking_may_fall_into_several_tokens(tag: tuple[str, ...]) -> None:
    thought = [(token, {token: 0.5}) for token in ("<think>", "AB, \u0130zmir?", *tag)]  # its first letter is two in lower case
    found = read(f"<think>AB, \u0130zmir?{''.join(tag)}AB", *thought, ("AB", {"AB": 0.9, "AC": 0.1}))
    assert found.seen[0] == pytest.approx(0.9)


def test_a_given_token_that_is_named_beside_the_likeliest_bounds_nothing() -> None:
    """Some servers add it to the list, whatever its rank: others that are likelier were left out."""
    masses = read("AB", ("AB", {"x": 0.3, "CC": 0.2, "AB": 1e-6}))
    assert masses.upper[4] == pytest.approx(0.5 - 1e-6)


GOOD = TokenLogprobs("AB", -0.5, (("AB", -0.5), ("AC", -1.5)))


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        (),
        (replace(GOOD, top=()),),
        (replace(GOOD, logprob=float("nan")),),
        (replace(GOOD, logprob=0.5),),
        (replace(GOOD, top=(("AB", float("nan")),)),),
        (replace(GOOD, top=(("AB", -0.1), ("AC", -0.1))),),
        (TokenLogprobs("AC", -0.5, (("AC", -0.5),)),),
        (TokenLogprobs("AB", -9999.0, (("x", 0.0), ("AB", -9999.0))),),
        (TokenLogprobs("no", -0.1, (("no", -0.1),)), GOOD),
        (TokenLogprobs("A", -0.1, (("A", -0.1),)),),
        (TokenLogprobs("A", -0.1, (("A", -0.1),)), TokenLogprobs(".", -0.1, ((".", -0.1),))),
    ],
)
def test_logprobs_that_cannot_be_used(logprobs: tuple[TokenLogprobs, ...] | None) -> None:
    with pytest.raises(Unusable) as caught:
        CodeReader(CODES).read(Choice("AB", "stop", logprobs=logprobs))
    assert caught.value.reason == "no-logprobs"


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        (Choice("yes", logprobs=(GOOD,)), "off-label"),
        (Choice("ABS", logprobs=(GOOD,)), "off-label"),
        (Choice("AB or AC", logprobs=(GOOD,)), "off-label"),
        (Choice("A", "length", logprobs=(GOOD,)), "off-label"),
        (Choice("I'm sorry, I cannot say", logprobs=(GOOD,)), "refused"),
        (Choice("AB", refusal="no", logprobs=(GOOD,)), "refused"),
        (Choice("AB", "content_filter", logprobs=(GOOD,)), "content-filter"),
        (Choice("<think>AB", logprobs=(GOOD,)), "truncated"),
        (Choice("", logprobs=(GOOD,)), "empty"),
    ],
)
def test_answers_that_are_no_code(choice: Choice, reason: str) -> None:
    with pytest.raises(Unusable) as caught:
        CodeReader(CODES).read(choice)
    assert caught.value.reason == reason


@pytest.mark.parametrize("num_labels", [1, 2, 24, 25, 77, 151, 187, 640])
def test_codes_are_of_one_length_no_words_and_begin_differently(num_labels: int) -> None:
    codes = label_codes(num_labels)
    assert len(set(codes)) == len(codes) == num_labels
    assert {len(code) for code in codes} == {1 if num_labels <= 24 else 2}
    assert all(code.isascii() and code.isalpha() and code.isupper() for code in codes)
    assert not {"A", "I", "NO", "IS", "OK", "AS"} & set(codes)
    if num_labels == 77:
        assert len({code[0] for code in codes}) == 22


def test_more_labels_than_codes_have_a_remedy() -> None:
    with pytest.raises(BadInput, match=r"teacher.answers: = 'logprobs' has codes for \d+ labels, not for 5000; use answers: samples"):
        label_codes(5000)


@pytest.mark.parametrize(("opener", "given"), [("(", "(AB"), ('"', '"AB'), ("\n", "\nAB"), ("**", "**AB")])
def test_a_rival_that_is_one_token_with_its_opener_is_seen(opener: str, given: str) -> None:
    assert read(given, (given, {given: 0.5, f"{opener}CC": 0.45, "x": 0.05})).seen == pytest.approx([0.5, 0, 0, 0.45, 0])
    masses = read(given, (opener, {opener: 0.6, f"{opener}CC": 0.3, "x": 0.1}), ("AB", {"AB": 0.9, "BA": 0.1}))
    assert masses.seen == pytest.approx([0.54, 0, 0.06, 0.3, 0])


def test_a_long_row_of_blanks_is_no_opener() -> None:
    with pytest.raises(Unusable, match="17 blanks"):
        read(" " * 17 + "AB", (" " * 17, {" " * 17: 0.9, "x": 0.1}), ("AB", {"AB": 1.0, "x": 1e-9}))
