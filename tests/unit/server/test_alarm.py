"""What calls feeds again in time, on real event loops and with real time."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from marketfeed.server.alarm import Alarm, LoopTimer, best_alarm

BOUND = 10.0

KINDS: dict[str, Callable[[asyncio.AbstractEventLoop], Any]] = {
    "timerfd": Alarm,
    "loop": lambda loop: LoopTimer(),
}


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Any], None]:
    def run_it(main: Callable[[asyncio.AbstractEventLoop], Any]) -> None:
        async def bounded() -> None:
            await asyncio.wait_for(main(asyncio.get_running_loop()), BOUND)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(bounded())

    return run_it


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Callable[[asyncio.AbstractEventLoop], Any]:
    return KINDS[request.param]


async def turns(n: int = 20) -> None:
    """Let the loop go round: whatever rings without end would be seen."""
    for _ in range(n):
        await asyncio.sleep(0)


@pytest.mark.parametrize("seconds", [0.0, 0.0004, 0.05])
def test_it_calls_once_and_never_too_soon(run, kind, seconds):
    async def main(loop):
        alarm = kind(loop)
        calls = asyncio.Queue()
        begun = loop.time()
        alarm(seconds, lambda: calls.put_nowait(loop.time()))
        assert calls.empty()  # never within the call itself
        # uvloop's clock stands still while nothing is waited for, and counts whole milliseconds.
        assert await calls.get() - begun >= seconds - 0.001
        await turns()
        assert calls.empty()
        alarm.close()

    run(main)


def test_what_is_called_may_set_it_again(run, kind):
    async def main(loop):
        alarm, done, left = kind(loop), asyncio.Event(), list(range(50))

        def call() -> None:
            left.pop()
            if left:
                alarm(0.0 if len(left) % 2 else 0.0005, call)
            else:
                done.set()

        alarm(0.001, call)
        await done.wait()
        alarm.close()

    run(main)


def test_what_was_cancelled_is_not_called(run, kind):
    async def main(loop):
        alarm, done, calls = kind(loop), asyncio.Event(), []
        alarm(0.0, lambda: calls.append("cancelled")).cancel()
        waiting = alarm(0.02, lambda: calls.append("cancelled"))
        waiting.cancel()
        alarm(0.04, done.set)
        await done.wait()
        assert calls == []
        alarm.close()

    run(main)


def test_one_that_is_late_and_set_anew_waits_anew(run):
    async def main(loop):
        alarm, done, calls = Alarm(loop), asyncio.Event(), []
        alarm(0.0, lambda: calls.append("before"))
        select.select([alarm._fd], [], [], BOUND)  # it has rung, and the loop has not heard of it yet
        alarm(0.03, done.set)
        await done.wait()
        assert calls == []
        alarm.close()

    run(main)


def test_an_error_in_what_is_called_goes_to_the_loop_and_it_rings_no_more(run, kind):
    async def main(loop):
        alarm, told = kind(loop), []
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))

        def fail() -> None:
            raise RuntimeError("a feed is broken")

        alarm(0.0, fail)
        while not told:
            await asyncio.sleep(0)
        await turns()
        assert [str(error) for error in told] == ["a feed is broken"]
        done = asyncio.Event()
        alarm(0.001, done.set)
        await done.wait()
        alarm.close()

    run(main)


def test_after_close_nothing_is_called_and_nothing_is_held(run):
    async def main(loop):
        alarm, calls = Alarm(loop), []
        fd = alarm._fd
        waiting = alarm(0.0, lambda: calls.append("closed"))
        alarm.close()
        alarm.close()
        waiting.cancel()
        alarm(0.0, lambda: calls.append("closed"))
        await turns()
        assert calls == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    run(main)


def test_where_there_is_no_timerfd_the_loops_timers_do(run, monkeypatch):
    async def main(loop):
        assert isinstance(best_alarm(loop), Alarm)
        monkeypatch.setattr("marketfeed.server.alarm._CLOCK_MONOTONIC", 12345)  # a clock that no system has
        alarm, done = best_alarm(loop), asyncio.Event()
        assert isinstance(alarm, LoopTimer)
        alarm(0.001, done.set)
        await done.wait()

    run(main)
