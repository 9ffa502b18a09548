"""The evaluate stage of a language model's job: every arm on the test documents and on those of other domains, once."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from stillroom.core.files import write_bytes
from stillroom.core.language_records import LanguageScores
from stillroom.core.records import Details, Evidence, Measure
from stillroom.evaluation.language import language_evidence
from stillroom.models.language import load_language_model
from stillroom.models.language_scores import score
from stillroom.pipeline.evaluate import evaluate_arms
from stillroom.pipeline.language.label import Taught
from stillroom.pipeline.language.train import train
from stillroom.pipeline.language.work import LanguageWork
from stillroom.pipeline.train import arms, curve_of

Scores = dict[str, list[LanguageScores]]


def evaluate(work: LanguageWork) -> Evidence:
    """Measure the teacher, the students and the controls; write evidence.json and details.json."""
    taught = train(work)
    return evaluate_arms(work, lambda: _measure(work, taught))


def _measure(work: LanguageWork, taught: Taught) -> tuple[Evidence, Details]:
    job, corpus = work.job, work.corpus
    scores = _score_arms(work, taught)
    costs: list[Measure] = []
    return language_evidence(
        in_domain=scores.pop(""), other_domains=scores, costs=costs, primary=job.primary, confidence=job.evaluation.confidence,
        resamples=job.evaluation.resamples, seed=job.seed, curves={arm: curve_of(work, arm) for arm in arms(work)},
        show=lambda row: "".join(corpus.test_texts[row]),
    )  # fmt: skip


def _score_arms(work: LanguageWork, taught: Taught) -> dict[str, Scores]:
    """Domain ("" for the test documents) -> arm -> scores by seed; also kept in predictions.npz, for whoever wants to check."""
    domains = {"": work.corpus.test, **work.corpus.other_domains}
    teacher = load_language_model(work.folder.teacher)
    trained = {(arm, i): work.folder.arm(arm, i) for arm in arms(work) for i in range(len(work.seeds))}
    models = {("teacher", 0): work.folder.teacher, **trained}
    told = work.listener.task("reading the test documents with every arm")
    found: dict[str, Scores] = {domain: {} for domain in domains}
    arrays: dict[str, Any] = {}
    for number, ((arm, i), folder) in enumerate(models.items()):
        model = teacher if arm == "teacher" else load_language_model(folder)
        for domain, sequences in domains.items():
            scores = score(
                model.model, sequences, vocabulary_size=taught.vocabulary_size, teacher=None if arm == "teacher" else teacher.model,
                batch_tokens=work.job.labelling.batch_tokens, place=arm,
            )  # fmt: skip
            found[domain].setdefault(arm, []).append(scores)
            arrays |= {f"{arm}-{i}{'@' + domain if domain else ''}.{name}": values for name, values in scores.to_arrays().items()}
        told(number + 1, len(models))
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(work.folder.predictions, content.getvalue())
    return found
