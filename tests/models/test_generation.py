from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stillroom.core.errors import BadInput, StageFailed
from stillroom.models.generation import continuations

Make = Callable[..., tuple[Any, Any]]
V = 30


def prompts(num: int = 7) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, V, int(rng.integers(1, 12))) for _ in range(num)]


def plain(model: Any, prompt: Any, num: int, end_id: int | None = None, chances: Any = None) -> list[int]:
    """One prompt, the whole text anew for each token, without a cache."""
    ids = prompt.tolist()
    for step in range(num):
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1, :V].double()
        if chances is None:
            token = int(logits.argmax())
        else:
            total, token = 0.0, -1
            shares = torch.softmax(logits, dim=-1).tolist()
            while total <= chances[step]:
                token += 1
                total += shares[token]
        if token == end_id:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen2"])
@pytest.mark.parametrize("seed", [None, 5])
def test_texts_are_those_of_the_plain_loop(kind: str, seed: int | None, tiny_causal: Make) -> None:
    model, _ = tiny_causal(kind)
    given = prompts()
    want = []
    for number, prompt in enumerate(given):
        chances = None if seed is None else np.random.default_rng([seed, number]).random(12)
        want.append(plain(model, prompt, 12, chances=chances))
    for batch_size in (1, 3, 16):
        got = continuations(model, given, max_new_tokens=12, vocabulary_size=V, seed=seed, batch_size=batch_size)
        assert [text.tolist() for text in got] == want
    assert len({tuple(text) for text in want}) > 1


def test_the_end_token_ends_a_text_and_only_that_text(tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama")
    given = prompts()
    whole = continuations(model, given, max_new_tokens=12, vocabulary_size=V, seed=1)
    end_id = int(whole[0][4])
    got = continuations(model, given, max_new_tokens=12, vocabulary_size=V, seed=1, end_ids=[end_id])
    for text, full in zip(got, whole, strict=True):
        ends = np.flatnonzero(full == end_id)
        assert text.tolist() == (full[: ends[0]] if len(ends) else full).tolist()
    assert {len(text) for text in got} >= {12}


def test_sampling_follows_the_models_distribution_and_the_seed(tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama")
    given = [prompts()[0]] * 3000
    first = continuations(model, given, max_new_tokens=1, vocabulary_size=V, seed=0, batch_size=1000)
    with torch.no_grad():
        want = torch.softmax(model(torch.from_numpy(given[0])[None]).logits[0, -1, :V].double(), dim=-1).numpy()
    counts = np.bincount(np.concatenate(first), minlength=V)
    expected = 3000 * want
    likely = expected > 5
    chi = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi < likely.sum() + 4 * math.sqrt(2 * likely.sum())
    again = continuations(model, given[:50], max_new_tokens=1, vocabulary_size=V, seed=0)
    other = continuations(model, given[:50], max_new_tokens=1, vocabulary_size=V, seed=1)
    assert np.concatenate(again).tolist() == np.concatenate(first[:50]).tolist() != np.concatenate(other).tolist()


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (2.0, 1.0), (1.0, 0.6), (2.0, 0.5)])
def test_temperature_and_nucleus_are_what_they_are_called(temperature: float, top_p: float, tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama")
    given = [prompts()[0]] * 3000
    with torch.no_grad():
        logits = model(torch.from_numpy(given[0])[None]).logits[0, -1, :V].tolist()
    powers = [math.exp(logit / temperature) for logit in logits]
    kept: dict[int, float] = {}
    for token in sorted(range(V), key=lambda i: -powers[i]):
        if sum(kept.values()) / sum(powers) < top_p:
            kept[token] = powers[token]
    expected = 3000 * np.array([kept.get(token, 0.0) / sum(kept.values()) for token in range(V)])
    settings = {"sampling_temperature": temperature, "top_p": top_p, "batch_size": 1000}
    counts = np.bincount(np.concatenate(continuations(model, given, max_new_tokens=1, vocabulary_size=V, seed=0, **settings)), minlength=V)
    assert (counts[expected == 0] == 0).all()
    likely = expected > 5
    assert 1 < likely.sum() <= len(kept)
    chi = ((counts - expected)[likely] ** 2 / expected[likely]).sum()
    assert chi < likely.sum() + 4 * math.sqrt(2 * likely.sum())


def test_the_checkpoints_own_settings_play_no_part_and_padding_is_never_written(tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama", tie_word_embeddings=False)
    model.generation_config.repetition_penalty = 50.0
    with torch.no_grad():
        model.lm_head.weight[V:] *= 100
    for seed in (None, 3):
        assert np.concatenate(continuations(model, prompts(), max_new_tokens=8, vocabulary_size=V, seed=seed)).max() < V
    assert continuations(model, prompts()[:1], max_new_tokens=6, vocabulary_size=V)[0].tolist() == plain(model, prompts()[0], 6)


def test_what_cannot_be_continued_is_named(tiny_causal: Make) -> None:
    model, _ = tiny_causal("gpt2")
    short = np.array([3])
    with pytest.raises(BadInput, match="student: prompt 1 has 60 tokens and 5 new ones, the context 64"):
        continuations(model, [short, np.full(60, 4)], max_new_tokens=5, vocabulary_size=V, place="student")
    with pytest.raises(BadInput, match="prompt 1 is empty"):
        continuations(model, [short, np.zeros(0, np.int64)], max_new_tokens=5, vocabulary_size=V)
    assert [len(text) for text in continuations(model, [short], max_new_tokens=0, vocabulary_size=V)] == [0]
    with torch.no_grad():
        model.transformer.ln_f.weight[0] = math.nan
    with pytest.raises(StageFailed, match="student: prompt 0, new token 0: NaN"):
        continuations(model, [short], max_new_tokens=5, vocabulary_size=V, place="student")
