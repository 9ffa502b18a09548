"""The generate stage: the teacher behind an endpoint writes examples of the job's specification. They have no labels but the intended
ones, which nothing is trained on: in a text classification they join the pool, and the teacher answers them like any other row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stillroom import __version__
from stillroom.core.errors import BadInput, StageFailed
from stillroom.core.files import write_json, write_text
from stillroom.core.fingerprint import fingerprint, row_fingerprints
from stillroom.core.generated import Generated, Unfilled
from stillroom.core.records import Batch, Dataset
from stillroom.core.specification import Specification
from stillroom.pipeline.clock import counted
from stillroom.pipeline.folder import RunFolder
from stillroom.pipeline.progress import Listener
from stillroom.pipeline.work import Work, check_against_data
from stillroom.spec.generation import GenerationSpec, complete
from stillroom.spec.job import Job
from stillroom.spec.teacher import EndpointTeacherSpec
from stillroom.teachers.synthesis.plan import Cell, NearMiss, Plan, make_plan
from stillroom.teachers.synthesis.prompts import describe

GENERATE = "generate"
EXAMPLES, PLAN, QUALITY = "examples.jsonl", "plan.json", "quality.json"
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
    work.terms  # noqa: B018 - refuses before anything is spent
    around = _around(work)
    inputs = _inputs(work, around)
    folder = work.folder
    done = folder.done(GENERATE, inputs, *(folder.generated / name for name in (EXAMPLES, PLAN, QUALITY)))
    work.listener.stage(GENERATE, resumed=done is not None)
    if done is not None:
        return
    folder.begin(GENERATE)
    with counted(folder.count(GENERATE), inputs) as seconds:
        made = _write(work, around)
        if not made.complete:
            lacking = f"{made.accepted} of {made.planned} examples are there"
            raise StageFailed(f"generate: the budget is reached, {lacking}; raise it and run the same command again: it goes on from there.")
        folder.finish(GENERATE, inputs, accepted=made.accepted, seconds=seconds())


def read_generated(folder: RunFolder) -> Generated:
    """What the stage found.

    Raises:
        StageFailed: it has not run.
    """
    try:
        return Generated.from_json(json.loads((folder.generated / QUALITY).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise StageFailed(f"{folder.generated / QUALITY} is missing or damaged; run `stillroom generate` on the job first.") from error


def read_examples(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of generated/examples.jsonl: text, label, case, with."""
    with (folder.generated / EXAMPLES).open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def with_generated(dataset: Dataset, folder: RunFolder) -> Dataset:
    """A dataset with the generated texts in its pool."""
    import pandas as pd

    texts = [line["text"] for line in read_examples(folder)]
    if not texts:
        return dataset
    features = pd.DataFrame({dataset.columns[0].name: pd.Series(texts, dtype=object)})
    keys = np.array(row_fingerprints(features))
    if dataset.unlabeled is not None:
        features = pd.concat([dataset.unlabeled.features, features], ignore_index=True)
        keys = np.concatenate([dataset.unlabeled.keys, keys])
    note = f"{len(texts)} rows of the pool were written by the teacher; it answered them anew."
    return replace(dataset, unlabeled=Batch(features, keys), notes=(*dataset.notes, note))


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
        prompts = read_prompts(Path(path), job.data, place=place)
        return [text if isinstance(text, str) else next((turn["content"] for turn in text if turn["role"] == "user"), "") for text in prompts]

    real = read(source.train, "data.source.train")
    return real, real if source.test is None else read(source.test, "data.source.test")


def _inputs(work: Work, around: Around) -> str:
    """All that shapes the examples: not the budget, nor the pace."""
    from stillroom.teachers.endpoint.build import build_endpoint_teacher

    job = work.job
    assert isinstance(job.teacher, EndpointTeacherSpec)
    assert job.generation is not None
    told = around.specification
    facts = [told.task, list(told.labels.items()), told.output_schema, [[each.input, each.output] for each in told.examples]]
    teacher, section = build_endpoint_teacher(job.teacher).fingerprint, job.generation.model_dump(mode="json")
    return fingerprint(GENERATE, __version__, job.seed, teacher, section, facts, list(around.real), list(around.evaluation))


def _write(work: Work, around: Around) -> Generated:
    from stillroom.data.removal import Removal
    from stillroom.knowledge.store import KnowledgeStore
    from stillroom.teachers.synthesis.fill import fill

    job, spec = work.job, work.job.generation
    assert spec is not None
    plan = _plan(job, spec, around.specification)
    remove = spec.remove
    removal = Removal(
        around.evaluation, [example.input for example in around.specification.examples], remove.near_duplicates, remove.min_words,
        remove.max_words, remove.languages,
    )  # fmt: skip
    with KnowledgeStore(job.labelling.store or work.folder.knowledge) as store:
        writer = _writer(work, store, around.specification)
        filled = fill(writer, plan, removal.reasons, rounds=spec.rounds, per_request=spec.per_request, seed=job.seed)
        store.seal()
    ...


def _plan(job: Job, spec: GenerationSpec, specification: Specification) -> Plan:
    shares = complete({**dict.fromkeys(specification.labels), **spec.labels})
    pairs = [NearMiss(pair.label, pair.towards, pair.share) for pair in spec.near_misses]
    return make_plan(spec.examples, labels=shares, axes=spec.axes(), hard=spec.hard, near_misses=pairs, seed=job.seed)
