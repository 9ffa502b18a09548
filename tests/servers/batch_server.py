"""The batch API's routes for the scripted server: files, batches, results, and what can go wrong with them.

`BatchServer(script, act=...)` runs each line of an uploaded file through the script of chat requests. `act(number)` says what happens to
the batch with that number (from 0): a dict with any of

    status      "completed", "failed", "expired", "cancelled"      looks      so many looks until it has ended (1)
    run         the share of its rows that are run                 errors     what a failed batch says
    lines       lines -> lines: what to do to its results          lost       True: made, but the answer is a 500
    gone        True: a look at it is answered 404            others     so many batches of other programs that are made after it
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web
from scripted_server import Script, Server, completion

Act = Callable[[int], dict[str, Any]]


class BatchServer(Server):
    """Keeps what it was given in `files` and `batches`, and how often each route was asked in `routes`.

    `fault(route, number)` may answer a request itself: a status, or None. `hold(route)` is called before a route answers.
    """

    def __init__(self, script: Script | None = None, *, act: Act | None = None, fault: Callable[[str, int], int | None] | None = None):
        super().__init__(script)
        self.act, self.fault = act or (lambda number: {}), fault or (lambda route, number: None)
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}  # newest last
        self.routes: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()  # by the last message's content: lines of batches that were made
        self.batch_headers: list[dict[str, str]] = []
        self.stop_at: str | None = None
        """The route that never answers from now on: there a client can be killed."""
        self.page = 2

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        for method, path, handler in (
            ("POST", "/v1/files", self._upload),
            ("GET", "/v1/files/{name}/content", self._content),
            ("POST", "/v1/batches", self._create),
            ("GET", "/v1/batches", self._list),
            ("GET", "/v1/batches/{name}", self._look),
        ):
            app.router.add_route(method, path, self._guarded(f"{method} {path}", handler))

    def _guarded(self, route: str, handler: Any) -> Any:
        async def handle(request: web.Request) -> web.Response:
            number = self.routes[route]
            self.routes[route] += 1
            self.batch_headers.append(dict(request.headers))
            if status := self.fault(route, number):
                return web.json_response({"error": {"message": "scripted"}}, status=status)
            response = await handler(request)
            if self.stop_at == route:
                await self._stop.wait()
            return response

        return handle

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["purpose"] == "batch"
        content = form["file"].file.read()
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return web.json_response(
            {"id": name, "object": "file", "purpose": "batch", "bytes": len(content), "created_at": 1000 + len(self.files)}
        )

    async def _create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        assert asked["endpoint"] == "/v1/chat/completions"
        assert asked["completion_window"] == "24h"
        number = self.routes["made"]
        self.routes["made"] += 1
        act = {"status": "completed", "looks": 1, "run": 1.0, **self.act(number)}
        self.batches[f"batch-{number}"] = {
            "id": f"batch-{number}", "object": "batch", "status": "validating", "input_file_id": asked["input_file_id"],
            "created_at": 1001 + len(self.files), "act": act, "looks": 0,
        }  # fmt: skip
        for line in self.files[asked["input_file_id"]].splitlines():
            self.asked[str(json.loads(line)["body"]["messages"][-1]["content"])] += 1
        for i in range(act.get("others", 0)):
            self.batches[f"other-{number}-{i}"] = {
                "id": f"other-{number}-{i}",
                "object": "batch",
                "status": "completed",
                "input_file_id": f"other-{number}-{i}",
                "created_at": 1001 + len(self.files),
                "act": act,
                "looks": 0,
            }
        if act.get("lost"):
            return web.json_response({"error": {"message": "lost"}}, status=500)
        return web.json_response(self._shown(self.batches[f"batch-{number}"]))

    async def _list(self, request: web.Request) -> web.Response:
        every = list(reversed(self.batches.values()))
        start = next((i + 1 for i, each in enumerate(every) if each["id"] == request.query.get("after")), 0)
        page = every[start : start + self.page]
        more = start + self.page < len(every)
        return web.json_response({"object": "list", "data": [self._shown(each) for each in page], "has_more": more})

    async def _look(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["name"]]
        batch["looks"] += 1
        if batch["act"].get("gone"):
            return web.json_response({"error": {"message": "no such batch"}}, status=404)
        if batch["looks"] < batch["act"]["looks"]:
            batch["status"] = "in_progress"
        elif batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            self._finish(batch)
        return web.json_response(self._shown(batch))

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self.files[request.match_info["name"]], content_type="application/octet-stream")

    def _finish(self, batch: dict[str, Any]) -> None:
        act = batch["act"]
        batch["status"] = act["status"]
        if act["status"] == "failed":
            batch["errors"] = {"object": "list", "data": [{"code": "x", "message": act.get("errors", "it is wrong"), "line": 1}]}
            return
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        run = int(act["run"] * len(rows))
        results = [self._run(row) for row in rows[:run]]
        results += [
            {"custom_id": row["custom_id"], "response": None, "error": {"code": "batch_expired", "message": "too late"}}
            for row in rows[run:]
        ]
        lines = [json.dumps(each).encode() for each in results]
        good = [line for line, each in zip(lines, results, strict=True) if each["response"] and each["response"]["status_code"] == 200]
        bad = [line for line in lines if line not in good]
        change = act.get("lines", lambda lines: lines)
        for field, found in (("output_file_id", change(good)), ("error_file_id", bad)):
            if found:
                batch[field] = f"results-{len(self.files)}"
                self.files[batch[field]] = b"\n".join(found) + b"\n"
        batch["request_counts"] = {"total": len(rows), "completed": len(good), "failed": len(bad)}

    def _run(self, row: dict[str, Any]) -> dict[str, Any]:
        number, self.number = self.number, self.number + 1
        act = self.script(number, row["body"])
        status = act.get("status", 200)
        body = json.loads(act["body"]) if "body" in act else completion(act.get("content", "yes"), row["body"], **act.get("fields", {}))
        if status == 200:
            self.answered[str(row["body"]["messages"][-1]["content"])] += 1
        return {
            "id": f"line-{number}",
            "custom_id": row["custom_id"],
            "response": {"status_code": status, "request_id": "r", "body": body},
            "error": None,
        }

    def _shown(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in batch.items() if name not in ("act", "looks")}
