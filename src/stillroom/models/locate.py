"""Where the weights lie that a job names. Imports nothing heavy."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from stillroom.core.errors import BadInput

_IN_PACKAGE = "package:"


def locate_model(name: str, place: str = "model") -> str:
    """The folder of a model, or `name` itself where it is a hub id.

    Args:
        name: a folder, a hub id, or "package:NAME/FOLDER" for weights that an installed package carries.

    Raises:
        BadInput: the package is not installed, or has no such folder.
    """
    if not name.startswith(_IN_PACKAGE):
        return name
    package, _, inside = name.removeprefix(_IN_PACKAGE).partition("/")
    found = find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        distribution = package.replace("_", "-")
        raise BadInput.at(place, f"= {name!r}: the package {package!r} is not installed; pip install {distribution}")
    folder = Path(found.submodule_search_locations[0]) / inside
    if not folder.is_dir():
        raise BadInput.at(place, f"= {name!r}: the package has no folder {inside!r}.")
    return str(folder)
