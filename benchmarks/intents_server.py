"""An OpenAI-compatible server on loopback behind which a fine-tuned classifier answers as a chat model would.

    python benchmarks/intents_server.py MODEL --port 8377      MODEL: a folder that TextPredictor.save wrote; prints a line when it listens

It knows nothing of the job but what the messages say: the labels, and their codes where answers are to be codes, are read from the system
message. Its distribution over the labels is given as top-logprobs, each code one token, as many as were asked for, in order.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from aiohttp import web

from stillroom.models.text import load

_LINE = re.compile(r"^- (?:(?P<code>[A-Z]+) = )?(?P<label>[^:\n]+)", re.MULTILINE)
_GATHER_SECONDS, _MOST_AT_ONCE = 0.005, 64


class Answerer:
    """Gathers the texts that wait, and lets the model read them together."""

    def __init__(self, folder: Path) -> None:
        self.model = load(folder)
        self.waiting: asyncio.Queue[tuple[str, asyncio.Future[np.ndarray]]] = asyncio.Queue()

    async def probs(self, text: str) -> np.ndarray:
        """(K,) in the order of the model's classes."""
        found: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
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
        system, text = body["messages"][0]["content"], body["messages"][-1]["content"]
        named = {match["label"]: match["code"] or match["label"] for match in _LINE.finditer(system)}
        probs = await self.probs(text)
        order = [i for i in np.argsort(-probs) if self.model.classes[i] in named]
        words = [named[self.model.classes[i]] for i in order]
        said = json.dumps({"label": words[0]}) if "response_format" in body else words[0]
        choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        if body.get("logprobs"):
            logprobs = np.log(np.maximum(probs[order], 1e-30)).tolist()
            tokens = [{"token": word, "logprob": value} for word, value in zip(words, logprobs, strict=True)]
            choice["logprobs"] = {"content": [{**tokens[0], "top_logprobs": tokens[: body.get("top_logprobs", 0)]}]}
        usage = {"prompt_tokens": sum(len(m["content"]) for m in body["messages"]) // 4, "completion_tokens": 1}
        answer = {"object": "chat.completion", "created": int(time.time()), "model": "minilm-intents", "choices": [choice], "usage": usage}
        return web.json_response(answer)


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
