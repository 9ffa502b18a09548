"""The generate stage: the teacher behind an endpoint writes examples of the job's specification. They have no labels but the intended
ones, which nothing is trained on: in a text classification they join the pool, and the teacher answers them like any other row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillroom import __version__
from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.generated import Generated, Unfilled
from stillroom.core.protocols import BlockStore
from stillroom.core.records import Batch, Measure
from stillroom.core.specification import Specification
from stillroom.pipeline.clock import counted
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.generated import EXAMPLES, PLAN, QUALITY, save_generated
from stillroom.pipeline.progress import Listener
from stillroom.pipeline.work import Work, check_against_data
from stillroom.report.generated import summary
from stillroom.spec.generation import GenerationSpec, complete
from stillroom.spec.job import Job

if TYPE_CHECKING:
    from stillroom.pipeline.asking import Anew
    from stillroom.teachers.endpoint.budget import Spending
    from stillroom.teachers.synthesis.fill import Filled, Writer
    from stillroom.teachers.synthesis.plan import Cell, Plan

GENERATE = "generate"
_MOST_SHOWN = 20
"""Cells without their examples that quality.json names; plan.json has all."""


@dataclass(frozen=True)
class Around:
    """What stands beside the generated texts: real ones to compare them with, and the ones that must stay unseen."""

    real: Sequence[str]
    evaluation: Sequence[str]
    specification: Specification


def generate_examples(job: Job, folder: RunFolder, listener: Listener) -> None:
    """`stillroom generate`: the stage alone.

    Raises:
        BadInput: the job has no `generation`; as `generate`.
    """
    if job.generation is None:
        raise BadInput.at("generation", "is missing; say how many examples are wanted, and what varies.")
    work = Work(job, folder, listener)
    if job.task == "text-classification":
        check_against_data(work)
    if folder.writes:
        generate(work)


def generate(work: Work) -> None:
    """Write generated/examples.jsonl, plan.json and quality.json, unless they are there for the same inputs.

    Raises:
        PolicyRefused: the teacher's terms forbid it.
        StageFailed: the budget is reached. What came before is kept and written; the same command goes on.
    """
    work.require_permission()  # before anything is spent
    around = _around(work)
    inputs = _inputs(work, around)
    folder = work.folder
    done = folder.done(GENERATE, inputs, *(folder.generated / name for name in (EXAMPLES, PLAN, QUALITY)))
    work.listener.stage(GENERATE, resumed=done is not None)
    if done is not None:
        return
    folder.begin(GENERATE)
    from stillroom.pipeline.asking import asked_anew

    with counted(folder.count(GENERATE), inputs) as seconds, asked_anew(work, EXAMPLES) as anew:
        made = _write(work, around, anew)
        work.listener.say(summary(made)[0])
        _require_some(work, made)
        folder.finish(GENERATE, inputs, accepted=made.accepted, seconds=seconds())


def _require_some(work: Work, made: Generated) -> None:
    """Raises StageFailed where the budget ended the stage, or nothing could be used: a run must not go on without what it asks for."""
    from stillroom.pipeline.asking import budget_reached, endpoint_of
    from stillroom.teachers.endpoint.breaker import Unanswered

    if not made.complete:
        found = f"{made.accepted} of {made.planned} examples are there"
        spent = {"usd": made.usd, "requests": made.requests, "tokens": made.tokens}
        raise StageFailed(f"generate: {budget_reached(endpoint_of(work).budget, found, **spent)}")
    if not made.accepted:
        failed = ", ".join(f"{count} {reason}" for counts in (made.unusable, made.removed) for reason, count in counts.items())
        remedy = "try teacher.structured: prompt, or tool" if made.unusable else "say in generation.vary what should differ"
        raise Unanswered(f"generate: none of {made.planned} examples could be used ({failed}); {remedy}.")


def _around(work: Work) -> Around:
    job = work.job
    assert job.specification is not None, "checked by the job"
    if job.task == "language-model":
        real, evaluation = _prompts(job)
        return Around(real, evaluation, job.specification.record())
    data = work.given
    column = data.columns[0].name

    def texts(*parts: Batch | None) -> list[str]:
        return [text for part in parts if part is not None for text in part.features[column].tolist()]

    return Around(texts(data.train, data.unlabeled), texts(data.test, data.validation), job.specification.record(data.classes))


def _prompts(job: Job) -> tuple[list[str], list[str]]:
    """Real prompts, and those that must stay unseen: where a share of the file is held out, all of it."""
    from stillroom.data.corpus import read_prompts

    source = job.data.source
    if source.kind != "file":
        raise BadInput.at("data.source.kind", f"= {source.kind!r}: generated prompts are held against those of a file; save them as one.")

    def read(path: str, place: str) -> list[str]:
        return [text for prompt in read_prompts(Path(path), job.data, place=place) if (text := _first_words(prompt))]

    real = read(source.train, "data.source.train")
    return real, real if source.test is None else read(source.test, "data.source.test")


def _first_words(prompt: Any) -> str:
    """A prompt's text; of a conversation what its user says first."""
    if isinstance(prompt, str):
        return prompt
    said = (turn.get("content") for turn in prompt if isinstance(turn, dict) and turn.get("role") == "user")
    return str(next(said, None) or "")


def _inputs(work: Work, around: Around) -> str:
    """All that shapes the examples: not the budget, nor the pace."""
    from stillroom.pipeline.asking import endpoint_of

    job = work.job
    assert job.generation is not None
    told = around.specification
    facts = [told.task, list(told.labels.items()), told.output_schema, [[each.input, each.output] for each in told.examples]]
    teacher, section = endpoint_of(work).fingerprint, job.generation.model_dump(mode="json")
    return fingerprint(GENERATE, __version__, job.seed, teacher, section, facts, list(around.real), list(around.evaluation))


def _write(work: Work, around: Around, anew: Anew) -> Generated:
    from stillroom.data.removal import Removal
    from stillroom.pipeline.asking import open_store
    from stillroom.teachers.endpoint.ledger import spent_so_far
    from stillroom.teachers.synthesis.fill import fill

    job, spec = work.job, work.job.generation
    assert spec is not None
    plan, remove = _plan(job, spec, around.specification), spec.remove
    known = [*around.real, *(example.input for example in around.specification.examples)]
    removal = Removal(around.evaluation, known, remove.near_duplicates, remove.min_words, remove.max_words, remove.languages)
    with open_store(work) as store:
        writer = _writer(work, store, around.specification, anew)
        filled = fill(writer, plan, removal.reasons, rounds=spec.rounds, per_request=spec.per_request, seed=job.seed)
        spent = spent_so_far(store)
        store.seal()
    made = _quality(job, plan, filled, spent, around)
    save_generated(work.folder, plan, filled, made)
    return made


def _writer(work: Work, store: BlockStore, specification: Specification, anew: Anew) -> Writer:
    from stillroom.pipeline.asking import asker_of, endpoint_of
    from stillroom.teachers.synthesis.fill import Writer

    spec, teacher = work.job.generation, endpoint_of(work)
    assert spec is not None
    # Models that reason know the limit under another name, and refuse the usual one.
    renamed = "max_completion_tokens" in teacher.parameters.extra
    parameters = replace(
        teacher.parameters, temperature=spec.sampling_temperature, top_logprobs=None, max_tokens=None if renamed else spec.max_tokens,
        extra={**teacher.parameters.extra, **({"max_completion_tokens": spec.max_tokens} if renamed else {})},
    )  # fmt: skip
    return Writer(asker_of(work, store, anew), parameters, specification, teacher.structured, teacher.asked_again)


def _quality(job: Job, plan: Plan, filled: Filled, spent: Spending, around: Around) -> Generated:
    """What came of the plan, and how good it is."""
    from stillroom.evaluation.synthetic import GENERATED, balance, synthetic_measures

    settings, accepted = job.evaluation, filled.accepted
    measures, remarks = synthetic_measures(
        [each.text for each in filled.examples], around.real, confidence=settings.confidence, resamples=settings.resamples, seed=job.seed
    )
    labels = [each.cell.label for each in filled.examples if each.cell.label is not None]
    if (even := balance(labels, len(around.specification.labels))) is not None:
        measures.append(Measure(GENERATED, "label_balance", even, None, None, len(labels), 1))
    usd = None if getattr(job.teacher, "prices", None) is None else spent.usd
    lacking = [(cell, wanted - accepted[cell]) for cell, wanted in plan.wanted.items() if accepted[cell] < wanted]
    lacking.sort(key=lambda each: -each[1])
    return Generated(
        planned=sum(plan.wanted.values()), accepted=len(filled.examples), cells=len(plan.wanted), unfilled_cells=len(lacking),
        unfilled=tuple(Unfilled(_words(cell), plan.wanted[cell], accepted[cell]) for cell, _ in lacking[:_MOST_SHOWN]),
        pairs=plan.pairs_met(plan.wanted), covered=plan.pairs_met(accepted),
        removed=dict(sum(filled.removed.values(), Counter()).most_common()), unusable=dict(filled.unusable.most_common()),
        repaired=filled.repaired, asked_again=filled.asked_again, rounds=filled.rounds, requests=spent.requests,
        tokens=spent.tokens, usd=usd, complete=filled.complete,
        measures=tuple(measures), remarks=tuple(remarks),
    )  # fmt: skip


def _words(cell: Cell) -> str:
    head = cell.label or "examples"
    kind = {"ordinary": "", "hard": " (hard)", "near-miss": f" (near {cell.towards})"}[cell.kind]
    return ", ".join([head + kind, *cell.values])


def _plan(job: Job, spec: GenerationSpec, specification: Specification) -> Plan:
    from stillroom.teachers.synthesis.plan import NearMiss, make_plan

    shares = complete({**dict.fromkeys(specification.labels), **spec.labels})
    pairs = [NearMiss(pair.label, pair.towards, pair.share) for pair in spec.near_misses]
    return make_plan(spec.examples, labels=shares, axes=spec.axes(), hard=spec.hard, near_misses=pairs, seed=job.seed)
