"""The connections to one endpoint: the key's header, deadlines, the cap on bodies, and one word for whatever goes wrong."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from stillroom.core.errors import needs_extra
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.wire import AttemptFailed

if TYPE_CHECKING:
    import aiohttp


class Transport:
    """One pool of connections. An async context manager: they live inside it."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Raises BadInput where the key is not in its variable, MissingExtra without aiohttp."""
        with needs_extra("endpoint", "a teacher behind an endpoint"):
            import aiohttp  # noqa: F401
        self.endpoint = endpoint
        self._key = Secret(endpoint.read_key() or "")
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        headers = {"Accept": "application/json"}
        if self._key.text:
            headers["Authorization"] = f"Bearer {self._key.text}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # whoever sends limits
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # the deadlines are ours
            headers=headers,
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def exchange(self, method: str, url: Any, *, deadline: float | None = None, **what: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send, and hand out the response once its head is there.

        Args:
            deadline: seconds from connecting to the end of the block; absent: the endpoint's.
            what: as aiohttp takes it: data, json, params, headers.

        Raises:
            AttemptFailed: on the way, or while the block reads the body.
        """
        import aiohttp

        assert self._session is not None, "use it as an async context manager"
        seconds = self.endpoint.timeout_seconds if deadline is None else deadline
        try:
            async with asyncio.timeout(seconds), self._session.request(method, url, allow_redirects=False, **what) as response:
                yield response
        except AttemptFailed as failed:
            # A header may hold bytes that are no UTF-8, which come as surrogates.
            failed.detail = self._key.out_of(failed.detail.encode(errors="replace")).decode()
            failed.args = (failed.detail,)
            raise
        except TimeoutError:
            raise AttemptFailed("timeout", f"no whole answer within {seconds:g} s", retry=True, billed=True) from None
        except aiohttp.ClientError as error:
            raise _connection_failed(error) from None
        except (OSError, ValueError) as error:  # ValueError: what aiohttp makes of some malformed headers
            raise AttemptFailed("broken", type(error).__name__, retry=True, billed=True) from None

    async def read(self, response: aiohttp.ClientResponse) -> bytes:
        """The body, up to the cap; the key, if the server repeats it, is blacked out."""
        cap = self.endpoint.max_response_bytes
        content = bytearray()
        if (response.content_length or 0) <= cap:
            async for part in response.content.iter_any():
                content += part
                if len(content) > cap:
                    break
            else:
                return self._key.out_of(bytes(content))
        response.close()  # what is still to come is not read
        raise AttemptFailed("too-large", f"an answer of more than {cap} bytes", status=response.status, billed=True)

    async def parts(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """A body of any size, without the key."""
        rest, keep = b"", max(self._key.longest - 1, 0)  # the beginning of a key may be at a part's end
        async for part in response.content.iter_any():
            whole = self._key.out_of(rest + part)
            rest = whole[len(whole) - min(keep, len(whole)) :]
            yield whole[: len(whole) - len(rest)]
        yield rest


class Secret:
    """The account's key, and its forms in what a server sends back: as it is, or escaped as addresses are, or JSON, up to three times.

    Attributes:
        longest: bytes of its longest form.
    """

    def __init__(self, text: str) -> None:
        self.text, self.longest = text, len(r"\\\\\\\u002f") * len(text)
        forms = (rf"\\{{0,7}}{re.escape(char)}|\\{{1,7}}u00{ord(char):02x}|%{ord(char):02x}" for char in text)
        self._forms = re.compile("".join(f"(?:{form})" for form in forms).encode(), re.IGNORECASE)
        # No writer escapes letters and digits: without them there is nothing to look for.
        self._plain = max(re.findall("[A-Za-z0-9]*", text), key=len).encode()

    def __repr__(self) -> str:
        return "Secret(…)"

    def out_of(self, content: bytes) -> bytes:
        """The content with [key] in the place of the key."""
        return self._forms.sub(b"[key]", content) if self.text and self._plain in content else content


def _connection_failed(error: aiohttp.ClientError) -> AttemptFailed:
    """What a connection that was not made, or ended, means. Only the system's words: others may hold headers."""
    import aiohttp

    match error:
        case aiohttp.ClientConnectorCertificateError():
            words = f"the certificate is not trusted: {error.certificate_error}"
        case aiohttp.ClientConnectorDNSError():
            words = "the host is unknown"
        case aiohttp.ClientConnectorSSLError():
            words = f"TLS failed: {error.os_error.strerror or type(error.os_error).__name__}"
        case aiohttp.ClientConnectorError():
            words = f"no connection: {error.os_error.strerror or type(error.os_error).__name__}"
        case aiohttp.ClientPayloadError() | aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError():
            return AttemptFailed("broken", f"the connection ended before the answer did ({type(error).__name__})", retry=True, billed=True)
        case _:
            return AttemptFailed("malformed", f"no HTTP that can be read ({type(error).__name__})", retry=True, billed=True)
    return AttemptFailed("unreachable", words, retry=True)
