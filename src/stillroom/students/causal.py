"""A language model's student, cut out of its teacher: first fewer blocks, then fewer channels, neurons and heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stillroom.core.errors import BadInput, Problem, needs_extra
from stillroom.models.causal import size_note
from stillroom.students.architectures import architecture_of, sizes_of
from stillroom.students.depth import block_influence, check_blocks, influential_blocks, keep_blocks, spaced_blocks
from stillroom.students.width import cut_width, measure_importance, narrower_sizes

with needs_extra("torch", "a student out of a language model"):
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class CutStudent:
    """A student and how it came about.

    Attributes:
        model: of the teacher's class, in eval mode, on its device; shares no tensor with it.
        blocks: which of the teacher's blocks it has.
        influence: of each of the teacher's blocks, where it was measured.
        notes: sentences for the caller to show.
    """

    model: PreTrainedModel
    blocks: tuple[int, ...]
    influence: tuple[float, ...] | None
    notes: tuple[str, ...]


def cut_student(
    teacher: PreTrainedModel,
    *,
    layers: int | Sequence[int] | None = None,
    layer_choice: Literal["spaced", "block-influence"] = "spaced",
    hidden_size: int | None = None,
    intermediate_size: int | None = None,
    num_heads: int | None = None,
    num_key_value_heads: int | None = None,
    calibration: Iterable[Batch] | None = None,
) -> CutStudent:
    """A smaller model out of the teacher's own weights, which transformers loads, runs and trains like any other.

    Width is measured on the model of the kept blocks, since their inputs are what the student will see.

    Args:
        teacher: stays as it is.
        layers: how many blocks, or which ones, from 0, ascending; None keeps all.
        layer_choice: for a number of `layers`. "spaced": evenly, the first and the last kept. "block-influence": those that turn
            the hidden states most (arXiv:2403.03853), measured on `calibration`.
        hidden_size, intermediate_size, num_heads, num_key_value_heads: see `width.narrower_sizes`; None keeps the teacher's.
        calibration: batches of "input_ids" (B, S) and, where the right end is padding, "attention_mask" (B, S): some thousand tokens of
            text like the training's. Needed by "block-influence" and by every change of width.

    Raises:
        BadInput: the teacher cannot be cut so; every problem at once.
    """
    widths = {
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_heads": num_heads,
        "num_key_value_heads": num_key_value_heads,
    }
    check_cut(teacher, layers, layer_choice, widths, has_calibration=calibration is not None)
    batches = list(calibration or ())
    depth, influence, student = len(architecture_of(teacher).stack(teacher)), None, teacher
    blocks = list(range(depth)) if layers is None else layers
    if isinstance(blocks, int):
        if layer_choice == "block-influence":
            influence = tuple(block_influence(teacher, batches))
            blocks = influential_blocks(influence, blocks)
        else:
            blocks = spaced_blocks(depth, blocks)
    student = keep_blocks(teacher, blocks)
    if narrower_sizes(teacher, **widths) != sizes_of(teacher):
        student = cut_width(student, measure_importance(student, batches), **widths)
    note = size_note(teacher, student)
    return CutStudent(student, tuple(blocks), influence, () if note is None else (note,))


def check_cut(
    teacher: PreTrainedModel,
    layers: int | Sequence[int] | None,
    layer_choice: str,
    widths: Mapping[str, int | None],
    *,
    has_calibration: bool = True,
) -> None:
    """Everything that can be wrong with a cut, before anything is computed: of the teacher only the shapes are looked at."""
    depth, problems, measured = len(architecture_of(teacher).stack(teacher)), [], []
    if layer_choice not in ("spaced", "block-influence"):
        problems.append(Problem("student.layer_choice", f"= {layer_choice!r}; allowed: 'spaced', 'block-influence'."))
    if isinstance(layers, int) and not 1 <= layers <= depth:
        problems.append(Problem("student.layers", f"= {layers}: the teacher has {depth} layers; a student cut out of it has 1 to {depth}."))
    elif isinstance(layers, int) and layer_choice == "block-influence":
        measured.append("layer_choice = 'block-influence'")
    try:
        if layers is not None and not isinstance(layers, int):
            check_blocks(layers, depth)
    except BadInput as error:
        problems += error.problems
    try:
        if narrower_sizes(teacher, **widths) != sizes_of(teacher):
            measured += [f"{name} = {size}" for name, size in widths.items() if size is not None]
    except BadInput as error:
        problems += error.problems
    if measured and not has_calibration:
        message = f"is missing, and {', '.join(measured)} is chosen by measurement: give batches of text like the training's."
        problems.append(Problem("student.calibration", message))
    if problems:
        raise BadInput(problems)
