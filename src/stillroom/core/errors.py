"""Errors a user can act on. Each names the place, the value, what is allowed and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, and what to do about it."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


class StillroomError(ValueError):
    """The base of every error that is the user's to mend. `exit_code` is the CLI's."""

    exit_code = 1


class BadInput(StillroomError):
    """The job, the call or the data is wrong (exit code 2). Holds every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @classmethod
    def at(cls, place: str, message: str) -> BadInput:
        return cls(Problem(place, message))

    def __reduce__(self) -> tuple[type[BadInput], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)  # so that it crosses process boundaries whole


@contextmanager
def collecting(problems: list[Problem]) -> Iterator[None]:
    """Keep the problems of a BadInput in the block for later, so that all are told at once."""
    try:
        yield
    except BadInput as error:
        problems += error.problems


def for_each(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """[function(item) for item in items]; where several are refused, one BadInput names the problems of all."""
    results: list[R] = []
    problems: list[Problem] = []
    for item in items:
        with collecting(problems):
            results.append(function(item))
    if problems:
        raise BadInput(problems)
    return results


class PolicyRefused(StillroomError):
    """A licence, term or policy forbids the run (exit code 3)."""

    exit_code = 3


class StageFailed(StillroomError):
    """The job is right but a stage could not finish: a full disk, a failed parity check (exit code 1)."""


class MissingExtra(StillroomError):
    """A package of an optional extra is not installed (exit code 2)."""

    exit_code = 2

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra, self.needed_for = extra, needed_for
        super().__init__(f"{needed_for} needs the extra '{extra}': pip install 'stillroom[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.extra, self.needed_for)


@contextmanager
def needs_extra(extra: str, needed_for: str) -> Iterator[None]:
    """Around the imports of an optional extra: where it is not installed, one line of advice, not a stack trace.

    Raises:
        MissingExtra: one of the imported packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stillroom"):
            raise  # a bug of ours, which must not pass for a missing package
        raise MissingExtra(extra, needed_for) from error


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for a misspelt word: "did you mean 'x'?", or the list of what is allowed."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(names)}."
