"""`policy`: what the job may do with a teacher whose terms are in the way."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from pydantic import StringConstraints, field_validator

from stillroom.spec.base import Spec, described

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class WaiverSpec(Spec):
    """A person's signed decision to use a teacher whose terms forbid training other models. Shown in the record and the card."""

    reason: Text = described("Why the use is permitted: a contract, a written consent.")
    signed_by: Text = described("Who decided.")
    date: Text = described("When, as YYYY-MM-DD.")

    @field_validator("date")
    @classmethod
    def _is_a_date(cls, value: str) -> str:
        try:
            written = date.fromisoformat(value).isoformat()
        except ValueError:
            written = ""
        if value != written:
            raise ValueError(f"= {value!r} is no date; write it as YYYY-MM-DD.")
        return value


class PolicySpec(Spec):
    """Rules of the run."""

    waiver: WaiverSpec | None = None
