"""What a person sees when a teacher behind an endpoint, or what is said of it, is bad: the commands on a small job against a real server.

Each fault ends in one clear error, or is counted and told; nothing is lost, and once it is mended no answered row is asked again.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import batch_server as batches
import pandas as pd
import pytest
import scripted_server as scripted
import yaml

from stillroom.cli import main
from stillroom.core.asking import Asked
from stillroom.teachers.endpoint import batch as batch_module
from stillroom.teachers.endpoint import client as client_module
from stillroom.teachers.endpoint.breaker import Breaker

Make = Callable[..., Any]
Script = Callable[[int, dict[str, Any]], dict[str, Any]]
KEY = "sk-verysecret-0123456789"
WORDS = {"card": "plastic chip wallet", "rate": "euro dollar exchange"}
ROWS, TESTS = 52, 12
RUN, LABEL, TRIAL, GENERATE = ("run",), ("label",), ("label", "--dry-run"), ("generate",)
EVERYWHERE = (LABEL, TRIAL, GENERATE)
NASTY = "{{7*7}} {%raw%} ${HOME} {user} %s \\x1b \x1b[31m\x07\x00\u2028 <|im_end|> [bold]"


def sentence(label: str, rng: random.Random) -> str:
    """Words of a label, and a number of its own."""
    return f"{' '.join(rng.choices(WORDS[label].split(), k=3))} {rng.randrange(10**6)}"


def said(body: dict[str, Any]) -> str:
    """The row that a request is about."""
    return next(str(message["content"]) for message in body["messages"] if message["role"] == "user")


def label_of(text: str) -> str:
    return max(WORDS, key=lambda label: sum(word in text.split() for word in WORDS[label].split()))


def good(number: int, body: dict[str, Any]) -> dict[str, Any]:
    """What a good model says: a label, or the inputs that it is to write."""
    if "You write inputs" not in body["messages"][0]["content"]:
        return {"content": json.dumps({"label": label_of(said(body))})}
    numbers = re.findall(r"^(\d+)\. \{", said(body), re.MULTILINE)
    inputs = [{"number": int(each), "text": f"wallet of kind {number * 100 + int(each)} and {number**3}"} for each in numbers]
    return {"content": json.dumps({"inputs": inputs})}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_BACKOFF_SECONDS", 0.002)
    monkeypatch.setattr(batch_module, "_POLL_SECONDS", 0.01)
    monkeypatch.setenv("ENDPOINT_KEY", KEY)


@pytest.fixture
def serve() -> Iterator[Make]:
    with ExitStack() as stack:
        yield lambda script=good, kind=scripted.Server, **options: stack.enter_context(kind(script, **options))


@pytest.fixture
def job(tmp_path: Path) -> Make:
    """job(address, teacher={...}, section=...) writes job.yaml: 40 training rows, 12 in the pool, 12 test rows."""
    rng = random.Random(0)
    for name, count in (("train", ROWS - 12), ("pool", 12), ("test", TESTS)):
        labels = [list(WORDS)[i % 2] for i in range(count)]
        rows = [{"text": sentence(label, rng), "label": label} for label in labels]
        if name == "train":
            rows[0]["text"] += f" {NASTY}"
        pd.DataFrame(rows).to_json(tmp_path / f"{name}.jsonl", orient="records", lines=True)

    def write(address: str, *, teacher: dict[str, Any] | None = None, **sections: Any) -> None:
        source = {"kind": "file", "train": "train.jsonl", "test": "test.jsonl", "unlabeled": "pool.jsonl"}
        content = {
            "name": "intents",
            "task": "text-classification",
            "data": {"source": source, "target": "label", "text": "text"},
            "teacher": {
                "kind": "endpoint", "base_url": address, "model": "m", "licence": "mit", "api_key_env": "ENDPOINT_KEY", "max_tokens": 8,
                "max_attempts": 3, "prices": {"prompt": 1.0, "completion": 10.0}, **(teacher or {}),
            },
            "specification": {"task": "Name the intent. {braces} stay."},
            "student": {"kind": "estimator", "estimator": "logistic-regression"},
            "labelling": {"calibrate": False},
            "evaluation": {"seeds": 1, "resamples": 100, "cost": False},
            "export": {"formats": []},
            **sections,
        }  # fmt: skip
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(content))

    return write


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Make:
    """call("label", "--dry-run") -> exit code, and all that was printed; nothing printed or written shows the key or controls a terminal.

    An error that is none of ours is raised here, as it would be printed with its traceback.
    """

    def run(command: str, *options: str) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["stillroom", command, "job.yaml", "--run", "run", *options])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        shown = "".join(capsys.readouterr())
        assert KEY not in shown
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
        assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
        return int(ended.value.code or 0), shown

    return run


def errors(shown: str) -> list[str]:
    """The lines from the error on: one, where it is one error."""
    return shown[shown.index("error: ") :].splitlines() if "error: " in shown else []


def asked(tmp_path: Path) -> Asked:
    return Asked.from_json(json.loads((tmp_path / "run" / "stages" / "label.json").read_text())["asked"])


def mended(server: Any, call: Make, tmp_path: Path) -> None:
    """From now on all is well: the run ends, every row has its answer, and none that had one is asked again."""
    server.script = good
    before = server.answered.copy()
    code, shown = call("label")
    assert code == 0, shown
    assert (asked(tmp_path).answered, asked(tmp_path).failed) == (ROWS, {})
    assert not [text for text in before if server.answered[text] > before[text]]


# --- what stops a run


def body(message: str, **fields: Any) -> bytes:
    return json.dumps({"error": {"message": message, **fields}}).encode()


PAGE = {"body": b"<!doctype html><p>Welcome\x07\x1b[31m</p>", "type": "text/html"}
STOPS: dict[str, tuple[dict[str, Any], str]] = {
    "wrong key 401": (
        {"status": 401, "body": body(f"Incorrect API key {KEY}")},
        r"teacher\.api_key_env: .* says unauthorised 401 \(Incorrect API key \[key\]\)\. Check the key in .*'ENDPOINT_KEY'",
    ),
    "wrong key 403": ({"status": 403}, r"teacher\.api_key_env: .* says unauthorised 403.* what the account may do"),
    "unknown model": (
        {"status": 404, "body": body("no model 'm'")},
        r"teacher\.model: .* not-found 404 \(no model 'm'\)\. Check .*base_url",
    ),
    "HTML": (PAGE, r"teacher\.base_url: .*malformed 200 \(a web page instead of JSON: .*Welcome.*\)\. Give the address of the API"),
}


@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("command", EVERYWHERE, ids=" ".join)
def test_a_wrong_setting_is_one_error_before_anything_is_paid(
    name: str, command: tuple[str, ...], serve: Make, job: Make, call: Make, tmp_path: Path
) -> None:
    act, words = STOPS[name]
    server = serve(lambda number, body: act)
    job(server.base_url, generation={"examples": 8} if command == GENERATE else None)
    code, shown = call(*command)
    (error,) = errors(shown)
    assert code == 1
    assert re.search(words, error), error
    if command == LABEL:
        mended(server, call, tmp_path)


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    """A server's side with a certificate that nobody trusts."""
    if shutil.which("openssl") is None and os.environ.get("CI") != "true":
        pytest.skip("no openssl to make a certificate with; CI fails here instead")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -keyout key.pem -out cert.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context


UNREACHABLE = {
    "http://no-such-host.invalid/v1": "the host is unknown",
    "http://127.0.0.1:9/v1": r"no connection: Connect call failed",
    "https": "TLS failed: .*WRONG_VERSION_NUMBER",
    "certificate": "the certificate is not trusted: .*self-signed",
}


@pytest.mark.parametrize("address", UNREACHABLE)
@pytest.mark.parametrize("command", EVERYWHERE, ids=" ".join)
def test_an_endpoint_that_cannot_be_reached_is_one_error(
    address: str, command: tuple[str, ...], serve: Make, job: Make, call: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = serve()
    wrong = server.base_url.replace("http:", "https:") if address == "https" else address
    if address == "certificate":
        wrong = serve(tls=request.getfixturevalue("self_signed")).base_url
    job(wrong, generation={"examples": 8} if command == GENERATE else None)
    code, shown = call(*command)
    (error,) = errors(shown)
    assert code == 1
    assert re.search(rf"teacher\.base_url: .* cannot be reached: unreachable \({UNREACHABLE[address]}.*\)\. Check the address", error), (
        error
    )
    if command == LABEL:
        job(server.base_url)
        mended(server, call, tmp_path)


def test_connections_refused_in_the_middle_stop_the_run_and_lose_nothing(
    job: Make, call: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is gone for longer than a row's attempts take: that is no fault of the rows."""
    monkeypatch.setattr(Breaker, "_SECONDS", 1.0)
    with scripted.Server(lambda number, body: good(number, body) if number < 30 else {"end": True}) as first:
        job(first.base_url, teacher={"max_attempts": 2, "max_concurrency": 8})
        code, shown = call("label")
    (error,) = errors(shown)
    assert code == 1
    assert re.search(r"nothing but failures for \d+ s, the last unreachable \(no connection.*kept; run again when", error), error
    with scripted.Server(good, port=first.port) as second:
        job(second.base_url)
        mended(second, call, tmp_path)
        assert not set(first.answered) & set(second.answered), "an answered row was asked again"
        assert len(first.answered) + len(second.answered) == ROWS


# --- what befalls rows


NAN = {"choices": [{"message": {"content": "y"}, "logprobs": {"content": [{"token": "y", "logprob": float("nan")}]}}]}
FOR_GOOD: dict[str, tuple[dict[str, Any], str]] = {
    "context-too-long": ({"status": 400, "body": body("maximum context length is 8", code="context_length_exceeded")}, "maximum context"),
    "content-filter": ({"status": 400, "body": body("blocked", code="content_filter")}, "blocked"),
    "too-large": ({"huge": 100 << 20, "headers": {"Content-Length": str(100 << 20)}}, "an answer of more than 16777216 bytes"),
    "server-error": ({"body": body("overloaded", code=503)}, "a 200 with an error in it: overloaded"),
    "malformed": ({"body": json.dumps(NAN).encode()}, "nan is no log-probability"),
}


@pytest.mark.parametrize("reason", FOR_GOOD)
def test_some_rows_that_fail_are_counted_and_told(reason: str, serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    act = {"huge": 100 << 20} if reason == "too-large" else FOR_GOOD[reason][0]  # of a length that is not told
    server = serve(lambda number, body: act if int(said(body).split()[3]) % 9 == 0 else good(number, body))
    job(server.base_url)
    code, shown = call("label")
    lost = sum(int(each.split()[3]) % 9 == 0 for each in {said(body) for body in server.bodies})
    assert (code, errors(shown), lost > 2) == (0, [], True)
    assert f"{ROWS - lost} of {ROWS} rows of the transfer set have an answer; {lost} have none: {lost} {reason}." in shown
    before = server.number
    assert call("label")[0] == 0
    assert server.number == before


@pytest.mark.parametrize(("command", "reason"), [*((LABEL, reason) for reason in FOR_GOOD), (TRIAL, "context-too-long")])
def test_all_rows_that_fail_are_one_error_and_none_stays_lost(
    command: tuple[str, ...], reason: str, serve: Make, job: Make, call: Make, tmp_path: Path
) -> None:
    act, words = FOR_GOOD[reason]
    server = serve(lambda number, body: act)
    job(server.base_url, teacher={"max_concurrency": 4, "max_attempts": 2})
    code, shown = call(*command)
    (error,) = errors(shown)
    assert code == 1
    assert re.search(rf"20 rows in a row failed for good, the last {reason} \d+ \(.*{words}.*\)\. .*kept", error), error
    mended(server, call, tmp_path)


def test_written_examples_that_fail_are_one_error_and_asked_for_again(serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    server = serve(lambda number, body: FOR_GOOD["content-filter"][0])
    job(server.base_url, generation={"examples": 8})
    code, shown = call("generate")
    (error,) = errors(shown)
    assert (code, error.split(" (")[0]) == (1, "error: generate: none of 8 examples could be used")
    server.script = good
    code, shown = call("generate")
    assert code == 0, shown
    assert "8 of 8 planned examples were accepted" in shown


def test_test_rows_that_fail_are_one_error_and_asked_again(serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    server = serve()
    job(server.base_url)
    assert call("label")[0] == 0
    server.script = lambda number, body: FOR_GOOD["content-filter"][0]
    code, shown = call("evaluate")
    (error,) = errors(shown)
    assert code == 1
    assert f"{TESTS} of {TESTS} test rows have no answer that can be used ({TESTS} content-filter)" in error
    mended(server, call, tmp_path)
    code, shown = call("report")
    assert code == 0, shown
    assert f"All {TESTS} test rows were answered." in (tmp_path / "run" / "report.html").read_text()
    assert server.number == ROWS + 2 * TESTS


SKEWED = {"Retry-After": "Thu, 01 Jan 2099 00:00:00 GMT", "Date": "Thu, 01 Jan 2099 00:00:00 GMT"}
PASSING: dict[str, dict[str, Any]] = {
    "connection dropped": {"drop": True},
    "HTML": PAGE,
    "200 with an error": {"body": body("overloaded", code=503)},
    "NaN logprobs": FOR_GOOD["malformed"][0],
    "401 once": {"status": 401},
    "404 once": {"status": 404},
    "Retry-After by a clock that is wrong": {"status": 429, "headers": SKEWED},
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_asked_again_counted_and_told(name: str, serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    server = serve(lambda number, body: PASSING[name] if number in (20, 30) else good(number, body))
    job(server.base_url)
    code, shown = call("label")
    assert (code, errors(shown)) == (0, [])
    assert "Requests were sent again 2 times, after a fault of the server or the network or a refusal for the rate." in shown
    assert f"All {ROWS} rows of the transfer set were answered." in shown
    assert (asked(tmp_path).retries, asked(tmp_path).requests) == (2, ROWS + 2)
    mended(server, call, tmp_path)
    assert server.number == ROWS + 2


def test_a_server_without_logprobs_is_one_error_after_a_few_rows(serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    server = serve(lambda number, body: {"content": "A"})
    job(server.base_url, teacher={"answers": "logprobs"})
    code, shown = call("run")
    (error,) = errors(shown)
    assert (code, server.number) == (2, 24)
    assert re.search(
        r"teacher\.answers: = 'logprobs', but the server named no likely tokens in its first 24 answers; use answers: samples", error
    )
    job(server.base_url)
    server.answered.clear()
    mended(server, call, tmp_path)


def test_ids_that_come_twice_in_a_batch_are_counted_and_told(serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    def twice(lines: list[bytes]) -> list[bytes]:
        stranger = lines[3].replace(b'"custom_id": "', b'"custom_id": "x')
        return [lines[1], lines[1].replace(b"card", b"rate"), stranger, *lines[2:]]  # the first row is left out

    server = serve(kind=batches.BatchServer, act=lambda number: {"lines": twice} if number == 0 else {})
    job(server.base_url, teacher={"batch": True})
    code, shown = call("label")
    assert (code, errors(shown)) == (0, []), shown
    wrong = "further lines about a row, of which the first valid one counts: 1; lines about no row of the batch: 1; rows without a line"
    assert f"Batches that the vendor has run: 2. In their results: {wrong}, asked again: 1." in shown
    assert "Requests were sent again once" in shown
    assert (server.routes["POST /v1/chat/completions"], len(server.batches)) == (0, 2)
    mended(server, call, tmp_path)
    assert len(server.batches) == 2
    assert server.asked.most_common(2)[0][1] == 2
    assert server.asked.most_common(2)[1][1] == 1


# --- what is wrong with the job


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no specification": ({"specification": None}, r"specification: is missing: .* give specification\.task\."),
    "an empty one": ({"specification": {}}, r"specification\.task: is missing; add it\."),
    "a blank one": ({"specification": {"task": " "}}, r"specification\.task: = ' ': string should have at least 1 character\."),
    "a label too few": ({"specification": {"task": "x", "labels": ["card"]}}, r"specification\.labels: lack 'rate', .*; define it\."),
    "a label of its own": (
        {"specification": {"task": "x", "labels": ["card", "rate", "rates"]}},
        r"specification\.labels: name 'rates', which no row of the data has; did you mean 'rate'\?",
    ),
    "an example of another label": (
        {"specification": {"task": "x", "examples": [{"input": "a", "output": "crad"}]}},
        r"specification\.examples\[0\]\.output: = 'crad' is no label; did you mean 'card'\?",
    ),
    "no dollars": ({"budget": {"usd": 0}}, r"budget\.usd: = 0 allows nothing to be asked; give a number above zero, or leave it out"),
    "no requests": ({"budget": {"requests": 0}}, r"budget\.requests: = 0 allows nothing to be asked"),
    "less than no tokens": ({"budget": {"tokens": -1}}, r"budget\.tokens: = -1 allows nothing to be asked"),
    "no key": (
        {"teacher": {"api_key_env": "NOWHERE_SET"}},
        r"teacher\.api_key_env: the environment variable 'NOWHERE_SET' is not set; put",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", [RUN, TRIAL, GENERATE], ids=" ".join)
def test_a_job_that_is_wrong_is_one_error_and_nothing_is_asked(
    name: str, command: tuple[str, ...], serve: Make, job: Make, call: Make, tmp_path: Path
) -> None:
    server = serve()
    sections, words = WRONG[name]
    job(server.base_url, **{**sections, **({"generation": {"examples": 4}} if command == GENERATE else {})})
    code, shown = call(*command)
    (error,) = errors(shown)
    assert (code, server.number) == (2, 0)
    assert re.fullmatch(rf"error: {words}.*", error), error


def test_labels_left_empty_are_those_of_the_data(serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    server = serve()
    job(server.base_url, specification={"task": "Name it.", "labels": {}})
    mended(server, call, tmp_path)
    assert "- card" in server.bodies[0]["messages"][0]["content"]


def test_text_is_never_interpreted(serve: Make, job: Make, call: Make, tmp_path: Path) -> None:
    """Control characters, braces and special tokens of rows and answers reach the server, and the page as text."""
    odd = f"{NASTY} is no label"
    server = serve(lambda number, body: {"content": odd} if "exchange 5" in said(body) else good(number, body))
    job(server.base_url)
    code, shown = call("run")
    assert code == 0, shown
    rows = [text for name in ("train", "pool", "test") for text in pd.read_json(tmp_path / f"{name}.jsonl", lines=True)["text"]]
    assert {said(body) for body in server.bodies} == set(rows)
    assert any(NASTY in text for text in rows)
    assert all("{braces} stay." in body["messages"][0]["content"] for body in server.bodies)
    assert any(each["content"] == odd for body in server.bodies for each in body["messages"]), "shown to the model again as it was"
    page = (tmp_path / "run" / "report.html").read_text()
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)
