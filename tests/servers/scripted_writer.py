"""A scripted model that writes: it reads the numbered descriptions of a request, and answers with a text for each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

_DESCRIPTION = re.compile(r"^\d+\. (\{.*\})$", re.MULTILINE)


def descriptions(body: dict[str, Any]) -> list[dict[str, Any]]:
    """What a request asks for, in the order of its numbers."""
    asked = next(message["content"] for message in body["messages"] if message["role"] == "user")
    return [json.loads(line) for line in _DESCRIPTION.findall(asked)]


def writes(text: Callable[[dict[str, Any], int], str | None]) -> Callable[[int, dict[str, Any]], dict[str, Any]]:
    """A server's script: text(description, how many it has written so far) is what it writes, None leaves it out."""
    count = 0

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        nonlocal count
        inputs = []
        for place, wanted in enumerate(descriptions(body), start=1):
            if (written := text(wanted, count)) is not None:
                inputs.append({"number": place, "text": written})
            count += 1
        return {"content": json.dumps({"inputs": inputs})}

    return script
