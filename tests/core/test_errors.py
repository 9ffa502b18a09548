"""Errors hold every problem, cross process boundaries whole, and help with the spelling."""

from __future__ import annotations

import pickle

import pytest

from stillroom.core.errors import BadInput, MissingExtra, Problem, collecting, for_each, nearest, needs_extra


def test_for_each_tells_the_problems_of_all_and_keeps_the_order() -> None:
    def half(number: int) -> int:
        if number % 2:
            raise BadInput.at(f"item {number}", "is odd.")
        return number // 2

    assert for_each(half, (4, 2)) == [2, 1]
    with pytest.raises(BadInput) as caught:
        for_each(half, (1, 2, 3))
    assert str(caught.value) == "item 1: is odd.\nitem 3: is odd."


def test_only_bad_input_is_collected() -> None:
    problems: list[Problem] = []
    with pytest.raises(KeyError), collecting(problems):
        raise KeyError
    assert problems == []


@pytest.mark.parametrize("error", [BadInput([Problem("a", "b"), Problem("", "c")]), MissingExtra("torch", "an encoder")])
def test_an_error_survives_pickling(error: BadInput | MissingExtra) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_missing_package_is_advice_and_a_missing_module_of_ours_a_bug() -> None:
    with (
        pytest.raises(MissingExtra, match=r"^an encoder needs the extra 'torch': pip install 'stillroom\[torch\]'$"),
        needs_extra("torch", "an encoder"),
    ):
        import no_such_package_here  # noqa: F401
    with pytest.raises(ModuleNotFoundError, match=r"stillroom\.nothing"), needs_extra("torch", "an encoder"):
        import stillroom.nothing  # noqa: F401


def test_a_misspelt_word_gets_its_neighbour_or_the_list() -> None:
    assert nearest("temprature", ["temperature", "kind"]) == "did you mean 'temperature'?"
    assert nearest("xyz", ["b", "a"]) == "allowed: a, b."
