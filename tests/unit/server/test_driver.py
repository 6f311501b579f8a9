"""The driver on real event loops; the hub is a small one whose answers are laid down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import pytest
import uvloop

from marketfeed.server.driver import Driver

BOUND = 10.0
#: Times of loops are sums of binary fractions.
ROUNDING = 1e-6


class LaidDownHub:
    """Answers each run with the next of these; then it has nothing more to do. A callable is called first."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        #: what :meth:`due` answers
        self.next = inf
        self.runs: list[float] = []
        self._ran = asyncio.Event()

    def run(self, now: float) -> float:
        self.runs.append(now)
        self._ran.set()
        answer = self.answers.pop(0) if self.answers else inf
        return answer(now) if callable(answer) else answer

    def due(self) -> float:
        return self.next

    async def ran(self, times: int) -> None:
        """Wait until it was run so often."""
        async with asyncio.timeout(BOUND):
            while len(self.runs) < times:
                self._ran.clear()
                await self._ran.wait()


def after(seconds: float) -> Callable[[float], float]:
    return lambda now: now + seconds


async def turns(n: int = 20) -> None:
    """Let the loop go round: whatever is due now has been done after it."""
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    def run_it(main: Callable[[], Any]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), BOUND))

    return run_it


def test_many_wakes_make_one_run(run):
    async def main():
        hub = LaidDownHub()
        driver = Driver(hub, asyncio.get_running_loop())
        await turns()
        assert hub.runs == []
        for times in (1, 2, 3):
            for _ in range(100):
                driver.wake()
            assert len(hub.runs) == times - 1  # never within the wake itself: whoever wakes is in the middle of things
            await turns()
            assert len(hub.runs) == times

    run(main)


def test_the_hub_is_told_the_time_of_the_drivers_clock(run):
    async def main():
        hub = LaidDownHub()
        driver = Driver(hub, asyncio.get_running_loop())
        before = driver.clock()
        driver.wake()
        await turns()
        assert before <= hub.runs[0] <= driver.clock()

    run(main)


def test_it_runs_again_when_the_hub_said_and_not_before(run):
    async def main():
        hub = LaidDownHub(after(0.05), after(0.03), inf)
        Driver(hub, asyncio.get_running_loop()).wake()
        await hub.ran(3)
        first, second, third = hub.runs
        assert second - first >= 0.05 - ROUNDING
        assert third - second >= 0.03 - ROUNDING
        await turns()
        assert len(hub.runs) == 3

    run(main)


def test_a_hub_with_more_to_do_runs_at_once_and_others_have_their_turns_between(run):
    async def main():
        seen = []
        hub = LaidDownHub(*[lambda now: now] * 10, *[-inf] * 10)
        Driver(hub, asyncio.get_running_loop()).wake()
        while len(hub.runs) < 21:
            seen.append(len(hub.runs))
            await asyncio.sleep(0)
        assert len(seen) > 15

    run(main)


def test_a_wake_comes_before_the_timer_which_is_set_anew(run):
    async def main():
        hub = LaidDownHub(after(3600), after(0.05), inf)
        driver = Driver(hub, asyncio.get_running_loop())
        driver.wake()
        await turns()
        driver.wake()
        await turns()
        assert len(hub.runs) == 2
        await hub.ran(3)
        assert hub.runs[2] - hub.runs[1] >= 0.05 - ROUNDING
        await turns()
        assert len(hub.runs) == 3

    run(main)


def test_a_timer_that_a_wake_came_before_makes_no_run_of_its_own(run):
    async def main():
        loop = asyncio.get_running_loop()
        hub = LaidDownHub(after(0.03), inf)
        driver = Driver(hub, loop)
        driver.wake()
        await turns()
        driver.wake()
        await turns()
        late = asyncio.Event()
        loop.call_later(0.1, late.set)
        await late.wait()
        assert len(hub.runs) == 2

    run(main)


def test_a_wake_during_a_run_is_kept(run):
    async def main():
        hub = LaidDownHub()
        driver = Driver(hub, asyncio.get_running_loop())

        def woken(now: float) -> float:
            driver.wake()
            return now + 3600

        hub.answers = [woken, inf]
        driver.wake()
        await turns()
        assert len(hub.runs) == 2

    run(main)


def test_ticks_that_are_not_due_before_the_next_run_change_nothing(run):
    async def main():
        hub = LaidDownHub(after(0.05), inf)
        driver = Driver(hub, asyncio.get_running_loop())
        driver.wake()
        await turns()
        hub.next = hub.runs[0] + 0.05
        for _ in range(100):
            driver.published()
            await asyncio.sleep(0)
        assert len(hub.runs) == 1
        await hub.ran(2)
        assert hub.runs[1] - hub.runs[0] >= 0.05 - ROUNDING

    run(main)


def test_ticks_that_are_due_earlier_bring_the_run_forward(run):
    async def main():
        loop = asyncio.get_running_loop()
        hub = LaidDownHub(after(3600), after(3600), inf)
        driver = Driver(hub, loop)
        driver.wake()
        await turns()
        hub.next = loop.time() + 0.03
        driver.published()
        await turns()
        assert len(hub.runs) == 1
        await hub.ran(2)
        assert hub.runs[1] >= hub.next - ROUNDING
        hub.next = -inf
        driver.published()
        assert len(hub.runs) == 3  # no turn of the loop lies between
        await turns()
        assert len(hub.runs) == 3

    run(main)


def test_a_run_that_ticks_brought_forward_stands_for_the_one_that_was_to_come(run):
    async def main():
        loop = asyncio.get_running_loop()
        hub = LaidDownHub(after(0.03), inf)
        driver = Driver(hub, loop)
        driver.wake()
        await turns()
        hub.next = -inf
        driver.published()
        late = asyncio.Event()
        loop.call_later(0.1, late.set)
        await late.wait()
        assert len(hub.runs) == 2

    run(main)


def test_ticks_that_nobody_waits_for_make_no_run(run):
    async def main():
        hub = LaidDownHub()
        driver = Driver(hub, asyncio.get_running_loop())
        driver.published()
        await turns()
        assert hub.runs == []

    run(main)


def test_a_hub_that_fails_is_logged_and_left_alone_for_a_second_whoever_wakes_it(run, caplog):
    async def main():
        hub = LaidDownHub()
        driver = Driver(hub, asyncio.get_running_loop())

        def fail(now: float) -> float:
            raise RuntimeError("a lane is broken")

        hub.answers = [fail, inf]
        hub.next = -inf
        driver.wake()
        with caplog.at_level(logging.ERROR, "marketfeed.driver"):
            await turns()
            for _ in range(100):
                driver.wake()
                driver.published()
                await asyncio.sleep(0)
            assert len(hub.runs) == 1
            await hub.ran(2)
        assert 1.0 - ROUNDING <= hub.runs[1] - hub.runs[0] < 5.0
        (record,) = caplog.records
        assert "a lane is broken" in str(record.exc_info[1])
        driver.wake()  # and then it is as before
        await turns()
        assert len(hub.runs) == 3

    run(main)


@pytest.mark.parametrize("pending", ["nothing", "a wake", "a timer"])
def test_after_close_it_runs_no_more(run, pending):
    async def main():
        loop = asyncio.get_running_loop()
        hub = LaidDownHub(after(0.02))
        hub.next = -inf
        driver = Driver(hub, loop)
        if pending != "nothing":
            driver.wake()
        if pending == "a timer":
            await turns()
        runs = len(hub.runs)
        for _ in range(2):
            driver.close()
            driver.wake()
            driver.published()
        late = asyncio.Event()
        loop.call_later(0.05, late.set)
        await late.wait()
        assert len(hub.runs) == runs

    run(main)


@pytest.mark.parametrize("fails", [False, True], ids=["goes well", "fails"])
def test_a_close_during_a_run_is_kept(run, fails):
    async def main():
        loop = asyncio.get_running_loop()
        hub = LaidDownHub()
        driver = Driver(hub, loop)

        def closes(now: float) -> float:
            driver.close()
            if fails:
                raise RuntimeError("and fails")
            return now

        hub.answers = [closes]
        driver.wake()
        await turns()
        driver.wake()
        await turns()
        assert len(hub.runs) == 1

    run(main)
