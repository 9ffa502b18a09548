"""What must hold between the sections of a language model's job, and which keys go with no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stillroom.core.errors import Problem
from stillroom.spec.student import WIDTHS

if TYPE_CHECKING:
    from stillroom.spec.job import Job

_MEASURES = ("log_loss", "accuracy")


def language_problems(job: Job) -> Iterator[Problem]:
    """The problems of a job with task: language-model."""
    yield from _data_problems(job)
    if job.other_teachers and job.objective.hard_label_weight == 1:
        yield Problem("other_teachers", "has no use with objective.hard_label_weight: 1, which never looks at a teacher; remove it.")
    objective, labelling = job.objective, job.labelling
    if job.teacher.kind != "huggingface":
        yield Problem("teacher.kind", f"= {job.teacher.kind!r}: a language model learns from one of its kind; use huggingface.")
    if job.student.kind != "huggingface":
        yield Problem("student.kind", f"= {job.student.kind!r} is no language model; use huggingface.")
    stored_at_one_temperature = labelling.tokens in ("threshold", "sampled", "top-k")
    if stored_at_one_temperature and objective.temperature is not None and not isinstance(objective.temperature, float):
        remedy = "take labelling.tokens: hidden or online, or one temperature"
        yield Problem(
            "objective.temperature", f"changes over the training, but labelling.tokens = {labelling.tokens!r} holds one; {remedy}."
        )
    if labelling.tokens in ("threshold", "sampled") and objective.divergence != "forward-kl":
        reason = f"cannot be estimated without bias from labelling.tokens: {labelling.tokens}"
        yield Problem("objective.divergence", f"= {objective.divergence!r} {reason}; take forward-kl, or tokens: top-k, hidden or online.")
    if labelling.tokens == "online" and labelling.tokens_number is not None:
        yield Problem("labelling.tokens_number", "has no use with tokens: online; remove it.")
    if job.evaluation.primary and job.evaluation.primary not in _MEASURES:
        yield Problem(
            "evaluation.primary", f"= {job.evaluation.primary!r} is not measured on language models; allowed: {', '.join(_MEASURES)}."
        )
    if job.evaluation.slices:
        yield Problem("evaluation.slices", "has no use with task: language-model; name files in data.other_domains.")
    if job.export.formats:
        yield Problem("export.formats", "a language model is saved as a transformers checkpoint and has no other export yet; remove it.")


def _data_problems(job: Job) -> Iterator[Problem]:
    data = job.data
    if data.source.kind == "sklearn":
        yield Problem("data.source.kind", "= 'sklearn' has no texts; use file or hub.")
    elif data.source.kind == "file" and data.source.unlabeled is not None:
        yield Problem("data.source.unlabeled", "has no use with task: language-model; every text is its own label.")
    shapes = [name for name in ("text", "prompt", "messages") if getattr(data, name) is not None]
    plain = data.source.kind == "file" and data.source.train.lower().endswith((".txt", ".txt.gz"))
    if len(shapes) > 1 or (not shapes and not plain):
        yield Problem(
            "data.text", "or data.prompt with data.completion, or data.messages names the columns to learn from; give one of them."
        )
    if (data.prompt is None) != (data.completion is None):
        yield Problem("data.completion", "and data.prompt go together: an answer, and what it answers.")
    for name in ("target", "categorical", "numeric", "ignore", "unlabeled_share"):
        if getattr(data, name):
            yield Problem(f"data.{name}", "has no use with task: language-model; remove it.")
    if data.split.kind != "random":
        yield Problem(
            "data.split.kind", f"= {data.split.kind!r}: documents are split at random; or give the test documents in data.source."
        )


def only_for_language_models(job: Job) -> Iterator[Problem]:
    """The keys of a language model's job in a job of another task."""
    here = f"goes with task: language-model; task is {job.task!r}. Remove it."
    student = job.student
    widths = [f"student.{name}" for name in (*WIDTHS, "lora") if getattr(student, name, None) is not None]
    named = {
        **{f"data.{name}": getattr(job.data, name) for name in ("prompt", "completion", "messages", "other_domains")},
        "other_teachers": job.other_teachers,
        **dict.fromkeys(widths, True),
        "objective.divergence": job.objective.divergence != "forward-kl",
        "training.packing": job.training.packing,
    }
    yield from (Problem(place, here) for place, given in named.items() if given)
    if job.data.source.kind == "hub":
        yield Problem("data.source.kind", "= 'hub' goes with task: language-model; save its rows as .parquet, and use file.")
    if isinstance(getattr(student, "layers", None), int):
        yield Problem("student.layers", "as a number goes with task: language-model; list the layers, from 0.")
    for name in ("temperature", "hard_label_weight"):
        value = getattr(job.objective, name)
        if value is not None and not isinstance(value, float):
            yield Problem(f"objective.{name}", f"as a schedule {here}")
