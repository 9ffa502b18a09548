"""A store's next-token distributions, found by the tokens they belong to.

An answer's key covers the example's token ids and which of its positions are asked, so that shuffling, packing, gradient
accumulation or resuming cannot give a position another one's distribution: what differs is simply not found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import HiddenAnswers, TokenExample, TokenScheme
from stillroom.knowledge.store import KnowledgeStore
from stillroom.knowledge.token_codec import REMEDY, Answers, BlockFacts, decode, encode

QUESTION = "next-token distribution"
_WORDS = {
    "teacher": "the teacher",
    "tokenizer": "the tokenizer",
    "template": "the chat template",
    "scheme": "the scheme",
    "number": "the scheme's number",
    "temperature": "the temperature",
    "seed": "the seed",
}
_NAMED = ("teacher", "tokenizer", "template")
"""Facts that are fingerprints."""
_SHOWN = 100
"""Characters of a text in a message."""


@dataclass(frozen=True)
class TokenQuestion:
    """What a teacher is asked about every example, apart from the example.

    Attributes:
        teacher: fingerprint of its weights.
        tokenizer: fingerprint of the tokenizer.
        template: fingerprint of the chat template; "" where none was applied.
        temperature: T > 0 that divides the teacher's logits.
        seed: of the job.
    """

    teacher: str
    tokenizer: str
    scheme: TokenScheme
    template: str = ""
    temperature: float = 1.0
    seed: int = 0

    def facts(self, example: str) -> dict[str, Any]:
        """What an answer's key is the fingerprint of."""
        return {"template": self.template, **header_facts(self.block_facts(example))}

    def key(self, example: str) -> str:
        return fingerprint("answer", self.facts(example))

    def encode(self, example: str, answers: Answers) -> bytes:
        """The block that is stored."""
        return encode(self.block_facts(example), answers)

    def block_facts(self, example: str) -> BlockFacts:
        """What the block of an answer says of itself."""
        return BlockFacts(self.scheme, self.teacher, self.tokenizer, example, float(self.temperature), self.seed)


def header_facts(block: BlockFacts) -> dict[str, Any]:
    """The facts of an answer that its block repeats."""
    names = ("teacher", "tokenizer", "example", "temperature", "seed")
    return {"question": QUESTION, "scheme": block.scheme.kind, "number": block.scheme.number, **{n: getattr(block, n) for n in names}}


def missing_examples(store: KnowledgeStore, question: TokenQuestion, examples: Sequence[TokenExample]) -> list[int]:
    """Positions in `examples` that have no stored answer to the question."""
    return store.missing([question.key(example.fingerprint) for example in examples])


def put_answers(store: KnowledgeStore, question: TokenQuestion, examples: Sequence[TokenExample], answers: Sequence[Answers]) -> None:
    """Store the answers to the asked positions of each example; durable when this returns."""
    names = [example.fingerprint for example in examples]
    for example, rows in zip(examples, answers, strict=True):
        assert len(rows) == example.asked.sum(), f"{len(rows)} answers to {example.asked.sum()} asked positions"
    blocks = [question.encode(name, rows) for name, rows in zip(names, answers, strict=True)]
    store.put_blocks([question.key(name) for name in names], blocks, [question.facts(name) for name in names])


class TokenKnowledge(Sequence[dict[str, NDArray[Any]]]):
    """The answers to some examples, read from a store as they are needed: a dataset for anyone's trainer.

    `knowledge[i]` holds example i as NumPy arrays: input_ids and asked (L,); and of its n asked positions, in their order,
    teacher_ids and teacher_probs (n, K), teacher_tail and teacher_entropy (n,), K being its longest row; or teacher_states
    (n, H) where hidden states are stored.
    """

    def __init__(self, store: KnowledgeStore, question: TokenQuestion, examples: Sequence[TokenExample]) -> None:
        """Look every example up.

        Raises:
            StageFailed: examples have no answer; says how many, and what the store holds instead.
        """
        self._store, self._question, self._examples = store, question, examples
        self._names = [example.fingerprint for example in examples]
        if missing := store.missing([question.key(name) for name in self._names]):
            raise StageFailed(_missing_words(store, question, missing, len(examples)))

    def __len__(self) -> int:
        return len(self._examples)

    def answers(self, numbers: Sequence[int]) -> list[Answers]:
        """The stored answers to the examples with these numbers, with one look into the store.

        Raises:
            StageFailed: a block is damaged, or is another question's or example's.
        """
        names = [self._names[number] for number in numbers]
        blocks = self._store.get_blocks([self._question.key(name) for name in names])
        return [self._checked(block, number, name) for block, number, name in zip(blocks, numbers, names, strict=True)]

    def __getitem__(self, number: int) -> dict[str, NDArray[Any]]:  # type: ignore[override]  # no slices
        example = self._examples[number]
        (answers,) = self.answers([number])
        known: dict[str, NDArray[Any]] = {"input_ids": example.token_ids, "asked": example.asked}
        if isinstance(answers, HiddenAnswers):
            return {**known, "teacher_states": answers.values(), "teacher_entropy": answers.entropy.astype(np.float32)}
        rows = answers.sparse()
        ids, probs = rows.padded()
        return {**known, "teacher_ids": ids, "teacher_probs": probs, "teacher_tail": rows.tail, "teacher_entropy": rows.entropy}

    def _checked(self, block: bytes, number: int, name: str) -> Answers:
        found, answers = decode(block)
        place = f"{self._store.location}: the block of example {number} ({name})"
        if header_facts(found) != header_facts(self._question.block_facts(name)):
            raise StageFailed(f"{place} is another's: {found}. {REMEDY}")
        if len(answers) != (num_asked := int(self._examples[number].asked.sum())):
            raise StageFailed(f"{place} has {len(answers)} answers to {num_asked} asked positions. {REMEDY}")
        return answers


def put_words(store: KnowledgeStore, words: Mapping[str, str]) -> None:
    """Record what fingerprints of a question stand for: a teacher's name, a template's text. `nearest_question` shows them to a person."""
    for name, text in words.items():
        store.put_context(name, [text])


def nearest_question(store: KnowledgeStore, question: TokenQuestion) -> str | None:
    """In what the question differs from the nearest one that the store answers, both values in words: "" where in nothing, None
    where it holds no next-token distribution."""
    wanted = question.facts("")
    found = [facts for facts in store.questions() if facts.get("question") == QUESTION]
    differences = [[name for name in _WORDS if facts.get(name) != wanted[name]] for facts in found]
    if not found:
        return None
    nearest = min(range(len(found)), key=lambda i: len(differences[i]))
    pairs = [(name, *_in_words(store, name, found[nearest][name], wanted[name])) for name in differences[nearest]]
    return "; ".join(f"{_WORDS[name]} is {there} there, {here} here" for name, there, here in pairs)


def _in_words(store: KnowledgeStore, name: str, there: Any, here: Any) -> tuple[str, str]:
    """Two values of a fact, for a person: of a fingerprint also its words where they are known, long ones from before they differ."""
    if name not in _NAMED:
        return repr(there), repr(here)
    texts = _words_of(store, there), _words_of(store, here)
    differ = next((i for i, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), 0)
    start = max(differ - _SHOWN // 4, 0) if max(map(len, texts)) > _SHOWN else 0

    def shown(text: str, value: str) -> str:
        part = repr(("..." if start else "") + text[start : start + _SHOWN] + ("..." if len(text) > start + _SHOWN else ""))
        return (f"{part} ({value})" if text else repr(value)) if value else "none"

    return shown(texts[0], there), shown(texts[1], here)


def _words_of(store: KnowledgeStore, value: str) -> str:
    try:
        return store.context(value)[0]
    except KeyError:
        return ""  # of another version, or never described


def _missing_words(store: KnowledgeStore, question: TokenQuestion, missing: list[int], total: int) -> str:
    """Why so many examples have no answer, as far as the store shows it."""
    what = f"{store.location}: {len(missing)} of {total} examples have no stored answer, example {missing[0]} the first."
    difference = nearest_question(store, question)
    if difference is None:
        return f"{what} The store holds no next-token distribution. Run 'stillroom label' first."
    if not difference:
        reason = "their token ids or trained positions are others than those that were labelled (other data, packing, length or masks)"
        return f"{what} It does answer this question for other examples: {reason}. Run 'stillroom label' again; what is stored is kept."
    return f"{what} The nearest question that it answers is another: {difference}. Change that back, or run 'stillroom label' again."
