"""A dry run: its estimate holds for the run, what cannot be used is counted, and nothing is asked twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from stillroom.core.chat import ChatParameters, ChatRequest, Reply
from stillroom.core.errors import BadInput
from stillroom.teachers.endpoint.breaker import Unanswered
from stillroom.teachers.endpoint.budget import Budget, Prices
from stillroom.teachers.endpoint.ledger import spent_so_far
from stillroom.teachers.tasks.estimate import dry_run
from stillroom.teachers.tasks.rounds import Questions, ask_until_usable
from stillroom.teachers.tasks.unusable import Reading, Unusable

Make = Callable[..., Any]
PRICES = Prices(prompt=1.0, completion=10.0)


def read(row: int, reply: Reply) -> Reading[str]:
    if "junk" in reply.choices[0].text:
        raise Unusable("off-label", "it is junk.")
    return Reading(reply.choices[0].text)


def questions(num: int) -> Questions[str]:
    requests = [ChatRequest(({"role": "user", "content": f"row {i}"},), ChatParameters("m", max_tokens=64)) for i in range(num)]
    return Questions(requests, read)


def number_of(body: dict[str, Any]) -> int:
    return int(body["messages"][0]["content"][4:])


def test_it_tells_what_the_run_will_take_with_what_is_asked_again(serve: Make, asker: Make) -> None:
    """A third of the rows is answered usably in the second go, one in nine never."""

    def script(count: int, body: dict[str, Any]) -> dict[str, Any]:
        number, turns = number_of(body), len(body["messages"])
        junk = number % 9 == 0 or (number % 3 == 0 and turns == 1)
        return {"latency": 0.02, "content": "junk" if junk else "word " * (1 + number % 7)}

    server = serve(script)
    whom = asker(server, prices=PRICES)
    whom = replace(whom, endpoint=replace(whom.endpoint, max_concurrency=8))
    told = dry_run(whom, questions(500), sample=60)
    assert (told.rows, told.sampled) == (500, 60)
    assert 2 <= told.given_up <= 14
    assert told.complaint.startswith(f"{told.given_up} off-label; for one: it is junk. For off-label: say in ")
    assert told.asked_again == server.number - 60
    whole = ask_until_usable(whom, questions(500))
    spent = spent_so_far(whom.store)
    assert server.number == spent.requests == 500 + whole.asked_again.total()
    assert told.requests.low <= spent.requests <= told.requests.high
    assert told.prompt_tokens.low <= spent.prompt_tokens <= told.prompt_tokens.high
    assert told.completion_tokens.low <= spent.completion_tokens <= told.completion_tokens.high
    assert told.usd.low <= spent.usd <= told.usd.high
    assert told.seconds.low < told.seconds.high
    assert dry_run(whom, questions(500), sample=60).usd == told.usd
    assert server.number == spent.requests, "the sample was asked anew"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"status": 400, "body": b"{}"}, r"counts: 10 bad-request; for one: .+\. For bad-request: mend the request"),
        ({"content": "fine", "fields": {"usage": None}}, r"the server does not tell how many tokens"),
    ],
)
def test_without_token_counts_there_is_no_estimate(script: dict[str, Any], words: str, serve: Make, asker: Make) -> None:
    with pytest.raises(Unanswered, match=words):
        dry_run(asker(serve(lambda count, body: script)), questions(10))


def test_a_row_that_is_refused_and_not_billed_costs_nothing(serve: Make, asker: Make) -> None:
    server = serve(lambda count, body: {"status": 400, "body": b'{"error": {"message": "policy"}}'} if number_of(body) % 2 else {})
    whom = asker(server, prices=PRICES)
    told = dry_run(whom, questions(400), sample=100)
    ask_until_usable(whom, questions(400))
    spent = spent_so_far(whom.store)
    assert told.prompt_tokens.low <= spent.prompt_tokens <= told.prompt_tokens.high < 1.5 * spent.prompt_tokens
    assert told.usd.low <= spent.usd <= told.usd.high


def test_a_budget_may_end_the_sample(serve: Make, asker: Make) -> None:
    told = dry_run(asker(serve(lambda count, body: {"content": "a"}), budget=Budget(requests=7)), questions(100))
    assert (told.sampled, told.requests.mean) == (7, 100.0)
    with pytest.raises(Unanswered, match=r"budget reached before any was asked"):
        dry_run(asker(serve(), budget=Budget(requests=1)), replace(questions(100), requests=questions(200).requests[100:]))


@pytest.mark.parametrize(("num", "sample"), [(0, 50), (10, 1)])
def test_nothing_to_go_by_is_refused(num: int, sample: int, serve: Make, asker: Make) -> None:
    with pytest.raises(BadInput, match=r"an estimate needs rows, and a sample of two or more"):
        dry_run(asker(serve()), questions(num), sample=sample)
