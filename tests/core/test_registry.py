"""Built-in and installed kinds are found the same way; an installed one cannot take a built-in one's place."""

from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from stillroom.core.errors import BadInput
from stillroom.core.registry import is_plugin, resolve

BUILTIN = {"plain": "json:dumps", "absent": "no_such_package_here:make"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    """Entry points, as installed packages would add them; the test fills the list."""
    added: list[EntryPoint] = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **wanted: EntryPoints(added).select(**wanted))
    return added


def test_a_kind_is_imported_by_its_name_and_no_other_is(installed: list[EntryPoint]) -> None:
    import json

    installed.append(EntryPoint("new", "json:loads", "stillroom.students"))
    installed.append(EntryPoint("broken", "no_such_package_here:make", "stillroom.students"))
    assert resolve("students", "plain", BUILTIN) is json.dumps
    assert resolve("students", "new", BUILTIN) is json.loads
    assert is_plugin("students", "new")
    assert not is_plugin("teachers", "new")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here"):
        resolve("students", "broken", BUILTIN)


def test_an_unknown_kind_gets_its_neighbour_and_where_more_come_from() -> None:
    with pytest.raises(BadInput, match=r"^students.kind: 'plian' is not a known kind; did you mean 'plain'\? .*'stillroom\.students'\.$"):
        resolve("students", "plian", BUILTIN)


def test_an_installed_kind_may_not_replace_a_built_in_one(installed: list[EntryPoint]) -> None:
    installed.append(EntryPoint("plain", "json:loads", "stillroom.students"))
    with pytest.raises(BadInput, match=r"^students: an installed package redefines \['plain'\]; rename them there\.$"):
        resolve("students", "plain", BUILTIN)
