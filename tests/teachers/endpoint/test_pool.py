"""Rows at once, and the gate that they pass: what begins, and what a cancelled one leaves."""

from __future__ import annotations

import asyncio

from stillroom.teachers.endpoint.gate import Gate
from stillroom.teachers.endpoint.pool import for_each


def test_after_a_row_that_ends_the_run_no_further_one_begins() -> None:
    begun: list[int] = []

    async def work(row: int) -> bool:
        begun.append(row)
        await asyncio.sleep(0)
        return row != 3

    assert not asyncio.run(for_each(range(1000), work, 1))
    assert begun == [0, 1, 2, 3]


def test_a_turn_that_is_cancelled_as_it_comes_leaves_its_place() -> None:
    now = [0.0]

    async def work() -> None:
        gate = Gate(1, lambda: now[0])
        await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        now[0] = 10.0
        gate.leave()  # the other's turn has come, and it has not been told yet
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.in_flight == 0

    asyncio.run(work())


def test_one_that_is_cancelled_as_the_gate_closes_had_no_turn_to_leave() -> None:
    async def work() -> None:
        gate = Gate(1, lambda: 0.0)
        await gate.enter()
        waiting = asyncio.create_task(gate.enter())
        await asyncio.sleep(0)
        gate.close()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert gate.in_flight == 1

    asyncio.run(work())
