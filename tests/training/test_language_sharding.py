"""What a job may say about sharding. That it happens is shown by test_language_processes.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from stillroom.core.errors import BadInput, StageFailed
from stillroom.training.arguments import training_arguments
from stillroom.training.sharding import Sharding, read_sharding
from stillroom.training.trainer import _check_processes


@pytest.mark.parametrize(
    ("fields", "reshard"),
    [
        ({"fsdp": True}, True),
        ({"fsdp": "full_shard"}, True),
        ({"fsdp": "full_shard auto_wrap"}, True),
        ({"fsdp": "shard_grad_op"}, False),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": False}}, False),
        ({"fsdp": True, "fsdp_config": {"fsdp_version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}, True),
    ],
)
def test_the_names_of_transformers_are_understood(fields: dict[str, Any], reshard: bool) -> None:
    assert read_sharding({**fields, "optim": "sgd"}) == (Sharding(reshard), {"optim": "sgd"})


@pytest.mark.parametrize("fields", [{}, {"fsdp": ""}, {"fsdp": False}, {"fsdp": None}])
def test_none_is_wanted(fields: dict[str, Any]) -> None:
    assert read_sharding({**fields, "optim": "sgd"}) == (None, {"optim": "sgd"})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fsdp": "hybrid_shard"}, r"arguments\.fsdp: = 'hybrid_shard' is not supported; set it to true, full_shard or shard_grad_op"),
        ({"fsdp": "full_shard offload"}, r"arguments\.fsdp: = 'full_shard offload' is not supported"),
        ({"fsdp": "full_shard shard_grad_op"}, r"arguments\.fsdp: = 'full_shard shard_grad_op' is not supported"),
        ({"fsdp": True, "fsdp_config": {"version": 1}}, r"fsdp_config\.version: = 1: only FSDP2 is there; set it to 2, or remove it"),
        ({"fsdp": True, "fsdp_config": {"cpu_offload": True}}, r"fsdp_config\.cpu_offload: = True: is not supported; allowed: version"),
        ({"fsdp": True, "fsdp_config": {"auto_wrap_policy": "SIZE_BASED_WRAP"}}, r"auto_wrap_policy: = 'SIZE_BASED_WRAP': every block"),
        ({"fsdp": True, "fsdp_config": {"reshard_after_forward": "full_shard"}}, r"reshard_after_forward: = 'full_shard': must be true"),
        ({"fsdp": True, "fsdp_config": "fsdp.json"}, r"fsdp_config: = 'fsdp\.json' is not a mapping; write the keys into the job"),
        ({"fsdp": True, "fp16": True}, r"arguments\.fp16: does not go with fsdp; set bf16 instead"),
        ({"fsdp_config": {"version": 2}}, r"fsdp_config: is set, but fsdp is not; set fsdp to true, or remove it"),
    ],
)
def test_what_is_not_supported_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_sharding(fields)


def test_every_problem_is_told_at_once() -> None:
    with pytest.raises(BadInput) as caught:
        read_sharding({"fsdp": "offload", "fsdp_config": {"version": 1, "xla": True}, "fp16": True})
    assert len(caught.value.problems) == 4


def test_a_launcher_may_not_bring_in_half_precision() -> None:
    with pytest.raises(ValueError, match="fp16 does not go with fsdp, take bf16"):
        Sharding().shard(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), precision="fp16")  # type: ignore[arg-type]


def test_other_models_are_not_sharded(tmp_path: Path) -> None:
    settings = {"warmup_ratio": 0.0, "arguments": {"fsdp": True}}
    with pytest.raises(BadInput, match=r"training\.arguments\.fsdp: is for language models alone; remove it"):
        training_arguments(settings, seed=0, folder=tmp_path, validated=False)


def test_processes_that_train_different_things_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _check_processes("a")  # alone

    def gather(found: list[Any], mine: str) -> None:
        found[:] = [mine, "b"]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    _check_processes("b")
    with pytest.raises(StageFailed, match="the processes differ in their students"):
        _check_processes("a")
