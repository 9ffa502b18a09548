"""Where a language model's trainer gets the teacher's answers from: a store, or the teacher itself.

Shapes: N asked positions of a batch, in the order of its rows, examples and positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.core.token_records import HiddenAnswers, SparseRows, TokenAnswers, TokenScheme
from stillroom.losses.head import Head
from stillroom.losses.teacher import DenseTeacher, SparseTeacher, Teacher
from stillroom.models.causal import head_of, hidden_states
from stillroom.models.memory import bytes_per_token
from stillroom.models.pretrained import parameters_fingerprint
from stillroom.training.memory import TeacherMemory

with needs_extra("torch", "training a language model"):
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from stillroom.core.token_records import TokenExample

Answers = TokenAnswers | HiddenAnswers


class TokenTeacher(Protocol):
    """What answers at the asked positions of a batch."""

    @property
    def fingerprint(self) -> str:
        """Of everything that shapes its answers."""
        ...

    @property
    def memory(self) -> TeacherMemory:
        """What it takes beside its weights."""
        ...

    def check(self, examples: Sequence[TokenExample], temperatures: tuple[float, float]) -> None:
        """Refuse examples that it has no answers to, or temperatures (the first and the last) that they were not given at."""
        ...

    def read(self, numbers: Sequence[int], num_asked: Sequence[int], vocabulary_size: int) -> dict[str, Tensor]:
        """What has to be fetched for the examples with these numbers, each with so many asked positions, as columns of a batch."""
        ...

    def answer(self, inputs: Mapping[str, Tensor], vocabulary_size: int) -> Teacher:
        """The distributions over `vocabulary_size` tokens at the `places` of a batch, from its columns."""
        ...


@dataclass(frozen=True, eq=False)
class OfflineTeacher:
    """Stored answers.

    Args:
        answers: from example numbers to their answers, one row an asked position: `TokenKnowledge.answers`.
        num_examples: how many examples it knows.
        scheme: how the answers were made small.
        fingerprint: of the question that they answer: teacher, tokenizer, template, scheme, temperature, seed.
        temperature: T at which sparse answers were given.
        head: the teacher's, for stored hidden states; on the student's device.
    """

    answers: Callable[[Sequence[int]], Sequence[Answers]]
    num_examples: int
    scheme: TokenScheme
    fingerprint: str
    temperature: float = 1.0
    head: Head | None = None

    @property
    def memory(self) -> TeacherMemory:
        if self.scheme.kind == "hidden":
            return TeacherMemory(bytes_per_position=2 * 4 * (self.head.width if self.head else 0), is_dense=True)
        return TeacherMemory(bytes_per_position=2 * (8 + 4) * (self.scheme.number + 1))  # ids and probabilities, as they are joined

    def check(self, examples: Sequence[TokenExample], temperatures: tuple[float, float]) -> None:
        if self.num_examples != len(examples):
            message = f"holds answers to {self.num_examples} examples, the data has {len(examples)}; run 'stillroom label' again."
            raise BadInput.at("knowledge", message)
        if self.scheme.kind == "hidden":
            if self.head is None:
                raise BadInput.at("knowledge", "holds hidden states, which say nothing without the teacher's head; give it along.")
        elif temperatures != (self.temperature, self.temperature):
            message = f"goes from {temperatures[0]} to {temperatures[1]}, the stored answers were given at {self.temperature}"
            remedy = "Take that one, label again at this one, or store hidden states, which serve every temperature."
            raise BadInput.at("objective.temperature", f"{message}. {remedy}")

    def read(self, numbers: Sequence[int], num_asked: Sequence[int], vocabulary_size: int) -> dict[str, Tensor]:
        found = self.answers(numbers) if numbers else []
        self._check_sizes(found, numbers, num_asked, vocabulary_size)
        if self.head is not None and self.scheme.kind == "hidden":
            states = [one.values() for one in found if isinstance(one, HiddenAnswers)]
            return {"teacher_hidden": torch.from_numpy(np.concatenate([np.zeros((0, self.head.width), np.float32), *states]))}
        rows = joined([one.sparse() for one in found if isinstance(one, TokenAnswers)])
        ids, probs = rows.padded()
        columns = {"teacher_ids": ids, "teacher_probs": probs, "teacher_entropy": rows.entropy}
        if self.scheme.kind == "top-k":
            columns["teacher_tail"] = rows.tail
        return {name: torch.from_numpy(values) for name, values in columns.items()}

    def answer(self, inputs: Mapping[str, Tensor], vocabulary_size: int) -> Teacher:
        if self.head is not None and self.scheme.kind == "hidden":
            return DenseTeacher(inputs["teacher_hidden"], self.head.cut(vocabulary_size))
        tail, entropy = inputs.get("teacher_tail"), inputs["teacher_entropy"]
        return SparseTeacher(inputs["teacher_ids"], inputs["teacher_probs"], tail, entropy, vocabulary_size)

    def _check_sizes(self, found: Sequence[Answers], numbers: Sequence[int], num_asked: Sequence[int], vocabulary_size: int) -> None:
        """Refuse answers about another vocabulary, or other positions, than those of the examples."""
        allowed = {vocabulary_size} | ({self.head.vocabulary_size} if self.head is not None else set())
        for one, number, asked in zip(found, numbers, num_asked, strict=True):
            if one.vocabulary not in allowed:
                message = (
                    f"is about {one.vocabulary} tokens, the student predicts {vocabulary_size}; both need one tokenizer, cut to its size."
                )
                raise BadInput.at("knowledge", message)
            if len(one) != asked:
                message = f"knowledge: example {number} has {asked} asked positions and {len(one)} answers; run 'stillroom label' again."
                raise StageFailed(message)


@dataclass(frozen=True, eq=False)
class OnlineTeacher:
    """A frozen language model that answers as the student is trained: nothing is stored.

    Args:
        model: put in eval mode; never changed otherwise.
    """

    model: PreTrainedModel

    @cached_property
    def fingerprint(self) -> str:
        return parameters_fingerprint(self.model)

    @property
    def memory(self) -> TeacherMemory:
        return TeacherMemory(bytes_per_token(self.model), 4 * head_of(self.model).weight.shape[1], is_dense=True)

    def check(self, examples: Sequence[TokenExample], temperatures: tuple[float, float]) -> None:
        pass

    def read(self, numbers: Sequence[int], num_asked: Sequence[int], vocabulary_size: int) -> dict[str, Tensor]:
        return {}

    def answer(self, inputs: Mapping[str, Tensor], vocabulary_size: int) -> Teacher:
        self.model.train(False)
        with torch.no_grad():
            head = head_for_loss(self.model, vocabulary_size)  # first: refuses a smaller vocabulary, whose tokens cannot be looked up
            states = hidden_states(self.model, inputs["input_ids"], position_ids=inputs.get("position_ids"))
            hidden = states.flatten(0, 1)[inputs["places"]]
        _refuse_not_finite(hidden, inputs)
        return DenseTeacher(hidden, head)


def _refuse_not_finite(hidden: Tensor, inputs: Mapping[str, Tensor]) -> None:
    """Before the student's weights are NaN too, and a learning rate gets the blame. With finite weights of the head, so are the logits."""
    bad = (~hidden.isfinite().all(dim=-1)).nonzero()
    if len(bad):
        row, position = divmod(int(inputs["places"][bad[0, 0]]), inputs["input_ids"].shape[1])
        begins = inputs["input_ids"][row, :8].tolist()
        where = f"row {row} of a batch, which begins with the token ids {begins}, position {position}"
        remedy = "Is its checkpoint damaged, or its dtype too narrow (float16)?"
        raise StageFailed(f"teacher: {where}: its hidden states are NaN or infinite. {remedy}")


def head_for_loss(model: PreTrainedModel, vocabulary_size: int) -> Head:
    """A model's own output head, without rows that stand for no token."""
    parts = head_of(model)
    return Head(parts.weight, parts.bias, parts.scale, parts.soft_cap).cut(vocabulary_size)


def joined(parts: Sequence[SparseRows]) -> SparseRows:
    """The rows of all parts, in their order."""
    starts = np.cumsum([0, *(len(part.ids) for part in parts)])

    def column(name: str, dtype: Any) -> Any:
        return np.concatenate([np.zeros(0, dtype), *(getattr(part, name) for part in parts)])

    offsets = np.concatenate([[0], *(start + part.offsets[1:] for start, part in zip(starts, parts, strict=False))])
    names = {"ids": np.int64, "probs": np.float32, "tail": np.float32, "entropy": np.float32}
    return SparseRows(offsets.astype(np.int64), **{name: column(name, dtype) for name, dtype in names.items()})
