"""The probability of each label, from the log-probabilities of the tokens of its code.

What is counted. A server names the likeliest tokens at each place of the one answer that it gave. An answer says a label if it is the
label's code in any case, after at most one space, after what opened the given answer (quotes, blanks) or a beginning of that. P(label)
is the probability of all such answers together, however their text falls into tokens. Of these,

- a token that completes a code is *seen*, whether it was given or not;
- a token that begins codes, and was not given, is seen but not told apart: its mass belongs to any of these labels;
- what is not among the named tokens is unseen. No unseen token is likelier than the least likely one named, so that a label with m
  unseen spellings at a place has at most m times that, and at most all that is unseen there.

So seen <= P <= upper, always. The estimate in between gives each label the same share of a mass that is not told apart, and the same
share of the unseen mass as any other (but no more than its bound); it is then normalised: P(label | the answer is a label).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillroom.core.chat import Choice, TokenLogprobs
from stillroom.teachers.strict_json import one_line
from stillroom.teachers.tasks.unusable import Reading, Unusable, given, refused_in_words, without_thinking

Floats = NDArray[np.float64]
_END_OF_THINKING = re.compile("</think>", re.IGNORECASE)
_OPENS = " \t\r\n\"'`*([{“”‘’«"
_CLOSES = _OPENS + ".,:;!)]}»"
_MARKERS = str.maketrans("Ġ▁Ċ", "  \n")
"""Some servers name tokens as their vocabularies write them."""
_SAID = re.compile(rf"[{re.escape(_OPENS)}]*([A-Za-z]+)(?:[{re.escape(_CLOSES)}]*$|[ *`]*[=:\n])")
_ROUNDING = 0.01
"""By so much may rounded probabilities add up to more than 1."""
_POSITIVE = 1e-3
_LONGEST_OPENER = 16
_NONE: Literal["no-logprobs"] = "no-logprobs"


@dataclass(frozen=True)
class LabelMasses:
    """Of one answer. Shapes (K,), probabilities.

    Attributes:
        seen: at least so likely is each label; the sum is at most 1.
        upper: at most so likely.
        probabilities: the estimate, which adds up to 1.
    """

    seen: Floats
    upper: Floats
    probabilities: Floats

    @property
    def missing(self) -> float:
        """The mass that was not seen on any label: on other answers, or nowhere."""
        return max(1.0 - float(self.seen.sum()), 0.0)


@dataclass(frozen=True)
class _Spellings:
    """The tokens that begin or complete codes at one place: their labels, and whether they complete them; how many each label has."""

    labels: Mapping[str, tuple[NDArray[np.int64], bool]]
    counts: Floats


class CodeReader:
    """Reads answers that are codes; one for all rows."""

    def __init__(self, codes: Sequence[str]) -> None:
        """`codes`: capitals, of one length, each once."""
        assert len({len(code) for code in codes}) == 1
        assert len(set(codes)) == len(codes)
        self._index = {code: i for i, code in enumerate(codes)}
        self._after: dict[tuple[str, str], _Spellings] = {}

    def read(self, choice: Choice) -> Reading[LabelMasses]:
        """The masses behind an answer that is one of the codes.

        A code that an equals sign, a colon or a line end follows is one, too, and it does not matter if the token limit cut the rest.

        Raises:
            Unusable: the answer is no code, or the log-probabilities cannot be used.
        """
        given(choice)
        text = without_thinking(choice.text)
        begins = _SAID.match(text)
        code = begins[1].upper() if begins else ""
        if code not in self._index:
            if refused_in_words(text):
                raise Unusable("refused", one_line(text))
            raise Unusable("off-label", f"{one_line(text)!r} is no code of a label; answer with one of the codes alone.")
        walked, masses = self._walk(_answer_tokens(choice))
        if walked != code:
            raise Unusable(_NONE, f"the tokens spell {walked!r}, the answer {code!r}.")
        return Reading(masses, () if text == code else ("spelling",))

    def _walk(self, tokens: Sequence[TokenLogprobs]) -> tuple[str, LabelMasses]:
        """Along the given answer to the end of its code; at each place, take in what the other tokens say."""
        num_labels = len(self._index)
        seen, between, bound = (np.zeros(num_labels) for _ in range(3))
        path, written, opener = 1.0, "", _opener(tokens)
        for token in tokens:
            named, floor = _named(token)
            chosen, spellings = token.token.translate(_MARKERS), self._spellings(written, opener)
            unseen_spellings = spellings.counts.copy()
            for text in named.keys() & spellings.labels.keys():
                labels, complete = spellings.labels[text]
                unseen_spellings[labels] -= 1
                if text == chosen:
                    continue
                mass = path * named[text]
                (seen if complete else bound)[labels] += mass
                between[labels] += 0.0 if complete else mass / len(labels)
            rest = path * max(1.0 - sum(named.values()), 0.0)
            most = np.minimum(rest, path * floor * unseen_spellings)
            bound += most
            between += np.minimum(most, rest / num_labels)
            path *= named[chosen]
            opener = opener[len(chosen) :]
            written += _letters(chosen, written)
            if written in self._index:
                seen[self._index[written]] += path
                estimate = seen + between
                return written, LabelMasses(seen, np.minimum(seen + bound, 1.0), _normal(estimate))
        raise Unusable(_NONE, "the tokens do not spell the answer.")

    def _spellings(self, written: str, opener: str) -> _Spellings:
        """What may come next on the way to a code of which `written` is there; before it, what is still to come of the opener."""
        key = (written, "" if written else opener)
        if key not in self._after:
            openings = {""} if written else {opener[:end] + space for end in range(len(opener) + 1) for space in ("", " ")}
            labels: dict[str, set[int]] = defaultdict(set)
            for code, i in self._index.items():
                for end in range(len(written) + 1, len(code) + 1) if code.startswith(written) else ():
                    for case in product(*((c, c.lower()) for c in code[len(written) : end])):
                        for opening in openings:
                            labels[opening + "".join(case)].add(i)
            for opening in openings - {""}:
                labels[opening] = set(self._index.values())
            counts = np.zeros(len(self._index))
            for members in labels.values():
                counts[list(members)] += 1
            table = {
                text: (np.array(sorted(members)), (written + text.lstrip(_OPENS)).upper() in self._index)
                for text, members in labels.items()
            }
            self._after[key] = _Spellings(table, counts)
        return self._after[key]


def _opener(tokens: Sequence[TokenLogprobs]) -> str:
    """What stands before the code. Raises Unusable where it is longer than an opener is."""
    text = "".join(token.token for token in tokens).translate(_MARKERS)
    opener = text[: len(text) - len(text.lstrip(_OPENS))]
    if len(opener) > _LONGEST_OPENER:
        raise Unusable(_NONE, f"{len(opener)} blanks and quotes stand before the answer.")
    return opener


def _letters(token: str, written: str) -> str:
    """What a token of the given answer adds to the code: its first letters, after what may open an answer.

    Raises Unusable where that cannot be told.
    """
    text = token if written else token.lstrip(_OPENS)
    letters = re.match("[A-Za-z]*", text)
    assert letters is not None
    if (written or text) and not letters[0]:
        raise Unusable(_NONE, "the tokens do not spell the answer.")
    return letters[0].upper()


def _named(token: TokenLogprobs) -> tuple[dict[str, float], float]:
    """The probabilities that are named at a place, and the most that a token not named can have.

    The given token does not count for the latter: some servers name it beside the likeliest ones, however unlikely it is.
    """
    if not token.top:
        raise Unusable(_NONE, "the server named no other tokens.")
    named: dict[str, float] = defaultdict(float)
    for text, logprob in token.top:
        named[text.translate(_MARKERS)] += _probability(logprob)
    given_probability = _probability(token.logprob)
    named.setdefault(token.token.translate(_MARKERS), given_probability)
    if (total := sum(named.values())) > 1 + _ROUNDING:
        raise Unusable(_NONE, f"the probabilities of one place add up to {total:.3g}.")
    return named, min((_probability(logprob) for text, logprob in token.top if text != token.token), default=1.0)


def _probability(logprob: float) -> float:
    if not logprob <= _POSITIVE:  # NaN, too
        raise Unusable(_NONE, f"{logprob} is no log-probability.")
    return math.exp(min(logprob, 0.0))


def _answer_tokens(choice: Choice) -> Sequence[TokenLogprobs]:
    """The tokens behind a closing think tag. Raises Unusable where there are none."""
    if not choice.logprobs:
        raise Unusable(_NONE, "the server gave no log-probabilities.")
    end = max((tag.end() for tag in _END_OF_THINKING.finditer("".join(token.token for token in choice.logprobs))), default=0)
    starts = accumulate((len(token.token) for token in choice.logprobs), initial=0)
    return [token for token, start in zip(choice.logprobs, starts, strict=False) if start >= end]


def _normal(estimate: Floats) -> Floats:
    total = estimate.sum()
    if not total > 0:
        raise Unusable(_NONE, "all labels have the probability 0.")
    return np.asarray(estimate / total)
