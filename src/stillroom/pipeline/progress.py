"""How the pipeline tells a person what it is doing, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Told(Protocol):
    """A `stillroom.core.protocols.Progress` that takes the state in words as well, from work that knows more than counts."""

    def __call__(self, done: int, total: int, state: str = "") -> None: ...


class Listener(Protocol):
    """Receives the news of a run."""

    def stage(self, name: str, resumed: bool) -> None:
        """A stage begins, or is found done already."""
        ...

    def say(self, message: str) -> None:
        """A finding that a person should read now."""
        ...

    def task(self, description: str) -> Told:
        """A piece of work begins; the returned function is told how far it is."""
        ...


class Silence:
    """Listens to nothing: the default from Python."""

    def stage(self, name: str, resumed: bool) -> None:
        del name, resumed

    def say(self, message: str) -> None:
        del message

    def task(self, description: str) -> Told:
        del description
        return lambda done, total, state="": None
