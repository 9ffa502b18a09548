"""Tokenised examples, and a teacher's next-token distributions, as they are handed from the data to the teacher, from there
to the store, and from the store to a trainer.

Shapes: N asked positions, V tokens of the vocabulary, H the width of the teacher's last hidden layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillroom.core.fingerprint import fingerprint

SchemeKind = Literal["threshold", "sampled", "top-k", "hidden"]
_TOP_K_UNITS = 1 << 16


@dataclass(frozen=True, eq=False)
class TokenExample:
    """A text as a teacher and a student see it.

    Attributes:
        token_ids: (L,) whole numbers.
        asked: (L,) bool; at True, the distribution of the token that follows is asked.
    """

    token_ids: NDArray[np.int64]
    asked: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.token_ids.ndim != 1 or self.token_ids.shape != self.asked.shape:
            raise ValueError(f"token_ids {self.token_ids.shape} and asked {self.asked.shape}; both have one entry a position.")

    def __len__(self) -> int:
        return len(self.token_ids)

    @classmethod
    def from_labels(cls, token_ids: Sequence[int], labels: Sequence[int], *, ignored: int = -100) -> TokenExample:
        """From labels as trainers have them: labels[i] is the token at i, or `ignored`. Position i - 1 is asked about it."""
        asked = np.zeros(len(token_ids), np.bool_)
        asked[:-1] = np.asarray(labels)[1:] != ignored
        return cls(np.asarray(token_ids, np.int64), asked)

    @property
    def trained(self) -> NDArray[np.bool_]:
        """(L,) the tokens that are asked about, at their own places: `asked` one further."""
        return np.concatenate([[False], self.asked[:-1]])

    @property
    def fingerprint(self) -> str:
        """Of the token ids and the asked positions."""
        return fingerprint("tokens", self.token_ids.astype(np.int64), self.asked.astype(np.bool_))


@dataclass(frozen=True, eq=False)
class Sequences:
    """Tokenised examples of a language model.

    Attributes:
        examples: n token sequences, each with at least one asked position.
        num_bytes: (n,) int64, the UTF-8 bytes of text that each one's learnt tokens stand for.
        rows: (n,) the row of the source that each came from; a long text makes several.
    """

    examples: tuple[TokenExample, ...]
    num_bytes: NDArray[np.int64]
    rows: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def num_asked(self) -> int:
        """Tokens that are learnt, in all."""
        return sum(int(example.asked.sum()) for example in self.examples)

    def take(self, numbers: NDArray[np.intp]) -> Sequences:
        """The examples with these numbers, in this order."""
        return Sequences(tuple(self.examples[number] for number in numbers), self.num_bytes[numbers], self.rows[numbers])


@dataclass(frozen=True, eq=False)
class Corpus:
    """What a language model's job learns from and is measured on. `test` and `other_domains` are read by the evaluation only.

    Attributes:
        other_domains: name -> held-out examples of another domain.
        test_texts: (prompt, answer) of each test document, row by row; the answer is "" where all of a text is learnt, and both
            are where nothing of it is.
        notes: findings that a reader of the report must see, one sentence each.
    """

    train: Sequences
    test: Sequences
    validation: Sequences | None
    other_domains: Mapping[str, Sequences]
    test_texts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TokenScheme:
    """How a distribution is made small. Everything but top-k is unbiased: the mean over seeds is the distribution.

    Attributes:
        kind: threshold: tokens with p >= 1 / number, and of the rest a systematic sample, one id for each 1 / number of
            its mass; at most number + 1 ids. sampled: `number` draws with replacement, as ids and counts. top-k: the
            `number` likeliest tokens; the rest is one tail mass. hidden: the last hidden state instead of the distribution,
            in `number` bits a feature: 16 (bfloat16) or 8 (integers with a scale a position).
        number: the scheme's only parameter. 64 takes under 40 bytes a token at V = 128256 on a large model's distributions
            (benchmarks/token_store.py).
    """

    kind: SchemeKind = "threshold"
    number: int = 64

    def __post_init__(self) -> None:
        allowed = {"threshold": (2, 1 << 15), "sampled": (1, 1 << 16), "top-k": (1, 1 << 16), "hidden": (8, 16)}
        if self.kind not in allowed:
            raise ValueError(f"scheme.kind = {self.kind!r} is not one of {sorted(allowed)}.")
        low, high = allowed[self.kind]
        if not low <= self.number <= high or (self.kind == "hidden" and self.number not in (8, 16)):
            choice = "8 or 16 (bits a feature)" if self.kind == "hidden" else f"{low} to {high}"
            raise ValueError(f"scheme.number = {self.number} is not allowed for {self.kind!r}; allowed: {choice}.")

    @property
    def units(self) -> int:
        """Probabilities are stored as whole multiples of 1 / units; 0 where none is stored.

        threshold: at most half the smallest probability that is kept. A coarser grid adds more error than the bits that it
        saves would buy as further ids; a finer one costs bits and gains next to nothing.
        """
        if self.kind == "threshold":
            return 1 << (2 * self.number - 1).bit_length()
        return {"sampled": self.number, "top-k": _TOP_K_UNITS, "hidden": 0}[self.kind]


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Distributions as lists of entries, row after row: row i has the entries offsets[i]:offsets[i + 1].

    Attributes:
        offsets: (N + 1,) int64.
        ids: (entries,) int64 token ids, each at most once in a row.
        probs: (entries,) float32; a row's probabilities and its tail sum to 1.
        tail: (N,) float32 mass that no entry carries: 0 but for top-k.
        entropy: (N,) float32 the teacher's, in nats at the stored temperature: KL(p || q) = -entropy - sum p log q.
    """

    offsets: NDArray[np.int64]
    ids: NDArray[np.int64]
    probs: NDArray[np.float32]
    tail: NDArray[np.float32]
    entropy: NDArray[np.float32]

    def padded(self, width: int | None = None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(N, width) ids and probabilities; the places that a row does not need hold id 0 with probability 0.

        Raises:
            ValueError: a row has more than `width` entries.
        """
        lengths = np.diff(self.offsets)
        longest = int(lengths.max(initial=0))
        if width is not None and longest > width:
            raise ValueError(f"width = {width}, but a row has {longest} entries; allowed: {longest} and more.")
        shape = len(lengths), longest if width is None else width
        ids, probs = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        used = np.arange(shape[1]) < lengths[:, None]
        ids[used], probs[used] = self.ids, self.probs
        return ids, probs


@dataclass(frozen=True, eq=False)
class TokenAnswers:
    """Sparse distributions as they are stored, exactly: whole counts, and ids that share what the counts leave.

    In row i the token head_ids[j] has the probability head_counts[j] / units. The tokens in `tail_ids` share the rest of
    the row equally; where there are none, the rest is the row's tail mass. Ids rise within a row's head and within its tail.

    Attributes:
        vocabulary: V.
        units: what a row's probabilities are counted in.
        head_offsets, tail_offsets: (N + 1,) int64; row i has the entries offsets[i]:offsets[i + 1].
        head_ids, tail_ids: (entries,) int64.
        head_counts: (entries,) int64, at least 1; a row's counts sum to at most `units`.
        entropy: (N,) float16 the teacher's entropy in nats.
    """

    vocabulary: int
    units: int
    head_offsets: NDArray[np.int64]
    head_ids: NDArray[np.int64]
    head_counts: NDArray[np.int64]
    tail_offsets: NDArray[np.int64]
    tail_ids: NDArray[np.int64]
    entropy: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.entropy)

    def rows(self, start: int, stop: int) -> TokenAnswers:
        """The rows start:stop."""
        head = slice(*self.head_offsets[[start, stop]].tolist())
        tail = slice(*self.tail_offsets[[start, stop]].tolist())
        return TokenAnswers(
            self.vocabulary,
            self.units,
            self.head_offsets[start : stop + 1] - head.start,
            self.head_ids[head],
            self.head_counts[head],
            self.tail_offsets[start : stop + 1] - tail.start,
            self.tail_ids[tail],
            self.entropy[start:stop],
        )

    def sparse(self) -> SparseRows:
        """The distributions that the counts stand for: each row's head, then its tail."""
        heads, tails = np.diff(self.head_offsets), np.diff(self.tail_offsets)
        counted = np.zeros(len(self.head_counts) + 1, np.int64)
        np.cumsum(self.head_counts, out=counted[1:])
        rest = (self.units - np.diff(counted[self.head_offsets])).astype(np.float32) / np.float32(self.units)
        at_head = np.arange(len(self.head_ids)) + np.repeat(self.tail_offsets[:-1], heads)
        at_tail = np.arange(len(self.tail_ids)) + np.repeat(self.head_offsets[1:], tails)
        ids = np.empty(len(at_head) + len(at_tail), np.int64)
        probs = np.empty(len(ids), np.float32)
        ids[at_head], ids[at_tail] = self.head_ids, self.tail_ids
        probs[at_head] = self.head_counts.astype(np.float32) / np.float32(self.units)
        probs[at_tail] = np.repeat(rest / np.maximum(tails, 1).astype(np.float32), tails)
        left = np.where(tails > 0, np.float32(0), rest)
        return SparseRows(self.head_offsets + self.tail_offsets, ids, probs, left, self.entropy.astype(np.float32))


@dataclass(frozen=True, eq=False)
class HiddenAnswers:
    """The teacher's last hidden states, to be multiplied by its head.

    Attributes:
        vocabulary: V of that head.
        states: (N, H) uint16, the bits of bfloat16, or int8.
        scales: (N,) float32, by which int8 states are multiplied; ones for bfloat16.
        entropy: (N,) float16 the teacher's entropy in nats.
    """

    vocabulary: int
    states: NDArray[np.uint16] | NDArray[np.int8]
    scales: NDArray[np.float32]
    entropy: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.entropy)

    def rows(self, start: int, stop: int) -> HiddenAnswers:
        """The rows start:stop."""
        part = slice(start, stop)
        return HiddenAnswers(self.vocabulary, self.states[part], self.scales[part], self.entropy[part])

    def values(self) -> NDArray[np.float32]:
        """(N, H) hidden states."""
        if self.states.dtype == np.int8:
            return self.states.astype(np.float32) * self.scales[:, None]
        return (self.states.astype(np.uint32) << np.uint32(16)).view(np.float32)
