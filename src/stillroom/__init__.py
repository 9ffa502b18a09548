"""Stillroom: distil any teacher into a small student that can be shipped, with evidence that it was worth it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stillroom.pipeline.predict import load
    from stillroom.pipeline.run import Run, run
    from stillroom.pipeline.sklearn_api import DistilledClassifier, DistilledRegressor
    from stillroom.spec.job import Job

__version__ = "0.1.0"
__all__ = ["DistilledClassifier", "DistilledRegressor", "Job", "Run", "load", "run"]

_HOMES = {
    "DistilledClassifier": "stillroom.pipeline.sklearn_api",
    "DistilledRegressor": "stillroom.pipeline.sklearn_api",
    "Job": "stillroom.spec.job",
    "Run": "stillroom.pipeline.run",
    "load": "stillroom.pipeline.predict",
    "run": "stillroom.pipeline.run",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: `import stillroom` stays light.
    if name not in _HOMES:
        raise AttributeError(f"module 'stillroom' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
