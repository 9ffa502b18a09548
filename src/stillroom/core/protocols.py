"""What the areas promise each other. Arrays follow `stillroom.core.records`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from stillroom.core.records import Batch

Progress = Callable[[int, int], None]
"""progress(done, total): called as work goes on; never with a smaller `done` than before."""


class Predictor(Protocol):
    """Anything that predicts: an arm of the evaluation."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    def predict_values(self, features: pd.DataFrame) -> NDArray[np.float64]:
        """(n, K) probabilities in the order of `classes`, or (n,) values where `classes` is ()."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything that `stillroom.models.load_predictor` needs into an empty folder."""
        ...


class Teacher(Predictor, Protocol):
    """A frozen teacher. `fingerprint` covers all that shapes its answers, and is the same before and after answering."""

    @property
    def fingerprint(self) -> str: ...


class TeacherRecipe(Protocol):
    """A teacher that has to be fitted on the job's own rows before it answers."""

    @property
    def fingerprint(self) -> str:
        """Covers the recipe: what is fitted, with which parameters, package versions and preprocessing; not the rows."""
        ...

    def fit(self, examples: Batch, classes: tuple[str, ...], *, seed: int) -> Teacher:
        """Fit on labelled examples. `classes` are all the task's classes: a class absent from `examples` gets a column of zeros."""
        ...


class AnswerStore(Protocol):
    """Durable answers by key. An answer counts once `put` has returned."""

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions in `keys` that have no stored answer yet."""
        ...

    def put(self, keys: Sequence[str], values: NDArray[np.float64], facts: Sequence[dict[str, Any]]) -> None:
        """Store one answer a key: a row of `values` (a scalar row for regression) and the plain facts that its key was made of.
        Durable when it returns; a key that is there already keeps its first answer."""
        ...

    def get(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """The answers in the order of `keys`: (n, K), or (n,) where answers are scalars. Raises KeyError for a missing key."""
        ...

    def put_context(self, context: str, rows: Sequence[str]) -> None:
        """Record the keys of the rows that a teacher was fitted on, under the fingerprint of that context."""
        ...

    def context(self, context: str) -> list[str]:
        """The row keys recorded for a context."""
        ...


class BlockStore(Protocol):
    """Durable answers by key that are bytes. An answer counts once `put_blocks` has returned. Safe to use from several threads."""

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Positions in `keys` that have no stored answer yet."""
        ...

    def put_blocks(self, keys: Sequence[str], blocks: Sequence[bytes], facts: Sequence[dict[str, Any]]) -> None:
        """Store one answer a key, all or none of them; key == fingerprint("answer", facts). A key that is there keeps its first answer."""
        ...

    def get_blocks(self, keys: Sequence[str]) -> list[bytes]:
        """The answers in the order of `keys`. Raises KeyError for a missing key."""
        ...

    def questions(self) -> list[dict[str, Any]]:
        """What the store's answers answer: their facts but for the example, each combination once."""
        ...


class SoftLabelObjective(Protocol):
    """loss = (1 - w) * T**2 * mean over answered rows KL(p_T || q_T) + w * mean over labelled rows CE(y, q).

    NumPy side, for estimators (Hinton et al. 2015, section 2). p: (n, K) teacher probabilities, NaN in rows without an answer;
    codes: (n,) int64, -1 for an unlabelled row; raw: (n, K) student logits.
    """

    def targets(self, p: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n, K) masses to fit by weighted cross-entropy with a student whose output is the *tempered* distribution."""
        ...

    def logit_scale(self, p: NDArray[np.float64], codes: NDArray[np.int64]) -> float:
        """What the log-probabilities of such a student are multiplied by at prediction, before softmax:
        T where w = 0, 1 where T = 1 or w = 1."""
        ...

    def loss(self, raw: NDArray[np.float64], p: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) each row's part of the loss in nats; the mean over the rows is the loss."""
        ...

    def gradient(
        self, raw: NDArray[np.float64], p: NDArray[np.float64], codes: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(n, K) first derivative of each row's loss and (n, K) diagonal of the second, both by `raw`."""
        ...

    def prior_logits(self, p: NDArray[np.float64], codes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,) the logits of the constant student with the least loss: where boosting starts."""
        ...
