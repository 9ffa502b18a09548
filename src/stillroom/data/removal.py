"""Which new texts are not kept, and why: the first of these rules that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillroom.data.decontamination import find_leaks
from stillroom.data.duplicates import exact_duplicates, near_duplicates
from stillroom.data.selection import in_language, within_length

RemovalReason = Literal["unreadable", "length", "language", "leak", "duplicate", "near-duplicate"]


@dataclass(frozen=True)
class Removal:
    """The rules, in this order. unreadable: half of a surrogate pair, which no file can hold. length and language: outside the limits.
    leak: gives an evaluation text away (`find_leaks`), or nearly equals one. duplicate, near-duplicate: of a text that is kept already.

    Attributes:
        evaluation: texts that must stay unseen.
        known: further texts that need not be written again.
        threshold: of `near_duplicates`.
        languages: ISO 639-1 codes; () for any.
    """

    evaluation: Sequence[str] = ()
    known: Sequence[str] = ()
    threshold: float = 0.8
    min_words: int = 1
    max_words: int | None = None
    languages: tuple[str, ...] = ()

    def reasons(self, new: Sequence[str], kept: Sequence[str] = ()) -> list[RemovalReason | None]:
        """For each new text why it goes, or None; of new texts that resemble each other the first stays.

        Raises:
            BadInput, MissingExtra: as `in_language`.
        """
        found: list[RemovalReason | None] = [None if _readable(text) else "unreadable" for text in new]

        def apply(reason: RemovalReason, gone: Sequence[bool]) -> None:
            for i, goes in zip(list(_open(found)), gone, strict=True):
                if goes:
                    found[i] = reason

        def left() -> list[str]:
            return [new[i] for i in _open(found)]

        apply("length", (~within_length(left(), min_words=self.min_words, max_words=self.max_words)).tolist())
        if self.languages:
            apply("language", (~in_language(left(), self.languages)).tolist())
        apply("leak", self._leaks(left()))
        before = [*self.known, *kept]
        apply("duplicate", _repeats(exact_duplicates([*before, *left()]), len(before)))
        stands_for = near_duplicates([*before, *left()], threshold=self.threshold, fixed=len(before))
        apply("near-duplicate", _repeats(stands_for, len(before)))
        return found

    def _leaks(self, texts: Sequence[str]) -> list[bool]:
        given_away = {leak.training for leak in find_leaks(texts, self.evaluation)}
        num = len(self.evaluation)
        stands_for = near_duplicates([*self.evaluation, *texts], threshold=self.threshold, fixed=num)[num:]
        return [i in given_away or bool(stands_for[i] < num) for i in range(len(texts))]


def _open(found: Sequence[RemovalReason | None]) -> list[int]:
    return [i for i, reason in enumerate(found) if reason is None]


def _repeats(stands_for: NDArray[np.int64], start: int) -> list[bool]:
    """From `start` on, whether a text stands behind an earlier one."""
    return [int(first) != i for i, first in enumerate(stands_for)][start:]


def _readable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
