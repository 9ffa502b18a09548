"""Thinking split off, final answers found, numbers read exactly."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.teachers.final_answers import FinalAnswer, Response, final_answer, final_number, numbers, split_thinking


@pytest.mark.parametrize(
    ("response", "thinking", "answer", "closed"),
    [
        ("plain", "", "plain", True),
        ("<think>a</think>b", "a", "b", True),
        ("<THINK>\na\n</THINK>\n\nb\n", "a", "b", True),
        ("x <think>a</think>y<think>b</think> z", "a\n\nb", "x  y  z", True),
        ("<think>a<think>b</think>c</think>d", "a\n\nb\n\nc", "d", True),
        ("a</think>b", "a", "b", True),
        ("<think>a</think>b</think>c", "a\n\nb", "c", True),
        ("<think>a", "a", "", False),
        ("b<think>a<think>c</think>", "a\n\nc", "b", False),
        ("", "", "", True),
    ],
)
def test_thinking_is_split_off(response: str, thinking: str, answer: str, closed: bool) -> None:
    assert split_thinking(response) == Response(thinking, answer, closed)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["<think>", "</think>", "a ", "b\n", "<", "think>"])).map("".join))
def test_no_tag_and_no_text_gets_lost(response: str) -> None:
    found = split_thinking(response)
    for tag in ("<think>", "</think>"):
        assert tag not in found.thinking
        response = response.replace(tag, "")
    assert sorted("".join((found.thinking + found.answer).split())) == sorted("".join(response.split()))
    assert split_thinking(found.answer).thinking == ""


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("18", ["18"]),
        ("$1,234.50 and -$5, $-5 or −7", ["2469/2", "-5", "-5", "-7"]),
        ("10-3, 10 - 3, 5–10", ["10", "3", "10", "3", "5", "10"]),
        ("1e3 2.5E-1 1.5 × 10^3 2 \\times 10^{2}", ["1000", "1/4", "1500", "200"]),
        ("3/4, 1 1/2, ½, 1½, 24 2/3", ["3/4", "3/2", "1/2", "3/2", "74/3"]),
        ("\\frac{3}{4} 3\\frac{1}{2} -\\dfrac{1}{2} 1{,}080 \\$5 18\\text{ dollars}", ["3/4", "7/2", "-1/2", "1080", "5", "18"]),
        ("2.5 million, $3 thousand", ["2500000", "3000"]),
        ("5km, 6th, **7**, _8_, (9)", ["5", "6", "7", "8", "9"]),
        ("0.1 .5 5. 1.", ["1/10", "1/2", "5", "1"]),
        ("<<2*9=18>>19", ["19"]),
        ("１８", ["18"]),
        ("12/25/2020", ["12"]),
        ("H2O, x2, 1/0, 1e99999, no", []),
        ("9" * 5000, []),
    ],
)
def test_numbers_are_read_exactly(text: str, values: list[str]) -> None:
    assert [n.value for n in numbers(text)] == [Fraction(v) for v in values]


def test_percent_is_noted() -> None:
    assert [(n.value, n.percent) for n in numbers("25%, 25 percent, 25\\%, 25")] == [(25, True)] * 3 + [(25, False)]


@settings(max_examples=100, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_every_way_to_write_a_number_says_the_same(value: object) -> None:
    wanted = Fraction(str(value))
    for written in (f"{value}", f"{value:,}", f"It costs ${value:,}.", f"so x={value}", f"{value}%", f"\\boxed{{{value}}}"):
        assert [n.value for n in numbers(written)] == [wanted], written


@pytest.mark.parametrize(
    ("answer", "text", "rule", "number"),
    [
        ("3 + 4 = 7\n#### 7", "7", "marker", 7),
        ("#### 1,080 \nbye 5", "1,080", "marker", 1080),
        ("#### 90 minutes or 1 hour and 30 minutes", "90 minutes or 1 hour and 30 minutes", "marker", 90),
        ("#### (520 * 450) / 468 = 487.5 (rounded to 1)", "(520 * 450) / 468 = 487.5 (rounded to 1)", "marker", Fraction(975, 2)),
        ("#### 1\n#### 2", "2", "marker", 2),
        ("#### No valid solution.", "No valid solution.", "marker", None),
        ("so 12\n####", None, None, None),
        ("#### 3 \\boxed{1} or \\boxed{\\frac{3}{4}} 5", "\\frac{3}{4}", "boxed", Fraction(3, 4)),
        ("12 \\boxed{", None, None, None),
        ("The answer is **12**. There are 3.", "12", "phrase", 12),
        ("the answer is 5\nFinal answer: 6 apples, since 2 + 4", "6 apples, since 2 + 4", "phrase", 6),
        ("**Answer:** Paris", "Paris", "phrase", None),
        ("The answer to 3 + 4 is $7.50!", "$7.50", "phrase", Fraction(15, 2)),
        ("A robe takes 2 + 1 = 3.0 bolts.", "3.0", "number", 3),
        ("no number", None, None, None),
        ("", None, None, None),
    ],
)
def test_the_final_answer_is_found(answer: str, text: str | None, rule: str, number: Fraction | None) -> None:
    assert final_answer(answer) == (None if text is None else FinalAnswer(text, rule))  # type: ignore[arg-type]
    found = final_number(answer)
    assert (None if found is None else found.value) == number


@pytest.mark.parametrize(
    "piece", ["9", "1,", "1 ", "\\frac{1", "\\text{", "<<", "the answer to ", "*", "_ ", "5 \\frac ", "\\boxed{", "<think>"]
)
def test_hostile_text_takes_time_in_its_length(piece: str) -> None:
    """60,000 characters in a second; with a pattern quadratic in them, in minutes."""
    text, start = piece * (60_000 // len(piece)), time.process_time()
    final_number(split_thinking(text).answer)
    assert time.process_time() - start < 10
