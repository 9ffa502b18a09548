"""What each checker passes, and the one line it says where it does not."""

from __future__ import annotations

import gzip
import json
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.core.errors import BadInput
from stillroom.teachers.checkers import Check, exact_match, numeric_match, record_match, schema_checker


@pytest.mark.parametrize(
    ("answer", "expected", "passed"),
    [
        ("The answer is Paris.", "paris", True),
        ("Paris", "#### Paris", True),
        ("ﬁve  apples", "five apples", True),
        ("London", "Paris", False),
        ("It has 3 of them", "3", False),
    ],
)
def test_exact_match(answer: str, expected: str, passed: bool) -> None:
    assert exact_match(answer, expected).passed is passed
    assert exact_match("a", "b") == Check(False, "the answer is 'a', expected 'b'")


@pytest.mark.parametrize(
    ("answer", "expected", "passed"),
    [
        ("so $1,080.00 in all", "#### 1080", True),
        ("0.1", "1/10", True),
        ("1e3", "1,000", True),
        ("\\boxed{\\frac{1}{2}}", ".5", True),
        ("0.30000000000000004", "0.3", False),
        ("9007199254740993", "9007199254740992", False),
        ("0.33", "1/3", False),
        ("25%", "25", True),
        ("0.25", "25%", True),
        ("0.25", "25", False),
        ("-5", "5", False),
        ("no idea", "5", False),
    ],
)
def test_numeric_match_is_exact(answer: str, expected: str, passed: bool) -> None:
    assert numeric_match(answer, expected).passed is passed


def test_numeric_match_says_why() -> None:
    assert numeric_match("#### 5 km", "6") == Check(False, "the answer is '5', expected '6'")
    assert numeric_match("#### none", "6") == Check(False, "the final answer 'none' holds no number")
    assert numeric_match("none", "6") == Check(False, "there is no final answer")
    assert numeric_match("0.33", "1/3", tolerance=Fraction(1, 100)).passed
    assert not numeric_match("0.32", "1/3", tolerance=Fraction(1, 100)).passed
    assert [numeric_match(given, "25%", tolerance=1).passed for given in ("24", "0.24", "26%", "0.9", "90%")] == [
        True,
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(BadInput, match="expected: = 'many' holds no single number"):
        numeric_match("5", "many")


@settings(max_examples=100, deadline=None)
@given(st.fractions(max_denominator=50), st.fractions(max_denominator=50))
def test_two_fractions_match_only_if_they_are_equal(a: Fraction, b: Fraction) -> None:
    assert numeric_match(str(a), str(b)).passed is (a == b)


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "items": {"type": "array", "items": {"type": "integer"}}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ('{"name": "a", "items": [1, 2]}', ""),
        ('```json\n{"name": "a"}\n```', ""),
        ('{"name": "a", "items": [1, "b"]}', "items.1: 'b' is not of type 'integer'"),
        ("{}", "'name' is a required property"),
        ('{"name": "a"} as you wished', "is not JSON"),
        ('{"name": "a", "name": "b"}', "is not JSON: a key occurs twice"),
        ("NaN", "is not JSON: NaN is not allowed"),
        ("", "is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ("1" * 5000, "is not JSON"),
    ],
)
def test_answers_under_a_schema(answer: str, reason: str) -> None:
    found = schema_checker(SCHEMA)(answer, "")
    assert found.passed is (reason == "")
    assert found.reason.startswith(reason)
    assert "\n" not in found.reason


def test_a_bad_schema_is_refused_and_nothing_is_fetched() -> None:
    with pytest.raises(BadInput, match=r"schema\.type: is no JSON Schema"):
        schema_checker({"type": "objekt"})
    asked = []

    class Serves(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Serves) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/x"
        with pytest.raises(BadInput, match=f"refers to '{address}', which it does not hold"):
            schema_checker({"$ref": address})("1", "")
        server.shutdown()
    assert asked == []
    assert schema_checker({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}})("1", "").passed


def test_every_gold_solution_of_gsm8k_passes_and_its_neighbours_fail(shared_data: Path) -> None:
    """The test split; `benchmarks/verifier.py` does all, with more kinds of change."""
    with gzip.open(shared_data / "gsm8k" / "test.jsonl.gz", "rt", encoding="utf-8") as lines:
        gold = [json.loads(line)["answer"] for line in lines]
    assert len(gold) == 1319
    for answer in gold:
        solution, _, final = answer.partition("#### ")
        assert numeric_match(answer, final).passed
        assert not numeric_match(f"{solution}#### {int(final.replace(',', '')) + 1}", final).passed


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ('{"a": 1, "b": [true, null]}', True),
        ('```json\n{"b": [true, null], "a": 1.0}\n```', True),
        ('{"a": 1, "b": [1, null]}', False),  # to Python, 1 is True
        ('{"a": 1, "b": [null, true]}', False),
        ('{"a": 1}', False),
        ('The record is {"a": 1, "b": [true, null]}', False),
    ],
)
def test_records_are_compared_by_value(answer: str, passes: bool) -> None:
    check = record_match(answer, '{"a": 1, "b": [true, null]}')
    assert (check.passed, bool(check.reason)) == (passes, not passes)


def test_a_reference_that_is_no_record_is_refused() -> None:
    with pytest.raises(BadInput, match="compared with a JSON value"):
        record_match("{}", "none")


@pytest.mark.parametrize(
    "answer",
    [
        "The answer is - 18",
        "\\boxed{- 18}",
        "The answer is – 18",
        "The answer is –18",
        "The answer is minus 18",
        "The answer is negative 18",
        "The answer is - $18",
        "#### -18",
    ],
)
def test_a_sign_is_not_lost(answer: str) -> None:
    assert not numeric_match(answer, "18").passed
    assert numeric_match(answer, "-18").passed


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        ("\\boxed{2^{10}}", "2"),
        ("\\boxed{2^{10}}", "10"),
        ("\\boxed{10^{-3}}", "10"),
        ("\\boxed{10^{-3}}", "3"),
        ("\\boxed{2\\sqrt{3}}", "2"),
        ("\\boxed{\\sqrt{16}}", "16"),
        ("\\boxed{3\\pi}", "3"),
        ("\\boxed{5x}", "5"),
        ("\\boxed{12, 13}", "12"),
        ("\\boxed{(3,2)}", "3"),
        ("\\boxed{18 \\text{ or } 19}", "18"),
        ("\\boxed{1.\\overline{3}}", "1"),
        ("\\boxed{\\frac{1.5}{2}}", "1.5"),
        ("\\boxed{2:3}", "2"),
        ("\\boxed{\\frac{x}{2}}", "2"),
        ("\\boxed{-(18)}", "18"),
        ("\\boxed{\\frac{1}{-2}}", "1"),
        ("The answer is 9*2", "9"),
        ("The answer is 20 - 2", "20"),
        ("The answer is not 5", "5"),
        ("The answer is 5 or 6", "5"),
        ("So it is 12 m^2.", "2"),
        ("#### 2:30 pm", "2"),
    ],
)
def test_a_part_of_the_answer_is_not_the_answer(answer: str, part: str) -> None:
    assert not numeric_match(answer, part).passed


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("\\boxed{\\frac12}", "1/2"),
        ("\\boxed{\\cfrac{1}{2}}", "0.5"),
        ("\\boxed{\\frac{1}{-2}}", "-1/2"),
        ("\\boxed{90^\\circ}", "90"),
        ("\\boxed{90^{\\circ}}", "90"),
        ("The answer is Rs. 50", "50"),
        ("The answer is approx. 50", "50"),
        ("Answer:\n- 18 apples", "18"),
        ("Total: 12\n3/4 of them left", "3/4"),
        ("The answer is 2 hundred", "200"),
        ("So it is 12 m^2.", "12"),
        ("He has 20 minus 2, or 18", "18"),
        ("#### 50% or 1/2", "50"),
        ("#### 2:00 pm", "2"),
        ("\\boxed{12}", "12 cm^2"),
        ("The answer is 18", "18 (9 a day for 2 days)"),
    ],
)
def test_numbers_as_people_write_them(answer: str, expected: str) -> None:
    assert numeric_match(answer, expected).passed


@pytest.mark.parametrize("expected", ["2:3", "(2, 3)", "2^{10}"])
def test_a_reference_of_several_numbers_cannot_be_compared(expected: str) -> None:
    with pytest.raises(BadInput, match="holds no single number"):
        numeric_match("\\boxed{2}", expected)


def test_a_stop_in_a_name_ends_no_answer() -> None:
    for one, other in (("St. Paul", "St. Louis"), ("U.S. Steel", "U.S. Bank"), ("Dr. Who", "Dr. No")):
        assert not exact_match(f"The answer is {one}", f"The answer is {other}").passed
        assert exact_match(f"The answer is {one}. It says so.", one).passed
    assert exact_match("The answer is B. It says so.", "B").passed
