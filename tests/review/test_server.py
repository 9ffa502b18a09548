"""The page's server: for this machine and this address alone, and what it is told is kept."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stillroom.core.errors import BadInput, StageFailed
from stillroom.review.server import ReviewServer
from stillroom.review.session import Session


@contextmanager
def serving(session: Session) -> Iterator[ReviewServer]:
    with ReviewServer(session) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(session: Session) -> Iterator[ReviewServer]:
    with serving(session) as server:
        yield server


def call(server: ReviewServer, method: str, path: str, body: bytes | None = None, **headers: str | None) -> tuple[int, Any, Any]:
    """(status, headers, content); `path` behind the token. A header that is None is not sent."""
    host = server.hosts[0]
    sent = {"Host": host, **({"Origin": f"http://{host}"} if method == "POST" else {}), **headers}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.putrequest(method, path if path.startswith("/") else f"/{server.token}/{path}", skip_host=True)
    for name, value in {**sent, **({"Content-Length": str(len(body))} if body is not None else {})}.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    is_json = answer.headers["Content-Type"].startswith("application/json")
    return answer.status, answer.headers, json.loads(content) if is_json else content


def test_a_decision_is_kept_at_once_and_may_be_changed(server: ReviewServer, session: Session) -> None:
    assert call(server, "POST", "rows/1", b'{"label": "refund"}')[::2] == (200, {"decided": 1})
    assert call(server, "POST", "rows/2", b'{"label": null}')[::2] == (200, {"decided": 2})
    assert session.decided() == {1: "refund", 2: None}
    assert call(server, "GET", "rows/1")[2]["decision"] == "refund"
    call(server, "POST", "rows/1", b'{"label": "card lost"}')
    kept = session.journal.decisions()
    assert [d.label for d in kept] == ["refund", None, "card lost"]
    last = kept[-1]
    assert (last.row, last.example, last.answer, last.teacher, last.reviewer, last.seed) == (11, "sr1-e1", "sr1-a1", "card lost", "Ann", 7)
    assert last.at.endswith("+00:00")


def test_what_the_page_is_told(server: ReviewServer) -> None:
    session = call(server, "GET", "session")[2]
    assert session["labels"][2] == {"name": "refund", "definition": "Money is to come back, <b>soon</b>."}
    assert session["decided"] == [False] * 6
    row = call(server, "GET", "rows/1")[2]
    assert row["cells"][0][1].startswith("<script>")
    assert row["answers"][0] == {"label": "card lost", "prob": 0.6}
    assert "decision" not in row


def test_only_this_machine_is_listened_to(server: ReviewServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with socket.socket(socket.AF_INET6) as other, pytest.raises(OSError, match=r"refused|assign|unreachable"):
        other.connect(("::1", server.server_port))


@pytest.mark.parametrize("path", ["", "page.js", "session", "rows/0"])
@pytest.mark.parametrize(
    ("token", "headers", "status"),
    [
        ("", {}, 404),
        ("wrong", {}, 404),
        ("%C3%A9", {}, 404),
        (None, {"Host": "evil.example"}, 403),  # a name of a foreign site that resolves to this machine
        (None, {"Host": "evil.example:{port}"}, 403),
        (None, {"Host": "127.0.0.1:1"}, 403),
        (None, {"Host": None}, 403),
    ],
)
def test_nobody_else_gets_in(server: ReviewServer, path: str, token: str | None, headers: dict[str, str | None], status: int) -> None:
    sent = {name: value and value.replace("{port}", str(server.server_port)) for name, value in headers.items()}
    where = path if token is None else f"/{token}/{path}"
    answer = call(server, "GET", where, **sent)
    assert answer[0] == status
    assert set(answer[2]) == {"error"}
    assert server.token not in json.dumps(answer[2])


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_another_page_cannot_decide(server: ReviewServer, session: Session, origin: str | None) -> None:
    sent = origin and origin.replace("{port}", str(server.server_port))
    assert call(server, "POST", "rows/1", b'{"label": "refund"}', Origin=sent)[0] == 403
    assert session.decided() == {}


NONSENSE = [b"", b"{", b"[]", b"{}", b"\xff", b'{"label": "no such"}', b'{"label": 1}', b'{"label": ["refund"]}', b"[" * 60_000]


@pytest.mark.parametrize("body", NONSENSE)
def test_nonsense_is_refused_and_changes_nothing(server: ReviewServer, session: Session, body: bytes) -> None:
    assert call(server, "POST", "rows/1", body)[0] == 400
    assert session.decided() == {}
    assert call(server, "GET", "session")[0] == 200


@pytest.mark.parametrize("path", ["rows/6", "rows/-1", "rows/x", "rows/", "rows/%C2%B2", "../server.py", "page.html", "session/", "x"])
def test_there_is_nothing_else(server: ReviewServer, path: str) -> None:
    assert call(server, "GET", path)[0] == 404
    assert call(server, "POST", path, b'{"label": null}')[0] == 404


@pytest.mark.parametrize("line", [b"GET /\xe9/rows/1 HTTP/1.1", b"GET /{token}/rows/\xb2 HTTP/1.1", b"GET /{token} HTTP/1.1"])
def test_odd_bytes_are_no_page(server: ReviewServer, line: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as raw:
        raw.sendall(line.replace(b"{token}", server.token.encode()) + f"\r\nHost: {server.hosts[0]}\r\n\r\n".encode())
        assert b" 404 " in raw.recv(4096).split(b"\r\n")[0]


def test_a_body_without_end_is_not_read(server: ReviewServer, session: Session) -> None:
    answer = call(server, "POST", "rows/1", None, **{"Content-Length": str(10**12)})
    assert answer[0] == 400
    assert session.decided() == {}


def test_every_answer_forbids_foreign_scripts_frames_and_copies(server: ReviewServer) -> None:
    for path in ("", "page.js", "rows/0", "none"):
        headers = call(server, "GET", path)[1]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
        assert headers["Referrer-Policy"] == "no-referrer"


def test_a_full_disk_is_told_and_the_row_is_not_decided(server: ReviewServer, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Any) -> None:
        raise StageFailed("cannot write decisions.jsonl: the disk is full")

    monkeypatch.setattr(session.journal, "append", full)
    status, _, content = call(server, "POST", "rows/1", b'{"label": "refund"}')
    assert status == 500
    assert "disk is full" in content["error"]


def test_a_taken_port_is_named(server: ReviewServer, session: Session) -> None:
    with pytest.raises(BadInput, match=f"--port: = {server.server_port}"):
        ReviewServer(session, port=server.server_port)
    with pytest.raises(BadInput, match="65535"):
        ReviewServer(session, port=70_000)


def test_two_reviewers_do_not_see_each_other_s_decisions(session: Session, make: Any, tmp_path: Path) -> None:
    session.decide({0: "refund"})
    assert make(tmp_path, reviewer="Bob").decided() == {}
