"""Content addresses: equal content gives an equal fingerprint, on any machine and in any process.

A fingerprint is "<rule>-<hex>". The rule names the hashing scheme, so that a store written under an older
rule is recognised instead of being silently missed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

RULE = "sr1"
"""blake2b with 20 bytes of digest over the type-tagged encoding of `_encode`."""

_DIGEST_BYTES = 20
_int64, _float64 = struct.Struct("<q").pack, struct.Struct("<d").pack


def fingerprint(*facts: object) -> str:
    """The fingerprint of a sequence of facts.

    Facts are None, bool, int, float, str, bytes, NumPy arrays, and mappings and sequences of these. Mappings
    are hashed by sorted key; 1, 1.0, True and "1" all differ.

    Raises:
        TypeError: a fact of another type, whose encoding nobody has fixed.
    """
    digest = blake2b(digest_size=_DIGEST_BYTES)
    _encode(facts, digest.update)
    return f"{RULE}-{digest.hexdigest()}"


def file_fingerprint(path: Path) -> str:
    """The fingerprint of a file's bytes."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"{RULE}-{digest.hexdigest()}"


def folder_fingerprint(path: Path) -> str:
    """The fingerprint of every file below a folder, with their relative names."""
    files = sorted(p for p in path.rglob("*") if p.is_file())
    return fingerprint([[p.relative_to(path).as_posix(), file_fingerprint(p)] for p in files])


def row_fingerprints(frame: pd.DataFrame) -> list[str]:
    """One fingerprint a row, over column names and values; the index and the column order do not matter.

    Numbers are compared as float64, so an int column and its float twin agree; any missing value is one value.
    """
    names = sorted(str(name) for name in frame.columns)
    header = fingerprint(names).encode()
    columns = [_column_bytes(frame[name]) for name in names]
    prefix = blake2b(header, digest_size=_DIGEST_BYTES)
    keys = []
    for cells in zip(*columns, strict=True):
        digest = prefix.copy()
        for cell in cells:
            digest.update(cell)
        keys.append(f"{RULE}-{digest.hexdigest()}")
    return keys


def _column_bytes(column: pd.Series[Any]) -> list[bytes]:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    missing = column.isna().to_numpy()
    if is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
        numbers = column.to_numpy(dtype="float64", na_value=float("nan"))
        # + 0.0 turns -0.0 into 0.0: equal numbers, equal keys.
        return [b"-" if gone else b"f" + _float64(x + 0.0) for x, gone in zip(numbers.tolist(), missing, strict=True)]
    cells = (b"" if gone else str(cell).encode() for cell, gone in zip(column.tolist(), missing, strict=True))
    return [b"-" if gone else b"s" + _int64(len(cell)) + cell for cell, gone in zip(cells, missing, strict=True)]


def _encode(fact: object, write: Callable[[bytes], None]) -> None:
    # Written piece by piece into the digest: a forest's state is a million facts, ten levels deep.
    match fact:
        case str():  # most facts are
            write(_sized(b"s", fact.encode()))
        case None:
            write(b"n")
        case bool():
            write(b"T" if fact else b"F")
        case int():
            write(_sized(b"i", str(fact).encode()))
        case float():
            write(b"f" + _float64(fact))
        case bytes():
            write(_sized(b"b", fact))
        case dict() | Mapping():
            write(b"d" + _int64(len(fact)))
            for key in sorted(fact):
                _encode(key, write)
                _encode(fact[key], write)
        case list() | tuple() | Sequence():
            write(b"l" + _int64(len(fact)))
            for item in fact:
                _encode(item, write)
        case _ if type(fact).__module__ == "numpy":
            _encode_array(fact, write)
        case _:
            raise TypeError(f"no encoding is fixed for {type(fact).__name__}; convert it to plain data first.")


def _encode_array(fact: object, write: Callable[[bytes], None]) -> None:
    import numpy as np

    array = np.asarray(fact, order="C")  # ascontiguousarray would make a list of a scalar
    if array.dtype.hasobject:
        raise TypeError("an object array has no fixed bytes; convert it to a plain dtype or a list.")
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    write(_sized(b"a", array.dtype.str.encode()))
    _encode([int(size) for size in array.shape], write)
    write(array.tobytes())


def _sized(tag: bytes, content: bytes) -> bytes:
    return tag + _int64(len(content)) + content
