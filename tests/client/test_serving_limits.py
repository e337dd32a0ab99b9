"""The queue before the work: bounded, with a clock, and honest about its places."""

from __future__ import annotations

import asyncio
import threading

import pytest
import torch

from client.serving.faults import Code, ServingError
from client.serving.limits import Gate


class Held:
    """Work that goes on until it is let go."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), 0

    def __call__(self) -> str:
        self.begun += 1
        assert self.go.wait(30)
        return "done"


async def until(condition) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def code_of(running) -> Code:
    with pytest.raises(ServingError) as raised:
        await running
    return raised.value.code


def test_what_comes_beyond_the_places_is_turned_away_and_those_inside_are_answered():
    async def life():
        gate, held = Gate(workers=2, waiting=3, seconds=30), Held()
        inside = [asyncio.create_task(gate.run(held)) for _ in range(5)]
        await until(lambda: gate.inside == 5 and held.begun == 2)
        assert await code_of(gate.run(held)) == Code.BUSY
        held.go.set()
        assert await asyncio.gather(*inside) == ["done"] * 5
        await until(lambda: gate.inside == 0)
        assert held.begun == 5
        gate.close()

    asyncio.run(life())


def test_work_that_is_late_keeps_its_place_and_what_waited_too_long_is_never_begun():
    async def life():
        gate, held = Gate(workers=1, waiting=1, seconds=0.05), Held()
        codes = await asyncio.gather(code_of(gate.run(held)), code_of(gate.run(held)))
        assert codes == [Code.TIMEOUT, Code.TIMEOUT]
        assert gate.inside == 1  # the one that works; the other was never begun
        held.go.set()
        await until(lambda: gate.inside == 0)
        assert held.begun == 1
        gate.close()

    asyncio.run(life())


def test_a_caller_who_waits_less_is_answered_sooner():
    async def life():
        gate, held = Gate(workers=1, waiting=0, seconds=30), Held()
        assert await code_of(gate.run(held, seconds=0.01)) == Code.TIMEOUT
        held.go.set()
        gate.close()

    asyncio.run(life())


def test_a_caller_who_goes_away_before_its_turn_gives_its_place_back():
    async def life():
        gate, held = Gate(workers=1, waiting=1, seconds=30), Held()
        first, second = (asyncio.create_task(gate.run(held)) for _ in range(2))
        await until(lambda: gate.inside == 2)
        second.cancel()
        await until(lambda: gate.inside == 1)
        held.go.set()
        assert await first == "done"
        gate.close()
        assert held.begun == 1

    asyncio.run(life())


def test_each_worker_has_one_thread_of_pytorch():
    async def life():
        gate = Gate(workers=1, waiting=0, seconds=30)
        assert await gate.run(torch.get_num_threads) == 1
        gate.close()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        asyncio.run(life())
    finally:
        torch.set_num_threads(before)
