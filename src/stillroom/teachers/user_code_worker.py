"""The process in which the user's checker runs; `user_code.CodeChecker` starts it alone, with `python -I`.

Of Stillroom it imports nothing. One JSON line in, one out: first the setting, answered by ["ready", null] or ["unready", why];
then checks, answered by ["verdict", bool] or ["failed", why].
"""

from __future__ import annotations

import importlib
import json
import math
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

_MOST_SHOWN = 300


def _attempt(function: Callable[..., Any], *arguments: Any, memory: int) -> tuple[Any, str]:
    """What it returns, or why it did not."""
    try:
        return function(*arguments), ""
    except MemoryError:
        return None, f"ran out of its {memory >> 20} MiB of memory"
    except BaseException as error:  # SystemExit and KeyboardInterrupt too: they are the user's code's
        return None, f"raised {type(error).__name__}: {error}"[:_MOST_SHOWN]


def _limit(kind: int, most: int) -> None:
    resource.setrlimit(kind, (most, resource.getrlimit(kind)[1]))


def _load(module: str, name: str) -> Callable[..., Any]:
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def main() -> None:
    """Serve checks until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the user's code prints must not pass for a reply

    def reply(kind: str, value: object) -> None:
        replies.write(json.dumps([kind, value]) + "\n")
        replies.flush()

    module, name, folder, memory, seconds = json.loads(sys.stdin.readline())
    sys.path.insert(0, folder)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CORE, 0)
    function, why = _attempt(_load, module, name, memory=memory)
    reply("unready" if why else "ready", why or None)
    for line in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        # If the parent dies in the middle of a check, nobody is left to kill an endless loop; this does, above the parent's limit.
        _limit(resource.RLIMIT_CPU, math.ceil(used.ru_utime + used.ru_stime + seconds) + 1)
        found, why = _attempt(function, *json.loads(line), memory=memory)
        if not why and not isinstance(found, bool):
            why = f"returned {type(found).__name__}, not True or False"
        reply("failed" if why else "verdict", why or found)


if __name__ == "__main__":
    main()
