"""The export stage of a job on responses: its student is a transformers checkpoint already."""

from __future__ import annotations

from stillroom.core.records import Evidence
from stillroom.pipeline.responses.evaluate import evaluate
from stillroom.pipeline.responses.work import ResponsesWork


def export(work: ResponsesWork) -> Evidence:
    """Nothing is left to do: student/ loads with `transformers.AutoModelForCausalLM` alone."""
    evidence = evaluate(work)
    work.require_permission()  # the terms may have changed since
    work.listener.stage("export", resumed=True)
    return evidence
