"""Requests share the loop in steps, and there is room for so many."""

import asyncio

import pytest

from marketfeed.model import ManualClock
from marketfeed.server.history.pace import Pace, TooMany


def counted(n, log, name):
    for _ in range(n):
        log.append(name)
        yield
    return name


def test_each_turn_of_the_loop_has_one_step_whoever_asks():
    async def main():
        pace, log = Pace(10, ManualClock().monotonic), []
        turns = asyncio.create_task(count_turns(log))
        results = await asyncio.gather(*(pace.run(counted(3, log, name)) for name in "xyz"))
        turns.cancel()
        return results, log

    async def count_turns(log):
        while True:
            log.append("|")
            await asyncio.sleep(0)

    results, log = asyncio.run(main())
    assert results == ["x", "y", "z"]
    parts = "".join(log).split("|")
    assert max(map(len, parts)) == 1
    # In turn: nobody waits for all the steps of another.
    assert "".join(parts) == "xyzxyzxyz"


def test_a_failure_in_a_step_is_its_own_and_the_next_goes_on():
    def failing():
        yield
        raise ValueError("no")

    async def main():
        pace = Pace(10, ManualClock().monotonic)
        return await asyncio.gather(pace.run(failing()), pace.run(counted(3, [], "x")), return_exceptions=True)

    failed, went = asyncio.run(main())
    assert isinstance(failed, ValueError)
    assert went == "x"


def test_there_is_room_for_so_many_and_a_place_is_free_again_after_its_use():
    pace = Pace(1, ManualClock().monotonic)
    with pace.place(), pytest.raises(TooMany), pace.place():
        pass
    with pytest.raises(ValueError, match="x"), pace.place():
        raise ValueError("x")
    with pace.place():
        assert pace.stats.running == 1
    assert (pace.stats.running, pace.stats.refused) == (0, 1)


def test_the_longest_step_is_kept():
    clock = ManualClock()

    def slow():
        clock.advance(0.25)
        yield
        clock.advance(0.125)

    pace = Pace(1, clock.monotonic)
    asyncio.run(pace.run(slow()))
    assert pace.stats.longest_step_ms == 250.0
