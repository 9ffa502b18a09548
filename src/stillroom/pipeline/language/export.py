"""The export stage: a language model's student is a transformers checkpoint already."""

from __future__ import annotations

from stillroom.core.records import Evidence
from stillroom.pipeline.language.evaluate import evaluate
from stillroom.pipeline.language.work import LanguageWork


def export(work: LanguageWork) -> Evidence:
    """Nothing is left to do: student/ loads with `transformers.AutoModelForCausalLM` alone."""
    evidence = evaluate(work)
    work.require_permission()  # the terms may have changed since
    work.listener.stage("export", resumed=True)
    return evidence
