"""The driver of the stage that makes bars, on real event loops and a real store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from marketfeed.bars import BarStage
from marketfeed.model import ManualClock, TickStore
from marketfeed.server.bar_driver import BarDriver
from tests.unit.model.test_bars import NOON, trades

BOUND = 10.0
RING = 64


class Market:
    """A store, its stage and driver."""

    def __init__(self) -> None:
        self.store = TickStore.create(RING, 8)
        self.wanted = {60}
        self.stage = BarStage(self.store, ManualClock(NOON), lambda: self.wanted)
        self.told = asyncio.Event()
        self.driver = BarDriver(self.stage, RING, asyncio.get_running_loop(), self.told.set)

    def publish(self, *seconds: float) -> None:
        ticks = trades(*((after, 10, 1) for after in seconds))
        ticks["ts_recv"] = ticks["ts_event"]
        self.store.publish(ticks)
        self.driver.published()

    async def bars(self) -> None:
        async with asyncio.timeout(BOUND):
            await self.told.wait()


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    def run_it(main: Callable[[], Awaitable[None]]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(main(), BOUND))

    return run_it


def test_many_batches_are_looked_at_in_one_go_a_little_later(run) -> None:
    async def main() -> None:
        market = Market()
        for seconds in (0, 30, 60):
            market.publish(seconds)
        assert market.stage.backlog == 3
        await market.bars()
        assert market.stage.stats.bars == 1
        assert market.store.ring.head == 4

    run(main)


def test_where_nobody_watches_it_looks_seldom_until_somebody_does(run) -> None:
    async def main() -> None:
        market = Market()
        market.wanted = set()
        market.publish(0)
        quick = asyncio.Event()
        asyncio.get_running_loop().call_later(0.2, quick.set)
        await quick.wait()
        assert market.stage.backlog == 1
        market.wanted = {60}
        market.publish(60)
        assert (market.stage.stats.bars, market.told.is_set()) == (1, True)
        market.told.clear()
        market.wanted = set()
        market.publish(120)
        await market.bars()
        assert market.stage.stats.bars == 2

    run(main)


def test_where_the_ring_would_be_overwritten_nothing_is_waited_for(run) -> None:
    async def main() -> None:
        market = Market()
        for n in range(10 * RING):
            market.publish(n)
            assert market.stage.backlog <= RING // 4
        assert market.stage.stats.lost == 0
        assert market.stage.stats.bars == 10

    run(main)


def test_the_end_of_a_feed_is_told_at_once(run) -> None:
    async def main() -> None:
        market = Market()
        market.publish(0)
        market.driver.ended(0)
        assert market.told.is_set()
        assert market.stage.stats.bars == 1

    run(main)


def test_nobody_is_told_of_no_bars(run) -> None:
    async def main() -> None:
        market = Market()
        market.publish(0)
        market.driver.run()
        assert market.stage.backlog == 0
        assert not market.told.is_set()

    run(main)


def test_a_stage_that_fails_is_logged_and_tried_again(run, caplog) -> None:
    async def main() -> None:
        market = Market()
        market.publish(0, 1)
        market.driver.run()
        # Ingest lets no such tick through: its feed cannot be.
        wrong = trades((2, 10, 1), feed=60_000)
        wrong["ts_recv"] = wrong["ts_event"]
        market.store.publish(wrong)
        with caplog.at_level(logging.ERROR, "marketfeed.bars"):
            market.driver.run()
        (record,) = caplog.records
        assert isinstance(record.exc_info[1], IndexError)
        market.publish(60)
        await market.bars()

    run(main)


def test_after_close_nothing_is_waited_for(run) -> None:
    async def main() -> None:
        market = Market()
        market.publish(0, 60)
        market.driver.close()
        late = asyncio.Event()
        asyncio.get_running_loop().call_later(0.1, late.set)
        await late.wait()
        assert market.stage.backlog == 2

    run(main)
