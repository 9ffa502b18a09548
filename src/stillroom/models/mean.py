"""The weighted mean of several predictors (Hinton et al. 2015, section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stillroom.core.errors import BadInput
from stillroom.core.protocols import Predictor
from stillroom.models.load import load_predictor
from stillroom.models.manifest import read_manifest, write_manifest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray


class MeanPredictor:
    """The weighted arithmetic mean of the members' probabilities (or values), class for class by name.

    Args:
        members: at least one; all with the same classes, in any order. The first one's order counts.
        weights: relative, above 0, one a member.

    Raises:
        BadInput: members whose classes differ.
    """

    def __init__(self, members: Sequence[Predictor], weights: Sequence[float]) -> None:
        assert len(members) == len(weights), f"{len(members)} members, {len(weights)} weights"
        assert min(weights) > 0, weights
        self.members, self.weights = tuple(members), tuple(float(weight) for weight in weights)
        self.classes: tuple[str, ...] = tuple(members[0].classes)
        for i, member in enumerate(members):
            if sorted(member.classes) != sorted(self.classes):
                lists = f"{', '.join(member.classes) or 'no classes'}; the first member answers {', '.join(self.classes) or 'no classes'}"
                raise BadInput.at(f"members[{i}]", f"answers {lists}. Members of an ensemble must know the same classes.")

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`, or (n,) values."""
        answers = [self._aligned(member, member.predict_values(features)) for member in self.members]
        return np.asarray(np.average(answers, axis=0, weights=self.weights), dtype=np.float64)

    def save(self, folder: Path) -> None:
        """Write each member into a folder of its own, and predictor.json."""
        names = [f"member-{i}" for i in range(len(self.members))]
        for name, member in zip(names, self.members, strict=True):
            (folder / name).mkdir(parents=True, exist_ok=True)
            member.save(folder / name)
        write_manifest(folder, kind="mean", classes=self.classes, members=names, weights=list(self.weights))

    def _aligned(self, member: Predictor, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if member.classes == self.classes:
            return values
        return values[:, [member.classes.index(name) for name in self.classes]]


def load(folder: Path, *, allow_code: bool = False) -> MeanPredictor:
    """The predictor that `MeanPredictor.save` wrote."""
    facts = read_manifest(folder)
    return MeanPredictor([load_predictor(folder / name, allow_code=allow_code) for name in facts["members"]], facts["weights"])
