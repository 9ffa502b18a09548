"""From a job's `training` section to transformers.TrainingArguments, whose other fields a user may set too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from stillroom.core.errors import BadInput, Problem, nearest, needs_extra

with needs_extra("torch", "training an encoder"):
    import torch
    from transformers import TrainingArguments

_OURS = {
    "output_dir": "is chosen by the run",
    "seed": "is drawn from the job's seed",
    "remove_unused_columns": "must stay off: it would drop the teacher's answers",
    "label_names": "is set by the task",
    "label_smoothing_factor": "would change the objective",
    "resume_from_checkpoint": "happens by itself",
    "group_by_length": "is the default; see train_sampling_strategy",
    "prediction_loss_only": "would hide the validation loss",
    "fsdp": "is for language models alone",
    "fsdp_config": "is for language models alone",
}
"""Fields that a job may not set, and why."""

_NOT_THEIRS = {"arguments", "max_length", "warmup_ratio", "packing"}
"""Settings that are ours alone, or under another name."""

_DEFAULTS = {
    # Shares of all steps: 50 points a curve; at most a tenth of the work is lost to a crash.
    "logging_steps": 0.02,
    "save_steps": 0.1,
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_total_limit": 1,
    "train_sampling_strategy": "group_by_length",
    "per_device_eval_batch_size": 64,
    "report_to": "none",
    "disable_tqdm": True,
    # transformers would replace a NaN loss by the mean of those before, and nobody would see it.
    "logging_nan_inf_filter": False,
}


def training_arguments(
    settings: Mapping[str, Any], *, seed: int, folder: Path, validated: bool, place: str = "training"
) -> TrainingArguments:
    """The arguments of one training.

    Args:
        settings: the fields of `TrainingSpec`; "arguments" holds further fields of TrainingArguments, whose values
            are read leniently (YAML takes 1e-8 for a text).
        validated: whether there are validation examples.

    Raises:
        BadInput: all unknown, reserved and mistyped fields at once, or a combination that transformers refuses.
    """
    own = {name: value for name, value in settings.items() if name not in _NOT_THEIRS}
    own["warmup_steps"] = settings["warmup_ratio"]  # below 1 it is a share of all steps
    extra = further_arguments(settings, place)
    defaults = {**_DEFAULTS, "eval_strategy": "steps" if validated else "no", "use_cpu": not torch.accelerator.is_available()}
    try:
        return TrainingArguments(
            **{**defaults, **own, **extra}, output_dir=str(folder), seed=seed, remove_unused_columns=False, label_names=["labels"]
        )
    except (ValueError, TypeError, ImportError) as error:
        raise BadInput.at(f"{place}.arguments", " ".join(str(error).split())) from error


def further_arguments(settings: Mapping[str, Any], place: str = "training") -> dict[str, Any]:
    """The fields of TrainingArguments that "arguments" of the settings holds, each of its type.

    Raises:
        BadInput: all unknown, reserved and mistyped fields at once.
    """
    extra, own = settings["arguments"], {*settings, *_NOT_THEIRS, "warmup_steps"}
    hints = get_type_hints(TrainingArguments)
    known = {field.name for field in fields(TrainingArguments) if field.init}
    values, problems = {}, []
    for name, value in extra.items():
        where = f"{place}.arguments.{name}"
        if name in _OURS:
            problems.append(Problem(where, f"{_OURS[name]}; remove it."))
        elif name in own:
            problems.append(Problem(where, f"has a place of its own; set {place}.{name}."))
        elif name not in known:
            problems.append(Problem(where, f"no such field of transformers.TrainingArguments; {nearest(name, known - set(_OURS))}"))
        else:
            try:
                values[name] = TypeAdapter(hints[name]).validate_python(value)
            except ValidationError as error:
                problems.append(Problem(where, f"= {value!r}: {error.errors()[0]['msg']}."))
    if problems:
        raise BadInput(problems)
    return values
