"""The evaluate stage of a language model's job: every arm on the test documents and on those of other domains, once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from stillroom.core.files import write_bytes
from stillroom.core.language_records import LanguageScores
from stillroom.core.records import Details, Evidence, Measure
from stillroom.evaluation.generation import generation_measures
from stillroom.evaluation.language import language_evidence
from stillroom.evaluation.language_cost import measure_language_cost
from stillroom.models import language as saved
from stillroom.models.language import LanguagePredictor
from stillroom.models.language_scores import score
from stillroom.models.token_batches import context_length
from stillroom.pipeline.evaluate import evaluate_arms
from stillroom.pipeline.language.label import Taught
from stillroom.pipeline.language.train import train
from stillroom.pipeline.language.work import LanguageWork
from stillroom.pipeline.train import arms, curve_of

_PROMPT_TOKENS = 32
"""Of a document without an answer: what it begins with is the prompt."""
_COST_TEXTS = 32


def evaluate(work: LanguageWork) -> Evidence:
    """Measure the teacher, the students and the controls; write evidence.json and details.json."""
    taught = train(work)
    return evaluate_arms(work, lambda: _measure(work, taught))


@dataclass
class _Heard:
    """What the arms said: domain ("" for the test documents) -> arm -> scores by seed; arm -> continuations by seed."""

    scores: dict[str, dict[str, list[LanguageScores]]] = field(default_factory=dict)
    greedy: dict[str, list[list[str]]] = field(default_factory=dict)
    sampled: dict[str, list[list[str]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Prompts:
    """Beginnings of test documents, and the answers where the data has them."""

    texts: list[str]
    answers: list[str] | None
    max_new_tokens: int


def _measure(work: LanguageWork, taught: Taught) -> tuple[Evidence, Details]:
    settings = work.job.evaluation
    teacher = saved.load(work.folder.teacher)
    prompts = _prompts(work, teacher)
    heard = _hear(work, taught, teacher, prompts)
    written = generation_measures(
        greedy=heard.greedy, sampled=heard.sampled, references=prompts.answers, confidence=settings.confidence,
        resamples=settings.resamples, seed=work.job.seed,
    )  # fmt: skip
    costs = _costs(work, teacher, prompts) if settings.cost else []
    return language_evidence(
        in_domain=heard.scores.pop(""), other_domains=heard.scores, costs=[*written, *costs], primary=work.job.primary,
        confidence=settings.confidence, resamples=settings.resamples, seed=work.job.seed,
        curves={arm: curve_of(work, arm) for arm in arms(work)}, show=lambda row: "".join(work.corpus.test_texts[row]),
    )  # fmt: skip


def _hear(work: LanguageWork, taught: Taught, teacher: LanguagePredictor, prompts: _Prompts) -> _Heard:
    """Every arm on every text. The scores are also kept in predictions.npz, for whoever wants to check the figures."""
    domains = {"": work.corpus.test, **work.corpus.other_domains}
    heard, arrays = _Heard({domain: {} for domain in domains}), dict[str, Any]()
    told, models = work.listener.task("reading the test documents with every arm"), list(_models(work))
    for number, (arm, i, folder) in enumerate(models):
        model = teacher if arm == "teacher" else saved.load(folder)
        for domain, sequences in domains.items():
            found = score(
                model.model, sequences, vocabulary_size=taught.vocabulary_size, teacher=None if arm == "teacher" else teacher.model,
                batch_tokens=work.job.labelling.batch_tokens, place=arm,
            )  # fmt: skip
            heard.scores[domain].setdefault(arm, []).append(found)
            arrays |= {f"{arm}-{i}{'@' + domain if domain else ''}.{name}": values for name, values in found.to_arrays().items()}
        if prompts.texts:
            write = partial(model.continuations, prompts.texts, max_new_tokens=prompts.max_new_tokens, is_rendered=work.is_chat)
            heard.sampled.setdefault(arm, []).append(write(seed=work.job.seed))
            if prompts.answers is not None:
                heard.greedy.setdefault(arm, []).append(write())
        told(number + 1, len(models))
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(work.folder.predictions, content.getvalue())
    return heard


def _models(work: LanguageWork) -> Iterator[tuple[str, int, Path]]:
    yield "teacher", 0, work.folder.teacher
    yield from ((arm, i, work.folder.arm(arm, i)) for arm in arms(work) for i in range(len(work.seeds)))


def _prompts(work: LanguageWork, teacher: LanguagePredictor) -> _Prompts:
    """Test documents drawn with the job's seed; those whose prompt leaves no room for an answer are passed over."""
    settings, texts = work.job.evaluation, work.corpus.test_texts
    order = np.random.default_rng(work.job.seed).permutation(len(texts))
    room = _room(work, teacher)
    chosen: list[tuple[str, str]] = []
    for prompt, answer in (texts[row] for row in order):
        ids = teacher.ids(prompt)
        begun = ids[: min(_PROMPT_TOKENS, len(ids) // 2, room or len(ids))]
        text = prompt if answer else str(teacher.tokenizer.decode(begun, skip_special_tokens=True))
        fits = room is None or len(teacher.prompt_ids(text, is_rendered=work.is_chat)) <= room
        if text and fits and len(chosen) < settings.prompts:
            chosen.append((text, answer))
    have_answers = bool(chosen) and all(answer for _, answer in chosen)
    return _Prompts([prompt for prompt, _ in chosen], [answer for _, answer in chosen] if have_answers else None, settings.new_tokens)


def _room(work: LanguageWork, teacher: LanguagePredictor) -> int | None:
    """Tokens that a prompt may have at most; None: any number."""
    context = context_length(teacher.model)
    return None if context is None else context - work.job.evaluation.new_tokens


def _costs(work: LanguageWork, teacher: LanguagePredictor, prompts: _Prompts) -> list[Measure]:
    settings = work.job.evaluation
    folders = {"teacher": work.folder.teacher, **{arm: work.folder.arm(arm, 0) for arm in arms(work)}}
    texts = ["".join(halves) for halves in work.corpus.test_texts[:_COST_TEXTS]]
    begun = prompts.texts or [text for text in texts if text][:1]
    ids = [teacher.ids(text)[: min(_PROMPT_TOKENS, _room(work, teacher) or _PROMPT_TOKENS)] for text in begun]
    work.listener.say("measuring time to first token, tokens a second, memory and size")
    return measure_language_cost(
        folders, ids, texts, calls=settings.latency_calls, seed=work.job.seed, new_tokens=settings.new_tokens,
        confidence=settings.confidence,
    )  # fmt: skip
