"""The evaluate stage of a language model's job: every arm on the test documents and on those of other domains, once."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.arms import other_teacher, teacher_of
from stillroom.core.files import write_bytes
from stillroom.core.language_records import LanguageScores
from stillroom.core.records import Details, Evidence, Measure
from stillroom.data.conversations import end_of_turn
from stillroom.evaluation.generation import generation_measures
from stillroom.evaluation.language import language_evidence
from stillroom.evaluation.language_cost import measure_language_cost
from stillroom.models import language as saved
from stillroom.models.causal import sketch_causal
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
    """Beginnings of test documents, and the answers where the data has them.

    Attributes:
        end_ids: what ends a turn in a chat.
        timed: the beginnings that are timed, as token ids.
    """

    texts: list[str]
    answers: list[str] | None
    max_new_tokens: int
    is_rendered: bool
    end_ids: tuple[int, ...]
    timed: list[NDArray[np.int64]]

    def continued(self, model: LanguagePredictor, *, seed: int | None = None) -> list[str]:
        return model.continuations(
            self.texts, max_new_tokens=self.max_new_tokens, seed=seed, is_rendered=self.is_rendered, end_ids=self.end_ids
        )


def _measure(work: LanguageWork, taught: Taught) -> tuple[Evidence, Details]:
    settings = work.job.evaluation
    own = context_length(sketch_causal(str(work.folder.student), place="student"))  # the control's too
    limit = min((context for context in (taught.context, own) if context is not None), default=None)
    prompts = _prompts(work, saved.load(work.folder.teacher), limit)
    heard = _hear(work, taught, prompts)
    written = generation_measures(
        greedy=heard.greedy, sampled=heard.sampled, references=prompts.answers, confidence=settings.confidence,
        resamples=settings.resamples, seed=work.job.seed,
    )  # fmt: skip
    costs = _costs(work, prompts) if settings.cost else []
    return language_evidence(
        in_domain=heard.scores.pop(""), other_domains=heard.scores, costs=[*written, *costs], primary=work.job.primary,
        confidence=settings.confidence, resamples=settings.resamples, seed=work.job.seed,
        curves={arm: curve_of(work, arm) for arm in arms(work)}, show=lambda row: "".join(work.corpus.test_texts[row]),
    )  # fmt: skip


def _hear(work: LanguageWork, taught: Taught, prompts: _Prompts) -> _Heard:
    """Every arm on every text, beside its own teacher. The scores are also kept in predictions.npz, for whoever wants to check the
    figures."""
    domains = {"": work.corpus.test, **work.corpus.other_domains}
    heard, arrays = _Heard({domain: {} for domain in domains}), dict[str, Any]()
    told, num_heard = work.listener.task("reading the test documents with every arm"), 0
    taught_by = {
        arm: [(pupil, i) for pupil in arms(work) if teacher_of(pupil) == arm for i in range(len(work.seeds))] for arm in work.teachers
    }
    total = len(taught_by) + sum(map(len, taught_by.values()))
    for teacher_arm, pupils in taught_by.items():
        # One teacher in memory at a time. Whatever its own tokenizer would do, it reads the ids that everyone reads.
        teacher = LanguagePredictor(saved.load(work.folder.arm(teacher_arm, 0)).model, work.tokenizer)
        for arm, i in [(teacher_arm, 0), *pupils]:
            model = teacher if arm == teacher_arm else saved.load(work.folder.arm(arm, i))
            for domain, sequences in domains.items():
                found = score(
                    model.model, sequences, vocabulary_size=taught.vocabulary_size, teacher=None if model is teacher else teacher.model,
                    batch_tokens=work.job.labelling.batch_tokens, place=arm,
                )  # fmt: skip
                heard.scores[domain].setdefault(arm, []).append(found)
                arrays |= {f"{arm}-{i}{'@' + domain if domain else ''}.{name}": values for name, values in found.to_arrays().items()}
            _write(heard, arm, model, prompts, work.job.seed)
            num_heard += 1
            told(num_heard, total)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(work.folder.predictions, content.getvalue())
    return heard


def _write(heard: _Heard, arm: str, model: LanguagePredictor, prompts: _Prompts, seed: int) -> None:
    """Keep what an arm writes after the prompts."""
    if not prompts.texts:
        return
    heard.sampled.setdefault(arm, []).append(prompts.continued(model, seed=seed))
    if prompts.answers is not None:
        heard.greedy.setdefault(arm, []).append(prompts.continued(model))


def _prompts(work: LanguageWork, teacher: LanguagePredictor, limit: int | None = None) -> _Prompts:
    """Test documents drawn with the job's seed, those with an answer where there are any; those whose prompt leaves no room
    for the new tokens, in the teacher's context and in `limit` tokens, that of the other arms, are passed over."""
    settings, texts = work.job.evaluation, work.corpus.test_texts
    is_rendered = work.job.data.messages is not None
    order = [texts[row] for row in np.random.default_rng(work.job.seed).permutation(len(texts))]
    with_answers = [(prompt, answer) for prompt, answer in order if prompt and answer]
    candidates = with_answers or [(_beginning(teacher, text), "") for text, _ in order if text]
    context = min((c for c in (context_length(teacher.model), limit) if c is not None), default=None)
    chosen: list[tuple[str, str]] = []
    num_passed_over = 0
    for prompt, answer in candidates:
        if len(chosen) == settings.prompts:
            break
        fits = context is None or len(teacher.prompt_ids(prompt, is_rendered=is_rendered)) + settings.new_tokens <= context
        if prompt and fits:
            chosen.append((prompt, answer))
        num_passed_over += not fits
    if num_passed_over:
        room = f"leave no room for {settings.new_tokens} new tokens (evaluation.new_tokens) in the shortest context of an arm, {context}"
        work.listener.say(f"{num_passed_over} test prompts {room}; {len(chosen)} others are continued.")
    answers = [_without_special_tokens(teacher, answer) for _, answer in chosen] if with_answers else None
    end = end_of_turn(teacher.tokenizer) if is_rendered else None
    begun = [prompt for prompt, _ in chosen]
    room_for_prompt = _PROMPT_TOKENS if context is None else min(_PROMPT_TOKENS, context - settings.new_tokens)
    timed = [
        teacher.prompt_ids(text, is_rendered=is_rendered)[:room_for_prompt]
        for text in begun or [text for text in map("".join, texts[:_COST_TEXTS]) if text][:1]
    ]
    return _Prompts(begun, answers, settings.new_tokens, is_rendered, () if end is None else (end,), timed)


def _beginning(teacher: LanguagePredictor, text: str) -> str:
    ids = teacher.ids(text)
    return str(teacher.tokenizer.decode(ids[: min(_PROMPT_TOKENS, len(ids) // 2)], skip_special_tokens=True))


def _without_special_tokens(teacher: LanguagePredictor, answer: str) -> str:
    """An answer as an arm that writes it is read."""
    ids = teacher.tokenizer(answer, add_special_tokens=False, verbose=False)["input_ids"]
    return str(teacher.tokenizer.decode(ids, skip_special_tokens=True))


def _costs(work: LanguageWork, prompts: _Prompts) -> list[Measure]:
    """Of the other teachers too, but not of their students: those are as large and as fast as the student."""
    settings = work.job.evaluation
    timed = [*work.teachers, *(arm for arm in arms(work) if not other_teacher(arm))]
    folders = {arm: work.folder.arm(arm, 0) for arm in timed}
    texts = ["".join(halves) for halves in work.corpus.test_texts[:_COST_TEXTS]]
    work.listener.say("measuring time to first token, tokens a second, memory and size")
    return measure_language_cost(
        folders, prompts.timed, texts, calls=settings.latency_calls, seed=work.job.seed, new_tokens=settings.new_tokens,
        confidence=settings.confidence,
    )  # fmt: skip
