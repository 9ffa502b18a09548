"""The vendors' batch API over HTTP: a file of requests up, its batch on the way, files of results down."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.batch_files import ScratchFile
from stillroom.teachers.endpoint.breaker import Breaker, EndpointStopped, words_of
from stillroom.teachers.endpoint.client import LONGEST_WAIT_SECONDS, backoff_seconds
from stillroom.teachers.endpoint.transport import Transport
from stillroom.teachers.endpoint.wire import AttemptFailed, read_object, refusal

T = TypeVar("T")
CHAT_PATH = "/v1/chat/completions"
"""What the vendors call chat requests inside a batch, whatever their base URL."""
_COMPLETION_WINDOW = "24h"
_TRANSFER_SECONDS = 3600.0
"""The deadline of a file on its way up or down."""
_PAGE = 100
_ENDED = frozenset({"completed", "failed", "expired", "cancelled"})


@dataclass(frozen=True)
class Batch:
    """How a batch stands.

    Attributes:
        status: the vendor's word.
        files: of results: the answers, and the errors.
        processed: requests that the vendor is done with.
        detail: why it failed.
    """

    id: str
    status: str
    files: tuple[str, ...] = ()
    processed: int = 0
    detail: str = ""

    @property
    def ended(self) -> bool:
        return self.status in _ENDED

    @classmethod
    def read(cls, content: dict[str, Any]) -> Batch:
        """Raises ValueError, TypeError, KeyError, AttributeError where it is no batch."""
        counts, errors = content.get("request_counts") or {}, (content.get("errors") or {}).get("data") or []
        found = tuple(str(name) for field in ("output_file_id", "error_file_id") if (name := content.get(field)))
        detail = "; ".join(str(each.get("message") or each.get("code")) for each in errors[:3])
        processed = int(counts.get("completed") or 0) + int(counts.get("failed") or 0)
        return cls(str(content["id"]), str(content["status"]), found, processed, " ".join(detail.split())[:300])


class BatchApi:
    """One endpoint's batch API. Every call is patient: it is tried again until the breaker says that going on makes no sense.

    All raise EndpointStopped.
    """

    def __init__(self, endpoint: Endpoint, *, rng: random.Random | None = None) -> None:
        """Raises BadInput where the key is not in its variable, MissingExtra without aiohttp."""
        self.endpoint, self.breaker, self.retries = endpoint, Breaker(endpoint), 0
        self._transport = Transport(endpoint)
        self._rng = rng or random.Random()  # noqa: S311 - jitter

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._transport.__aexit__(*error)

    async def upload(self, lines: ScratchFile) -> tuple[str, int]:
        """Upload a file of requests: its name at the vendor's, and when that was by the vendor's clock (0 where it did not say)."""
        import aiohttp

        async def send() -> tuple[str, int]:
            with lines.reader() as file:
                form = aiohttp.FormData()
                form.add_field("purpose", "batch")
                form.add_field("file", file, filename="requests.jsonl", content_type="application/jsonl")
                answer = await self._json("POST", "files", data=form, deadline=_TRANSFER_SECONDS)
            with _understood(answer):
                return str(answer["id"]), int(answer.get("created_at") or 0)

        return await self._patiently(send)

    async def submit(self, file: str, since: int) -> Batch:
        """The one batch of an uploaded file: the one that there is, else a new one.

        Looking first makes this safe to repeat after a kill, and after a creation whose answer was lost. `since` is when the file was
        uploaded: older batches are not looked at.
        """

        async def send() -> Batch:
            if (found := await self._find(file, since)) is not None:
                return found
            body = {"input_file_id": file, "endpoint": CHAT_PATH, "completion_window": _COMPLETION_WINDOW}
            answer = await self._json("POST", "batches", json=body)
            with _understood(answer):
                return Batch.read(answer)

        return await self._patiently(send)

    async def look(self, batch: str) -> Batch:
        """How a batch stands."""

        async def send() -> Batch:
            answer = await self._json("GET", f"batches/{batch}")
            with _understood(answer):
                return Batch.read(answer)

        return await self._patiently(send)

    async def download(self, file: str, target: ScratchFile, most_bytes: int) -> None:
        """A file of results, without the key, into an empty file.

        Raises:
            EndpointStopped: as for all; also where the file is larger than `most_bytes`.
            StageFailed: it cannot be written.
        """

        async def send() -> None:
            import aiohttp

            silent = aiohttp.ClientTimeout(total=None, sock_read=self.endpoint.timeout_seconds)
            place = self.endpoint.at(f"files/{file}/content")
            async with self._transport.exchange("GET", place, deadline=_TRANSFER_SECONDS, timeout=silent) as response:
                if response.status != 200:
                    raise refusal(response.status, await self._transport.read(response), response.headers, time.time())
                target.clear()
                size = 0
                async for part in self._transport.parts(response):
                    size += len(part)
                    if size > most_bytes:
                        response.close()
                        raise AttemptFailed("too-large", f"a file of more than {most_bytes} bytes", status=response.status)
                    target.append(part)

        await self._patiently(send)

    async def _find(self, file: str, since: int) -> Batch | None:
        """The newest batches come first."""
        after: dict[str, str] = {}
        while True:
            answer = await self._json("GET", "batches", params={"limit": str(_PAGE), **after})
            with _understood(answer):
                for each in answer["data"]:
                    if each["input_file_id"] == file:
                        return Batch.read(each)
                if not answer["data"] or not answer.get("has_more") or int(answer["data"][-1].get("created_at") or since) < since:
                    return None
                after = {"after": str(answer["data"][-1]["id"])}

    async def _json(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        async with self._transport.exchange(method, self.endpoint.at(path), **what) as response:
            content = await self._transport.read(response)
            if not 200 <= response.status < 300:
                raise refusal(response.status, content, response.headers, time.time())
            return read_object(content, response.headers.get("Content-Type", ""), response.status)

    async def _patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        failures = 0
        while True:
            try:
                result = await send()
            except AttemptFailed as failed:
                url, words = self.endpoint.base_url, words_of(failed)
                if failed.status in (404, 405) and failed.reason in ("not-found", "bad-request"):
                    raise EndpointStopped(
                        f"teacher.batch: {url} says {words}. It offers no batch API, or the key is not of the account whose batches these "
                        f"are; set teacher.batch: false, or give that key."
                    ) from None
                self.breaker.attempt_failed(failed, time.monotonic())
                if not failed.retry:
                    raise EndpointStopped(
                        f"teacher.batch: {url} says {words}. What has been answered is kept; mend the cause, or set teacher.batch: false."
                    ) from None
                failures, self.retries = failures + 1, self.retries + 1
                await asyncio.sleep(max(min(failed.wait or 0.0, LONGEST_WAIT_SECONDS), backoff_seconds(failures, self._rng)))
            else:
                self.breaker.succeeded()
                return result


@contextmanager
def _understood(answer: dict[str, Any]) -> Iterator[None]:
    """AttemptFailed where an answer lacks what the block looks for."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        words = f"an answer without what it should hold ({error!r}): {json.dumps(answer)[:200]}"
        raise AttemptFailed("malformed", words, status=200, retry=True) from None
