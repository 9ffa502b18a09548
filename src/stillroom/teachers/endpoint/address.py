"""Where an endpoint is, and where its key comes from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from stillroom.core.errors import BadInput


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server.

    Attributes:
        base_url: up to and with the version, such as https://api.example.com/v1.
        api_key_env: the environment variable that holds the key; None for a server that wants none.
        max_concurrency: the most requests at once; how many really are is learnt.
        timeout_seconds: of one attempt, from connecting to the last byte.
        max_attempts: of one request, not counted refusals for the rate and connections that could not be made.
        max_response_bytes: a larger answer is not read to its end.
    """

    base_url: str
    api_key_env: str | None = None
    max_concurrency: int = 256
    timeout_seconds: float = 120.0
    max_attempts: int = 8
    max_response_bytes: int = 16 << 20

    def __post_init__(self) -> None:
        place = "teacher.base_url"
        try:
            parts = urlsplit(self.base_url)
            usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
        except ValueError:
            usable = False
        if not usable:
            raise BadInput.at(place, f"{self.base_url!r} is no HTTP address; give one such as https://api.example.com/v1.")
        if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
            # Not shown: it may be the key.
            raise BadInput.at(
                place, "it carries a user, a query or a fragment; give scheme, host and path alone, and the key by api_key_env."
            )
        if parts.path.rstrip("/").endswith("/chat/completions"):
            raise BadInput.at(place, f"{self.base_url!r} names one call of the API; leave /chat/completions out.")
        if self.api_key_env is not None and not self.api_key_env.isidentifier():
            # Not shown: it may be the key.
            raise BadInput.at(
                "teacher.api_key_env",
                "is no name of a variable; put the key into one, such as MY_KEY, and give its name: a job file holds no key.",
            )
        if self.max_concurrency < 1 or self.timeout_seconds <= 0 or self.max_attempts < 1 or self.max_response_bytes < 1:
            raise BadInput.at("teacher", "max_concurrency, timeout_seconds, max_attempts and max_response_bytes must be above zero.")

    @property
    def url(self) -> str:
        """Where chat requests go."""
        return self.at("chat/completions")

    def at(self, path: str) -> str:
        """The address of one part of the API."""
        return f"{self.base_url.rstrip('/')}/{path}"

    @property
    def name(self) -> str:
        """Host and path: what of the address an answer's key covers."""
        parts = urlsplit(self.base_url)
        return f"{parts.netloc.lower()}{parts.path.rstrip('/')}"

    def read_key(self) -> str | None:
        """The key; None where none is wanted. It must go no further than the request's header.

        Raises:
            BadInput: the variable is not set or empty, or what it holds cannot be a header.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise BadInput.at("teacher.api_key_env", f"the environment variable {self.api_key_env!r} is not set; put the key there.")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise BadInput.at("teacher.api_key_env", f"what {self.api_key_env!r} holds is no key: it has blanks or unusual characters.")
        return key
