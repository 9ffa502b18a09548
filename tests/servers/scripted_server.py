"""A scripted OpenAI-compatible server on loopback, for tests and benchmarks.

    python scripted_server.py --latency 0.1 --sigma 0 --rate 20     prints its port; GET /stats tells what it has seen

In a test, `script(number, body)` says what happens to the request with that number (from 0): a dict with any of

    latency   seconds before the answer            status, headers, body, type   what to answer instead
    drop      True: close without an answer        cut       so many bytes of the answer, then close
    drip      seconds between single bytes         huge      a body of so many bytes
    content   the answer's text                    fields    further fields of the answer
    end       True: the server ends, without an answer
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

Script = Callable[[int, dict[str, Any]], dict[str, Any]]


class Bucket:
    """A hidden limit: `rate` requests a second, `burst` at once. wait(None) is 0, or the seconds until there is room."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.level, self.last = rate, burst, burst, time.monotonic()

    def wait(self) -> float:
        now = time.monotonic()
        self.level, self.last = min(self.burst, self.level + (now - self.last) * self.rate), now
        if self.level >= 1:
            self.level -= 1
            return 0.0
        return (1 - self.level) / self.rate


def completion(content: str, body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    prompt = sum(len(str(message["content"])) for message in body["messages"]) // 4 + 1
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    answer = len(content.split())
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {"object": "chat.completion", "model": body["model"], "choices": [choice], "usage": usage, **fields}


class Server:
    """`with Server(script) as server`: runs in a thread. Keeps what it has seen in `bodies`, `headers` and `answered`."""

    def __init__(
        self, script: Script | None = None, *, bucket: Bucket | None = None, told: Callable[[float], dict[str, str]] | None = None,
        port: int = 0, tls: ssl.SSLContext | None = None,
    ):  # fmt: skip
        """`bucket`: a hidden limit; `told(seconds)`: the headers of its refusals; `port`: 0 for any that is free."""
        self.script = script or (lambda number, body: {})
        self.bucket, self.told = bucket, told or (lambda seconds: {})
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answered: Counter[str] = Counter()  # by the last message's content: whole good answers written
        self.statuses: Counter[int] = Counter()
        self.times: list[float] = []
        self.in_flight = self.most_in_flight = self.number = 0
        self.port, self._tls = port, tls
        self.keep = True  # bodies and headers
        self._started = threading.Event()

    @property
    def base_url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Server:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        if not self._loop.is_closed():  # a script may have ended it
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        self.add_routes(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._site: web.TCPSite | None = web.TCPSite(runner, "127.0.0.1", self.port, backlog=4096, ssl_context=self._tls)
        await self._site.start()
        self.port = runner.addresses[0][1]
        self._started.set()
        print(self.port, flush=True)
        await self._stop.wait()
        await runner.cleanup()

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/chat/completions", self._handle)
        app.router.add_get("/stats", self._stats)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        number, self.number = self.number, self.number + 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.times.append(time.monotonic())
        try:
            response = await self._answer(request, number)
            self.statuses[response.status] += 1
            return response
        except ConnectionError:  # the client has hung up
            return web.Response(status=500)
        finally:
            self.in_flight -= 1

    async def _answer(self, request: web.Request, number: int) -> web.StreamResponse:
        body = json.loads(await request.read())
        if self.keep:
            self.bodies.append(body)
            self.headers.append(dict(request.headers))
        if self.bucket is not None and (wait := self.bucket.wait()):
            return web.json_response({"error": {"message": "too many requests"}}, status=429, headers=self.told(wait))
        act = self.script(number, body)
        if act.get("latency"):
            await asyncio.sleep(act["latency"])
        transport = request.transport
        if act.get("end") and self._site is not None:
            site, self._site = self._site, None
            await site.stop()  # nobody gets in any more, and who is at the door is shut out with the rest
            self._loop.call_later(0.1, self._stop.set)
        if act.keys() & {"drop", "end"}:
            if transport is not None:
                transport.abort()
            return web.Response(status=500)
        content = act.get("content", "yes")
        good = json.dumps(completion(content, body, **act.get("fields", {}))).encode()
        text = act.get("body", good)
        status, kind = act.get("status", 200), act.get("type", "application/json")
        if not act.keys() & {"cut", "drip", "huge"}:
            if status == 200 and "body" not in act:
                self.answered[str(body["messages"][-1]["content"] if body["messages"] else "")] += 1
            return web.Response(body=text, status=status, content_type=kind, headers=act.get("headers"))
        response = web.StreamResponse(status=status, headers={"Content-Type": kind, **act.get("headers", {})})
        if "cut" in act:
            response.content_length = len(text)
        await response.prepare(request)
        if "cut" in act:
            await response.write(text[: act["cut"]])
            await asyncio.sleep(0.01)
            if transport is not None:
                transport.close()
        elif "drip" in act:
            for i in range(len(text)):
                await response.write(text[i : i + 1])
                await asyncio.sleep(act["drip"])
        else:
            left = act["huge"]
            while left > 0:
                await response.write(b" " * min(left, 1 << 16))
                left -= 1 << 16
        return response

    async def _stats(self, request: web.Request) -> web.Response:
        first, last = (self.times[0], self.times[-1]) if self.times else (0.0, 0.0)
        seen = {"requests": self.number, "most_in_flight": self.most_in_flight, "seconds": last - first}
        again = {name: count for name, count in self.answered.items() if count > 1}
        return web.json_response({**seen, "statuses": self.statuses, "answered": len(self.answered), "again": again})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--sigma", type=float, default=0.0, help="of the logarithm of the latency, whose median is LATENCY")
    parser.add_argument("--rate", type=float, default=0.0, help="hidden limit, requests a second; 0: none")
    parser.add_argument("--burst", type=float, default=None)
    parser.add_argument("--share-400", type=float, default=0.0)
    options = parser.parse_args()
    chance = random.Random(7)

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        latency = options.latency * math.exp(options.sigma * chance.gauss(0, 1)) if options.sigma else options.latency
        # By the content: a row that is refused for good stays refused.
        bad = options.share_400 and random.Random(str(body["messages"])).random() < options.share_400
        return {"latency": latency, "status": 400, "body": b'{"error": {"message": "no"}}'} if bad else {"latency": latency}

    server = Server(script, bucket=Bucket(options.rate, options.burst or options.rate) if options.rate else None)
    server.keep = False
    asyncio.run(server.serve())


if __name__ == "__main__":
    main()
