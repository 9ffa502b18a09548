"""From a job's `student` section to an untrained language model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stillroom.core.errors import BadInput, Problem, nearest, needs_extra
from stillroom.core.token_records import TokenExample
from stillroom.models.causal import load_causal, shared_vocabulary, size_note, sketch_causal, usable_vocabulary
from stillroom.models.pretrained import quiet, seeded, to_accelerator
from stillroom.spec.student import WIDTHS
from stillroom.students.causal import check_cut, cut_student

with needs_extra("torch", "a language model as a student"):
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stillroom.spec.student import HuggingFaceStudentSpec, LoraSpec

_CALIBRATION_TOKENS = 32768
_CALIBRATION_BATCH = 16


def build_student(
    spec: HuggingFaceStudentSpec,
    *,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[TokenExample],
    seed: int,
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    """The student before its training, with the teacher's tokenizer; and sentences to show.

    Args:
        teacher: stays as it is.
        tokenizer: the teacher's.
        examples: training examples; the first few measure which parts of the teacher are kept.
        seed: for weights that are drawn.

    Raises:
        BadInput: the teacher cannot be cut so, nothing to load, or another tokenizer than the teacher's.
    """
    notes: tuple[str, ...]
    if spec.init == "teacher-layers":
        cut = cut_student(
            teacher,
            layers=spec.layers,
            layer_choice=spec.layer_choice,
            hidden_size=spec.hidden_size,
            intermediate_size=spec.intermediate_size,
            num_heads=spec.num_heads,
            num_key_value_heads=spec.num_key_value_heads,
            calibration=_calibration(examples),
        )
        model, notes = cut.model, cut.notes
    else:
        model = _pretrained(spec, teacher, tokenizer) if spec.init == "pretrained" else _fresh(spec, teacher, seed)
        note = size_note(teacher, model)
        notes = () if note is None else (note,)
    if spec.lora is not None:
        model = _with_adapters(model, spec.lora, seed)
    return model, notes


def build_student_alone(spec: HuggingFaceStudentSpec, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """A pretrained student whose teacher stays with its server: with its own tokenizer, and how many tokens it predicts.

    Args:
        seed: for adapters.

    Raises:
        BadInput: nothing to load.
    """
    assert spec.model is not None, "checked by the job"
    model, tokenizer = load_causal(spec.model, place="student.model")
    size = usable_vocabulary(model, tokenizer, place="student.model")
    return model if spec.lora is None else _with_adapters(model, spec.lora, seed), tokenizer, size


def check_student(spec: HuggingFaceStudentSpec, teacher: PreTrainedModel) -> PreTrainedModel:
    """What can be wrong with a student of this teacher before any weight is loaded: `teacher` may lie on the meta device.

    Returns:
        A model on the meta device that reads as many tokens as the student will; for one that is cut out of the teacher, the teacher.

    Raises:
        BadInput: the teacher cannot be cut so, its config has no such field or makes no model so, or there is nothing to load.
    """
    if spec.init == "teacher-layers":
        check_cut(teacher, spec.layers, spec.layer_choice, {name: getattr(spec, name) for name in WIDTHS})
        return teacher
    if spec.init == "pretrained":
        assert spec.model is not None, "checked by the job"
        return sketch_causal(spec.model, place="student.model")
    with torch.device("meta"):
        return _drawn(spec, teacher)


def merged(model: Any) -> PreTrainedModel:
    """A plain model: adapters, where there are any, added to the weights that they adapt."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model  # type: ignore[no-any-return]


def _pretrained(spec: HuggingFaceStudentSpec, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    assert spec.model is not None, "checked by the job"
    model, own = load_causal(spec.model, place="student.model")
    shared_vocabulary((teacher, tokenizer), (model, own), place="student.model")
    return model


def _fresh(spec: HuggingFaceStudentSpec, teacher: PreTrainedModel, seed: int) -> PreTrainedModel:
    with seeded(seed):
        return to_accelerator(_drawn(spec, teacher))


def _drawn(spec: HuggingFaceStudentSpec, teacher: PreTrainedModel) -> PreTrainedModel:
    """The teacher's architecture with other sizes and random weights."""
    known = {**teacher.config.to_dict(), **teacher.config.attribute_map}
    if unknown := [name for name in spec.config if name not in known]:
        kind = type(teacher.config).__name__
        raise BadInput(Problem(f"student.config.{name}", f"no such field of {kind}; {nearest(name, known)}") for name in unknown)
    try:
        with quiet():
            config = type(teacher.config).from_dict({**teacher.config.to_dict(), **spec.config})
            model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    except (ValueError, RuntimeError, TypeError, StrictDataclassError) as error:
        raise BadInput.at("student.config", f"= {dict(spec.config)} makes no model: {' '.join(str(error).split())}") from error
    drawn: PreTrainedModel = model.eval()
    return drawn


def _with_adapters(model: PreTrainedModel, spec: LoraSpec, seed: int) -> Any:
    with needs_extra("llm", "a student with low-rank adapters"):
        import peft
    settings = peft.LoraConfig(
        task_type="CAUSAL_LM", r=spec.r, lora_alpha=spec.alpha, lora_dropout=spec.dropout, target_modules="all-linear"
    )
    with quiet(), seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft sets by itself for GPT-2's layers, and an old name by which it asks transformers
        adapted: Any = peft.get_peft_model(model, settings)
    # Not the place that the model came from: at every checkpoint peft would ask the hub for its config, to see whether the vocabulary grew.
    adapted.peft_config["default"].base_model_name_or_path = ""
    return adapted


def _calibration(examples: Sequence[TokenExample]) -> list[dict[str, torch.Tensor]]:
    """Batches of the first examples, some thousand tokens of them."""
    batches, tokens = [], 0
    for start in range(0, len(examples), _CALIBRATION_BATCH):
        part = examples[start : start + _CALIBRATION_BATCH]
        ids = np.zeros((len(part), max(map(len, part))), np.int64)
        mask = np.zeros_like(ids)
        for row, example in enumerate(part):
            ids[row, : len(example)], mask[row, : len(example)] = example.token_ids, 1
        batches.append({"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)})
        tokens += int(mask.sum())
        if tokens >= _CALIBRATION_TOKENS:
            break
    return batches
