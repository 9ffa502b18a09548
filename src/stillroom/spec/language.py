"""What must hold between the sections of a language model's job, and which keys go with no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stillroom.core.errors import Problem
from stillroom.spec.responses import ResponsesSpec
from stillroom.spec.student import WIDTHS

if TYPE_CHECKING:
    from stillroom.spec.job import Job

_MEASURES = ("log_loss", "accuracy")
_ALSO_OF_RESPONSES = ("kind", "store", "batch_tokens")
"""Keys of `labelling` and `objective` that have a meaning where responses are learnt."""


def language_problems(job: Job) -> Iterator[Problem]:
    """The problems of a job with task: language-model."""
    yield from _data_problems(job)
    yield from _response_problems(job) if job.learns_responses else _token_problems(job)
    if job.student.kind != "huggingface":
        yield Problem("student.kind", f"= {job.student.kind!r} is no language model; use huggingface.")
    allowed = (*_MEASURES, *([own] if job.learns_responses and (own := written_measure(job)) else []))
    if job.evaluation.primary and job.evaluation.primary not in allowed:
        yield Problem("evaluation.primary", f"= {job.evaluation.primary!r} is not measured in this job; allowed: {', '.join(allowed)}.")
    if job.evaluation.slices:
        yield Problem("evaluation.slices", "has no use with task: language-model; name files in data.other_domains.")
    if job.export.formats:
        yield Problem("export.formats", "a language model is saved as a transformers checkpoint and has no other export yet; remove it.")


def written_measure(job: Job) -> str | None:
    """What is measured on the texts of a job that learns responses, where its data or its check says which are right."""
    checks, told = job.responses, job.specification
    if checks is not None and checks.check == "code":
        return "passed"
    has_gold = job.data.completion is not None or job.evaluation.control  # a control is trained on it
    is_checked = (checks is not None and checks.check != "none") or (told is not None and told.output_schema is not None)
    return "exact_match" if has_gold and is_checked else None


def _token_problems(job: Job) -> Iterator[Problem]:
    """Of a student that learns next-token distributions."""
    if job.other_teachers and job.objective.hard_label_weight == 1:
        yield Problem("other_teachers", "has no use with objective.hard_label_weight: 1, which never looks at a teacher; remove it.")
    objective, labelling = job.objective, job.labelling
    if job.teacher.kind != "huggingface":
        yield Problem("teacher.kind", f"= {job.teacher.kind!r}: a language model learns from huggingface, or from an endpoint.")
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


def _response_problems(job: Job) -> Iterator[Problem]:
    """Of a student that learns what a teacher behind an endpoint writes."""
    data, teacher, told, checks = job.data, job.teacher, job.specification, job.responses or ResponsesSpec()
    why = "has no use with teacher.kind: endpoint, whose responses are learnt as they are written; remove it."
    for name, section in {"labelling": job.labelling, "objective": job.objective}.items():
        plain = type(section)()
        for key in type(section).model_fields:
            if key not in _ALSO_OF_RESPONSES and getattr(section, key) != getattr(plain, key):
                yield Problem(f"{name}.{key}", why)
    if job.other_teachers:
        yield Problem("other_teachers", why)
    if getattr(teacher, "answers", "text") != "text":
        yield Problem("teacher.answers", "are labels' log-probabilities or votes; of a language model they are text. Remove it.")
    if data.other_domains:
        yield Problem("data.other_domains", why)
    if data.prompt is None and data.messages is None:
        yield Problem("data.prompt", "or data.messages is missing: it names the column of what the teacher answers.")
    has_gold = data.completion is not None or data.messages is not None
    if checks.needs_gold and not has_gold:
        yield Problem("responses.check", f"= {checks.check!r} needs the data's own answers: give data.completion, or against: vote.")
    if job.evaluation.control and not has_gold:
        reason = "= true needs answers of the data's own to train the control on (data.completion)"
        yield Problem("evaluation.control", f"{reason}. Set it to false: the untouched student then stands beside the student.")
    if data.split.validation and not has_gold:
        yield Problem("data.split.validation", "needs answers of the data's own (data.completion); remove it.")
    if not job.evaluation.prompts and (job.primary not in _MEASURES or not has_gold):
        yield Problem("evaluation.prompts", "= 0 leaves nothing to measure the arms on; give a number of test prompts.")
    if told is not None and told.labels:
        yield Problem("specification.labels", "are those of a text-classification; of a language model give output_schema, or neither.")
    if told is not None and told.output_schema is not None and data.messages is not None:
        yield Problem("specification.output_schema", "asks about a text: name its column in data.prompt, not in data.messages.")
    if told is not None and told.output_schema is not None and checks.check == "number":
        yield Problem("responses.check", "= 'number' reads a text; with specification.output_schema take exact.")
    yield from checks.problems(getattr(teacher, "samples", None))


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
    if (data.prompt is None) != (data.completion is None) and not (job.learns_responses and data.prompt):
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
