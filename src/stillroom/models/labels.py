"""Matching an estimator's classes to the task's: by code for what was fitted here, by name for what comes from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stillroom.core.errors import BadInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

Labels = Literal["codes", "names"]


def class_codes(found: Sequence[Any], classes: Sequence[str], *, labels: Labels, place: str = "classes") -> NDArray[np.intp]:
    """(k,) the position in `classes` of each of an estimator's k classes_.

    Args:
        labels: what `found` holds: codes into `classes`, or names. Strings are always names.

    Raises:
        BadInput: a name that `classes` lacks.
    """
    if labels == "codes" and not isinstance(found[0], str):
        codes = np.asarray(found).astype(np.intp)
        assert set(codes) <= set(range(len(classes))), f"codes {found} of {len(classes)} classes"
        return codes
    names = [class_name(label) for label in found]
    if strangers := [name for name in names if name not in classes]:
        lists = f"The estimator's classes: {', '.join(names)}; the data's: {', '.join(classes)}."
        raise BadInput.at(place, f"the estimator knows {', '.join(strangers)}, which the data has not. {lists} Name them alike.")
    return np.array([list(classes).index(name) for name in names], dtype=np.intp)


def class_name(label: object) -> str:
    """A label as a class name: 1, 1.0 and "1" are all "1"."""
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        label = int(label)
    return str(label)
