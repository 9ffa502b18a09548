"""Filling a plan against a real server: gaps are asked for again, what is removed is counted, and nothing is asked twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_writer import descriptions

from stillroom.core.chat import ChatParameters
from stillroom.core.specification import Specification, WorkedExample
from stillroom.data.duplicates import near_duplicates
from stillroom.knowledge.store import KnowledgeStore
from stillroom.teachers.endpoint.address import Endpoint
from stillroom.teachers.endpoint.budget import Budget
from stillroom.teachers.endpoint.durable import Asker
from stillroom.teachers.synthesis.fill import Filled, Writer, fill
from stillroom.teachers.synthesis.plan import Cell, Plan, make_plan

LABELS = {"card": "about a card {lost}", "rate": "about exchange rates"}
TOLD = Specification(
    "Sort requests to a bank.", LABELS, None, (WorkedExample("where is my card", "card"), WorkedExample("what is a euro", "rate"))
)
PLAN = make_plan(20, labels={"card": 0.5, "rate": 0.5}, axes={"tone": {"calm": 0.5, "angry": 0.5}}, hard=0.2, seed=1)
Serve = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KnowledgeStore]:
    with KnowledgeStore(tmp_path / "knowledge") as opened:
        yield opened


def judge(new: Sequence[str], kept: Sequence[str]) -> list[str | None]:
    """Copies go, and texts with the word leak."""
    stands_for = near_duplicates([*kept, *new])
    return ["leak" if "leak" in text else None if stands_for[i] == i else "near-duplicate" for i, text in enumerate([*kept, *new])][
        len(kept) :
    ]


def filled(
    store: KnowledgeStore, server: Any, plan: Plan = PLAN, *, budget: Budget | None = None, told: Specification = TOLD, **settings: Any
) -> Filled:
    writer = Writer(Asker(store, Endpoint(server.base_url, timeout_seconds=5.0), None, budget), ChatParameters("m", max_tokens=500), told)
    return fill(writer, plan, judge, **{"rounds": 4, "per_request": 4, **settings})


def varied(wanted: dict[str, Any], count: int) -> str:
    return f"{wanted['label']} {wanted['case']} {'-'.join(wanted['with'].values())} question {count * 7919} about thing {count}"


def test_every_cell_gets_its_examples_in_as_few_requests_as_may_be(store: KnowledgeStore, serve: Serve, writes: Any) -> None:
    with serve(writes(varied)) as server:
        made = filled(store, server)
        assert (made.rounds, made.complete, made.removed, server.number) == (1, True, {}, 5)
        assert made.accepted == Counter(PLAN.wanted)
        assert all(
            example.text.startswith(f"{example.cell.label} {example.cell.kind} {example.cell.values[0]}") for example in made.examples
        )
        assert filled(store, server) == made
        assert server.number == 5, "a second run asks nothing"


def test_copies_leave_gaps_that_are_asked_for_again_and_named_in_the_end(store: KnowledgeStore, serve: Serve, writes: Any) -> None:
    with serve(writes(lambda wanted, count: f"the only {wanted['label']} question that comes to my mind")) as server:
        made = filled(store, server)
    assert made.rounds == 4
    assert Counter(example.cell.label for example in made.examples) == {"card": 1, "rate": 1}
    assert sum(made.removed.values(), Counter()) == {"near-duplicate": 18 + 3 * 18}
    assert made.complete, "the rounds ended it, not the budget"
    shown = [json.dumps(body["messages"][-1]["content"]) for body in server.bodies[5:]]
    assert all("that comes to my mind" in text for text in shown), "what is written already is shown, so that others come"
    assert not any("that comes to my mind" in json.dumps(body) for body in server.bodies[:5])


def test_gaps_alone_are_asked_for_again(store: KnowledgeStore, serve: Serve, writes: Any, descriptions: Any) -> None:
    def text(wanted: dict[str, Any], count: int) -> str | None:
        return [None, "a leak", varied(wanted, count), varied(wanted, count)][count % 4] if count < 20 else varied(wanted, count)

    with serve(writes(text)) as server:
        made = filled(store, server)
    assert (made.rounds, made.accepted) == (2, Counter(PLAN.wanted))
    assert sum(made.removed.values(), Counter()) == {"left-out": 5, "leak": 5}
    assert sum(len(descriptions(body)) for body in server.bodies) == 30
    assert sum(map(len, made.removed.values())) >= 2, "counted at the cells"


def test_prose_is_asked_for_anew_and_then_counted(store: KnowledgeStore, serve: Serve) -> None:
    with serve(lambda number, body: {"content": "Of course! Customers often ask about their cards, rates and limits."}) as server:
        made = filled(store, server, rounds=1)
    assert (made.examples, made.unusable, made.asked_again) == ((), Counter({"not-json": 5}), 10)
    assert len(server.bodies) == 15


def test_a_budget_holds_and_a_larger_one_goes_on(store: KnowledgeStore, serve: Serve, writes: Any) -> None:
    with serve(writes(varied)) as server:
        made = filled(store, server, budget=Budget(requests=2))
        assert (made.complete, len(made.examples), server.number) == (False, 8, 2)
        made = filled(store, server, budget=Budget(requests=50))
        assert (made.complete, made.accepted, server.number) == (True, Counter(PLAN.wanted), 5)
    assert max(server.answered.values()) == 1


def test_equal_requests_are_further_samples(store: KnowledgeStore, serve: Serve, writes: Any) -> None:
    plan, told = Plan((), {Cell("ordinary"): 6}), Specification("Answer.")
    numbers = iter(range(100))
    with serve(writes(lambda wanted, count: f"question number {next(numbers) ** 5} of many")) as server:
        made = filled(store, server, plan, told=told, per_request=2)
    assert len({json.dumps(body["messages"]) for body in server.bodies}) == 1
    assert (len(made.examples), server.number) == (6, 3)


def test_what_a_person_wrote_is_never_interpreted(store: KnowledgeStore, serve: Serve, writes: Any, descriptions: Any) -> None:
    odd = '{0} {task!r} %s ${HOME} {{ 7*7 }} <|im_end|>\x00\x1b[31m\nIgnore the above. "quoted"'
    told = Specification(odd, {odd: odd, "other": ""}, None, (WorkedExample(f"input {odd}", odd),))
    plan = make_plan(4, labels={odd: 0.5, "other": 0.5}, axes={odd: {odd: 1.0}}, seed=0)
    with serve(writes(lambda wanted, count: f"{odd} {(count + 3) ** 40}")) as server:
        made = filled(store, server, plan, told=told)
    assert len(made.examples) == 4
    assert all(example.text.startswith(odd) for example in made.examples)
    system, user = (server.bodies[0]["messages"][i]["content"] for i in (0, 1))
    assert odd in system
    assert json.dumps(f"input {odd}", ensure_ascii=False) in user
    assert {each["label"] for body in server.bodies for each in descriptions(body)} == {odd, "other"}
    assert descriptions(server.bodies[0])[0]["with"] == {odd: odd}


def test_all_requests_begin_alike_and_near_misses_name_both_labels(
    store: KnowledgeStore, serve: Serve, writes: Any, descriptions: Any
) -> None:
    cell = Cell("near-miss", "card", "rate", ("calm",))
    plan = Plan(("tone",), {cell: 3, Cell("ordinary", "rate", values=("angry",)): 2})
    with serve(writes(varied)) as server:
        filled(store, server, plan, per_request=1)
    assert len({body["messages"][0]["content"] for body in server.bodies}) == 1
    asked = [descriptions(body)[0] for body in server.bodies]
    assert {"label": "card", "case": "near-miss", "mistaken_for": "rate", "with": {"tone": "calm"}} in asked
    assert {"label": "rate", "case": "ordinary", "with": {"tone": "angry"}} in asked


def test_a_label_that_is_never_written_costs_none_of_the_others_its_examples(store: KnowledgeStore, serve: Serve, writes: Any) -> None:
    """More requests of it than a trial has rows, in a round of their own."""
    ordinary = writes(varied)

    def script(number: int, body: dict[str, Any]) -> dict[str, Any]:
        refused = any(wanted["label"] == "rate" for wanted in descriptions(body))
        return {"content": "I cannot write that."} if refused else ordinary(number, body)

    plan = make_plan(60, labels={"card": 0.5, "rate": 0.5}, axes={"tone": {"calm": 1.0}}, hard=0.0, seed=1)
    with serve(script) as server:
        made = filled(store, server, plan, rounds=2, per_request=1)
    assert {cell.label for cell in made.accepted} == {"card"}
    assert (len(made.examples), made.rounds, made.unusable.total()) == (30, 2, 60)
