from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from stillroom.core.errors import BadInput, StageFailed
from stillroom.models.causal import (
    HeadParts,
    head_of,
    hidden_states,
    load_causal,
    save_causal,
    shared_vocabulary,
    size_note,
    usable_vocabulary,
)
from stillroom.models.pretrained import parameters_fingerprint

Make = Callable[..., tuple[Any, Any]]
KINDS = ["llama", "mistral", "qwen2", "qwen3", "phi3", "gemma", "gemma2", "gemma3_text", "granite", "cohere", "gpt2"]


def batch() -> dict[str, torch.Tensor]:
    """Two left-padded sequences with positions that say so."""
    ids = torch.randint(3, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


@pytest.mark.parametrize("kind", [*KINDS, "phi"])
def test_head_and_hidden_states_make_the_models_own_logits(kind: str, tiny_causal: Make) -> None:
    model, _ = tiny_causal(kind)
    inputs = batch()
    with torch.no_grad():
        want = model(**inputs).logits
        got = head_of(model).logits(hidden_states(model, inputs.pop("input_ids"), **inputs))
    keep = inputs["attention_mask"].bool()
    torch.testing.assert_close(got[keep], want[keep], rtol=1e-6, atol=1e-6)
    assert want[keep].std() > 0.1, "logits that hardly differ would hide a wrong head"


def test_each_part_of_the_head_is_found(tiny_causal: Make) -> None:
    parts = {kind: head_of(tiny_causal(kind)[0]) for kind in ("llama", "granite", "cohere", "gemma2", "phi")}
    assert [parts[kind].scale for kind in ("llama", "granite", "cohere")] == [1.0, pytest.approx(1 / 3), 0.3]
    assert (parts["llama"].soft_cap, parts["gemma2"].soft_cap) == (None, 3.0)
    assert parts["llama"].bias is None
    assert parts["phi"].bias is not None
    model, _ = tiny_causal("llama")
    assert head_of(model).weight is model.lm_head.weight, "gradients have to reach the parameter itself"


def test_logits_of_the_parts_are_the_formula() -> None:
    parts = HeadParts(torch.tensor([[1.0, 2.0], [0.0, -4.0]]), torch.tensor([0.5, 1.0]), scale=2.0, soft_cap=3.0)
    got = parts.logits(torch.tensor([[1.0, 1.0]])).double()
    want = 3 * torch.tanh(torch.tensor([[7.0, -6.0]], dtype=torch.float64) / 3)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gpt2"])
def test_saved_it_needs_transformers_alone_and_loads_again(kind: str, tiny_causal: Make, tmp_path: Path) -> None:
    model, tokenizer = tiny_causal(kind)
    save_causal(model, tokenizer, tmp_path / "student")
    ids = batch()["input_ids"]
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "student").eval()
    loaded, words = load_causal(str(tmp_path / "student"))
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model(ids).logits)
    assert parameters_fingerprint(loaded.cpu()) == parameters_fingerprint(model)
    assert not loaded.training
    assert words("w1 w5")["input_ids"] == transformers.AutoTokenizer.from_pretrained(tmp_path / "student")("w1 w5")["input_ids"] == [5, 9]


def test_half_precision_weights_are_read_as_float32(tiny_causal: Make, tmp_path: Path) -> None:
    model, tokenizer = tiny_causal("llama")
    save_causal(model.bfloat16(), tokenizer, tmp_path)
    assert {weight.dtype for weight in load_causal(str(tmp_path))[0].parameters()} == {torch.float32}
    model.float()


def test_the_real_model_loads_and_knows_its_stories(shared_data: Path) -> None:
    model, tokenizer = load_causal(str(shared_data / "weights" / "stories260K" / "hf"))
    assert usable_vocabulary(model, tokenizer) == 512
    with gzip.open(shared_data / "tinystories_sample" / "tinystories_sample.jsonl.gz", "rt") as lines:
        stories = [json.loads(line)["text"] for line, _ in zip(lines, range(300), strict=False)]
    total = tokens = 0.0
    for start in range(0, 300, 50):
        rows = [torch.tensor(tokenizer(story)["input_ids"][:512]) for story in stories[start : start + 50]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(model.device)
        keep = ids >= 0
        with torch.no_grad():
            logits = head_of(model).logits(hidden_states(model, ids.clamp(min=0), attention_mask=keep.long()))
        total += torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], ignore_index=-1, reduction="sum").item()
        tokens += keep[:, 1:].sum().item()
    assert total / tokens == pytest.approx(1.5, abs=0.005), "what the weights' own record says of 300 stories"


def test_pickled_weights_are_no_way_in(tiny_causal: Make, tmp_path: Path) -> None:
    model, tokenizer = tiny_causal("llama")
    save_causal(model, tokenizer, tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BadInput, match=r"teacher\.model: .*cannot be loaded.*model\.safetensors"):
        load_causal(str(tmp_path), place="teacher.model")


def test_weights_that_are_missing_are_not_made_up(tiny_causal: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_causal(*tiny_causal("llama"), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"lacks weights.*layers\.1\.mlp\.up_proj"):
        load_causal(str(tmp_path))


def test_what_cannot_be_loaded_is_one_clear_error(tiny_causal: Make, tmp_path: Path) -> None:
    save_causal(*tiny_causal("llama"), tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadInput, match=r"model: .*cannot be loaded"):
        load_causal(str(tmp_path / "torn"))
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_causal(str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="pip install no-such-thing"):
        load_causal("package:no_such_thing/model")


def test_a_model_that_looks_ahead_is_refused(tiny_causal: Make, tiny_bert: Make, tmp_path: Path) -> None:
    _, tokenizer = tiny_causal("llama")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, initializer_range=0.3
    )
    save_causal(transformers.BertForMaskedLM(config), tokenizer, tmp_path)
    with pytest.raises(BadInput, match=r"model: .*sees later tokens; give a causal"):
        load_causal(str(tmp_path))


def test_damaged_weights_and_unknown_heads_are_refused(tiny_causal: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny_causal("llama")
    save_causal(model, tokenizer, tmp_path / "good")
    forward = transformers.LlamaForCausalLM.forward

    def other_head(self: Any, **inputs: Any) -> Any:
        outputs = forward(self, **inputs)
        outputs.logits = outputs.logits * 1.01
        return outputs

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", other_head)
    with pytest.raises(BadInput, match="output head of LlamaForCausalLM does more"):
        load_causal(str(tmp_path / "good"))
    monkeypatch.undo()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    save_causal(model, tokenizer, tmp_path / "nan")
    with pytest.raises(BadInput, match="NaN or infinite logits"):
        load_causal(str(tmp_path / "nan"))


def test_padded_rows_are_not_counted_and_a_short_head_is_refused(tiny_causal: Make, tmp_path: Path) -> None:
    model, tokenizer = tiny_causal("llama")
    assert usable_vocabulary(model, tokenizer) == 30 < model.config.vocab_size
    tokenizer.add_tokens([f"x{i}" for i in range(11)])
    with pytest.raises(BadInput, match=r"teacher: the tokenizer has 41 tokens, the model's head 40 rows; use"):
        usable_vocabulary(model, tokenizer, place="teacher")
    save_causal(model, tokenizer, tmp_path)
    with pytest.raises(BadInput, match="41 tokens"):
        load_causal(str(tmp_path))


def test_one_tokenizer_with_other_padding_is_compatible_and_another_is_refused(tiny_causal: Make) -> None:
    teacher, student = tiny_causal("llama"), tiny_causal("qwen2", vocab_size=64)
    assert shared_vocabulary(teacher, student) == 30
    student[1].add_tokens(["more"])
    with pytest.raises(BadInput, match=r"student: .*1 ids differ: id 30 is None for the teacher and 'more' for the student\. Use"):
        shared_vocabulary(teacher, student)
    swapped = teacher[1].get_vocab()
    swapped["w0"], swapped["w3"] = swapped["w3"], swapped["w0"]
    from tokenizers import Tokenizer, models

    other = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(swapped, unk_token="<unk>")))
    with pytest.raises(BadInput, match=r"student\.model: .*2 ids differ: id 4 is 'w0' for the teacher and 'w3' for the student; id 7"):
        shared_vocabulary(teacher, (student[0], other), place="student.model")


def test_the_real_vocabularies_differ(shared_data: Path) -> None:
    folder = shared_data / "weights"
    models = [load_causal(str(folder / name)) for name in ("babyllama/babyllama_tok105", "babyllama/babyllama_tok361")]
    with pytest.raises(BadInput, match=r"ids differ: id 3 is '"):
        shared_vocabulary(*models)
    assert shared_vocabulary(models[0], models[0]) == 105


def test_a_student_no_smaller_than_its_teacher_is_noted(tiny_causal: Make) -> None:
    small, large = tiny_causal("llama", num_hidden_layers=1)[0], tiny_causal("llama")[0]
    assert size_note(large, small) is None
    assert "is larger than its teacher" in str(size_note(small, large))
    assert "is as large as its teacher" in str(size_note(large, large))


def test_a_folder_that_cannot_be_written_is_one_clear_error(tiny_causal: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StageFailed, match="file stands where a folder"):
        save_causal(*tiny_causal("llama"), tmp_path / "file" / "student")
