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
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_NUMBER = re.compile(
    r"""(?<![^\W_])(?<![0-9][.,/])                # neither inside a word nor inside a longer number: no 2 in H2O, no -3 in 10-3
    (?P<sign>[-+\u2212]?)(?:[$€£¥₹]\s?(?P<inner>[-\u2212]?))?
    (?:(?:(?P<whole>[0-9]++)\s++)?(?P<over>[0-9]++)\s?[/\u2044]\s?(?P<under>[0-9]++)(?![/.]?[0-9])
     |(?P<decimal>(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])|[0-9]++)(?:\.[0-9]++)?|\.[0-9]++)
      (?!e[-+]?[0-9]{4})(?:e(?P<e>[-+]?[0-9]{1,3})|\s?(?:[x×*]|\\times)\s?10\s?(?:\^|\*\*)\s?\{?(?P<ten>[-+\u2212]?[0-9]{1,3})(?![0-9])\}?)?)
    (?:\s?(?P<scale>thousand|million|billion|trillion)\b)?
    (?P<percent>\s?(?:%|percent\b))?""",
    re.VERBOSE | re.IGNORECASE,
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAX_DIGITS = 1000
"""A longer run of digits is a model gone astray; reading it would take time in the square of its length."""
_LATEX = (
    (re.compile(r"\\text(?:bf|rm|it)?\s*\{([^{}]*)\}|\\math(?:rm|bf)\s*\{([^{}]*)\}"), lambda m: f" {m[1] or m[2] or ''} "),
    (re.compile(r"(?<=[0-9])\s*\\[dt]?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}"), r" \1/\2"),
    (re.compile(r"\\[dt]?frac\s*\{\s*(-?[0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}"), r"\1/\2"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,!;: ]"), ""),
    (re.compile(r"\\([$%#&])"), r"\1"),
)


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
        return _found(_SENTENCE_END.split(answer[phrases[-1].end() :], maxsplit=1)[0], "phrase")
    found = numbers(answer)
    return FinalAnswer(found[-1].text, "number") if found else None


def final_number(answer: str) -> Number | None:
    """The number of the final answer: the first after its last "=" ("3 + 4 = 7 apples" says 7); None where it has none."""
    found = final_answer(answer)
    if found is None:
        return None
    said = numbers(found.text.rpartition("=")[2]) or numbers(found.text)
    return said[0] if said else None


def numbers(text: str) -> list[Number]:
    r"""The numbers in a text, in order, as exact fractions.

    Read are signs, money, thousands separators (1,234.50), fractions and mixed numbers (3/4, 1 1/2, ½, \frac{3}{4}), powers of ten
    (1e3, 1.5 × 10^3), thousand to trillion, percent; units may follow without a space (5km, 6th). Not read: numbers in words,
    decimal commas, a division by zero, more than 1,000 digits. A hyphen between two numbers is no sign.
    """
    found = []
    for match in _NUMBER.finditer(_plain(text)):
        value = _value(match)
        if value is not None:
            found.append(Number(value, match[0].strip(), match["percent"] is not None))
    return found


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
    negative = (match["sign"] or match["inner"] or "+") in "-\u2212"
    return (-value if negative else value) * _SCALES.get((match["scale"] or "").lower(), 1)
