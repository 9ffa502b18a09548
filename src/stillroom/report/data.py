"""Everything the report and the card show, gathered by the pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stillroom.core.asking import Asked
from stillroom.core.generated import Generated
from stillroom.core.records import Calibration, Details, Evidence, LeakFinding, ParityCheck, Provenance
from stillroom.core.responses import Accepted
from stillroom.core.review import ReviewFinding


@dataclass(frozen=True)
class ReportData:
    """A finished run, as records.

    Attributes:
        title: the job's name.
        job: the resolved job as plain data.
        provenance: the lines of the lineage: teachers, data, student.
        leak: None for a teacher that was not fitted on the rows.
        calibration: None where the job asked for none.
        generated: what the teacher wrote for the job; None where it was not asked to.
        asking: "transfer set", "test rows" -> how a teacher behind an endpoint answered them.
        responses: of a job that learns responses, how many were accepted.
        parity: export format -> its check.
        review: what people found about the teacher's answers; None where nobody has looked.
        notes: findings that a reader must see, one sentence each.
        seconds: stage -> seconds of work over all attempts.
        environment: name -> version or fact of the machine.
        waiver: the signed waiver in words, None where there is none.
    """

    title: str
    job: Mapping[str, Any]
    evidence: Evidence
    details: Details = field(default_factory=Details)
    provenance: tuple[Provenance, ...] = ()
    leak: LeakFinding | None = None
    calibration: Calibration | None = None
    asking: Mapping[str, Asked] = field(default_factory=dict)
    generated: Generated | None = None
    responses: Accepted | None = None
    parity: Mapping[str, ParityCheck] = field(default_factory=dict)
    review: ReviewFinding | None = None
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    waiver: str | None = None

    def setting(self, *path: str) -> Any:
        """A value of the job by its keys; None where the job has none."""
        value: Any = self.job
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value
