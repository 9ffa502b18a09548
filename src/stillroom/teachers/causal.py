"""A causal language model as a teacher: asked once for every example, frozen, its answers stored as they come.

Shapes: M asked positions of a batch, H channels of the hidden states, V tokens of the vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.core.fingerprint import fingerprint
from stillroom.core.protocols import Progress
from stillroom.core.token_records import HiddenAnswers, Sequences, TokenAnswers, TokenExample, TokenScheme
from stillroom.models import token_batches
from stillroom.models.causal import HeadParts
from stillroom.models.memory import batch_that_fits
from stillroom.models.pretrained import answering, parameters_fingerprint, tokenizer_fingerprint
from stillroom.teachers.answers import frozen
from stillroom.teachers.token_sampling import concatenate, entropies, position_seeds, sample_distributions, store_hidden

with needs_extra("torch", "a language model as a teacher"):
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Answers = TokenAnswers | HiddenAnswers
_NO_PART_OF_THE_FUNCTION = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache")
"""Entries of a config that say where weights came from or how they are stored; parameters have their own dtype in the fingerprint."""


@dataclass(frozen=True, eq=False)
class CausalTeacher:
    """A causal language model and its tokenizer, as `models.causal.load_causal` gives them.

    Attributes:
        place: its section of the job, for messages.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    place: str = "teacher"

    @property
    def fingerprint(self) -> str:
        """Of the architecture, its settings and every weight, computed anew at each call."""
        config = json.loads(self.model.config.to_json_string())
        settings = {name: value for name, value in config.items() if name not in _NO_PART_OF_THE_FUNCTION}
        return fingerprint("causal", type(self.model).__name__, json.dumps(settings, sort_keys=True), parameters_fingerprint(self.model))

    @property
    def tokenizer_fingerprint(self) -> str:
        return tokenizer_fingerprint(self.tokenizer)


def label_tokens(
    teacher: CausalTeacher,
    sequences: Sequences,
    *,
    scheme: TokenScheme,
    temperature: float,
    seed: int,
    vocabulary_size: int,
    missing: Callable[[Sequence[TokenExample]], list[int]],
    put: Callable[[Sequence[TokenExample], Sequence[Answers]], None],
    batch_tokens: int = 16384,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> int:
    """Ask for the next-token distributions that are not stored yet, and store each batch as it is answered.

    Equal examples are asked once, the longest first. Batches are stored in the order in which they are laid out, and where
    one `put` is whole or absent after a crash, what a killed run left undone is laid out as the undisturbed one would have: it
    stores the same bytes (on one machine, with the same number of threads and `batch_tokens`).

    Where batches differ (other examples around, another `batch_tokens`), logits move by float rounding, about 1e-6 of
    their size in float32. Stored probabilities then move as little; a drawn id or a rounded count changes where its random
    point lies within that rounding of a boundary.

    Args:
        scheme: what is kept of a distribution.
        temperature: T > 0; divides the logits before anything is kept. Hidden states are stored as they are, their entropy is at T.
        seed: of the job; what is drawn for an example depends on it, the example and the position alone.
        vocabulary_size: V, counted from id 0; further rows of the head are padding and get no probability.
        missing: positions in a list of examples that have no stored answer.
        put: stores the answers to some examples, durable when it returns.
        batch_tokens: the most tokens of a batch, padding included; reduced where memory does not suffice.
        progress: counts examples, the stored ones and repeated ones included.
        say: shows a sentence, where batches are reduced.

    Returns:
        How many examples were asked.

    Raises:
        BadInput: an example longer than the context, foreign ids, a vocabulary larger than the head, T that is not above 0,
            or a teacher that changes while it answers.
        StageFailed: a logit is NaN or infinite (names the example; nothing of its batch is stored), or too little memory.
    """
    if not temperature > 0:
        raise BadInput.at("objective.temperature", f"= {temperature} must be above 0; 1.0 leaves the distribution as it is.")
    model, place, total = teacher.model, teacher.place, len(sequences)
    head = token_batches.cut_head(model, vocabulary_size, place=place)
    token_batches.check_examples(model, sequences.examples, place=place)
    numbers, counts = _once(sequences.examples)
    absent = missing([sequences.examples[number] for number in numbers])
    numbers, repeats = [numbers[i] for i in absent], [counts[i] for i in absent]
    examples = [sequences.examples[number] for number in numbers]
    done = total - sum(repeats)
    if progress:
        progress(done, total)
    if not examples:
        return 0
    lengths = [len(example) for example in examples]
    elements = token_batches.elements_at_once(model.device)
    batch_tokens, note = batch_that_fits(model, batch_tokens=batch_tokens, longest=max(lengths), chunk_elements=elements, place=place)
    if note and say:
        say(note)
    batches = [batch.tolist() for batch in token_batches.by_tokens(lengths, batch_tokens)]
    with frozen(teacher, place=place) as check:
        for turn, batch in enumerate(batches):
            asked = [examples[i] for i in batch]
            answers = _answers(teacher, head, asked, [f"example {numbers[i]}" for i in batch], scheme, temperature, seed)
            # Before the first and the last answers are stored: a teacher that changes never completes its examples.
            if turn in (0, len(batches) - 1):
                check()
            put(asked, answers)
            done += sum(repeats[i] for i in batch)
            if progress:
                progress(done, total)
    return len(examples)


def _once(examples: Sequence[TokenExample]) -> tuple[list[int], list[int]]:
    """Where each different example first occurs, in that order, and how often it occurs."""
    first: dict[str, int] = {}
    counts: dict[str, int] = {}
    for number, name in enumerate(example.fingerprint for example in examples):
        first.setdefault(name, number)
        counts[name] = counts.get(name, 0) + 1
    return list(first.values()), list(counts.values())


def _answers(
    teacher: CausalTeacher,
    head: HeadParts,
    examples: Sequence[TokenExample],
    names: Sequence[str],
    scheme: TokenScheme,
    temperature: float,
    seed: int,
) -> list[Answers]:
    """The answers of one batch, example by example."""
    counts = [int(example.asked.sum()) for example in examples]
    ends = np.cumsum([0, *counts])
    seeds = np.concatenate([position_seeds(seed, e.fingerprint, count) for e, count in zip(examples, counts, strict=True)])
    parts: list[TokenAnswers] = []
    entropy = []
    with answering(teacher.model):
        states = token_batches.asked_states(teacher.model, examples)
        for rows, logits in token_batches.logits_in_chunks(head, states):
            _refuse_not_finite(logits, rows.start, examples, names, teacher)
            if scheme.kind == "hidden":
                entropy.append(entropies(logits, temperature=temperature))
            else:
                parts.append(sample_distributions(logits, seeds[rows], scheme, temperature=temperature))
        answers: Answers
        if scheme.kind == "hidden":
            answers = store_hidden(states, np.concatenate(entropy), head.weight.shape[0], scheme)
        else:
            answers = parts[0] if len(parts) == 1 else concatenate(parts)
    return [answers.rows(int(start), int(stop)) for start, stop in pairwise(ends)]


def _refuse_not_finite(logits: Tensor, start: int, examples: Sequence[TokenExample], names: Sequence[str], teacher: CausalTeacher) -> None:
    row = token_batches.first_not_finite(logits)
    if row is not None:
        number, position = token_batches.owner(examples, start + row)
        ids = examples[number].token_ids
        begins, there = (teacher.tokenizer.decode(part) for part in (ids[:8], ids[max(position - 7, 0) : position + 1]))
        reason = "its logits are NaN or infinite; nothing of this batch is stored."
        text = f"The example begins with {begins!r}; the text up to there ends in {there!r}."
        remedy = "Is its checkpoint damaged, or its dtype too narrow (float16)?"
        raise StageFailed(f"{teacher.place}: {names[number]}, position {position}: {reason} {text} {remedy}")
