"""The estimators: the mean over draws is the distribution, a row sums to 1, and chance belongs to a position alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stillroom.core.errors import StageFailed
from stillroom.core.fingerprint import fingerprint
from stillroom.core.token_records import TokenAnswers, TokenScheme
from stillroom.teachers.token_sampling import entropies, position_seeds, sample_distributions, store_hidden, uniforms

THRESHOLD, SAMPLED, TOP_K = TokenScheme("threshold", 12), TokenScheme("sampled", 20), TokenScheme("top-k", 10)
EXAMPLE = fingerprint("example")
DRAWS = 4000


def rows(vocabulary: int = 300) -> torch.Tensor:
    """Peaked, equal, one-hot, flat and forbidden tokens; a vocabulary over one block of sums, and no power of two."""
    logits = torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(0))
    logits *= torch.tensor([3.0, 0.0, 1.0, 1.0, 2.0, 6.0])[:, None]
    logits[2] = -torch.inf
    logits[2, 7] = 0.0
    logits[4, ::2] = -torch.inf
    return logits


def probabilities(logits: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    scaled = logits.double().numpy() / temperature
    e = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def dense(answers: TokenAnswers) -> np.ndarray:
    """Estimates as whole rows, added up entry by entry."""
    sparse = answers.sparse()
    found = np.zeros((len(answers), answers.vocabulary))
    np.add.at(found, (np.repeat(np.arange(len(answers)), np.diff(sparse.offsets)), sparse.ids), sparse.probs)
    return found


def assert_same(found: TokenAnswers, wanted: TokenAnswers) -> None:
    for name, value in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), value, err_msg=name)


@pytest.mark.parametrize("scheme", [THRESHOLD, SAMPLED], ids=["threshold", "sampled"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_mean_is_the_distribution(scheme: TokenScheme, temperature: float) -> None:
    logits = rows()
    p = probabilities(logits, temperature)
    seeds = position_seeds(1, EXAMPLE, DRAWS * len(p))
    found = dense(sample_distributions(logits.repeat(DRAWS, 1), seeds, scheme, temperature=temperature)).reshape(DRAWS, *p.shape)
    assert np.abs(found.sum(axis=2) - 1).max() < 1e-6
    error = found.std(axis=0) / DRAWS**0.5
    often = p > 0.01  # a rarer token is hit too seldom for a normal mean
    assert np.abs((found.mean(axis=0) - p)[often] / (error[often] + 1e-6)).max() < 4.5
    assert (found[:, p == 0] == 0).all()
    # All tokens together: squared errors are what the variances allow.
    z = (found.mean(axis=0) - p)[error > 0] / error[error > 0]
    assert 0.8 < np.mean(z**2) < 1.25


def test_threshold_has_the_stated_variance_and_number_of_entries() -> None:
    logits, step = rows(), 1 / THRESHOLD.number
    p = probabilities(logits)
    seeds = position_seeds(2, EXAMPLE, DRAWS * len(p))
    answers = sample_distributions(logits.repeat(DRAWS, 1), seeds, THRESHOLD)
    entries = np.diff(answers.sparse().offsets).reshape(DRAWS, -1)
    assert entries.max() <= THRESHOLD.number + 1
    squared = ((dense(answers).reshape(DRAWS, *p.shape) - p) ** 2).sum(axis=2).mean(axis=0)
    kept = p >= step
    rest = np.where(kept, 0, p).sum(axis=1)
    num_ids = np.maximum(np.floor(rest / step), 1)
    rounding = (kept.sum(axis=1) + 1) / 4 / THRESHOLD.units**2
    # sum of p_i (w - p_i) at w = R / m, and what rounding adds: less than a quarter of a squared unit for each count.
    wanted = np.where(kept, 0, p * (rest / num_ids)[:, None] - p**2).sum(axis=1)
    assert (squared > wanted * 0.9 - 1e-9).all()
    assert (squared < wanted * 1.1 + 3 * rounding).all()
    # The paper's scheme with as many draws: sum p_i (1 - p_i) / n.
    assert (squared <= (1 - (p**2).sum(axis=1)) * step * 1.1 + 1e-9).all()


def test_top_k_keeps_the_likeliest_and_their_tail_mass() -> None:
    logits = rows()
    p = probabilities(logits)
    sparse = sample_distributions(logits, position_seeds(1, EXAMPLE, len(p)), TOP_K).sparse()
    top = np.sort(p, axis=1)[:, ::-1][:, :10]
    np.testing.assert_allclose(sparse.tail, 1 - top.sum(axis=1), atol=2 / TOP_K.units)
    for row in (0, 3, 5):
        found = np.sort(sparse.probs[sparse.offsets[row] : sparse.offsets[row + 1]])[::-1]
        np.testing.assert_allclose(found, top[row, : len(found)], atol=1.01 / TOP_K.units)
        assert np.abs(top[row, len(found) :]).max(initial=0) <= 1 / TOP_K.units


@pytest.mark.parametrize("scheme", [THRESHOLD, SAMPLED, TOP_K], ids=["threshold", "sampled", "top-k"])
def test_an_answer_does_not_depend_on_its_batch(scheme: TokenScheme) -> None:
    logits = torch.randn(40, 70001, generator=torch.Generator().manual_seed(3)) * 4
    seeds = position_seeds(1, EXAMPLE, len(logits))
    whole = sample_distributions(logits, seeds, scheme)
    for start, stop in ((0, 1), (7, 8), (0, 3), (11, 40)):
        assert_same(sample_distributions(logits[start:stop], seeds[start:stop], scheme), whole.rows(start, stop))
    order = np.random.default_rng(0).permutation(len(logits))
    shuffled = sample_distributions(logits[order], seeds[order], scheme)
    for place, row in enumerate(order[:10]):
        assert_same(shuffled.rows(place, place + 1), whole.rows(row, row + 1))


def test_chance_belongs_to_seed_example_and_position() -> None:
    base = position_seeds(1, EXAMPLE, 1000)
    assert (position_seeds(1, EXAMPLE, 20) == base[:20]).all()
    others = [position_seeds(2, EXAMPLE, 1000), position_seeds(-1, EXAMPLE, 1000), position_seeds(1, fingerprint("other"), 1000)]
    every = np.concatenate([base, *others])
    assert len(np.unique(every)) == len(every)
    draws = uniforms(every, 50)
    assert ((draws >= 0) & (draws < 1)).all()
    assert abs(draws.mean() - 0.5) < 5 / (12 * draws.size) ** 0.5
    for left, right in (
        (draws[:, 0], draws[:, 1]),
        (draws[:-1, 0], draws[1:, 0]),
        (uniforms(base, 1, first_lane=-1)[:, 0], draws[:1000, 0]),
    ):
        assert abs(np.corrcoef(left, right)[0, 1]) < 5 / len(left) ** 0.5


def test_different_seeds_draw_differently() -> None:
    logits = torch.zeros(1, 5000)
    first, second = (sample_distributions(logits, position_seeds(s, EXAMPLE, 1), THRESHOLD) for s in (1, 2))
    assert not np.array_equal(first.tail_ids, second.tail_ids)
    assert len(first.tail_ids) == 12


@pytest.mark.parametrize("vocabulary", [1, 2, 255, 256, 257, 1 << 20])
@pytest.mark.parametrize("scheme", [THRESHOLD, SAMPLED, TOP_K], ids=["threshold", "sampled", "top-k"])
def test_any_vocabulary(vocabulary: int, scheme: TokenScheme) -> None:
    logits = torch.randn(3, vocabulary, generator=torch.Generator().manual_seed(4)) * 8
    logits[1] = 0.0
    sparse = sample_distributions(logits, position_seeds(0, EXAMPLE, 3), scheme).sparse()
    assert sparse.ids.max() < vocabulary
    for start, stop, tail in zip(sparse.offsets[:-1], sparse.offsets[1:], sparse.tail, strict=True):
        assert len(np.unique(sparse.ids[start:stop])) == stop - start
        assert sparse.probs[start:stop].sum() + tail == pytest.approx(1, abs=1e-6)


def test_one_hot_rows_are_exact() -> None:
    logits = torch.full((2, 50), -torch.inf)
    logits[0, 3] = logits[1, 49] = 5.0
    for scheme in (THRESHOLD, SAMPLED, TOP_K):
        sparse = sample_distributions(logits, position_seeds(0, EXAMPLE, 2), scheme).sparse()
        assert (sparse.ids.tolist(), sparse.probs.tolist(), sparse.tail.tolist()) == ([3, 49], [1, 1], [0, 0])
        assert sparse.entropy.tolist() == [0, 0]


def test_entropy() -> None:
    logits = rows()
    p = probabilities(logits, 0.7)
    want = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(axis=1)
    np.testing.assert_allclose(entropies(logits, temperature=0.7), want, rtol=1e-3, atol=1e-6)
    answers = sample_distributions(logits, position_seeds(0, EXAMPLE, 6), THRESHOLD, temperature=0.7)
    assert answers.entropy.tolist() == entropies(logits, temperature=0.7).tolist()


def test_narrow_logits_are_added_up_in_float32() -> None:
    logits = (torch.randn(4, 40000, generator=torch.Generator().manual_seed(5)) * 2).bfloat16()
    seeds = position_seeds(0, EXAMPLE, 4)
    assert_same(sample_distributions(logits, seeds, THRESHOLD), sample_distributions(logits.float(), seeds, THRESHOLD))


def test_no_rows() -> None:
    for scheme in (THRESHOLD, SAMPLED, TOP_K):
        answers = sample_distributions(torch.zeros(0, 30), position_seeds(0, EXAMPLE, 0), scheme)
        assert (len(answers), len(answers.sparse().ids)) == (0, 0)


@pytest.mark.parametrize(("bad", "what"), [(torch.nan, "a logit is NaN"), (torch.inf, r"a logit is \+inf")])
def test_logits_that_are_no_distribution_name_the_position(bad: float, what: str) -> None:
    logits = torch.zeros(5000, 4000)
    logits[4321, 17] = bad
    with pytest.raises(StageFailed, match=f"position 4321 of this batch: {what}"):
        sample_distributions(logits, position_seeds(0, EXAMPLE, 5000), THRESHOLD)
    logits[4321] = -torch.inf
    with pytest.raises(StageFailed, match="position 4321 of this batch: every logit is -inf"):
        entropies(logits)


@pytest.mark.parametrize(("number", "error"), [(16, 2**-8), (8, 1 / 254 + 1e-6)])
def test_hidden_states(number: int, error: float) -> None:
    states = torch.randn(7, 33, generator=torch.Generator().manual_seed(6)) * torch.tensor([1e-3, 1, 100, 1, 1, 1, 0.0])[:, None]
    entropy = np.zeros(7, np.float16)
    found = store_hidden(states, entropy, 50, TokenScheme("hidden", number)).values()
    largest = states.abs().amax(dim=1, keepdim=True).numpy()
    assert (np.abs(found - states.numpy()) <= error * largest).all()
    states[5, 1] = torch.nan
    with pytest.raises(StageFailed, match="position 5 of this batch: a hidden state is NaN or infinite"):
        store_hidden(states, entropy, 50, TokenScheme("hidden", number))
