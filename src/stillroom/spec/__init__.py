"""The job file: one validated, frozen record a section. Runs without torch, scikit-learn and pandas."""

from stillroom.spec.job import Job

__all__ = ["Job"]
