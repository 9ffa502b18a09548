"""What a response says in the end: its reasoning split off, its final answer found, its number read exactly.

Responses are other people's text: nothing here runs them, every pattern is linear in their length, and a number too long to be
one is none.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Rule = Literal["boxed", "marker", "phrase", "number"]
_TAG = re.compile(r"<(/?)think>", re.IGNORECASE)
_CALCULATOR = re.compile(r"<<[^<>]*>>")
"""GSM8K's notes for a calculator (Cobbe et al. 2021, section 4): `<<48/2=24>>24`."""
_PHRASE = re.compile(
    r"(?:\b(?:the|final|correct|my)\s+answer\b(?:\s+to\s[^\n.:=]{0,100}?)?[\s*_]*(?:is|should\s+be|would\s+be|:|=)|^[\s*_]*answer[\s*_]*:)[\s*_:]*",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(
    r"(?:[!?]|(?<!\b(?:St|Mt|Ft|Mr|Ms|Dr|Jr|Sr|Rs|vs|ca))(?<!\bMrs)(?<!\bProf)(?<!\bapprox)(?<!\.[A-Za-z])\.)(?=\s|$)|\n"
)
"""Not the stops of St. Louis and the U.S. Bank."""
_NUMBER = re.compile(
    r"""(?<![^\W_])(?<![0-9][.,/])                # neither inside a word nor inside a longer number: no 2 in H2O, no -3 in 10-3
    (?<!\^)(?<!\^[-{])(?<!\^\{-)                # no power: no 2 in cm^2
    (?P<sign>[-+\u2212\u2013]?|(?<![0-9)%]\ )(?:minus|negative)\ )(?:[$€£¥₹]\s?(?P<inner>[-\u2212\u2013]?))?
    (?:(?:(?P<whole>[0-9]++)[ \t]++)?(?P<over>[0-9]++)\s?[/\u2044]\s?(?P<under>[0-9]++)(?![/.]?[0-9])
     |(?P<decimal>(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)
      (?!e[-+]?[0-9]{4})(?:e(?P<e>[-+]?[0-9]{1,3})|\s?(?:[x×*]|\\times)\s?10\s?(?:\^|\*\*)\s?\{?(?P<ten>[-+\u2212]?[0-9]{1,3})(?![0-9])\}?)?)
    (?:\s?(?P<scale>hundred|thousand|million|billion|trillion)\b)?
    (?P<percent>\s?(?:%|percent\b))?""",
    re.VERBOSE | re.IGNORECASE,
)
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAX_DIGITS = 1000
"""A longer run of digits is a model gone astray; reading it would take time in the square of its length."""
_LATEX = (
    (re.compile(r"\\text(?:bf|rm|it)?\s*\{([^{}]*)\}|\\math(?:rm|bf)\s*\{([^{}]*)\}"), lambda m: f" {m[1] or m[2] or ''} "),
    (re.compile(r"\\[cdt]?frac\s*([0-9])\s*([0-9])(?![0-9])"), r"\\frac{\1}{\2}"),
    (re.compile(r"(?<=[0-9])\s*\\[cdt]?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}"), r" \1/\2"),
    (re.compile(r"\\[cdt]?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*-\s*([0-9]+)\s*\}"), r"-\1/\2"),
    (re.compile(r"\\[cdt]?frac\s*\{\s*(-?[0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}"), r"\1/\2"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,!;: ]"), ""),
    (re.compile(r"\\([$%#&])"), r"\1"),
)
_GOES_ON = re.compile(
    r"""\s*(?:\^(?!\s*\{?\s*\\circ) | (?:\*\*|[-+\u2212\u2013*/×·÷])\s?[$(\\0-9] | :(?!00(?![0-9]))[0-9] | ,[0-9]
      | \.?\\(?:sqrt|pi|cdot|times|div|pm|mp|overline|[cdt]?frac|ln|log|sin|cos|tan|left|b?mod)(?![a-z])
      | [√π] | \}\s*\{ | [xyzn](?![^\W_]))""",
    re.VERBOSE | re.IGNORECASE,
)
_OR_ELSE = re.compile(r"\s*(?:,|;|or\b|and\b)\s*", re.IGNORECASE)
_HANGS_ON = re.compile(
    r"(?:\\sqrt(?:\[[0-9n]\])?\s*\{?|√|[\^_]\s*\{?|[-+\u2212\u2013*/×·÷]\s?\(?|\}\s*\{\s*-?|\bnot|n't)\s*$", re.IGNORECASE
)
"""What makes a number a part of something else: 2^{10}, 3π, 5x, 2:3, 12 or 13; √16, -(18), not 5. Not so: 90^\\circ, 2:00, 50% or 1/2."""
_BEFORE = 20
_LEADING_SIGN = re.compile(r"\s*(?:[-\u2212\u2013]|minus\b|negative\b)\s*(?=[$€£¥₹]?\s?[0-9.])", re.IGNORECASE)


@dataclass(frozen=True)
class Response:
    """A response in two: the chain of thought, and what was said to the user.

    Attributes:
        thinking: the `<think>` sections, without their tags, two line feeds between them.
        answer: all the rest, without white space at its ends.
        closed: false where the last section was never closed: the response was cut, and `answer` cannot be trusted.
    """

    thinking: str
    answer: str
    closed: bool = True


@dataclass(frozen=True)
class FinalAnswer:
    """The final answer as written, and the rule that found it."""

    text: str
    rule: Rule


@dataclass(frozen=True)
class Number:
    """A number in a text: its exact value (of 25 %: 25), as written, and whether a percent sign follows."""

    value: Fraction
    text: str
    percent: bool


def split_thinking(response: str) -> Response:
    """Take the `<think>…</think>` sections of open reasoning models off a response.

    Sections may be several and nested. A closing tag without an opening one ends a section that began with the response (chat
    templates put the opening tag into the prompt); what an unclosed tag opened is thinking to the end. No tag is left in either part.
    """
    thinking: list[str] = []
    answer: list[str] = []
    depth = start = 0
    for tag in _TAG.finditer(response):
        piece, start = response[start : tag.start()], tag.end()
        (thinking if depth else answer).append(piece)
        if not tag[1]:
            depth += 1
        elif depth:
            depth -= 1
        else:
            thinking, answer = [*thinking, *answer], []
    (thinking if depth else answer).append(response[start:])
    # Joined by a space: "<" and "think>" from both sides of a section must not become a tag.
    sections = [piece.strip() for piece in thinking]
    return Response("\n\n".join(piece for piece in sections if piece), " ".join(filter(None, answer)).strip(), depth == 0)


def final_answer(answer: str) -> FinalAnswer | None:
    r"""The final answer of a text whose thinking is split off; None where it has none.

    The first rule that applies: the last `\boxed{…}`; what follows the last `####` on its line; what follows the last "the answer
    is" (or "Answer:" at the start of a line) in its sentence; the last number. A box or a marker with nothing in it is a response
    that was cut, and has no answer.

    Source: `####` Cobbe et al. 2021, arXiv:2110.14168; \boxed Hendrycks et al. 2021 (MATH), arXiv:2103.03874; "the answer is"
    Wei et al. 2022, arXiv:2201.11903.
    """
    if (start := answer.rfind("\\boxed{")) >= 0:
        return _found(_braced(answer, start + len("\\boxed{")), "boxed")
    if (start := answer.rfind("####")) >= 0:
        return _found(answer[start + len("####") :].strip(" \t#").partition("\n")[0], "marker")
    if phrases := list(_PHRASE.finditer(answer)):
        phrase, rest = phrases[-1][0], answer[phrases[-1].end() :]
        if "\n" in phrase[len(phrase.rstrip(" \t\r\n*_:")) :]:
            rest = rest.removeprefix("- ")  # a list below it
        return _found(_SENTENCE_END.split(rest, maxsplit=1)[0], "phrase")
    found = numbers(answer)
    return FinalAnswer(found[-1].text, "number") if found else None


def final_number(answer: str) -> Number | None:
    """The number of the final answer: the first after its last "=" ("3 + 4 = 7 apples" says 7).

    None where it has none, or where that number is part of something else: of a power, a product, a list, a choice of two.
    """
    found = final_answer(answer)
    if found is None:
        return None
    if found.rule == "number":
        return numbers(found.text)[0]
    return _single(found.text)


def reference_number(expected: str) -> Number | None:
    """As `final_number`; but a text that begins with a number and announces no answer means that one: 12 cm², 18 (9 a day)."""
    found = final_answer(expected)
    if found is None or found.rule != "number":
        return final_number(expected)
    begins = _NUMBER.search(plain := _plain(expected.strip()))
    return _single(expected) if begins and not plain[: begins.start()].strip(" ([{$-\u2212\u2013") else final_number(expected)


def numbers(text: str) -> list[Number]:
    r"""The numbers in a text, in order, as exact fractions.

    Read are signs, money, thousands separators (1,234.50), fractions and mixed numbers (3/4, 1 1/2, ½, \frac{3}{4}), powers of ten
    (1e3, 1.5 × 10^3), thousand to trillion, percent; units may follow without a space (5km, 6th). Not read: numbers in words,
    decimal commas, a division by zero, more than 1,000 digits. A hyphen between two numbers is no sign.
    """
    return [number for number in map(_number, _NUMBER.finditer(_plain(text))) if number is not None]


def _single(text: str) -> Number | None:
    """The first number after the last "=" of an answer, if it stands for itself."""
    plain = _plain(text)
    after = plain.rpartition("=")[2]
    plain = after if _NUMBER.search(after) else plain
    if sign := _LEADING_SIGN.match(plain):
        plain = f"-{plain[sign.end() :].lstrip()}"
    match = _NUMBER.search(plain)
    if match is None or _HANGS_ON.search(plain[max(match.start() - _BEFORE, 0) : match.start()]) or _GOES_ON.match(plain, match.end()):
        return None
    number, more = _number(match), _OR_ELSE.match(plain, match.end())
    other = _NUMBER.match(plain, more.end()) if more else None
    return number if other is None or _same(number, _number(other)) else None


def _same(one: Number | None, other: Number | None) -> bool:
    """Whether both are one number, perhaps as a percentage and as a share."""
    if one is None or other is None:
        return False
    scale = Fraction(100) ** (other.percent - one.percent)
    return one.value * scale == other.value or one.value == other.value


def _found(text: str, rule: Rule) -> FinalAnswer | None:
    text = text.strip(" \t\r\n*_`")
    return FinalAnswer(text, rule) if text else None


def _braced(text: str, start: int) -> str:
    """From `start` to the brace that closes the one before it; "" where none does."""
    depth = 1
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start:at]
    return ""


def _plain(text: str) -> str:
    if not text.isascii():
        # NFKC makes 1½ into 11/2, so a space goes before a fraction of one character first.
        text = "".join(f" {c}" if unicodedata.decomposition(c).startswith("<fraction>") else c for c in text)
        text = unicodedata.normalize("NFKC", text)
    text = _CALCULATOR.sub("", text)
    if "\\" in text or "{,}" in text:
        for pattern, plain in _LATEX:
            text = pattern.sub(plain, text)
    return text


def _number(match: re.Match[str]) -> Number | None:
    value = _value(match)
    return None if value is None else Number(value, match[0].strip(), match["percent"] is not None)


def _value(match: re.Match[str]) -> Fraction | None:
    if match.end() - match.start() > _MAX_DIGITS:
        return None
    if match["under"] is not None:
        over, under = int(match["over"]), int(match["under"])
        if under == 0:
            return None
        value = Fraction(over, under) + (int(match["whole"]) if match["whole"] and over < under else 0)
    else:
        value = Fraction(match["decimal"].replace(",", ""))
        power = (match["e"] or match["ten"] or "0").replace("\u2212", "-")
        value *= Fraction(10) ** int(power)
    negative = (match["sign"] or match["inner"] or "+") != "+"
    return (-value if negative else value) * _SCALES.get((match["scale"] or "").lower(), 1)
