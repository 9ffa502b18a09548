"""Equal content, equal fingerprint; any difference in value, type, order or nesting, another one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillroom.core.fingerprint import RULE, file_fingerprint, fingerprint, folder_fingerprint, row_fingerprints

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words | st.binary(max_size=4)
facts = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=8)


def shape_of(fact: Any) -> Any:
    """A value that is equal for equal facts only: Python's own 1 == 1.0 == True, and 0.0 == -0.0, must not pass."""
    if isinstance(fact, dict):
        return ("dict", tuple(sorted((key, shape_of(value)) for key, value in fact.items())))
    if isinstance(fact, list):
        return ("list", tuple(shape_of(item) for item in fact))
    return (type(fact).__name__, repr(fact))


@given(facts, facts)
def test_fingerprints_are_equal_exactly_where_the_facts_are(one: Any, other: Any) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (shape_of(one) == shape_of(other))


@given(words, words)
def test_no_two_ways_of_cutting_agree(one: str, other: str) -> None:
    whole = [fingerprint(one + other), fingerprint(one, other), fingerprint([one, other]), fingerprint([one], other)]
    assert len(set(whole)) == 4


def test_the_order_of_keys_is_no_fact_and_that_of_items_is() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_arrays_differ_by_shape_type_and_value_and_not_by_layout() -> None:
    array = np.arange(6, dtype=np.int64).reshape(2, 3)
    others = [array.ravel(), array.T, array.astype(float), array.astype(np.int32), array + 1, array[:1], array.tolist(), np.int64(1)]
    others += [np.array([1]), np.array(1.5), 1]
    assert len({fingerprint(other) for other in (array, *others)}) == len(others) + 1
    for same in (np.asfortranarray(array), array[::-1][::-1], array.astype(">i8")):
        assert fingerprint(same) == fingerprint(array)


def test_what_has_no_fixed_bytes_is_refused() -> None:
    for fact in ({1, 2}, object(), np.array([object()])):
        with pytest.raises(TypeError, match="convert it to"):
            fingerprint(fact)


def test_the_hash_is_the_one_that_stores_were_written_with() -> None:
    """A number copied from our own output: where it changes, every stored answer is lost. Then RULE must change, and this line."""
    assert RULE == "sr1"
    assert fingerprint("answer", {"example": "x", "seed": 0, "p": 0.5}) == "sr1-6358fc567ffe7a26c1ef9cf3d7e64a4fb2262688"


def test_equal_in_another_process() -> None:
    code = "from stillroom.core.fingerprint import fingerprint; print(fingerprint({'b': [1, None], 'a': 'ü'}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == fingerprint({"a": "ü", "b": [1, None]})


def test_files_and_folders_count_by_content_and_name(tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    (tmp_path / "m" / "deep" / "a").write_bytes(b"x")
    first = folder_fingerprint(tmp_path / "m")
    assert first == folder_fingerprint((tmp_path / "m").rename(tmp_path / "moved"))
    file = tmp_path / "moved" / "deep" / "a"
    before = file_fingerprint(file)
    file.write_bytes(b"y")
    assert folder_fingerprint(tmp_path / "moved") != first
    assert file_fingerprint(file) != before
    file.write_bytes(b"x")
    assert file_fingerprint(file.rename(file.with_name("b"))) == before
    assert folder_fingerprint(tmp_path / "moved") != first


def test_rows_count_by_named_values_alone() -> None:
    frame = pd.DataFrame({"n": [1.0, None, 0.0], "w": ["1", None, ""]}, index=[7, 7, 9])
    keys = row_fingerprints(frame)
    assert len(set(keys)) == 3
    assert row_fingerprints(frame[["w", "n"]].reset_index(drop=True)) == keys
    assert row_fingerprints(frame.replace({"n": {0.0: -0.0}})) == keys
    assert row_fingerprints(frame.rename(columns={"n": "m"})) != keys
    assert row_fingerprints(pd.DataFrame({"n": [1], "w": ["1"]})) == keys[:1]  # an int column and its float twin
    swapped = pd.DataFrame({"n": ["1"], "w": [1.0]})
    assert row_fingerprints(swapped) != keys[:1]
    cut = [row_fingerprints(pd.DataFrame({"a": [a], "b": [b]})) for a, b in (("xy", "z"), ("x", "yz"), ("xyz", ""))]
    assert len({key for (key,) in cut}) == 3
