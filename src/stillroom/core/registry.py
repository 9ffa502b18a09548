"""One lazy dictionary a group: built-in kinds and installed plugins are resolved the same way."""

from __future__ import annotations

from collections.abc import Mapping

from stillroom.core.errors import BadInput, nearest


def is_plugin(group: str, kind: str) -> bool:
    """Does an installed package add `kind` to the entry-point group "stillroom.<group>"?"""
    from importlib.metadata import entry_points

    return bool(entry_points(group=f"stillroom.{group}", name=kind))


def resolve(group: str, kind: str, builtin: Mapping[str, str]) -> object:
    """Import the builder called `kind`, and only that one.

    `builtin` maps kinds to "module:attribute"; installed packages add kinds through the
    entry-point group "stillroom.<group>" and may not replace a built-in one.

    Raises:
        BadInput: no such kind, or an installed package redefines a built-in one.
    """
    from importlib.metadata import EntryPoint, entry_points  # slow to import, and rarely needed

    added = {e.name: e.value for e in entry_points(group=f"stillroom.{group}")}
    if clash := sorted(added.keys() & builtin.keys()):
        raise BadInput.at(group, f"an installed package redefines {clash}; rename them there.")
    table = {**builtin, **added}
    if kind not in table:
        hint = nearest(kind, table)
        added_by = f"Packages add one in 'stillroom.{group}'."
        raise BadInput.at(f"{group}.kind", f"{kind!r} is not a known kind; {hint} {added_by}")
    return EntryPoint(kind, table[kind], group).load()
