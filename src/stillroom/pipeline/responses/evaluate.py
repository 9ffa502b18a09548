"""The evaluate stage of a job on responses: what every arm writes after the test prompts, and how well it foresees held-out answers."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stillroom.core.files import write_bytes
from stillroom.core.records import Details, Evidence, Measure, Verdict
from stillroom.data.conversations import end_of_turn
from stillroom.data.exchanges import Exchange
from stillroom.evaluation.generation import Texts, generation_measures, right_answers
from stillroom.evaluation.language import language_evidence
from stillroom.evaluation.language_cost import measure_language_cost
from stillroom.models import language as saved
from stillroom.models.causal import load_causal
from stillroom.models.language import LanguagePredictor
from stillroom.models.language_scores import score
from stillroom.pipeline.evaluate import evaluate_arms
from stillroom.pipeline.evaluate_endpoint import RECORD, teacher_costs
from stillroom.pipeline.responses.asking import Responses, ask_prompts
from stillroom.pipeline.responses.label import checker_of, matcher, reference_of
from stillroom.pipeline.responses.train import train
from stillroom.pipeline.responses.work import ResponsesWork
from stillroom.pipeline.train import arms, curve_of
from stillroom.report.asking import TEST_RESPONSES
from stillroom.teachers.final_answers import split_thinking

UNTOUCHED = "untouched"
"""The arm of the student before any training, which stands beside it where there is no control."""
_COST_TEXTS = 32


def evaluate(work: ResponsesWork) -> Evidence:
    """Measure the teacher, the students and the controls; write evidence.json and details.json."""
    train(work)
    return evaluate_arms(work, lambda: _measure(work))


def _held_out(work: ResponsesWork, responses: Responses | None) -> list[tuple[Exchange, str]]:
    """Test exchanges with the answers that arms are to foresee: the data's own, or else the teacher's."""
    if work.has_gold:
        return [(each, each.gold) for each in work.exchanges.test]
    assert responses is not None, "checked by the job: without answers there are test prompts"
    return [(each, said.answer) for each, (said,) in zip(work.test_prompts, responses.written, strict=True) if said is not None]


def _measure(work: ResponsesWork) -> tuple[Evidence, Details]:
    job, settings = work.job, work.job.evaluation
    responses = _ask(work) if work.test_prompts else None
    answered = _held_out(work, responses)
    sequences, _ = work.sequences(answered, "test")
    scores: dict[str, list[Any]] = {}
    greedy: dict[str, list[list[str]]] = {}
    sampled: dict[str, list[list[str]]] = {}
    arrays: dict[str, Any] = {}
    if responses is not None:
        greedy["teacher"] = [["" if said is None else said.answer for (said,) in responses.written]]
        sampled["teacher"] = [[_cut(work, text) for text in greedy["teacher"][0]]]
        arrays["teacher-0.greedy"] = np.array(greedy["teacher"][0])
    for arm, i, model in _models(work):
        found = score(model.model, sequences, vocabulary_size=model.vocabulary_size, batch_tokens=job.labelling.batch_tokens, place=arm)
        scores.setdefault(arm, []).append(found)
        arrays |= {f"{arm}-{i}.{name}": values for name, values in found.to_arrays().items()}
        if responses is not None:
            greedy.setdefault(arm, []).append(_written(work, model))
            sampled.setdefault(arm, []).append(_written(work, model, seed=job.seed))
            arrays[f"{arm}-{i}.greedy"] = np.array(greedy[arm][-1])
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    write_bytes(work.folder.predictions, content.getvalue())
    right, verdict = _right(work, greedy) if responses is not None else ([], None)
    written = generation_measures(sampled=sampled, confidence=settings.confidence, resamples=settings.resamples, seed=job.seed)
    costs = _costs(work, responses, answered) if settings.cost else []
    own = job.primary in ("log_loss", "accuracy")
    evidence, details = language_evidence(
        in_domain=scores, costs=[*right, *written, *costs], primary=job.primary if own else "log_loss", confidence=settings.confidence,
        resamples=settings.resamples, seed=job.seed, curves={arm: curve_of(work, arm) for arm in arms(work)},
    )  # fmt: skip
    return evidence if own else replace(evidence, verdict=verdict), details


def _ask(work: ResponsesWork) -> Responses:
    """The teacher's arm: its response to each test prompt."""
    found = ask_prompts(work, work.test_prompts, TEST_RESPONSES, samples=1)
    work.folder.finish(RECORD, work.inputs("evaluate"), asked=found.asked.to_json())
    return found


def _models(work: ResponsesWork) -> Iterator[tuple[str, int, LanguagePredictor]]:
    """(arm, number of the seed, model), one in memory at a time."""
    told = work.listener.task("answering and reading with every arm")
    each = [(arm, i) for arm in arms(work) for i in range(len(work.seeds))]
    for number, (arm, i) in enumerate(each):
        told(number, len(each))
        yield arm, i, saved.load(work.folder.arm(arm, i))
    told(len(each), len(each))
    if not work.job.evaluation.control:
        yield UNTOUCHED, 0, LanguagePredictor(*load_causal(work.student_model, place="student.model"))


def _written(work: ResponsesWork, model: LanguagePredictor, *, seed: int | None = None) -> list[str]:
    """What an arm answers to the test prompts, its thinking split off; "" where it has not come to an answer."""
    exchanges, is_chat = work.test_prompts, work.job.data.messages is not None
    end = end_of_turn(model.tokenizer) if is_chat else None
    texts = model.continuations(
        [each.prompt(model.tokenizer) for each in exchanges], max_new_tokens=work.job.evaluation.new_tokens, seed=seed,
        is_rendered=is_chat, end_ids=() if end is None else (end,),
    )  # fmt: skip
    found = map(split_thinking, texts)
    return [each.answer if each.closed else "" for each in found]


def _cut(work: ResponsesWork, text: str) -> str:
    """No longer than a student may write: longer texts repeat more."""
    ids = work.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][: work.job.evaluation.new_tokens]
    return str(work.tokenizer.decode(ids, skip_special_tokens=True))


def _right(work: ResponsesWork, greedy: Texts) -> tuple[list[Measure], Verdict | None]:
    """How many answers are right: by the job's check, against the data's own answers; with the user's code, how many pass it."""
    settings, by_code = work.job.evaluation, work.responses.check == "code"
    if not by_code and not work.has_gold:
        return [], None
    references = [reference_of(work, each) for each in work.test_prompts]
    with checker_of(work) as own:
        check = own if by_code else matcher(work)
        return right_answers(
            greedy, references, lambda text, reference: check(text, reference).passed, measure="passed" if by_code else "exact_match",
            confidence=settings.confidence, resamples=settings.resamples, seed=work.job.seed,
        )  # fmt: skip


def _costs(work: ResponsesWork, responses: Responses | None, answered: Sequence[tuple[Exchange, str]]) -> list[Measure]:
    """Of the teacher what its requests took; of the trained arms what they take on this machine."""
    settings = work.job.evaluation
    found = [] if responses is None else teacher_costs(work, responses.tally, responses.asked.rows)
    work.listener.say("measuring time to first token, tokens a second, memory and size")
    model = saved.load(work.folder.student)
    prompts = [model.prompt_ids(each.prompt(model.tokenizer), is_rendered=each.is_chat) for each in work.test_prompts[:_COST_TEXTS]]
    texts = [each.learnt(answer, model.tokenizer).text for each, answer in answered[:_COST_TEXTS]]
    return found + measure_language_cost(
        {arm: work.folder.arm(arm, 0) for arm in arms(work)}, prompts, texts, calls=settings.latency_calls, seed=work.job.seed,
        new_tokens=settings.new_tokens, confidence=settings.confidence,
    )  # fmt: skip
