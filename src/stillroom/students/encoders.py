"""Text students: an encoder cut out of the teacher, a pretrained one, or a fresh one."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from stillroom.core.errors import BadInput, nearest, needs_extra
from stillroom.models.manifest import read_manifest
from stillroom.models.pretrained import seeded
from stillroom.models.spans import load_tagger
from stillroom.models.text import TextPredictor, load, load_classifier, set_labels

with needs_extra("torch", "a text student"):
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from stillroom.spec.student import HuggingFaceStudentSpec


def build_student(
    spec: HuggingFaceStudentSpec, *, teacher: Path, classes: Sequence[str], seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The untrained student of a job and its own tokenizer.

    Args:
        teacher: the folder of the saved teacher, which is copied and stays as it is; read only where `init` needs one.
        seed: of every weight that is not copied.

    Raises:
        BadInput: the student cannot be built so.
    """
    if spec.init == "pretrained":
        return load_classifier(str(spec.model), classes, new_head_seed=seed, place="student.model")
    answerer = _text_teacher(teacher, spec.init)
    if spec.init == "fresh":
        return fresh_encoder(answerer.model, spec.config, classes=classes, seed=seed), answerer.tokenizer
    assert not isinstance(spec.layers, int), "checked by the job"
    return keep_layers(answerer.model, spec.layers), answerer.tokenizer


def build_tagger(spec: HuggingFaceStudentSpec, *, labels: Sequence[str], seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The untrained student of a sequence-labelling job, and its own tokenizer; arguments as `build_student`."""
    assert spec.init == "pretrained", "checked by the job"
    return load_tagger(str(spec.model), labels, new_head_seed=seed, place="student.model")


def keep_layers(teacher: PreTrainedModel, layers: Sequence[int] | None = None) -> PreTrainedModel:
    """A copy of a classifier with only these of its layers; embeddings, pooler and head are copied whole.

    Args:
        layers: which ones, from 0, ascending; None: every other one, from the first (Sanh et al. 2019, arXiv:1910.01108).

    Raises:
        BadInput: no such layer, or an architecture whose layers cannot be told apart or taken out.
    """
    path, depth = _layers_path(teacher), int(teacher.config.num_hidden_layers)
    kept = list(range(0, depth, 2)) if layers is None else list(layers)
    if outside := [layer for layer in kept if not 0 <= layer < depth]:
        raise BadInput.at("student.layers", f"= {kept}: the teacher has the layers 0 to {depth - 1}, and not {outside}.")
    student = copy.deepcopy(teacher)
    owner, _, name = path.rpartition(".")
    stack = cast(nn.ModuleList, student.get_submodule(path))
    setattr(student.get_submodule(owner), name, nn.ModuleList(stack[layer] for layer in kept))
    student.config.num_hidden_layers = len(kept)
    with torch.device("meta"):
        reloaded = type(student)(student.config).state_dict().keys()
    if reloaded != student.state_dict().keys():
        raise BadInput.at("student.init", f"= 'teacher-layers': the layers of {type(teacher).__name__} differ in kind; use init: fresh.")
    return student


def fresh_encoder(teacher: PreTrainedModel, changes: Mapping[str, Any], *, classes: Sequence[str], seed: int) -> PreTrainedModel:
    """An untrained classifier: the teacher's architecture and config, with some fields changed.

    Raises:
        BadInput: the config has no such field, or refuses the value.
    """
    config = copy.deepcopy(teacher.config)
    fields = {**config.to_dict(), **config.attribute_map}
    for name in changes:
        if name not in fields:
            raise BadInput.at(f"student.config.{name}", f"no such field of {type(config).__name__}; {nearest(name, fields)}")
    try:
        for name, value in changes.items():
            setattr(config, name, value)
        set_labels(config, classes)
        with seeded(seed):
            student: PreTrainedModel = type(teacher)(config)
    except (ValueError, TypeError, RuntimeError, StrictDataclassError) as error:
        raise BadInput.at("student.config", f"= {dict(changes)}: {' '.join(str(error).split())}") from error
    student.train(False)
    return student


def _text_teacher(folder: Path, init: str) -> TextPredictor:
    """The text model of a saved teacher, calibrated or not."""
    kind = read_manifest(folder)["kind"]
    if kind == "calibrated":
        return _text_teacher(folder / "base", init)
    if kind != "text":
        raise BadInput.at("student.init", f"= {init!r} needs a teacher of kind 'huggingface'; use init: pretrained.")
    return load(folder)


def _layers_path(model: PreTrainedModel) -> str:
    """The name of the one stack of layers."""
    depth = int(model.config.num_hidden_layers)
    stacks: list[str] = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth and len({type(layer) for layer in module}) == 1
    ]
    if len(stacks) != 1:
        raise BadInput.at(
            "student.init",
            f"= 'teacher-layers': {type(model).__name__} has no single stack of {depth} layers; use init: fresh or pretrained.",
        )
    return stacks[0]
