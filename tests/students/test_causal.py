"""Students cut out of causal language models: nothing is lost that was not meant to be, and what comes out is a plain checkpoint."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open
from torch import nn

from stillroom.core.errors import BadInput
from stillroom.models.causal import save_causal
from stillroom.models.pretrained import parameters_fingerprint
from stillroom.students.architectures import ARCHITECTURES, sizes_of
from stillroom.students.causal import cut_student
from stillroom.students.depth import block_influence, influential_blocks, keep_blocks, spaced_blocks
from stillroom.students.width import cut_width, measure_importance, narrower_sizes

Make = Callable[..., tuple[Any, Any]]
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{kind: (kind, {}) for kind in ARCHITECTURES},
    "llama-biased-tied": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "gemma-untied": ("gemma", {"tie_word_embeddings": False}),
    "gpt2-scores-by-depth": ("gpt2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": None}),
}
WRITERS = tuple(f"{part}_proj.{kind}" for part in ("o", "down", "c") for kind in ("weight", "bias"))
"""What adds to the residual stream."""
every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture
def teacher(variant: str, tiny_causal: Make) -> Any:
    kind, changes = VARIANTS[variant]
    return tiny_causal(kind, **changes)[0]


def batches(count: int = 2, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """Right-padded batches of random ids."""
    source = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        mask = torch.ones(3, 10, dtype=torch.long)
        mask[1, 6:] = mask[2, 8:] = 0
        made.append({"input_ids": torch.randint(3, 30, (3, 10), generator=source), "attention_mask": mask})
    return made


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        answers: torch.Tensor = model(torch.randint(3, 30, (2, 12), generator=torch.Generator().manual_seed(9))).logits
    return answers


def narrow(model: Any) -> dict[str, int]:
    """Three quarters of the channels and a third of the neurons; half of the key/value heads with their query heads."""
    if model.config.model_type == "gpt2":
        return {"hidden_size": 16, "intermediate_size": 16, "num_heads": 2}
    return {"hidden_size": 24, "intermediate_size": 16, "num_heads": 2, "num_key_value_heads": 1}


def weights_of(model: Any, *ends: str) -> list[torch.Tensor]:
    return [weight for name, weight in model.named_parameters() if name.endswith(ends)]


@every_variant
def test_cutting_nothing_away_changes_no_bit(teacher: Any) -> None:
    want = logits(teacher)
    assert want.std() > 0.05
    assert torch.equal(logits(keep_blocks(teacher, range(4))), want)
    assert torch.equal(logits(cut_width(teacher, measure_importance(teacher, batches()))), want)
    assert torch.equal(logits(cut_student(teacher, layers=4, calibration=batches()).model), want)


@every_variant
def test_blocks_that_do_nothing_are_found_and_can_go(teacher: Any, variant: str) -> None:
    stack = teacher.get_submodule(ARCHITECTURES[teacher.config.model_type].blocks)
    with torch.no_grad():
        for weight in weights_of(stack[1], *WRITERS):
            weight.zero_()
    influence = block_influence(teacher, batches())
    assert influence[1] == pytest.approx(0, abs=1e-6)
    assert min(influence[:1] + influence[2:]) > 1e-3
    cut = cut_student(teacher, layers=3, layer_choice="block-influence", calibration=batches())
    assert cut.blocks == (0, 2, 3)
    assert cut.influence == tuple(influence)
    torch.testing.assert_close(logits(cut.model), logits(teacher), rtol=1e-5, atol=1e-5)
    assert (logits(keep_blocks(teacher, [0, 1, 2])) - logits(teacher)).abs().max() > 1e-3, "another block would have been missed"


@every_variant
def test_channels_neurons_and_heads_that_do_nothing_are_found_and_can_go(variant: str, tiny_causal: Make) -> None:
    kind, changes = VARIANTS[variant]
    # A norm's epsilon counts for more where fewer channels share it; at its usual size that alone is up to 1e-3 of these small states.
    epsilon = dict.fromkeys(("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"), 1e-12)
    teacher, _ = tiny_causal(kind, **changes, **epsilon)
    kept = plant_unused(teacher)
    want = logits(teacher)
    student = cut_width(teacher, measure_importance(teacher, batches()), **narrow(teacher))
    assert want.std() > 0.05
    assert (logits(student) - want).abs().max() < 1e-5
    embeddings = teacher.get_input_embeddings().weight[:, kept]
    ratio = student.get_input_embeddings().weight / embeddings
    assert ratio.std() < 1e-6, "the channels that stay are those that were in use, in their order"


def plant_unused(model: Any) -> list[int]:
    """Silence a quarter (GPT-2: half) of the channels, two thirds of the neurons and half of the heads; returns the channels in use."""
    config, sizes, wanted = model.config, sizes_of(model), narrow(model)
    source = torch.Generator().manual_seed(1)
    used = torch.randperm(32, generator=source)[: wanted["hidden_size"]].sort().values
    idle = torch.tensor([i for i in range(32) if i not in used])
    centred = config.model_type in ("gpt2", "cohere")

    def write(weight: torch.Tensor, dim: int) -> None:
        """Into the residual stream nothing on idle channels; under LayerNorm, a mean of zero on the others."""
        moved = weight.movedim(dim, -1)
        moved[..., idle] = 0
        if centred:
            moved[..., used] -= moved[..., used].mean(-1, keepdim=True)

    with torch.no_grad():
        write(model.get_input_embeddings().weight, 1)
        for weight in weights_of(model, "wpe.weight", "attn.c_proj.weight", "mlp.c_proj.weight"):
            write(weight, 1)
        for weight in weights_of(model, "o_proj.weight", "down_proj.weight", "o_proj.bias", "down_proj.bias", "c_proj.bias"):
            write(weight, 0)
        for weight in weights_of(model, "ln_1.bias", "ln_2.bias", "ln_f.bias"):
            weight[idle] = 0
        for block in model.get_submodule(ARCHITECTURES[config.model_type].blocks):
            neurons = torch.randperm(sizes.intermediate_size, generator=source)[wanted["intermediate_size"] :]
            for weight in weights_of(block, "up_proj.weight", "up_proj.bias"):
                weight[neurons] = 0
            for weight in weights_of(block, "gate_up_proj.weight"):
                weight[neurons + 48] = 0
            for weight in weights_of(block, "c_fc.weight", "c_fc.bias"):
                weight[..., neurons] = 0
            heads = torch.randperm(sizes.num_key_value_heads, generator=source)[sizes.num_key_value_heads // 2 :]
            values = (heads[:, None] * 8 + torch.arange(8)).flatten()
            for weight in weights_of(block, "v_proj.weight", "v_proj.bias"):
                weight[values] = 0
            for weight in weights_of(block, "qkv_proj.weight"):
                weight[32 + 16 + values] = 0
            for weight in weights_of(block, "c_attn.weight", "c_attn.bias"):
                weight[..., 64 + values] = 0
    return [int(channel) for channel in used]


@every_variant
def test_the_student_is_a_plain_checkpoint(teacher: Any, variant: str, tiny_causal: Make, tmp_path: Path) -> None:
    before = parameters_fingerprint(teacher)
    student = cut_student(teacher, layers=2, calibration=batches(), **narrow(teacher)).model
    save_causal(student, tiny_causal("llama")[1], tmp_path)
    plain, found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found.values())
    assert torch.equal(logits(plain.eval()), logits(student))
    assert plain.num_parameters() == parameter_count(plain.config, **narrow(teacher), layers=2)

    tied = bool(teacher.config.tie_word_embeddings)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as stored:
        assert ("lm_head.weight" in stored.keys()) != tied  # noqa: SIM118 (safe_open is no mapping)
    assert (student.get_output_embeddings().weight is student.get_input_embeddings().weight) == tied

    prompt = torch.tensor([[1, 5, 9]])
    texts = [plain.generate(prompt, max_new_tokens=12, do_sample=False, use_cache=cache, eos_token_id=None) for cache in (True, False)]
    assert texts[0].shape == (1, 15)
    assert torch.equal(*texts), "a block with another block's number would write over its cache"

    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(1.0)
    assert parameters_fingerprint(teacher) == before, "the student's weights are its own"
    assert teacher.config.num_hidden_layers == 4


def parameter_count(
    config: Any, *, layers: int, hidden_size: int, intermediate_size: int, num_heads: int, num_key_value_heads: int = 0
) -> int:
    """How many parameters each architecture has, counted from its papers rather than from its tensors. V = 40, head_dim = 8."""
    h, i, q, kv = hidden_size, intermediate_size, num_heads * 8, num_key_value_heads * 8
    if config.model_type == "gpt2":
        return 40 * h + 64 * h + layers * (4 * h * h + 2 * h * i + i + 9 * h) + 2 * h
    biased = {"qwen2": q + 2 * kv}.get(config.model_type, 0)
    if getattr(config, "mlp_bias", False):
        biased += q + 2 * kv + h + 2 * i + h
    norms = {"gemma2": 4 * h, "gemma3_text": 4 * h + 16, "qwen3": 2 * h + 16, "cohere": h + q + kv}.get(config.model_type, 2 * h)
    block = h * (q + 2 * kv) + q * h + 3 * h * i + biased + norms
    return 40 * h * (1 if config.tie_word_embeddings else 2) + layers * block + h


@every_variant
def test_the_student_trains(teacher: Any, variant: str) -> None:
    student = cut_student(teacher, layers=[0, 3], calibration=batches(), **narrow(teacher)).model.train()
    ids = batches(1)[0]["input_ids"]
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-2)
    before = measured(student, ids)
    for _ in range(4):
        optimizer.zero_grad()
        student(ids, labels=ids).loss.backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in student.parameters())
        optimizer.step()
    assert measured(student, ids) < before


@torch.no_grad()
def measured(student: Any, ids: torch.Tensor) -> float:
    """The loss without dropout, whose chance would be larger than what four steps win."""
    loss = float(student.eval()(ids, labels=ids).loss)
    student.train()
    return loss


@pytest.mark.parametrize("depth", range(1, 13))
def test_spaced_blocks_are_even_and_keep_both_ends(depth: int) -> None:
    for count in range(1, depth + 1):
        blocks = spaced_blocks(depth, count)
        assert len(set(blocks)) == count
        assert blocks == sorted(blocks)
        assert blocks[0] == 0
        if count > 1:
            assert blocks[-1] == depth - 1
            gaps = [b - a for a, b in itertools.pairwise(blocks)]
            assert max(gaps) - min(gaps) <= 1


def test_influential_blocks_are_the_highest_in_order() -> None:
    assert influential_blocks([0.3, 0.1, 0.2, 0.5], 2) == [0, 3]
    assert influential_blocks([0.1, 0.1, 0.1], 2) == [0, 1]


def test_block_influence_is_the_papers_formula_and_padding_is_left_out(tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama")
    model.model.norm = nn.Identity()  # so that the last of the hidden states is the last block's own output
    total, tokens = torch.zeros(4, dtype=torch.float64), 0
    for batch in batches():
        for row in range(3):
            length = int(batch["attention_mask"][row].sum())
            with torch.no_grad():
                states = model(batch["input_ids"][row : row + 1, :length], output_hidden_states=True).hidden_states
            for block, (before, after) in enumerate(itertools.pairwise(states)):
                for x, y in zip(before[0].double(), after[0].double(), strict=True):
                    total[block] += 1 - (x @ y) / (x @ x).sqrt() / (y @ y).sqrt()
            tokens += length
    assert block_influence(model, batches()) == pytest.approx((total / tokens).tolist(), abs=1e-6)


def test_importance_is_the_papers_sum_and_padding_is_left_out(tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama", num_hidden_layers=1)
    block, inner = model.model.layers[0], model.model
    with torch.no_grad():
        block.self_attn.o_proj.weight.copy_(torch.eye(32))  # so that attention answers with its heads side by side
    want: dict[str, list[torch.Tensor]] = {"channels": [], "neurons": [], "heads": [], "energy": []}
    for batch in batches():
        for row in range(3):
            ids = batch["input_ids"][row : row + 1, : int(batch["attention_mask"][row].sum())]
            with torch.no_grad():
                x = inner.embed_tokens(ids)
                turn = inner.rotary_emb(x, torch.arange(ids.shape[1])[None])
                first = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * block.input_layernorm.weight
                heads = block.self_attn(first, position_embeddings=turn, attention_mask=None)[0]
                y = x + heads
                second = y * (y.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * block.post_attention_layernorm.weight
                neurons = nn.functional.silu(block.mlp.gate_proj(second)) * block.mlp.up_proj(second)
                third = inner.norm(y + neurons @ block.mlp.down_proj.weight.T)
            want["channels"].append((first.abs() + second.abs() + third.abs())[0])
            want["neurons"].append(neurons.abs()[0])
            want["heads"].append(torch.stack([heads[0, :, 8 * i : 8 * i + 8].square().sum(-1).sqrt() for i in range(4)], -1))
            want["energy"].append(y.square()[0])
    means = {name: torch.cat(rows).double().mean(0) for name, rows in want.items()}
    got = measure_importance(model, batches())
    for name, value in (("channels", got.channels), ("neurons", got.neurons[0]), ("heads", got.heads[0])):
        torch.testing.assert_close(value, means[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.energy["model.layers.0.post_attention_layernorm"], means["energy"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("num_heads", "num_key_value_heads"), [(4, 2), (6, 2), (2, 2), (4, 4), (3, 3), (2, 1)])
def test_kept_heads_are_the_best_choice_of_whole_groups(num_heads: int, num_key_value_heads: int, tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama", hidden_size=48, num_attention_heads=12, num_key_value_heads=4, num_hidden_layers=1)
    scores = torch.rand(1, 12, generator=torch.Generator().manual_seed(num_heads), dtype=torch.float64)
    importance = replace(measure_importance(model, batches()), heads=scores)
    student = cut_width(model, importance, num_heads=num_heads, num_key_value_heads=num_key_value_heads)
    group = num_heads // num_key_value_heads
    best = max(  # every way to take whole key/value heads, each with as many of its three query heads
        (
            tuple(itertools.chain(*choice))
            for keys in itertools.combinations(range(4), num_key_value_heads)
            for choice in itertools.product(*(itertools.combinations(range(3 * key, 3 * key + 3), group) for key in keys))
        ),
        key=lambda heads: scores[0, list(heads)].sum().item(),
    )
    before, after = (each.model.layers[0].self_attn for each in (model, student))
    rows = [8 * head + i for head in best for i in range(8)]
    keys = [8 * key + i for key in sorted({head // 3 for head in best}) for i in range(8)]
    assert torch.equal(after.q_proj.weight, before.q_proj.weight[rows])
    assert torch.equal(after.o_proj.weight, before.o_proj.weight[:, rows])
    assert torch.equal(after.k_proj.weight, before.k_proj.weight[keys])
    assert torch.equal(after.v_proj.weight, before.v_proj.weight[keys])


def test_kinds_of_layers_go_with_their_blocks(tiny_causal: Make) -> None:
    model, _ = tiny_causal("gemma2")
    assert model.config.layer_types == ["sliding_attention", "full_attention"] * 2
    student = keep_blocks(model, [1, 3])
    assert student.config.layer_types == ["full_attention"] * 2
    assert [block.self_attn.layer_idx for block in student.model.layers] == [0, 1]
    assert [block.self_attn.sliding_window for block in student.model.layers] == [None, None]


@pytest.mark.parametrize(
    ("kind", "given", "want"),
    [
        ("llama", {"num_heads": 2}, (32, 48, 2, 1)),
        ("llama", {"num_heads": 3, "num_key_value_heads": 3}, None),
        ("llama", {"num_key_value_heads": 1}, (32, 48, 2, 1)),
        ("llama", {"num_heads": 2, "num_key_value_heads": 2}, (32, 48, 2, 2)),
        ("gpt2", {"hidden_size": 24}, (24, 48, 3, 3)),
        ("gpt2", {"num_heads": 1}, (8, 48, 1, 1)),
    ],
)
def test_sizes_that_are_not_given_follow(kind: str, given: dict[str, int], want: tuple[int, ...] | None, tiny_causal: Make) -> None:
    model, _ = tiny_causal(kind)
    if want is None:
        with pytest.raises(BadInput):
            narrower_sizes(model, **given)
    else:
        sizes = narrower_sizes(model, **given)
        assert (sizes.hidden_size, sizes.intermediate_size, sizes.num_heads, sizes.num_key_value_heads) == want


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("llama", {"layers": 5}, r"student\.layers: = 5: the teacher has 4 layers; .* 1 to 4"),
        ("llama", {"layers": 0}, r"student\.layers: = 0"),
        ("llama", {"layers": [1, 4]}, r"student\.layers: = \[1, 4\]: the teacher has the layers 0 to 3, and not \[4\]"),
        ("llama", {"layers": [2, 1]}, r"student\.layers: = \[2, 1\]: give them in ascending order"),
        ("llama", {"layers": []}, r"at least one"),
        ("llama", {"layers": 2, "layer_choice": "middle"}, r"student\.layer_choice: = 'middle'; allowed: 'spaced', 'block-influence'"),
        ("llama", {"hidden_size": 40}, r"student\.hidden_size: = 40: a student cut out of its teacher has 1 to 32"),
        ("llama", {"intermediate_size": 0}, r"student\.intermediate_size: = 0: .*1 to 48"),
        ("llama", {"num_heads": 3}, r"student\.num_heads: = 3 is not a multiple of the 2 key/value heads"),
        ("llama", {"num_heads": 4, "num_key_value_heads": 1}, r"student\.num_heads: = 4 with 1 .* serves 2 query heads, so at most 2"),
        ("llama", {"hidden_size": 31}, r"student: .*'hidden_size': 31.*refused by LlamaConfig: .*not a multiple"),
        ("gpt2", {"hidden_size": 20}, r"student\.hidden_size: = 20 is not num_heads \(3\) times head_dim \(8"),
        ("gpt2", {"hidden_size": 24, "num_heads": 2}, r"student\.hidden_size: = 24 is not num_heads \(2\)"),
    ],
)
def test_a_cut_that_cannot_be_is_one_clear_error(kind: str, given: dict[str, Any], message: str, tiny_causal: Make) -> None:
    with pytest.raises(BadInput, match=message):
        cut_student(tiny_causal(kind)[0], **given, calibration=batches())


def test_all_problems_come_at_once(tiny_causal: Make) -> None:
    with pytest.raises(BadInput) as caught:
        cut_student(tiny_causal("llama")[0], layers=9, hidden_size=99, intermediate_size=99)
    assert [problem.place for problem in caught.value.problems] == ["student.layers", "student.hidden_size", "student.intermediate_size"]


def test_what_is_chosen_by_measurement_needs_texts(tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama")
    for given in ({"hidden_size": 16}, {"layers": 2, "layer_choice": "block-influence"}):
        with pytest.raises(BadInput, match=r"student\.calibration: is missing, and .* is chosen by measurement"):
            cut_student(model, **given)  # type: ignore[arg-type]
        empty = {"input_ids": torch.zeros(1, 3, dtype=torch.long), "attention_mask": torch.zeros(1, 3, dtype=torch.long)}
        with pytest.raises(BadInput, match=r"student\.calibration: has no token"):
            cut_student(model, **given, calibration=[empty])  # type: ignore[arg-type]
    assert cut_student(model, layers=2, hidden_size=32).blocks == (0, 3), "nothing to measure: the size is the teacher's own"


def test_an_architecture_without_a_description_is_refused_by_name() -> None:
    config = transformers.GPTNeoXConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(BadInput, match=r"'gpt_neox' \(GPTNeoXForCausalLM\) cannot be cut; .*gpt2, .*llama.*qwen2"):
        cut_student(transformers.GPTNeoXForCausalLM(config), layers=1)


def test_a_student_as_large_as_its_teacher_is_noted(tiny_causal: Make) -> None:
    model, _ = tiny_causal("llama")
    (note,) = cut_student(model).notes
    assert "as large as its teacher" in note
    assert cut_student(model, layers=3).notes == ()


def test_calibration_may_be_an_iterator_and_measures_in_eval_mode(tiny_causal: Make) -> None:
    model, _ = tiny_causal("gpt2")  # with dropout
    given: dict[str, Any] = {"layers": 2, "layer_choice": "block-influence", **narrow(model)}
    want = cut_student(model, **given, calibration=batches())
    model.train()
    got = cut_student(model, **given, calibration=iter(batches()))
    assert model.training
    assert got.blocks == want.blocks
    assert parameters_fingerprint(got.model) == parameters_fingerprint(want.model)
    model.eval()
