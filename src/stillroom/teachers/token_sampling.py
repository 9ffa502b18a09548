"""From a teacher's logits to the few numbers a position that are stored. Shapes: N positions, V tokens, H hidden.

The chance that a position takes is a function of the job's seed, its example and its place in it. So an answer depends
neither on what else is in the batch nor on the order of the work: sampling again gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stillroom.core.errors import StageFailed, needs_extra
from stillroom.core.token_records import HiddenAnswers, TokenAnswers, TokenScheme

with needs_extra("torch", "a language model as a teacher"):
    import torch
    from torch import Tensor

_BLOCK = 256
"""A row's masses are added up in blocks of tokens; the cumulative sum within a block is made for drawn blocks alone."""
_CHUNK_ELEMENTS = 1 << 23
_ROUNDING_LANE = -1
_TINY = 1e-12


def position_seeds(seed: int, example: str, num_positions: int) -> NDArray[np.uint64]:
    """(num_positions,) the random state of each answered position of an example, numbered from 0.

    Args:
        seed: the job's.
        example: the example's fingerprint.
    """
    digest = int(example.rpartition("-")[2][:16], 16)
    start = _mix(np.array([digest], np.uint64) ^ _mix(np.array([seed % (1 << 64)], np.uint64)))
    places = np.arange(num_positions, dtype=np.uint64)
    return _mix(start + places)


def uniforms(seeds: NDArray[np.uint64], num_lanes: int, *, first_lane: int = 0) -> NDArray[np.float64]:
    """(N, num_lanes) numbers in [0, 1), independent over positions and lanes.

    Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators" (SplitMix64), as a hash.
    """
    lanes = np.arange(first_lane, first_lane + num_lanes).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    bits = _mix(seeds[:, None] + lanes) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def sample_distributions(logits: Tensor, seeds: NDArray[np.uint64], scheme: TokenScheme, *, temperature: float = 1.0) -> TokenAnswers:
    """The teacher's distributions softmax(logits / temperature), made small.

    threshold, the default: with step = 1 / scheme.number, every token with p >= step is kept. Of the others, with mass R,
    m = max(1, floor(R / step)) ids are drawn at equal strides through their cumulative mass from one random offset, and
    share R equally. No token is drawn twice (p < step <= R / m, or m = 1), and E[estimate] = p. But for the whole number m,
    no unbiased estimate with so many ids has less total variance, about step * R a position; and one step for all positions
    is best, since a further id then saves step**2 wherever it is spent (Duffield, Lund & Thorup 2007; Madow 1949 for the strides).

    What is kept, and R, are rounded to the grid of 1 / scheme.units by the same strides: without bias, and a row still
    sums to exactly 1.

    Args:
        logits: (N, V), -inf for tokens that cannot come.
        seeds: (N,), of `position_seeds`.
        scheme: threshold, sampled or top-k.
        temperature: T > 0.

    Returns:
        N rows. float32 adds up to 1e-7 of rounding to a probability.

    Raises:
        StageFailed: NaN or +inf among the logits, or a row of -inf alone; names the position.

    Source: sampled: "Sparse Logit Sampling", arXiv:2503.16870, section 4 (draws with replacement).
    """
    assert (logits.ndim, len(seeds)) == (2, len(logits)), f"{len(seeds)} seeds for logits of {tuple(logits.shape)}"
    assert scheme.kind != "hidden", "hidden states are stored by `store_hidden`"
    rows = max(_CHUNK_ELEMENTS // max(logits.shape[1], scheme.number * _BLOCK), 1)  # what `_Masses.draw` needs at most
    parts = [
        _sample(_Masses(logits[start : start + rows], temperature, start), seeds[start : start + rows], scheme)
        for start in range(0, max(len(logits), 1), rows)
    ]
    return parts[0] if len(parts) == 1 else concatenate(parts)


def store_hidden(states: Tensor, entropy: NDArray[np.float16], vocabulary: int, scheme: TokenScheme) -> HiddenAnswers:
    """Hidden states (N, H) as bfloat16, or as int8 with a scale a position: off by at most 1/254 of the row's largest value.

    Raises:
        StageFailed: a state is not finite; names the position.
    """
    states = states.detach().float().cpu()
    _refuse(~states.isfinite().all(dim=-1), 0, "a hidden state is NaN or infinite")
    if scheme.number == 16:
        bits = states.bfloat16().view(torch.int16).numpy().view(np.uint16)
        return HiddenAnswers(vocabulary, bits, np.ones(len(bits), np.float32), entropy)
    scales = states.abs().amax(dim=-1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return HiddenAnswers(vocabulary, (states / scales[:, None]).round().to(torch.int8).numpy(), scales.numpy(), entropy)


def entropies(logits: Tensor, *, temperature: float = 1.0) -> NDArray[np.float16]:
    """(N,) entropy of softmax(logits / temperature) in nats."""
    rows = max(_CHUNK_ELEMENTS // logits.shape[1], 1)
    parts = [_Masses(logits[start : start + rows], temperature, start).entropy for start in range(0, max(len(logits), 1), rows)]
    return np.concatenate(parts)


def concatenate(parts: Sequence[TokenAnswers]) -> TokenAnswers:
    """The rows of all parts, in their order."""

    def offsets(each: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(one) for one in each]))])

    return TokenAnswers(
        parts[0].vocabulary,
        parts[0].units,
        offsets([part.head_offsets for part in parts]),
        np.concatenate([part.head_ids for part in parts]),
        np.concatenate([part.head_counts for part in parts]),
        offsets([part.tail_offsets for part in parts]),
        np.concatenate([part.tail_ids for part in parts]),
        np.concatenate([part.entropy for part in parts]),
    )


class _Masses:
    """exp(logits / T - max) of some rows, in blocks of tokens.

    Attributes:
        masses: (N, blocks * _BLOCK) float32, 0 beyond V.
        total: (N, 1) float64 sum of a row.
        entropy: (N,) float16.
    """

    def __init__(self, logits: Tensor, temperature: float, first: int) -> None:
        num, self.vocabulary = logits.shape
        scaled = torch.full((num, -(-self.vocabulary // _BLOCK) * _BLOCK), -torch.inf, device=logits.device)
        scaled[:, : self.vocabulary] = logits.detach()
        largest = scaled.amax(dim=-1, keepdim=True)  # NaN if there is one
        _refuse(largest[:, 0].isnan(), first, "a logit is NaN")
        _refuse(largest[:, 0] == torch.inf, first, "a logit is +inf")
        _refuse(largest[:, 0] == -torch.inf, first, "every logit is -inf: no token may come")
        scaled.sub_(largest).div_(temperature)
        self.masses = scaled.exp()
        self.total = self.block_masses().sum(dim=-1, keepdim=True)
        # sum p (log total - scaled); a forbidden token adds 0, where 0 * -inf is NaN.
        products = _in_blocks(scaled.clamp_(min=torch.finfo(torch.float32).min).mul_(self.masses)).sum(dim=-1).double()
        entropy = self.total[:, 0].log() - products.sum(dim=-1) / self.total[:, 0]
        self.entropy = (entropy.clamp(min=0) + 0.0).cpu().numpy().astype(np.float16)

    def block_masses(self) -> Tensor:
        """(N, blocks) float64. Sums are over fixed blocks: their rounding does not depend on the number of rows."""
        return _in_blocks(self.masses).sum(dim=-1).double()

    def draw(self, points: Tensor) -> Tensor:
        """(N, M) the token in which each point lies: points in [0, 1) of what `masses` now holds, rising from id to id."""
        inside = _in_blocks(self.masses)
        ends = self.block_masses().cumsum(dim=-1)
        points = points.clamp(max=1 - _TINY) * ends[:, -1:]
        block = torch.searchsorted(ends, points, right=True).clamp(max=ends.shape[1] - 1)
        starts = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
        share = ((points - starts) / (ends.gather(1, block) - starts)).clamp(0, 1 - _TINY)
        row = torch.arange(len(points), device=points.device)[:, None]
        within = inside[row, block].double().cumsum(dim=-1)  # (N, M, _BLOCK)
        place = torch.searchsorted(within, share[..., None] * within[..., -1:], right=True)[..., 0]
        return block * _BLOCK + place


def _sample(masses: _Masses, seeds: NDArray[np.uint64], scheme: TokenScheme) -> TokenAnswers:
    match scheme.kind:
        case "threshold":
            return _threshold(masses, seeds, scheme)
        case "sampled":
            return _sampled(masses, seeds, scheme)
        case _:
            return _top_k(masses, seeds, scheme)


def _threshold(masses: _Masses, seeds: NDArray[np.uint64], scheme: TokenScheme) -> TokenAnswers:
    kept = masses.masses >= (masses.total / scheme.number).float()
    row, ids = kept.nonzero(as_tuple=True)
    probs = masses.masses[row, ids].double() / masses.total[row, 0]
    masses.masses.masked_fill_(kept, 0.0)
    rest = (masses.block_masses().sum(dim=-1) / masses.total[:, 0]).cpu().numpy()
    head = _Head(row.cpu().numpy(), ids.cpu().numpy(), probs.cpu().numpy(), len(seeds))
    counts, rest_counts = head.rounded(rest, scheme.units, seeds)
    # Their number follows from what is read back. No more than the true mass holds, or an id could be drawn twice.
    num_ids = np.floor(np.minimum(rest, rest_counts / scheme.units) * scheme.number).astype(np.int64).clip(min=1)
    num_ids[rest_counts == 0] = 0
    tail_offsets = _offsets(num_ids)
    drawn = np.zeros(0, np.int64)
    if len(num_ids) and num_ids.max():
        lanes = np.arange(num_ids.max())
        points = (lanes + uniforms(seeds, 1)) / np.maximum(num_ids, 1)[:, None]
        found = masses.draw(torch.from_numpy(points).to(masses.masses.device)).cpu().numpy()
        drawn = found[lanes < num_ids[:, None]]
    return TokenAnswers(masses.vocabulary, scheme.units, *head.entries(counts), tail_offsets, drawn, masses.entropy)


def _sampled(masses: _Masses, seeds: NDArray[np.uint64], scheme: TokenScheme) -> TokenAnswers:
    points = np.sort(uniforms(seeds, scheme.number), axis=1)
    ids = masses.draw(torch.from_numpy(points).to(masses.masses.device)).cpu().numpy()
    first = np.ones(ids.shape, np.bool_)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = np.flatnonzero(first)
    counts = np.diff(starts, append=ids.size)
    none = np.zeros(len(seeds) + 1, np.int64)
    head = (_offsets(first.sum(axis=1)), ids.ravel()[starts], counts)
    return TokenAnswers(masses.vocabulary, scheme.units, *head, none, np.zeros(0, np.int64), masses.entropy)


def _top_k(masses: _Masses, seeds: NDArray[np.uint64], scheme: TokenScheme) -> TokenAnswers:
    found = masses.masses.topk(min(scheme.number, masses.vocabulary), dim=-1).indices.sort(dim=-1).values
    probs = (masses.masses.gather(1, found).double() / masses.total).cpu().numpy()
    row = np.repeat(np.arange(len(seeds)), found.shape[1])
    head = _Head(row, found.cpu().numpy().ravel(), probs.ravel(), len(seeds))
    counts, _ = head.rounded(np.maximum(1 - probs.sum(axis=1), 0.0), scheme.units, seeds)
    none = np.zeros(len(seeds) + 1, np.int64)
    return TokenAnswers(masses.vocabulary, scheme.units, *head.entries(counts), none, np.zeros(0, np.int64), masses.entropy)


class _Head:
    """Tokens whose probabilities are stored: (entries,) rows, ids, probabilities; sorted by row, then id."""

    def __init__(self, row: NDArray[np.int64], ids: NDArray[np.int64], probs: NDArray[np.float64], num_rows: int) -> None:
        self._row, self._ids, self._probs = row, ids, probs
        self._offsets = _offsets(np.bincount(row, minlength=num_rows))

    def rounded(self, rest: NDArray[np.float64], units: int, seeds: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Whole numbers of 1 / units for each entry, and for the `rest` (N,) of its row, which sum to `units` in each row.

        Each is one of the two next to the true value, by chance such that its mean is the true value: a row is cut at
        points 1 / units apart, from one random offset, and each piece gets as many as fall into it.
        """
        # Adding row by row keeps the rounding of one row apart from the others.
        width = np.diff(self._offsets).max(initial=0)
        places = np.arange(len(self._row)) - self._offsets[self._row]
        ends = np.zeros((len(rest), width + 1))
        ends[self._row, places] = self._probs
        np.cumsum(ends, axis=1, out=ends)
        total = ends[:, -1:] + rest[:, None]
        below = np.floor(ends / total * units + uniforms(seeds, 1, first_lane=_ROUNDING_LANE)).astype(np.int64).clip(max=units)
        counts = np.diff(below, axis=1, prepend=0)
        return counts[self._row, places], units - below[:, -1]

    def entries(self, counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Offsets, ids and counts of the entries that are not rounded to 0."""
        some = counts > 0
        kept = np.bincount(self._row[some], minlength=len(self._offsets) - 1)
        return _offsets(kept), self._ids[some], counts[some]


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _in_blocks(values: Tensor) -> Tensor:
    return values.view(len(values), values.shape[1] // _BLOCK, _BLOCK)


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def _refuse(bad: Tensor, first: int, what: str) -> None:
    if bad.any():
        position = first + int(bad.nonzero()[0])
        remedy = "Nothing is stored. Is the teacher's dtype too narrow (float16), or its checkpoint damaged?"
        raise StageFailed(f"teacher: position {position} of this batch: {what} (so are {int(bad.sum())} in all). {remedy}")
