"""The garbage collector while many small objects live."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from stillroom.core.garbage import collecting_rarely


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("user", "inside"),
    [((700, 10, 10), (10_000, 20, 50)), ((50_000, 10, 100), (50_000, 20, 100)), ((0, 10, 10), (0, 10, 10))],
    ids=["as Python has it", "rarer already", "off"],
)
def test_collections_are_rare_in_the_block_and_as_before_after_it(user: tuple[int, ...], inside: tuple[int, ...]) -> None:
    gc.set_threshold(*user)
    with pytest.raises(ValueError, match="invalid literal"), collecting_rarely():
        int(f"thresholds {gc.get_threshold()}")
    assert gc.get_threshold() == user
    with collecting_rarely():
        assert gc.get_threshold() == inside


def test_few_collections_run_while_many_objects_are_made() -> None:
    gc.set_threshold(700, 10, 10)
    found = []
    for rarely in (False, True):
        before = sum(each["collections"] for each in gc.get_stats())
        if rarely:
            with collecting_rarely():
                kept = [[] for _ in range(9_000)]
        else:
            kept = [[] for _ in range(9_000)]
        found.append(sum(each["collections"] for each in gc.get_stats()) - before)
        del kept
    assert found[0] >= 10
    assert found[1] <= 1
