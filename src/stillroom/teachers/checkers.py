"""Is a response right? Checkers of its answer against what is expected; each says in one line why it refuses.

A checker takes the answer (thinking split off, `final_answers.split_thinking`) and the expected text. The user's own code as a
checker is in `user_code`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from stillroom.core.errors import BadInput
from stillroom.teachers.final_answers import Number, final_answer, final_number, numbers, reference_number
from stillroom.teachers.strict_json import FENCE, parse, schema_problem

_SHOWN = 60


@dataclass(frozen=True)
class Check:
    """A checker's verdict; `reason` is "" where it passed, else one line."""

    passed: bool
    reason: str = ""


Checker = Callable[[str, str], Check]
"""check(answer, expected)."""


def exact_match(answer: str, expected: str) -> Check:
    """Is the final answer the expected text, but for case, white space, Unicode forms (NFKC) and a full stop at the end?

    An answer in which only the last-number rule finds something, or nothing, is compared whole.
    """
    given, wanted = (comparable(said(text)) for text in (answer, expected))
    return Check(True) if given == wanted else Check(False, f"the answer is {_shown(given)}, expected {_shown(wanted)}")


def numeric_match(answer: str, expected: str, *, tolerance: Fraction | int = 0) -> Check:
    """Is the number of the final answer the expected one, in exact rational arithmetic?

    Units and currencies do not count, and percent counts as a unit (25 % is 25), except that an expected percentage may also be
    answered as a share: expected 25 %, 0.25 passes.

    Args:
        tolerance: the largest difference that passes, in the unit of the expected number. 0: 0.33 is not 1/3.

    Raises:
        BadInput: there is no number in `expected`.
    """
    wanted = reference_number(expected)
    if wanted is None:
        raise BadInput.at("expected", f"= {_shown(expected)} holds no single number; a numeric check needs one in each reference.")
    given = final_number(answer)
    if given is None:
        found = final_answer(answer)
        if found is None:
            return Check(False, "there is no final answer")
        single = "single " if numbers(found.text) else ""
        return Check(False, f"the final answer {_shown(found.text)} holds no {single}number")
    if any(abs(given.value * scale - wanted.value) <= tolerance for scale in _scales(wanted, given)):
        return Check(True)
    return Check(False, f"the answer is {_shown(given.text)}, expected {_shown(wanted.text)}")


def schema_checker(schema: Mapping[str, Any]) -> Checker:
    """A checker that passes an answer which is JSON, alone or alone in a code fence, and valid under the schema.

    The expected text is not looked at. Strictly JSON (RFC 8259): NaN and repeated keys do not pass. References are followed inside
    the schema only; nothing is fetched.

    Args:
        schema: JSON Schema; draft 2020-12 unless its `$schema` says otherwise.

    Raises:
        BadInput: the schema is none, or refers to something outside itself (then at the first check).

    Source: json-schema.org, through the package `jsonschema`.
    """
    problem = schema_problem(schema)

    def check(answer: str, expected: str = "") -> Check:
        fenced = FENCE.fullmatch(answer)
        try:
            value = parse(fenced[1] if fenced else answer)
        except ValueError as error:
            return Check(False, str(error))
        reason = problem(value)
        return Check(not reason, reason)

    return check


def record_match(answer: str, expected: str) -> Check:
    """Is the answer the JSON value of the expected text? Order of keys, white space and a code fence do not count; 1 and 1.0 are equal.

    Raises:
        BadInput: the expected text is no JSON.
    """
    try:
        wanted = parse(expected)
    except ValueError as error:
        raise BadInput.at("expected", f"= {_shown(expected)} {error}; a record is compared with a JSON value.") from error
    fenced = FENCE.fullmatch(answer)
    try:
        given = parse(fenced[1] if fenced else answer)
    except ValueError as error:
        return Check(False, str(error))
    same = _typed(given) == _typed(wanted)
    return Check(True) if same else Check(False, f"the record is {_shown(answer)}, expected {_shown(expected)}")


def comparable(text: str) -> str:
    """The text without what does not count in a comparison: case, white space, Unicode forms (NFKC), a full stop at the end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".")


def said(text: str) -> str:
    """The text of the final answer where a box, a marker or a phrase announces one, else the whole text."""
    found = final_answer(text)
    return found.text if found is not None and found.rule != "number" else text


def _scales(wanted: Number, given: Number) -> tuple[int, ...]:
    """What makes the given number one in the unit of the wanted one: a percentage may be answered as a share."""
    return (1, 100) if wanted.percent and not given.percent else (1,)


def _typed(value: Any) -> Any:
    """For a comparison in which true is not 1: to Python it is."""
    if isinstance(value, dict):
        return {name: _typed(part) for name, part in value.items()}
    return [_typed(part) for part in value] if isinstance(value, list) else (isinstance(value, bool), value)


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
