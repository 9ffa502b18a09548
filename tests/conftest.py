"""Shared by every test: where the real data lies, no model hub, and no GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported: its kernels run on any machine, line by line

_NEEDS_AIOHTTP = [
    "pipeline/test_endpoint_bad_input.py",
    "pipeline/test_endpoint_job.py",
    "pipeline/test_generate_job.py",
    "pipeline/test_responses_job.py",
    "pipeline/test_sequence_labelling_job.py",
    "teachers/endpoint",
    "teachers/test_responses.py",
    "teachers/synthesis/test_fill.py",
    "teachers/tasks",
]
collect_ignore_glob = [] if find_spec("aiohttp") else _NEEDS_AIOHTTP
if find_spec("torch") is None:
    # The base install alone, as `make oldest` tests it: what is written for the extra `torch` is left out.
    collect_ignore_glob += [
        "architecture/test_architecture.py",  # the linter belongs to the development tools
        "evaluation/test_language_cost.py",
        "export/test_onnx_text.py",
        "losses/*",
        "models/test_causal.py",
        "models/test_generation.py",
        "models/test_language*.py",
        "models/test_spans.py",
        "models/test_text.py",
        "objectives/test_soft_labels_torch.py",
        "objectives/test_tokens.py",
        "pipeline/test_language_bad_input.py",
        "pipeline/test_language_interrupt.py",
        "pipeline/test_language_kill.py",
        "pipeline/test_other_teachers.py",
        "pipeline/test_language_mistakes.py",
        "pipeline/test_language_use.py",
        "pipeline/test_sequence_labelling_job.py",
        "report/test_browser.py",
        "review/test_browser.py",
        "students/test_causal.py",
        "students/test_encoders.py",
        "teachers/tasks/test_codes_in_vocabularies.py",
        "teachers/test_causal.py",
        "teachers/test_huggingface.py",
        "teachers/test_token_sampling.py",
        "training/test_encoder.py",
        "training/test_tagging.py",
        "training/test_language*.py",
    ]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data. Its absence skips a test, and fails it where CI=true."""
    folder = Path(os.environ.get("STILLROOM_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        reason = f"real data not found in {folder}; set STILLROOM_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def tiny_bert() -> Callable[..., tuple[Any, Any]]:
    """make(classes, seed=0, **config) -> an untrained two-layer BERT with these labels, and a tokenizer of some English words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = "good bad fine poor card money lost a the is my it was very not how do i get to and when where"
    vocabulary = {word: i for i, word in enumerate([*special, *words.split()])}

    def tokenizer() -> PreTrainedTokenizerFast:
        backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, model_input_names=inputs, **names)

    def make(classes: Sequence[str], seed: int = 0, **config: Any) -> tuple[Any, Any]:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.3}
        settings = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **{**sizes, **config})
        settings.id2label, settings.label2id = dict(enumerate(classes)), {name: i for i, name in enumerate(classes)}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return BertForSequenceClassification(settings).eval(), tokenizer()

    return make


@pytest.fixture(scope="session")
def tiny_causal() -> Callable[..., tuple[Any, Any]]:
    """make(kind, seed=0, **config) -> a causal LM of that model_type with random weights everywhere, and a tokenizer of 30 words.

    4 blocks, 32 channels, 48 neurons, 4 heads of 8 (2 key/value heads where the kind groups them), 40 rows of vocabulary.
    """
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{i}" for i in range(26))]
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = {"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 64}
    grouped = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    own: dict[str, dict[str, Any]] = {
        "gpt2": {"n_inner": 48},
        "qwen2": {**grouped, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2},
        "gemma2": {**grouped, "sliding_window": 4, "query_pre_attn_scalar": 8, "final_logit_softcapping": 3.0},
        "gemma3_text": {**grouped, "sliding_window": 4, "sliding_window_pattern": 2, "query_pre_attn_scalar": 8},
        "granite": {**grouped, "logits_scaling": 3.0, "residual_multiplier": 0.7, "embedding_multiplier": 2.0, "attention_multiplier": 0.3},
        "cohere": {**grouped, "logit_scale": 0.3, "use_qk_norm": True},
    }

    def make(kind: str, seed: int = 0, **config: Any) -> tuple[Any, Any]:
        settings = transformers.AutoConfig.for_model(kind, **{**sizes, **own.get(kind, grouped), **ids, **config})
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = transformers.AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
            with torch.no_grad():
                for weight in model.parameters():  # norms and biases too: at their first values, a wrong cut would not show
                    weight.add_(0.2 * torch.randn_like(weight))
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return model, transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, **names)

    return make
