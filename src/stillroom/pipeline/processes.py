"""One run by several processes, as torchrun and accelerate launch start them: the first works as if alone, the others help to train.

They meet in the trainings, through torch. In between they meet through the run folder, which all of them must see: labelling
and evaluating may take hours, and a collective operation of torch gives up long before.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from stillroom.core.errors import BadInput
from stillroom.spec.job import Job

T = TypeVar("T")

_LOOKED_EVERY_SECONDS = 0.2


def leads() -> bool:
    """Whether this process is the first of those that were started together, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def check_processes(job: Job) -> None:
    """Refuse several processes where there is nothing that they could do together, and a launcher that would shard a second time.

    Raises:
        BadInput: with the remedy.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        message = "accelerate was told to shard, which Stillroom does itself; start without its FSDP options, and set"
        raise BadInput.at("accelerate launch", f"{message} training.arguments.fsdp.")
    number = int(os.environ.get("WORLD_SIZE", 1))
    if number > 1 and job.task != "language-model":
        message = f"= {job.task}: {number} processes were started, but only a language-model is trained by several"
        raise BadInput.at("task", f"{message}; start one, without torchrun.")


def wait_for(look: Callable[[], T | None]) -> T:
    """What look() finds, once the first process has written it. Should that fail, the launcher ends this process too."""
    while (found := look()) is None:
        time.sleep(_LOOKED_EVERY_SECONDS)
    return found


@contextmanager
def parting() -> Iterator[None]:
    """Leave at the end the group that the trainings inside were done in: torch complains of a process that ends in it."""
    grouped = _is_grouped()
    yield
    if _is_grouped() and not grouped:
        sys.modules["torch"].distributed.destroy_process_group()


def _is_grouped() -> bool:
    # A job without torch must not import it.
    distributed = getattr(sys.modules.get("torch"), "distributed", None)
    return distributed is not None and distributed.is_available() and bool(distributed.is_initialized())
