"""A block's laws: read(write(x)) == x, one size known beforehand, and nothing altered goes unseen."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import HiddenAnswers, TokenAnswers, TokenScheme
from stillroom.knowledge.token_bits import pack, pack_rising, rising_bytes, unpack, unpack_rising
from stillroom.knowledge.token_codec import BlockFacts, decode, encode

NAMES = {"teacher": fingerprint("t"), "tokenizer": fingerprint("v"), "example": fingerprint("e")}


def block_facts(scheme: TokenScheme, **changed: Any) -> BlockFacts:
    return BlockFacts(**{"scheme": scheme, "temperature": 1.5, "seed": -7, **NAMES, **changed})


def answers_of(source: np.random.Generator, vocabulary: int, rows: int, scheme: TokenScheme) -> TokenAnswers:
    """Rows of random length, a fifth of them empty, counts that fit into `units`."""

    def part(longest: int) -> tuple[np.ndarray, np.ndarray]:
        lengths = source.integers(0, min(longest, vocabulary) + 1, rows) * (source.random(rows) > 0.2)
        ids = [np.sort(source.choice(vocabulary, n, replace=False)) if vocabulary < 5000 else None for n in lengths]
        drawn = [np.unique(source.integers(0, vocabulary, n)) if one is None else one for n, one in zip(lengths, ids, strict=True)]
        return np.concatenate([[0], np.cumsum([len(one) for one in drawn])]).astype(np.int64), np.concatenate([[], *drawn]).astype(np.int64)

    head_offsets, head_ids = part(min(scheme.units, 12))
    counts = np.ones(len(head_ids), np.int64)
    for start, stop in pairwise(head_offsets):
        if stop > start:  # one entry gets what is left, sometimes all
            counts[start] += source.integers(0, scheme.units - (stop - start) + 1)
    tail_offsets, tail_ids = part(0 if scheme.kind != "threshold" else 30)
    entropy = source.gamma(1.0, 2.0, rows).astype(np.float16)
    return TokenAnswers(vocabulary, scheme.units, head_offsets, head_ids, counts, tail_offsets, tail_ids, entropy)


def assert_equal(found: Any, wanted: Any) -> None:
    assert type(found) is type(wanted)
    for name, value in vars(wanted).items():
        if isinstance(value, np.ndarray):
            assert getattr(found, name).dtype == value.dtype, name
            np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)
        else:
            assert getattr(found, name) == value, name


SCHEMES = [
    TokenScheme("threshold", 100),
    TokenScheme("threshold", 2),
    TokenScheme("sampled", 50),
    TokenScheme("sampled", 1),
    TokenScheme("top-k", 12),
]


@settings(max_examples=150, deadline=None)
@given(
    vocabulary=st.one_of(st.integers(1, 600), st.sampled_from([32000, 128256, 151936, 1 << 20])),
    rows=st.integers(0, 40),
    scheme=st.sampled_from(SCHEMES),
    seed=st.integers(0, 2**32),
)
def test_reading_gives_what_was_written(vocabulary: int, rows: int, scheme: TokenScheme, seed: int) -> None:
    answers = answers_of(np.random.default_rng(seed), vocabulary, rows, scheme)
    facts = block_facts(scheme, seed=seed, temperature=0.1 + seed % 7)
    found_facts, found = decode(encode(facts, answers))
    assert found_facts == facts
    assert_equal(found, answers)


@pytest.mark.parametrize("number", [8, 16])
@pytest.mark.parametrize("rows", [0, 5])
def test_hidden_states_come_back(number: int, rows: int) -> None:
    source = np.random.default_rng(0)
    kind = np.int8 if number == 8 else np.uint16
    states = source.integers(0, 2**number, (rows, 24)).astype(np.uint16).astype(kind)
    answers = HiddenAnswers(500, states, source.random(rows).astype(np.float32), source.random(rows).astype(np.float16))
    found_facts, found = decode(encode(block_facts(TokenScheme("hidden", number)), answers))
    assert found_facts.scheme == TokenScheme("hidden", number)
    assert_equal(found, answers)


@settings(max_examples=150, deadline=None)
@given(width=st.integers(0, 56), count=st.integers(0, 40), seed=st.integers(0, 999))
def test_fields_of_any_width(width: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 1 << width, count)
    content = pack(values, width)
    assert len(content) == (count * width + 7) // 8
    assert unpack(content, count, width).tolist() == values.tolist()
    want = sum(value << i * width for i, value in enumerate(values.tolist()))  # the definition, in Python's long numbers
    assert int.from_bytes(content, "little") == want


@settings(max_examples=150, deadline=None)
@given(limit=st.integers(1, 1 << 40), count=st.integers(0, 60), seed=st.integers(0, 999))
def test_rising_numbers(limit: int, count: int, seed: int) -> None:
    values = np.sort(np.random.default_rng(seed).integers(0, limit, count))  # repeats among them where the limit is low
    content = pack_rising(values, limit)
    assert len(content) == sum(rising_bytes(count, limit))
    assert unpack_rising(content, count, limit).tolist() == values.tolist()
    if count:
        assert len(content) * 8 <= count * (3 + max(np.log2(limit / count), 0)) + 24


def test_what_the_numbers_mean() -> None:
    """By hand: a one-hot row; counts and a shared rest; a tail mass; an equal row."""
    answers = TokenAnswers(
        10,
        8,
        np.array([0, 1, 3, 4, 4]),
        np.array([7, 1, 4, 2]),
        np.array([8, 3, 1, 6]),
        np.array([0, 0, 2, 2, 6]),
        np.array([0, 9, 0, 3, 5, 6]),
        np.array([0, 1, 2, 3], np.float16),
    )
    rows = answers.sparse()
    ids, probs = rows.padded()
    assert rows.offsets.tolist() == [0, 1, 5, 6, 10]
    assert ids.tolist() == [[7, 0, 0, 0], [1, 4, 0, 9], [2, 0, 0, 0], [0, 3, 5, 6]]
    assert probs.tolist() == [[1, 0, 0, 0], [0.375, 0.125, 0.25, 0.25], [0.75, 0, 0, 0], [0.25] * 4]
    assert rows.tail.tolist() == [0, 0, 0.25, 0]
    assert rows.entropy.tolist() == [0, 1, 2, 3]
    assert rows.padded(6)[1].shape == (4, 6)
    with pytest.raises(ValueError, match="width = 3, but a row has 4 entries"):
        rows.padded(3)
    assert_equal(
        answers.rows(1, 3).sparse(), type(rows)(np.array([0, 4, 5]), rows.ids[1:6], rows.probs[1:6], rows.tail[1:3], rows.entropy[1:3])
    )


def test_any_flipped_bit_and_any_cut_is_found() -> None:
    scheme = TokenScheme("threshold", 20)
    block = encode(block_facts(scheme), answers_of(np.random.default_rng(1), 1000, 6, scheme))
    for place in range(len(block)):
        altered = bytearray(block)
        altered[place] ^= 1 << place % 8
        with pytest.raises(StageFailed, match=r"token block.*(altered|cut short|version)"):
            decode(bytes(altered))
    for size in range(len(block)):
        with pytest.raises(StageFailed, match="cut short"):
            decode(block[:size])
    with pytest.raises(StageFailed, match="cut short"):
        decode(block + b"\0")


def test_a_body_fault_names_the_example() -> None:
    scheme = TokenScheme("threshold", 20)
    block = encode(block_facts(scheme), answers_of(np.random.default_rng(1), 1000, 6, scheme))
    with pytest.raises(StageFailed, match=rf"example {NAMES['example']}: the body is altered.*stillroom label"):
        decode(block[:-6] + bytes([block[-6] ^ 1]) + block[-5:])


def test_refusals() -> None:
    scheme = TokenScheme("sampled", 4)
    answers = answers_of(np.random.default_rng(0), 8, 2, scheme)
    with pytest.raises(ValueError, match="is no fingerprint"):
        encode(block_facts(scheme, teacher="sr1-7e"), answers)
    with pytest.raises(ValueError, match="fingerprints of different rules"):
        encode(block_facts(scheme, teacher="sr0-" + "0" * 40), answers)
    with pytest.raises(ValueError, match=r"vocabulary = 1048577 is outside 1 to 1048576"):
        encode(block_facts(scheme), TokenAnswers(**{**vars(answers), "vocabulary": (1 << 20) + 1}))
    with pytest.raises(ValueError, match=r"scheme.kind = 'topk' is not one of"):
        TokenScheme("topk", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scheme.number = 12 is not allowed for 'hidden'; allowed: 8 or 16"):
        TokenScheme("hidden", 12)
    with pytest.raises(ValueError, match=r"scheme.number = 0 is not allowed for 'sampled'; allowed: 1 to 65536"):
        TokenScheme("sampled", 0)


def test_the_documented_layout() -> None:
    """docs/token-codec.md, followed by hand: a stranger can read a block."""
    answers = TokenAnswers(
        100, 8, np.array([0, 1]), np.array([42]), np.array([5]), np.array([0, 2]), np.array([3, 77]), np.array([1.5], np.float16)
    )
    block = encode(block_facts(TokenScheme("threshold", 4)), answers)
    assert block[:8] == b"SRTK\x01\x00\x03\x00"
    assert np.frombuffer(block, "<u4", 5, 8).tolist() == [4, 100, 1, 1, 2]
    assert np.frombuffer(block, "<i8", 1, 28).tolist() == [-7]
    assert np.frombuffer(block, "<f8", 1, 36).tolist() == [1.5]
    assert block[44:52] == b"sr1".ljust(8, b"\0")
    assert [block[at : at + 20].hex() for at in (52, 72, 92)] == [NAMES[n].partition("-")[2] for n in ("teacher", "tokenizer", "example")]
    body = block[116:-4]
    assert np.frombuffer(body, "<f2", 1).tolist() == [1.5]
    # One head entry below 100: floor(log2(100 / 1)) = 6 low bits; 42 = 0 * 64 + 42, so bit 0 of 1 + 1 + 1 high bits.
    assert body[2:4] == bytes([42, 0b1])
    assert body[4] == 5 - 1  # in 3 bits
    # Two tail entries: 5 low bits each. 3 = 0 * 32 + 3 and 77 = 2 * 32 + 13: bits 0 + 0 and 2 + 1 of 2 + 3 + 1.
    assert int.from_bytes(body[5:7], "little") == 3 | 13 << 5
    assert body[7:] == bytes([0b1001])
