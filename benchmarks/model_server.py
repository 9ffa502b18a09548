"""An OpenAI-compatible server on loopback behind which a fine-tuned model answers as a chat model would.

    python benchmarks/model_server.py MODEL --port 8377        MODEL: a folder that TextPredictor.save or SpanPredictor.save wrote;
                                                               prints a line when it listens

It knows nothing of the job but what the messages say. A classifier reads the labels, and their codes where answers are to be codes, from
the system message; its distribution over the labels is given as top-logprobs, each code one token, as many as were asked for, in order.
A token classifier lists the mentions that it finds, in the order of the text.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from aiohttp import web

from stillroom.models.load import load_predictor

_LINE = re.compile(r"^- (?:(?P<code>[A-Z]+) = )?(?P<label>[^:\n]+)", re.MULTILINE)
_GATHER_SECONDS, _MOST_AT_ONCE = 0.005, 64


class Answerer:
    """Gathers the texts that wait, and lets the model read them together."""

    def __init__(self, folder: Path) -> None:
        self.model: Any = load_predictor(folder)
        self.name = "minilm-names" if self.model.kind == "spans" else "minilm-intents"
        self.waiting: asyncio.Queue[tuple[str, asyncio.Future[Any]]] = asyncio.Queue()

    async def read(self, text: str) -> Any:
        """(K,) probabilities in the order of the model's classes, or a tuple of spans."""
        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await self.waiting.put((text, found))
        return await found

    async def work(self) -> None:
        while True:
            batch = [await self.waiting.get()]
            await asyncio.sleep(_GATHER_SECONDS)
            while not self.waiting.empty() and len(batch) < _MOST_AT_ONCE:
                batch.append(self.waiting.get_nowait())
            frame = pd.DataFrame({self.model.column: [text for text, _ in batch]})
            values = await asyncio.to_thread(self.model.predict_values, frame)
            for (_, future), row in zip(batch, values, strict=True):
                if not future.done():
                    future.set_result(row)

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.json()
        text = body["messages"][-1]["content"]
        found = await self.read(text)
        if isinstance(found, tuple):
            choice = mentions(text, found)
            written = len(choice["message"]["content"]) // 4
        else:
            choice, written = label(body, found, self.model.classes), 1
        usage = {"prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4, "completion_tokens": written}
        about = {"object": "chat.completion", "created": int(time.time()), "model": self.name}
        return web.json_response({**about, "choices": [{"index": 0, "finish_reason": "stop", **choice}], "usage": usage})


def mentions(text: str, found: tuple[Any, ...]) -> dict[str, Any]:
    """A choice that lists what a token classifier found."""
    entities = [{"text": text[span.start : span.end], "label": span.label} for span in found]
    return {"message": {"role": "assistant", "content": json.dumps({"entities": entities})}}


def label(body: dict[str, Any], probs: np.ndarray, classes: Any) -> dict[str, Any]:
    """A choice that names the likeliest of the labels that the system message names, with as many log-probabilities as were asked for."""
    named = {match["label"]: match["code"] or match["label"] for match in _LINE.finditer(body["messages"][0]["content"])}
    order = [i for i in np.argsort(-probs) if classes[i] in named]
    words = [named[classes[i]] for i in order]
    said = json.dumps({"label": words[0]}) if "response_format" in body else words[0]
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": said}}
    if body.get("logprobs"):
        logprobs = np.log(np.maximum(probs[order], 1e-30)).tolist()
        tokens = [{"token": word, "logprob": value} for word, value in zip(words, logprobs, strict=True)]
        choice["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens[: body.get("top_logprobs", 0)]}]}
    return choice


@contextmanager
def serving(model: Path, port: int) -> Iterator[None]:
    """The server in a process of its own. A fixed port: an answer's key holds the endpoint's address."""
    process = subprocess.Popen([sys.executable, __file__, str(model), "--port", str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening"), "the server did not start"
        yield
    finally:
        process.kill()
        process.wait()


async def serve(folder: Path, port: int) -> None:
    answerer, app = Answerer(folder), web.Application()
    app.router.add_post("/v1/chat/completions", answerer.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"listening on {port}", flush=True)
    await answerer.work()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--port", type=int, default=8377)
    options = parser.parse_args()
    asyncio.run(serve(options.model, options.port))


if __name__ == "__main__":
    main()
