"""Whole numbers in few bits: fields of a fixed width, and rising sequences. Bit 0 of byte 0 comes first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MAX_WIDTH = 56
"""A field starts within a byte (7 bits) and is read out of one 64-bit word."""


def packed_bytes(count: int, width: int) -> int:
    """The size of `count` fields of `width` bits."""
    return (count * width + 7) // 8


def pack(values: NDArray[np.int64], width: int) -> bytes:
    """Non-negative numbers below 2**width, one after the other."""
    assert 0 <= width <= _MAX_WIDTH
    assert not len(values) or 0 <= values.min() <= values.max() < 1 << width
    bits = np.unpackbits(values.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, count=width, bitorder="little")
    return np.packbits(bits.ravel(), bitorder="little").tobytes()


def unpack(content: bytes, count: int, width: int) -> NDArray[np.int64]:
    """What `pack` was given."""
    if not width or not count:
        return np.zeros(count, np.int64)
    # Eight fields fill `width` bytes. The i-th fields of all groups are the words at one offset, `width` bytes apart.
    groups = -(-count // 8)
    words = content + bytes(groups * width + 8 - len(content))
    values = np.empty((groups, 8), np.int64)
    mask = (1 << width) - 1
    for i in range(8):
        byte, shift = divmod(i * width, 8)
        values[:, i] = np.ndarray((groups,), "<i8", words, byte, (width,))
        values[:, i] >>= shift
    values &= mask
    return values.reshape(-1)[:count]


def low_width(count: int, limit: int) -> int:
    """How many low bits of each of `count` numbers below `limit` are written as they are."""
    return max((limit // count).bit_length() - 1, 0) if count else 0


def rising_bytes(count: int, limit: int) -> tuple[int, int]:
    """The sizes of the two parts of `pack_rising`."""
    width = low_width(count, limit)
    return packed_bytes(count, width), packed_bytes(count + (limit >> width) + 1 if count else 0, 1)


def pack_rising(values: NDArray[np.int64], limit: int) -> bytes:
    """A rising sequence of numbers below `limit` in about 2 + log2(limit / count) bits each.

    The low bits of each number are written as they are. Of the high ones only the differences are, in unary: number i
    sets bit `high + i`.

    Source: Elias 1974, "Efficient storage and retrieval by content and address of static files".
    """
    if not len(values):
        return b""
    width = low_width(len(values), limit)
    bits = np.zeros(len(values) + (limit >> width) + 1, np.uint8)
    bits[(values >> width) + np.arange(len(values))] = 1
    return pack(values & ((1 << width) - 1), width) + np.packbits(bits, bitorder="little").tobytes()


def unpack_rising(content: bytes, count: int, limit: int) -> NDArray[np.int64]:
    """What `pack_rising` was given.

    Raises:
        ValueError: the content holds another number of values.
    """
    if not count:
        return np.zeros(0, np.int64)
    size, _ = rising_bytes(count, limit)
    width = low_width(count, limit)
    ones = np.flatnonzero(np.unpackbits(np.frombuffer(content, np.uint8, offset=size), bitorder="little").view(np.bool_))
    if len(ones) != count:
        raise ValueError(f"{len(ones)} numbers where {count} are announced")
    ones -= np.arange(count)
    ones <<= width
    ones |= unpack(content[:size], count, width)
    return ones
