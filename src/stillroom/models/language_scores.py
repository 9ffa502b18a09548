"""What a causal language model makes of texts: likelihood, hits, calibration, and how close it comes to its teacher.

Shapes: M asked positions of a batch, R of them in a chunk, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import BadInput, StageFailed, needs_extra
from stillroom.core.language_records import LanguageScores, TeacherComparison
from stillroom.core.protocols import Progress
from stillroom.core.token_records import Sequences, TokenExample
from stillroom.models import token_batches
from stillroom.models.pretrained import answering

with needs_extra("torch", "a language model"):
    import torch
    from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_OWN = ("nll", "hits", "confidence")
_COMPARED = ("agreements", "forward_kl", "top_overlap")


def score(
    model: PreTrainedModel,
    sequences: Sequences,
    *,
    vocabulary_size: int,
    teacher: PreTrainedModel | None = None,
    batch_tokens: int = 16384,
    top_k: int = 5,
    num_bins: int = 15,
    place: str = "model",
    progress: Progress | None = None,
) -> LanguageScores:
    """Sums over the asked positions of each example, at temperature 1 and in eval mode.

    The distributions are over the first `vocabulary_size` tokens, normalised anew over them: models of one tokenizer that are
    padded differently are comparable. They are computed in float32 and summed in float64; batches and chunks change no sum
    by more than rounding. Logits of all positions never exist at once.

    Args:
        sequences: each asked position is followed by the token that it is scored on.
        teacher: compared with, exactly, over the same tokens; its own scores are a call of their own.
        batch_tokens: the most tokens of a batch, padding included.
        top_k: how many of the likeliest tokens are compared; all, where there are fewer.
        num_bins: bins of equal width for the confidence.
        place: the model's name in messages.

    Raises:
        BadInput: an example longer than the context of one of the two, foreign ids, or a head smaller than the vocabulary.
        StageFailed: logits are NaN or infinite; names the example.
    """
    examples = sequences.examples
    labels = _labels(examples, vocabulary_size, place)
    models = {place: model} if teacher is None else {place: model, "teacher": teacher}
    for name, each in models.items():
        token_batches.check_examples(each, examples, place=name)
    sums = _Sums(len(examples), num_bins, min(top_k, vocabulary_size), compared=teacher is not None)
    asking = np.array([n for n, expected in enumerate(labels) if len(expected)], np.intp)
    done = len(examples) - len(asking)
    for part in token_batches.by_tokens([len(examples[n]) for n in asking], batch_tokens):
        batch = asking[part]
        asked, expected = [examples[number] for number in batch], [labels[number] for number in batch]
        columns = _columns(models, asked, batch, np.concatenate(expected), vocabulary_size, sums.top_k)
        sums.add(batch, np.repeat(np.arange(len(batch)), [len(each) for each in expected]), columns)
        done += len(batch)
        if progress:
            progress(done, len(examples))
    return sums.scores(sequences)


def _labels(examples: Sequence[TokenExample], vocabulary_size: int, place: str) -> list[NDArray[np.int64]]:
    """The token that follows each asked position."""
    found = []
    for number, example in enumerate(examples):
        if len(example) and example.asked[-1]:
            raise BadInput.at(place, f"example {number} asks its last position, which no token follows: there is nothing to score it on.")
        labels = example.token_ids[1:][example.asked[:-1]]
        if len(labels) and labels.max() >= vocabulary_size:
            raise BadInput.at(place, f"example {number} has the token {labels.max()}, beyond the vocabulary of {vocabulary_size}.")
        found.append(labels)
    return found


def _columns(
    models: dict[str, PreTrainedModel],
    asked: Sequence[TokenExample],
    batch: NDArray[np.intp],
    labels: NDArray[np.int64],
    vocabulary_size: int,
    top_k: int,
) -> dict[str, NDArray[np.float64]]:
    """name -> (M,) what is summed, for the asked positions of a batch."""
    heads = [token_batches.cut_head(each, vocabulary_size, place=name) for name, each in models.items()]
    states, found = [], []
    for each in models.values():
        with answering(each):
            states.append(token_batches.asked_states(each, asked))
    with torch.inference_mode():
        for sides in zip(*map(token_batches.logits_in_chunks, heads, states), strict=True):
            rows = sides[0][0]
            for name, (_, logits) in zip(models, sides, strict=True):
                _refuse_not_finite(logits, rows.start, asked, batch, name)
            log_probs = [torch.log_softmax(logits, dim=-1) for _, logits in sides]
            columns = _own_columns(log_probs[0], torch.from_numpy(labels[rows]).to(log_probs[0].device))
            if len(log_probs) == 2:
                columns |= _compared_columns(log_probs[0], log_probs[1].to(log_probs[0].device), top_k)
            found.append({name: column.double().cpu().numpy() for name, column in columns.items()})
    names = (*_OWN, *(_COMPARED if len(models) == 2 else ()))
    return {name: np.concatenate([part[name] for part in found] or [np.zeros(0)]) for name in names}


def _own_columns(log_q: Tensor, labels: Tensor) -> dict[str, Tensor]:
    nll = -log_q.gather(-1, labels[:, None])[:, 0]
    confidence, likeliest = log_q.max(dim=-1)
    return {"nll": nll, "hits": likeliest == labels, "confidence": confidence.exp()}


def _compared_columns(log_q: Tensor, log_p: Tensor, top_k: int) -> dict[str, Tensor]:
    p = log_p.exp()
    # A token that the teacher forbids adds 0, where 0 * (-inf - log q) is NaN. Rounding alone can take a sum below 0.
    kl = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1, dtype=torch.float64).clamp(min=0)
    best_q, best_p = log_q.topk(top_k, dim=-1).indices, log_p.topk(top_k, dim=-1).indices
    shared = (best_q[:, :, None] == best_p[:, None, :]).sum(dim=(1, 2)).double() / top_k
    return {"agreements": log_q.argmax(dim=-1) == log_p.argmax(dim=-1), "forward_kl": kl, "top_overlap": shared}


class _Sums:
    """Columns of positions, added up by example."""

    def __init__(self, num_examples: int, num_bins: int, top_k: int, *, compared: bool) -> None:
        self.top_k, self.compared, self._num_bins = top_k, compared, num_bins
        self._totals = {name: np.zeros(num_examples) for name in (*_OWN[:2], *(_COMPARED if compared else ()))}
        self._bins = {name: np.zeros((num_examples, num_bins)) for name in ("counts", "confidence", "hits")}

    def add(self, batch: NDArray[np.intp], owners: NDArray[np.intp], columns: dict[str, NDArray[np.float64]]) -> None:
        """Args: batch: the examples of a batch; owners: (M,) the place in `batch` of each position's example."""
        for name, total in self._totals.items():
            total[batch] += np.bincount(owners, columns[name], minlength=len(batch))
        cells = owners * self._num_bins + np.clip((columns["confidence"] * self._num_bins).astype(np.int64), 0, self._num_bins - 1)
        for name, column in (("counts", np.ones(len(cells))), ("confidence", columns["confidence"]), ("hits", columns["hits"])):
            in_batch = np.bincount(cells, column, minlength=len(batch) * self._num_bins)
            self._bins[name][batch] += in_batch.reshape(len(batch), self._num_bins)

    def scores(self, sequences: Sequences) -> LanguageScores:
        def whole(values: NDArray[np.float64]) -> NDArray[np.int64]:
            return np.rint(values).astype(np.int64)

        totals, bins = self._totals, self._bins
        comparison = None
        if self.compared:
            comparison = TeacherComparison(whole(totals["agreements"]), totals["forward_kl"], totals["top_overlap"], self.top_k)
        return LanguageScores(
            sequences.rows,
            whole(bins["counts"].sum(axis=1)),
            sequences.num_bytes,
            totals["nll"],
            whole(totals["hits"]),
            whole(bins["counts"]),
            bins["confidence"],
            whole(bins["hits"]),
            comparison,
        )


def _refuse_not_finite(logits: Tensor, start: int, asked: Sequence[TokenExample], batch: NDArray[np.intp], place: str) -> None:
    row = token_batches.first_not_finite(logits)
    if row is not None:
        number, position = token_batches.owner(asked, start + row)
        reason = "NaN or infinite logits. Did its training diverge? Lower the learning rate."
        raise StageFailed(f"{place}: example {batch[number]}, position {position}: {reason}")
