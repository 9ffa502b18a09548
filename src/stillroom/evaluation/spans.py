"""Spans against spans: precision, recall and F1 over all texts, where a span counts if its place and its label are both right.

Source: Tjong Kim Sang & De Meulder 2003, section 2.3, arXiv:cs/0306050 (CoNLL); equal to seqeval's micro average. Texts are what would
differ if the test set were drawn again, so texts are resampled, whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.records import Batch, Disagreement
from stillroom.core.spans import Span, bio_tags, words_of
from stillroom.evaluation.slices import MAX_DISAGREEMENTS, short_cell
from stillroom.evaluation.statistic import Metric, Statistic, ratio

Spans = NDArray[Any]
"""(n,) object: a tuple of `Span` a text."""


def span_f1(gold: Spans, found: Spans) -> Statistic:
    """2 * right / (found + gold)."""
    rows = _counts(gold, found)
    return Statistic(rows, lambda means: ratio(2 * means[..., 0], means[..., 1] + means[..., 2]), int((rows[:, 1:] > 0).sum(0).min()))


def span_precision(gold: Spans, found: Spans) -> Statistic:
    """right / found. Undefined, not 0, where nothing is found."""
    rows = _counts(gold, found)
    return Statistic(rows, lambda means: ratio(means[..., 0], means[..., 1]), int((rows[:, 1] > 0).sum()))


def span_recall(gold: Spans, found: Spans) -> Statistic:
    """right / gold."""
    rows = _counts(gold, found)
    return Statistic(rows, lambda means: ratio(means[..., 0], means[..., 2]), int((rows[:, 2] > 0).sum()))


def quality_of_spans(test: Batch) -> tuple[Metric, ...]:
    """The measures against the labels, in the order of evidence.json."""
    words = [words_of(text) for text in test.features.iloc[:, 0]]

    def token_accuracy(gold: Spans, found: Spans) -> Statistic:
        """The share of words, as white space divides them, with the right tag. High where most words are in no span."""
        tags = [(bio_tags(w, g), bio_tags(w, f)) for w, g, f in zip(words, gold, found, strict=True)]
        rows = np.array([[sum(map(str.__eq__, *pair)), len(pair[0])] for pair in tags], dtype=np.float64)
        return Statistic(rows, lambda means: ratio(means[..., 0], means[..., 1]))

    shares = {"span_f1": span_f1, "span_precision": span_precision, "span_recall": span_recall, "token_accuracy": token_accuracy}
    return tuple(Metric(name, True, statistic, 0.0, 1.0, is_share=True) for name, statistic in shares.items())


FIDELITY_OF_SPANS = (Metric("span_agreement", True, span_f1, 0.0, 1.0, is_share=True),)
"""The measures against the teacher's spans."""


def span_disagreements(test: Batch, predictions: Mapping[str, Sequence[Spans]]) -> tuple[Disagreement, ...]:
    """Up to 20 texts by how many spans only one of teacher and first seed's student has, most first."""
    if not {"teacher", "student"} <= predictions.keys():
        return ()
    assert test.target is not None, "the test split has labels"
    teacher, student = predictions["teacher"][0], predictions["student"][0]
    control = predictions["control"][0] if "control" in predictions else None
    sizes = np.array([len(set(t) ^ set(s)) for t, s in zip(teacher, student, strict=True)])
    column = test.features.columns[0]
    found = []
    for row in [int(row) for row in np.argsort(-sizes, kind="stable")[:MAX_DISAGREEMENTS] if sizes[row]]:
        text = str(test.features[column].iloc[row])
        found.append(
            Disagreement(
                example={str(column): short_cell(text)},
                label=_shown(text, test.target[row]),
                teacher=_shown(text, teacher[row]),
                student=_shown(text, student[row]),
                control=None if control is None else _shown(text, control[row]),
                size=float(sizes[row]),
            )
        )
    return tuple(found)


def _counts(gold: Spans, found: Spans) -> NDArray[np.float64]:
    """(n, 3): of each text the spans that are right, found and gold."""
    rows = [(len(set(g) & set(f)), len(f), len(g)) for g, f in zip(gold, found, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _shown(text: str, spans: Sequence[Span]) -> str:
    return short_cell(", ".join(f"{text[span.start : span.end]} ({span.label})" for span in spans) or "no span")
