"""A teacher's answers to the positions of one example, as bytes. The format is written down in docs/token-codec.md.

A block says all that a reader needs: the scheme and its parameter, temperature, seed, vocabulary, and who answered what.
Its header and its body each have a checksum.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import StageFailed
from stillroom.core.token_records import HiddenAnswers, SchemeKind, TokenAnswers, TokenScheme
from stillroom.knowledge.token_bits import pack, pack_rising, packed_bytes, rising_bytes, unpack, unpack_rising

MAGIC = b"SRTK"
VERSION = 1
MAX_VOCABULARY = 1 << 20
_KINDS: tuple[SchemeKind, ...] = ("threshold", "sampled", "top-k", "hidden")
# magic, version, kind, rule length, 1 spare; number, vocabulary, rows, two sizes; seed, temperature; rule, three digests
_HEADER = struct.Struct("<4sBBBxIIIIIqd8s20s20s20s")
_CHECK = struct.Struct("<I")
_START = _HEADER.size + _CHECK.size
REMEDY = "Delete the shard that holds it and run 'stillroom label' again: only its answers are asked anew."


@dataclass(frozen=True)
class BlockFacts:
    """What a block's header tells.

    Attributes:
        teacher, tokenizer, example: fingerprints.
        temperature: T > 0 that divided the teacher's logits.
        seed: of the job.
    """

    scheme: TokenScheme
    teacher: str
    tokenizer: str
    example: str
    temperature: float
    seed: int


Answers = TokenAnswers | HiddenAnswers


def encode(facts: BlockFacts, answers: Answers) -> bytes:
    """A block. `decode` gives back exactly what it was given."""
    scheme, num_rows = facts.scheme, len(answers)
    if not 0 < answers.vocabulary <= MAX_VOCABULARY:
        raise ValueError(f"vocabulary = {answers.vocabulary} is outside 1 to {MAX_VOCABULARY}.")
    if isinstance(answers, TokenAnswers):
        assert answers.units == scheme.units, f"answers in units of 1/{answers.units}, a scheme of 1/{scheme.units}"
        sizes = len(answers.head_ids), len(answers.tail_ids)
        body = _encode_sparse(answers)
    else:
        assert answers.states.dtype.itemsize * 8 == scheme.number, "states of another width than the scheme's"
        sizes = answers.states.shape[1], 0
        body = b"".join(
            array.astype(array.dtype.newbyteorder("<")).tobytes() for array in (answers.entropy, answers.scales, answers.states)
        )
    rule, digests = _digests(facts.teacher, facts.tokenizer, facts.example)
    fields = (scheme.number, answers.vocabulary, num_rows, *sizes, facts.seed, facts.temperature)
    header = _HEADER.pack(MAGIC, VERSION, _KINDS.index(scheme.kind), len(rule), *fields, rule, *digests)
    return b"".join([header, _CHECK.pack(zlib.crc32(header)), body, _CHECK.pack(zlib.crc32(body))])


def decode(block: bytes) -> tuple[BlockFacts, Answers]:
    """What `encode` was given.

    Raises:
        StageFailed: the block is cut short, altered, or of another version; says which part.
    """
    facts, vocabulary, num_rows, sizes = _read_header(block)
    body, check = block[_START : -_CHECK.size], block[-_CHECK.size :]
    expected = _body_bytes(facts.scheme, vocabulary, num_rows, *sizes)
    if len(body) != expected:
        raise StageFailed(f"token block of example {facts.example}: {len(body)} bytes of body, {expected} expected: cut short. {REMEDY}")
    if zlib.crc32(body) != _CHECK.unpack(check)[0]:
        raise StageFailed(f"token block of example {facts.example}: the body is altered (checksum). {REMEDY}")
    if facts.scheme.kind == "hidden":
        return facts, _decode_hidden(body, facts.scheme, vocabulary, num_rows, sizes[0])
    try:
        return facts, _decode_sparse(body, facts.scheme, vocabulary, num_rows, *sizes)
    except ValueError as error:  # a writer at fault: the checksums agree
        raise StageFailed(f"token block of example {facts.example}: {error}. {REMEDY}") from error


def _read_header(block: bytes) -> tuple[BlockFacts, int, int, tuple[int, int]]:
    if len(block) < _START + _CHECK.size:
        raise StageFailed(f"token block: {len(block)} bytes are less than a header: cut short. {REMEDY}")
    if block[:4] != MAGIC:
        raise StageFailed(f"token block: starts with {block[:4]!r}, not {MAGIC!r}: this is no token block, or it is altered. {REMEDY}")
    if zlib.crc32(block[: _HEADER.size]) != _CHECK.unpack_from(block, _HEADER.size)[0]:
        raise StageFailed(f"token block: the header is altered (checksum). {REMEDY}")
    _, version, kind, rule_bytes, number, vocabulary, rows, first, second, seed, temperature, rule, *digests = _HEADER.unpack_from(block)
    if version != VERSION or kind >= len(_KINDS):
        raise StageFailed(f"token block: version {version}, scheme {kind}; this version reads {VERSION}. Update stillroom.")
    teacher, tokenizer, example = (f"{rule[:rule_bytes].decode()}-{digest.hex()}" for digest in digests)
    facts = BlockFacts(TokenScheme(_KINDS[kind], number), teacher, tokenizer, example, temperature, seed)
    return facts, vocabulary, rows, (first, second)


def _digests(*fingerprints: str) -> tuple[bytes, list[bytes]]:
    """The hashing rule that the fingerprints share, and their digests."""
    rules, digests = set(), []
    for text in fingerprints:
        rule, _, digest = text.partition("-")
        if len(digest) != 40 or len(rule) > 8:
            raise ValueError(f"{text!r} is no fingerprint '<rule>-<40 hexadecimal digits>'.")
        rules.add(rule)
        digests.append(bytes.fromhex(digest))
    if len(rules) != 1:
        raise ValueError(f"fingerprints of different rules: {sorted(rules)}; make them with one version of stillroom.")
    return rules.pop().encode(), digests


def _count_bits(scheme: TokenScheme) -> int:
    """Bits for a count minus 1, which is below `units`."""
    return (scheme.units - 1).bit_length()


def _body_bytes(scheme: TokenScheme, vocabulary: int, rows: int, first: int, second: int) -> int:
    if scheme.kind == "hidden":
        return rows * (2 + 4 + first * scheme.number // 8)
    limit = rows * vocabulary
    return 2 * rows + sum(rising_bytes(first, limit)) + packed_bytes(first, _count_bits(scheme)) + sum(rising_bytes(second, limit))


def _encode_sparse(answers: TokenAnswers) -> bytes:
    limit = len(answers) * answers.vocabulary
    head = _positions(answers.head_offsets, answers.head_ids, answers.vocabulary)
    tail = _positions(answers.tail_offsets, answers.tail_ids, answers.vocabulary)
    counts = pack(answers.head_counts - 1, (answers.units - 1).bit_length())
    return b"".join([answers.entropy.astype("<f2").tobytes(), pack_rising(head, limit), counts, pack_rising(tail, limit)])


def _decode_sparse(body: bytes, scheme: TokenScheme, vocabulary: int, rows: int, heads: int, tails: int) -> TokenAnswers:
    limit = rows * vocabulary
    sizes = (2 * rows, sum(rising_bytes(heads, limit)), packed_bytes(heads, _count_bits(scheme)), sum(rising_bytes(tails, limit)))
    ends = np.cumsum(sizes).tolist()
    entropy, head, counts, tail = (body[end - size : end] for size, end in zip(sizes, ends, strict=True))
    return TokenAnswers(
        vocabulary,
        scheme.units,
        *_entries(unpack_rising(head, heads, limit), rows, vocabulary),
        unpack(counts, heads, _count_bits(scheme)) + 1,
        *_entries(unpack_rising(tail, tails, limit), rows, vocabulary),
        np.frombuffer(entropy, "<f2").astype(np.float16, copy=False),
    )


def _positions(offsets: NDArray[np.int64], ids: NDArray[np.int64], vocabulary: int) -> NDArray[np.int64]:
    """Rows and ids as one rising sequence: row * V + id. It tells the length of each row as well."""
    positions = ids + np.repeat(np.arange(len(offsets) - 1) * vocabulary, np.diff(offsets))
    assert (np.diff(positions) >= 0).all(), "ids rise within a row"
    assert not len(ids) or 0 <= ids.min() <= ids.max() < vocabulary, "ids are below V"
    return positions


def _entries(positions: NDArray[np.int64], rows: int, vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets and ids out of `_positions`."""
    starts = np.arange(rows + 1) * vocabulary
    offsets = positions.searchsorted(starts)
    positions -= np.repeat(starts[:-1], np.diff(offsets))
    return offsets, positions


def _decode_hidden(body: bytes, scheme: TokenScheme, vocabulary: int, rows: int, width: int) -> HiddenAnswers:
    entropy = np.frombuffer(body, "<f2", rows).astype(np.float16, copy=False)
    scales = np.frombuffer(body, "<f4", rows, 2 * rows).astype(np.float32, copy=False)
    states = np.frombuffer(body, "<u2" if scheme.number == 16 else "i1", rows * width, 6 * rows).reshape(rows, width)
    return HiddenAnswers(vocabulary, states.astype(states.dtype.newbyteorder("="), copy=False), scales, entropy)
