"""The page, served to this machine alone.

What keeps others out: the address is 127.0.0.1; every path begins with a secret token; a Host header that names anything else is refused
(a foreign site's name may be made to resolve to 127.0.0.1); what changes something must come from our own page (Origin). The page loads
nothing from elsewhere and runs no script but its own (Content-Security-Policy), and sets every text as text.
"""

from __future__ import annotations

import json
import secrets
from hmac import compare_digest
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from stillroom.core.errors import BadInput, StageFailed
from stillroom.review.session import Session

PAGES = Path(__file__).parent / "page"
_FILES = {"": ("page.html", "text/html"), "page.css": ("page.css", "text/css"), "page.js": ("page.js", "text/javascript")}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_MOST_BYTES = 1 << 16
_SHOWN_ANSWERS = 5


class ReviewServer(ThreadingHTTPServer):
    """Serves one session until it is closed.

    Attributes:
        url: the address, token included.
    """

    daemon_threads = True
    request_queue_size = 16

    def __init__(self, session: Session, *, port: int = 0) -> None:
        """Listen on a port; 0 takes a free one.

        Raises:
            BadInput: the port is taken, or not allowed.
        """
        self.session, self.token = session, secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "ports end at 65535"
            raise BadInput.at("--port", f"= {port}: {reason}; choose another, or leave it out for a free one.") from None
        self.hosts = tuple(f"{name}:{self.server_port}" for name in ("127.0.0.1", "localhost"))
        self.url = f"http://{self.hosts[0]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle of an answer is no error worth a stack trace."""


class _Handler(BaseHTTPRequestHandler):
    server: ReviewServer
    protocol_version = "HTTP/1.1"
    timeout = 60
    server_version, sys_version = "stillroom", ""

    def do_GET(self) -> None:
        path = self._inside()
        if path is None:
            return
        session = self.server.session
        if path in _FILES:
            name, kind = _FILES[path]
            self._send(HTTPStatus.OK, (PAGES / name).read_bytes(), f"{kind}; charset=utf-8")
        elif path == "session":
            self._send_json(_told(session))
        elif (number := self._number(path)) is not None:
            self._send_json(_row(session, number))

    def do_POST(self) -> None:
        path = self._inside()
        if path is None:
            return None
        if self.headers.get("Origin") not in [f"http://{host}" for host in self.server.hosts]:
            return self._refuse(HTTPStatus.FORBIDDEN, "this request does not come from the review's own page.")
        number = self._number(path)
        if number is None:
            return None
        try:
            size = int(self.headers.get("Content-Length", ""))
            label = json.loads(self.rfile.read(size) if 0 < size <= _MOST_BYTES else b"")["label"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return self._refuse(HTTPStatus.BAD_REQUEST, 'send {"label": "..."}, or null to skip.')
        if label is not None and label not in self.server.session.classes:
            return self._refuse(HTTPStatus.BAD_REQUEST, f"{label!r} is no label of this job.")
        try:
            self.server.session.decide({number: label})
        except StageFailed as error:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
        return self._send_json({"decided": len(self.server.session.decided())})

    def _inside(self) -> str | None:
        """The path behind the token; None where the request was refused."""
        if self.headers.get("Host") not in self.server.hosts:
            self._refuse(HTTPStatus.FORBIDDEN, f"open the address that stillroom has printed: http://{self.server.hosts[0]}/...")
            return None
        token, slash, path = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not (slash and compare_digest(token.encode(), self.server.token.encode())):
            self._refuse(HTTPStatus.NOT_FOUND, "no such page; open the whole address that stillroom has printed.")
            return None
        return path

    def _number(self, path: str) -> int | None:
        """The row that a path names; None where the request was refused."""
        kind, _, number = path.partition("/")
        if kind == "rows" and number.isascii() and number.isdigit() and len(number) < 10 and int(number) < len(self.server.session.items):
            return int(number)
        self._refuse(HTTPStatus.NOT_FOUND, "no such page.")
        return None

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        self.close_connection = True  # what else it has sent is not read
        self._send(status, json.dumps({"error": message}).encode(), "application/json")

    def _send_json(self, content: Any) -> None:
        self._send(HTTPStatus.OK, json.dumps(content).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Requests hold the token; nothing is written anywhere."""


def _told(session: Session) -> dict[str, Any]:
    """What the page has to know before the first row."""
    decided = session.decided()
    return {
        "title": session.title,
        "reviewer": session.reviewer,
        "labels": [{"name": name, "definition": session.definitions.get(name, "")} for name in session.classes],
        "decided": [number in decided for number in range(len(session.items))],
    }


def _row(session: Session, number: int) -> dict[str, Any]:
    """A row as the page shows it; `decision` is absent where there is none, and null where it was skipped."""
    item, decided = session.items[number], session.decided()
    likeliest = sorted(zip(item.probs, session.classes, strict=True), key=lambda pair: -pair[0])
    return {
        "cells": item.cells,
        "teacher": item.teacher,
        "answers": [{"label": name, "prob": prob} for prob, name in likeliest[:_SHOWN_ANSWERS]],
        **({"decision": decided[number]} if number in decided else {}),
    }
