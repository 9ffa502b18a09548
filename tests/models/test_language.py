from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers

from stillroom.core.errors import BadInput
from stillroom.models.language import LanguagePredictor
from stillroom.models.load import load_predictor
from stillroom.models.sizes import count_parameters

Make = Callable[..., tuple[Any, Any]]
TEXTS = ["w1 w2 w3 w4", "w9 w9", "w5", "", "w1 " * 100]


def test_a_saved_arm_is_found_and_is_a_plain_checkpoint(tiny_causal: Make, tmp_path: Path) -> None:
    model, tokenizer = tiny_causal("llama")
    arm = LanguagePredictor(model, tokenizer, column="story")
    features = pd.DataFrame({"story": TEXTS})
    arm.save(tmp_path / "arm")
    loaded = load_predictor(tmp_path / "arm")
    assert isinstance(loaded, LanguagePredictor)
    assert loaded.predict_values(features).tolist() == arm.predict_values(features).tolist()
    assert (loaded.fingerprint, loaded.columns, loaded.max_length) == (arm.fingerprint, arm.columns, 64)
    assert count_parameters(loaded) == model.num_parameters()
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "arm").eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model(ids).logits)
    (tmp_path / "arm" / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_predictor(tmp_path / "arm")


def test_a_texts_value_is_its_mean_log_loss(tiny_causal: Make) -> None:
    model, tokenizer = tiny_causal("llama")
    got = LanguagePredictor(model, tokenizer).predict_values(pd.DataFrame({"text": TEXTS}))
    for text, value in zip(TEXTS, got, strict=True):
        ids = tokenizer(text)["input_ids"][:64]
        if len(ids) < 2:
            assert value == 0
            continue
        with torch.no_grad():
            log_q = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1, :30].double(), dim=-1)
        want = -sum(log_q[i, token].item() for i, token in enumerate(ids[1:])) / (len(ids) - 1)
        assert value == pytest.approx(want, rel=1e-5)
        assert math.isfinite(value)


def test_continuations_are_texts_of_the_prompts_alone(tiny_causal: Make) -> None:
    arm = LanguagePredictor(*tiny_causal("llama"))
    greedy = arm.continuations(["w1 w2", "w7"], max_new_tokens=5)
    assert greedy == arm.continuations(["w1 w2", "w7"], max_new_tokens=5)
    assert all(word.startswith("w") or word == "<unk>" for text in greedy for word in text.split())
    assert arm.continuations(["w1"] * 4, max_new_tokens=5, seed=1) != arm.continuations(["w1"] * 4, max_new_tokens=5, seed=2)
    assert len(set(arm.continuations(["w1"] * 4, max_new_tokens=5, seed=1))) > 1


def test_a_turns_end_ends_a_continuation_as_the_end_of_the_text_does(tiny_causal: Make) -> None:
    model, tokenizer = tiny_causal("llama")
    arm = LanguagePredictor(model, tokenizer)
    texts = (arm.continuations(["w1 w2"], max_new_tokens=8, seed=seed)[0].split() for seed in range(50))
    seed, words = next((seed, words) for seed, words in enumerate(texts) if len({*words}) > 4)
    end_id = tokenizer.convert_tokens_to_ids(words[3])
    (cut,) = arm.continuations(["w1 w2"], max_new_tokens=8, seed=seed, end_ids=[end_id])
    assert cut.split() == words[: words.index(words[3])]


def test_real_stories_go_on(shared_data: Path) -> None:
    from stillroom.models.causal import load_causal

    arm = LanguagePredictor(*load_causal(str(shared_data / "weights" / "stories260K" / "hf")))
    (text,) = arm.continuations(["Once upon a time"], max_new_tokens=40)
    assert text.split()[:6] == ["there", "was", "a", "little", "girl", "named"] or "there was" in text
    said, noise = arm.predict_values(pd.DataFrame({"text": ["Once upon a time, there was a little girl.", "xq zzv kpw qqj"]}))
    assert said < 2 < 5 < noise
