"""Texts as a data set: tokenised once, batched by length, padded to the longest of their batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import needs_extra
from stillroom.core.fingerprint import fingerprint
from stillroom.models.batching import as_texts
from stillroom.models.text import forward_names

with needs_extra("torch", "training an encoder"):
    import torch
    from torch import Tensor
    from torch.utils.data import Dataset, Sampler

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_POOL = 50
"""Batches that are sorted by length together, at most: 50 as in transformers. More saves little padding more."""


class TokenisedTexts(Dataset[dict[str, Any]]):
    """Examples as rows of token ids, class codes and the teacher's log-probabilities, in the model's own label order.

    Args:
        codes: (n,) into the model's outputs; negative where there is no label.
        probs: (n, K) the teacher's, in the order of the model's outputs; rows of NaN have no answer. None: no answers at all.
    """

    def __init__(
        self,
        texts: Sequence[Any],
        codes: NDArray[np.int64],
        probs: NDArray[np.float64] | None,
        *,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> None:
        # log 0 = -inf is meant: a class that the teacher rules out.
        with np.errstate(divide="ignore"):
            log_probs = None if probs is None else np.log(probs).astype(np.float32)
        self._take(tokenizer(as_texts(texts), truncation=True, max_length=max_length), codes, log_probs, model, tokenizer)

    def _take(self, rows: Any, codes: Any, log_probs: Any, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Keep a tokenizer's rows and what is learnt of each."""
        self.columns = {name: rows[name] for name in forward_names(model, rows)}
        self.codes, self.log_probs, self.tokenizer = codes, log_probs, tokenizer
        self.lengths = [len(ids) for ids in rows["input_ids"]]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> dict[str, Any]:
        example = {name: values[row] for name, values in self.columns.items()} | {"labels": self.codes[row]}
        return example if self.log_probs is None else example | {"teacher_log_probs": self.log_probs[row]}

    @property
    def fingerprint(self) -> str:
        flat = {name: np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]) for name, rows in self.columns.items()}
        return fingerprint(flat, np.asarray(self.lengths), self.codes, self.log_probs)

    def collate(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One padded batch of tensors."""
        batch = dict(self.tokenizer.pad({name: [e[name] for e in examples] for name in self.columns}, return_tensors="pt"))
        for name in ("labels", "teacher_log_probs"):
            if name in examples[0]:
                batch[name] = self.together([e[name] for e in examples])
        return batch

    def together(self, values: Sequence[Any]) -> Tensor:
        """What is learnt of each row, as one tensor."""
        return torch.tensor(np.stack(values))


class LengthGroupedSampler(Sampler[int]):
    """Random batches of similar length: padding is work without use.

    Unlike the sampler of the same name in transformers, batches of all lengths are mixed (there an epoch runs from long
    to short, 50 batches at a time), and the order depends on seed and epoch alone, so that a resumed epoch goes on in it.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = np.asarray(lengths), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        # At least four pools, so that the batches of a small set differ from epoch to epoch.
        pool = self.batch_size * max(1, min(_POOL, len(order) // (4 * self.batch_size)))
        order = np.concatenate([part[np.argsort(-self.lengths[part], kind="stable")] for part in _parts(order, pool)])
        batches = _parts(order, self.batch_size)
        # The rest that fills no batch stays last: whoever cuts this order into batches must find the same ones.
        last = [batches.pop()] if len(batches[-1]) < self.batch_size else []
        rng.shuffle(batches)
        yield from np.concatenate(batches + last).tolist()


def _parts(values: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    return [values[start : start + size] for start in range(0, len(values), size)]
