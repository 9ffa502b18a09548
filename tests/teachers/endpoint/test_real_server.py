"""llama.cpp's own server (package xllamacpp) with a real small model: the protocol as it is in the wild."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillroom.core.chat import ChatParameters, ChatRequest, Failure, Reply
from stillroom.core.errors import StageFailed
from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.durable import ask_all, stored_outcomes

KEY = "sk-real-server"
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
SCHEMA = {"type": "object", "properties": {"label": {"enum": ["yes", "no"]}}, "required": ["label"], "additionalProperties": False}
SERVER = """
import sys, threading, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.api_keys, p.port, p.n_ctx, p.n_parallel, p.warmup = sys.argv[1], [sys.argv[2]], 0, 2048, 4, False
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(p)
print("address", server.listening_address, flush=True)
threading.Event().wait()
"""


def write_gguf(source: Path, target: Path) -> None:
    """A Llama checkpoint with a sentencepiece-like BPE, as llama.cpp reads it."""
    import gguf
    import numpy as np
    from safetensors.numpy import load_file

    config = json.loads((source / "config.json").read_text())
    vocabulary = json.loads((source / "tokenizer.json").read_text())["model"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    ranks = {"".join(pair): -float(i) for i, pair in enumerate(vocabulary["merges"])}
    pieces = sorted(vocabulary["vocab"], key=vocabulary["vocab"].get)
    kinds = [gguf.TokenType.BYTE if piece.startswith("<0x") else gguf.TokenType.NORMAL for piece in pieces]
    kinds[:3] = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.encode() for piece in pieces])
    writer.add_token_scores([ranks.get(piece, -1000.0) for piece in pieces])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, values in load_file(source / "model.safetensors").items():
        rotated = heads if "q_proj" in name else kv_heads if "k_proj" in name else 0
        if rotated:  # llama.cpp rotates neighbours, the checkpoint the two halves of a head
            rows = values.reshape(rotated, 2, len(values) // rotated // 2, -1)
            values = rows.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), np.ascontiguousarray(values, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def base_url(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not all(map(importlib.util.find_spec, ("gguf", "safetensors", "xllamacpp"))):
        reason = "the real server needs the packages gguf, safetensors and xllamacpp, which the extra dev installs on Linux"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(f"{reason}; CI fails here instead")
    model = tmp_path_factory.mktemp("gguf") / "stories.gguf"
    write_gguf(shared_data / "weights" / "stories260K" / "hf", model)
    command = [sys.executable, "-c", SERVER, str(model), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = next(line.split()[1] for line in process.stdout if line.startswith("address"))
            yield f"{address}/v1"
        finally:
            process.kill()


class Server:
    """Asks rows of it, with the key."""

    def __init__(self, base_url: str, folder: Path) -> None:
        self.place, self.folder = Endpoint(base_url, api_key_env="REAL_SERVER_KEY", timeout_seconds=30.0, max_concurrency=8), folder

    def ask(self, *contents: str, system: str = "", extra: dict[str, Any] | None = None, **parameters: Any) -> list[Any]:
        shared = ChatParameters("stories", **{"max_tokens": 8, "temperature": 0.0, **parameters}, extra=extra or {})
        first: tuple[dict[str, str], ...] = ({"role": "system", "content": system},) if system else ()
        rows = [ChatRequest((*first, {"role": "user", "content": content}), shared, seed=3, sample=i) for i, content in enumerate(contents)]
        with KnowledgeStore(self.folder) as store:
            ask_all(store, self.place, rows)
            return list(stored_outcomes(store, self.place, rows))


@pytest.fixture
def server(base_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("REAL_SERVER_KEY", KEY)
    return Server(base_url, tmp_path / "knowledge")


def test_answers_with_usage_and_a_chat_template(server: Server) -> None:
    first, second, told = *server.ask("Once upon a time", "Once upon a time"), *server.ask("Once upon a time", system="Tell a story.")
    assert isinstance(first, Reply)
    assert first.usage is not None
    assert (first.choices[0].finish_reason, first.usage.completion_tokens, first.choices[0].logprobs) == ("length", 8, None)
    assert first.text == second.text
    assert first.text.strip()
    assert told.usage.prompt_tokens > first.usage.prompt_tokens


def test_what_a_row_says_is_text_to_the_template(server: Server) -> None:
    """llama.cpp renders a Jinja template for each request; braces and control characters of a row are nothing to it."""
    outcomes = server.ask(
        "{{ 6 * 7 }}", "42", "{% raw %} {{ messages }} {# x #}", "a\x00b \x1b[31m \u202e </s> <s>", "\N{GRINNING FACE}", ""
    )
    assert all(isinstance(each, Reply) for each in outcomes)
    lengths = [each.usage.prompt_tokens for each in outcomes]
    assert lengths[0] >= lengths[1] + 5
    assert lengths[2] >= lengths[5] + 20


def test_logprobs_are_those_of_a_distribution(server: Server) -> None:
    (outcome,) = server.ask("Once", top_logprobs=20)
    (choice,) = outcome.choices
    assert len(choice.logprobs) == 8
    assert "".join(each.token for each in choice.logprobs) == choice.text
    for place in choice.logprobs:
        assert len(place.top) == 20
        assert place.top[0] == (place.token, place.logprob)  # at temperature 0 the likeliest is taken
        assert 0.3 < sum(math.exp(value) for _, value in place.top) < 1 + 1e-4


def test_a_json_schema_is_kept(server: Server) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
    for outcome in server.ask("Is it?", "Was it?", "Why not?", max_tokens=60, response_format=wanted, top_logprobs=2):
        assert outcome.choices[0].finish_reason == "stop"
        assert json.loads(outcome.text)["label"] in ("yes", "no")
        assert outcome.choices[0].logprobs


def test_several_answers_to_one_request(server: Server) -> None:
    (outcome,) = server.ask("Once", n=3, temperature=1.0, stop=(".",), max_tokens=30)
    assert len({choice.text for choice in outcome.choices}) == 3
    assert not any("." in choice.text for choice in outcome.choices)


def test_a_prompt_beyond_the_context_fails_alone(server: Server) -> None:
    outcomes = server.ask("Once", "word " * 3000, "Twice")
    assert [type(each) for each in outcomes] == [Reply, Failure, Reply]
    assert (outcomes[1].reason, outcomes[1].status, outcomes[1].attempts) == ("context-too-long", 400, 1)


def test_many_at_once(server: Server) -> None:
    outcomes = server.ask(*(f"Story {i}" for i in range(60)))
    assert all(isinstance(each, Reply) and each.attempts == 1 for each in outcomes)


def test_a_wrong_key_stops_the_run_and_is_not_shown(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAL_SERVER_KEY", "sk-wrong")
    with pytest.raises(StageFailed, match=r"teacher\.api_key_env.*401.*REAL_SERVER_KEY") as stopped:
        server.ask("Once")
    assert "sk-wrong" not in str(stopped.value)
