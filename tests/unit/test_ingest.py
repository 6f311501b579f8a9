import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import pytest

from marketfeed.feed import Control, FeedContext, FeedError, Option, Poll
from marketfeed.ingest import FeedRunner
from marketfeed.model import QUOTE, ManualClock, TickStore, empty_ticks
from marketfeed.model.tick import Ticks

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


class ListFeed:
    """Gives one quote of each of the named symbols at each poll, once a second, ``polls`` times; then it has ended."""

    OPTIONS: ClassVar[tuple[Option, ...]] = ()
    SUMMARY: ClassVar[str] = "a feed of this test"

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        self.symbols = target.split(",")
        self.polls = options.get("polls", 1)
        self.opened: list[int] = []
        self.closed = 0

    def open(self, context: FeedContext, now_ns: int) -> None:
        self.context = context
        self.opened.append(now_ns)

    def batch(self) -> Ticks:
        ids = [(self.context.instrument(symbol), symbol) for symbol in self.symbols]
        known = [number for number, _ in ids if number is not None]
        ticks = empty_ticks(len(known))
        ticks["instrument"] = known
        ticks["kind"] = QUOTE
        ticks["ts_event"] = START
        ticks["bid"], ticks["ask"] = 10.0, 11.0
        return ticks

    def poll(self, now_ns: int) -> Poll:
        if not self.polls:
            return Poll(empty_ticks(0), None)
        self.polls -= 1
        return Poll(self.batch(), now_ns + SECOND)

    def close(self) -> None:
        self.closed += 1


class BadRowsFeed(ListFeed):
    """Of its five rows, the second has no price, the fourth an infinite one, and the fifth neither."""

    def batch(self) -> Ticks:
        ticks = super().batch()
        ticks["bid"][[1, 4]] = ticks["ask"][[1, 4]] = math.nan
        ticks["bid"][3] = math.inf
        return ticks


class WrongIdFeed(ListFeed):
    """Its last row has an instrument that nobody gave it."""

    def batch(self) -> Ticks:
        ticks = super().batch()
        ticks["instrument"][-1] += 1
        return ticks


class FailingFeed(ListFeed):
    """Fails at these calls of open and poll, counted from 0 each."""

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        super().__init__(target, options)
        self.bad_opens: range = options.get("bad_opens", range(0))
        self.bad_polls: range = options.get("bad_polls", range(0))
        self.polled = 0

    def open(self, context: FeedContext, now_ns: int) -> None:
        super().open(context, now_ns)
        if len(self.opened) - 1 in self.bad_opens:
            raise OSError("venue is down")

    def poll(self, now_ns: int) -> Poll:
        self.polled += 1
        if self.polled - 1 in self.bad_polls:
            raise ValueError("half a message")
        return super().poll(now_ns)


class Run:
    """A feed's runner with a clock that goes on when the runner waits."""

    def __init__(self, feed: ListFeed, instruments: int = 16, jitter: Callable[[float, float], float] = max) -> None:
        self.clock = ManualClock(START)
        self.store = TickStore.create(ticks=1 << 12, instruments=instruments)
        self.heads: list[int] = []
        self.waits: list[float] = []
        self.states: list[str] = []
        self.runner = FeedRunner(
            "lse",
            feed,
            self.store,
            self.clock,
            lambda: self.heads.append(self.store.ring.head),
            later=self.later,
            jitter=jitter,
        )

    def later(self, seconds: float, call: Callable[[], None]) -> asyncio.Handle:
        self.waits.append(seconds)
        self.states.append(self.runner.stats.state)
        self.clock.advance(seconds)
        return asyncio.get_running_loop().call_soon(call)

    def to_the_end(self) -> "Run":
        asyncio.run(asyncio.wait_for(self.runner.run(), 30))
        return self


def test_a_batch_is_stamped_published_and_told() -> None:
    run = Run(ListFeed("A,B", {}))
    run.clock.advance(3)
    run.store.directory.add_feed("another")
    assert run.runner.step() == START + 4 * SECOND
    ticks = run.store.read(0).ticks
    assert ticks["ts_recv"].tolist() == [START + 3 * SECOND] * 2
    assert ticks["feed"].tolist() == [run.store.directory.feeds().index("lse")] * 2
    assert ticks["ts_event"].tolist() == [START] * 2
    assert [run.store.directory.symbols()[number] for number in ticks["instrument"]] == ["A", "B"]
    assert (run.heads, run.runner.stats.ticks) == ([2], 2)


def test_two_feeds_have_ids_of_their_own() -> None:
    run = Run(ListFeed("A", {}))
    other = FeedRunner("nyse", ListFeed("A", {}), run.store, run.clock, lambda: None)
    run.runner.step()
    other.step()
    ticks = run.store.read(0).ticks
    assert (ticks["feed"].tolist(), ticks["instrument"].tolist()) == ([0, 1], [0, 1])


def test_nothing_due_is_nothing_published_and_nothing_told() -> None:
    run = Run(ListFeed("A", {"polls": 0}))
    assert run.runner.step() is None
    assert (run.store.ring.head, run.heads) == (0, [])


def test_bad_rows_are_refused_one_by_one_and_the_feed_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(BadRowsFeed("A,B,C,D,E", {"polls": 3}))
    with caplog.at_level(logging.ERROR):
        run.to_the_end()
    assert run.runner.stats.refused == {"no price": 6, "infinite price": 3}
    assert run.runner.stats.ticks == 6
    ticks = run.store.read(0).ticks
    assert ticks["instrument"].tolist() == [0, 2] * 3
    assert np.isfinite(ticks["bid"]).all()
    # One line for each reason, with its own first row in it, not one for each row.
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "feed lse: refused: no price: " in lines[0]
    assert ", 1, 0, 1, 0, nan, nan, nan," in lines[0]
    assert "feed lse: refused: infinite price: " in lines[1]
    assert ", 3, 0, 1, 0, inf, nan, 11.0," in lines[1]


def test_rows_that_are_all_bad_wake_nobody() -> None:
    class NoPriceFeed(ListFeed):
        def batch(self) -> Ticks:
            ticks = super().batch()
            ticks["bid"] = ticks["ask"] = math.nan
            return ticks

    run = Run(NoPriceFeed("A,B", {})).to_the_end()
    assert (run.store.ring.head, run.heads, run.runner.stats.refused) == (0, [], {"no price": 2})


def test_a_row_of_an_instrument_that_is_not_in_the_directory_is_refused() -> None:
    run = Run(WrongIdFeed("A,B", {}), instruments=2).to_the_end()
    assert run.runner.stats.refused == {"unknown instrument": 1}
    assert run.store.read(0).ticks["instrument"].tolist() == [0]
    assert len(run.store.latest.since(0).ticks) == 1


def test_a_full_directory_refuses_new_symbols_and_the_known_go_on(caplog: pytest.LogCaptureFixture) -> None:
    run = Run(ListFeed("A,B,C,D", {"polls": 5}), instruments=2)
    with caplog.at_level(logging.ERROR):
        run.to_the_end()
    assert run.store.directory.symbols() == ["A", "B"]
    assert run.store.read(0).ticks["instrument"].tolist() == [0, 1] * 5
    assert run.runner.stats.refused == {"directory full": 10}
    assert [record.getMessage() for record in caplog.records] == [
        "feed lse: refused: directory full: no room for 'C': 2 instruments are in use"
    ]


def test_a_symbol_that_is_no_name_is_refused() -> None:
    run = Run(ListFeed("A,B B,C", {})).to_the_end()
    assert run.store.directory.symbols() == ["A", "C"]
    assert run.runner.stats.refused == {"bad symbol": 1}


def test_a_feed_is_asked_when_it_said_and_ends_when_it_said() -> None:
    feed = ListFeed("A", {"polls": 3})
    run = Run(feed).to_the_end()
    assert run.waits == [1.0, 1.0, 1.0]
    assert run.states == ["running"] * 3
    assert (run.runner.stats.state, run.runner.stats.restarts, feed.closed) == ("ended", 0, 1)


def test_a_feed_that_is_late_is_asked_at_once() -> None:
    class LateFeed(ListFeed):
        def poll(self, now_ns: int) -> Poll:
            batch, due = super().poll(now_ns)
            return Poll(batch, None if due is None else now_ns - SECOND)

    assert Run(LateFeed("A", {"polls": 2})).to_the_end().waits == [0.0, 0.0]


def test_a_feed_that_raises_is_closed_and_opened_again_after_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    feed = FailingFeed("A", {"polls": 3, "bad_polls": range(1, 2)})
    run = Run(feed).to_the_end()
    assert run.waits == [1.0, 0.5, 1.0, 1.0]
    assert run.states == ["running", "backing off", "running", "running"]
    assert feed.opened == [START, START + SECOND * 3 // 2]
    assert feed.closed == 2
    assert (run.runner.stats.restarts, run.runner.stats.ticks, run.runner.stats.state) == (1, 3, "ended")
    assert "half a message" in caplog.text


def test_a_feed_that_cannot_be_opened_again_is_tried_again() -> None:
    feed = FailingFeed("A", {"polls": 2, "bad_polls": range(1), "bad_opens": range(1, 4)})
    run = Run(feed).to_the_end()
    assert run.waits == [0.5, 1.0, 2.0, 4.0, 1.0, 1.0]
    assert (run.runner.stats.restarts, run.runner.stats.ticks, run.runner.stats.state) == (4, 2, "ended")


def test_pauses_double_up_to_half_a_minute_however_long_it_takes() -> None:
    run = Run(FailingFeed("A", {"bad_polls": range(1_200)})).to_the_end()
    assert run.waits[:8] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert set(run.waits[8:1_200]) == {30.0}
    assert run.runner.stats.restarts == 1_200
    assert run.runner.stats.ticks == 1


def test_pauses_are_drawn_from_zero_up() -> None:
    bounds: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        bounds.append((low, high))
        return high / 4

    run = Run(FailingFeed("A", {"bad_polls": range(3)}), jitter=draw).to_the_end()
    assert bounds == [(0.0, 0.5), (0.0, 1.0), (0.0, 2.0)]
    assert run.waits[:3] == [0.125, 0.25, 0.5]


def test_by_default_pauses_are_random_within_their_bounds() -> None:
    waits: list[float] = []

    def later(seconds: float, call: Callable[[], None]) -> asyncio.Handle:
        waits.append(seconds)
        return asyncio.get_running_loop().call_soon(call)

    async def main() -> None:
        feed = FailingFeed("A", {"polls": 0, "bad_polls": range(60)})
        await FeedRunner("f", feed, TickStore.create(8, 4), ManualClock(), lambda: None, later=later).run()

    asyncio.run(asyncio.wait_for(main(), 30))
    assert len(waits) == 60
    assert len(set(waits)) > 50
    assert all(0 <= wait <= min(30.0, 0.5 * 2**number) for number, wait in enumerate(waits))


def test_a_feed_that_ran_for_a_while_starts_its_pauses_anew() -> None:
    # Fails at its first poll, and again after 63 good seconds.
    run = Run(FailingFeed("A", {"polls": 70, "bad_polls": range(0, 1_000, 64)})).to_the_end()
    assert [wait for wait, state in zip(run.waits, run.states, strict=True) if state == "backing off"] == [0.5, 0.5]


def test_where_a_feeds_time_ends_is_told_after_its_last_tick() -> None:
    class TwiceFeed(ListFeed):
        """Plays again after its second poll."""

        def poll(self, now_ns: int) -> Poll:
            if self.polls == 2:
                self.context.rewound()
            return super().poll(now_ns)

    store = TickStore.create(64, 4)
    store.directory.add_feed("another")
    ends: list[tuple[int, int]] = []

    async def main() -> None:
        def later(seconds: float, call: Callable[[], None]) -> asyncio.Handle:
            return asyncio.get_running_loop().call_soon(call)

        runner = FeedRunner(
            "f",
            TwiceFeed("A", {"polls": 4}),
            store,
            ManualClock(START),
            lambda: None,
            on_end=lambda feed: ends.append((feed, store.ring.head)),
            later=later,
        )
        await runner.run()

    asyncio.run(asyncio.wait_for(main(), 10))
    assert ends == [(1, 2), (1, 4)]


def test_a_cancelled_runner_stops_and_its_feed_can_be_closed() -> None:
    feed = ListFeed("A", {"polls": 10})

    async def main() -> None:
        published = asyncio.Event()
        runner = FeedRunner("f", feed, TickStore.create(8, 4), ManualClock(START), published.set)
        task = asyncio.create_task(runner.run())
        await asyncio.wait_for(published.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        runner.close()

    asyncio.run(main())
    assert feed.closed == 1


@pytest.mark.parametrize("name", ["", "a b", "a:b", "x" * 33])
def test_a_feed_with_an_impossible_name_cannot_begin(name: str) -> None:
    with pytest.raises(FeedError, match="name"):
        FeedRunner(name, ListFeed("A", {}), TickStore.create(8, 4), ManualClock(), lambda: None)


def test_what_a_feed_says_at_its_first_opening_stops_the_start() -> None:
    class NoFileFeed(ListFeed):
        def open(self, context: FeedContext, now_ns: int) -> None:
            raise FeedError("no such file: x.csv")

    with pytest.raises(FeedError, match=r"no such file: x\.csv"):
        Run(NoFileFeed("A", {}))


# ---- controls


class ToldFeed(ListFeed):
    """Gives as many batches as it is told to, and then has ended until it is told again."""

    CONTROLS: ClassVar[tuple[Control, ...]] = (Control("give", int, "so many"),)

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        super().__init__(target, {"polls": 0, **options})

    def control(self, name: str, value: Any, now_ns: int) -> None:
        if value < 0:
            raise FeedError("less than nothing")
        self.polls = value

    def progress(self, now_ns: int) -> Mapping[str, Any]:
        return {"left": self.polls}


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0)


def test_a_control_wakes_a_feed_that_waits_or_has_ended() -> None:
    async def main() -> None:
        feed = ToldFeed("A", {"polls": 1})
        store = TickStore.create(8, 4)
        runner = FeedRunner("f", feed, store, ManualClock(START), lambda: None)
        task = asyncio.create_task(runner.run())
        # It waits for a second of a clock that stands: without the wake it would wait for ever.
        await eventually(lambda: store.ring.head == 1)
        runner.control("give", "0")
        await asyncio.wait_for(runner.ended.wait(), 10)
        assert (runner.stats.state, feed.closed) == ("ended", 0)
        runner.control("give", "1")
        await eventually(lambda: store.ring.head == 2)
        assert (runner.stats.state, runner.ended.is_set()) == ("running", False)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())


def test_a_control_that_comes_just_when_a_feed_ends_is_not_lost() -> None:
    async def main() -> None:
        store = TickStore.create(8, 4)
        calls: list[Callable[[], None]] = []

        def later(seconds: float, call: Callable[[], None]) -> asyncio.Handle:
            calls.append(call)
            return asyncio.get_running_loop().call_later(3600, call)

        runner = FeedRunner("f", ToldFeed("A", {"polls": 1}), store, ManualClock(START), lambda: None, later=later)
        task = asyncio.create_task(runner.run())
        await eventually(lambda: bool(calls))
        # The step that ends it, and the control, in one turn of the loop.
        calls.pop()()
        assert runner.stats.state == "ended"
        runner.control("give", "1")
        await eventually(lambda: store.ring.head == 2)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())


def test_what_a_feed_cannot_do_is_told_and_changes_nothing() -> None:
    runner = FeedRunner("f", ToldFeed("A", {}), TickStore.create(8, 4), ManualClock(START), lambda: None)
    assert (runner.controls, runner.progress()) == (("give",), {"left": 0})
    for name, value, message in (
        ("take", None, "no control 'take'; there are: give"),
        ("give", None, "give takes a value"),
        ("give", "x", "give x: invalid literal"),
        ("give", "-1", "less than nothing"),
    ):
        with pytest.raises(FeedError, match=message):
            runner.control(name, value)
    assert runner.progress() == {"left": 0}


def test_a_feed_without_controls_says_so() -> None:
    runner = FeedRunner("f", ListFeed("A", {}), TickStore.create(8, 4), ManualClock(START), lambda: None)
    assert (runner.controls, runner.progress()) == ((), {})
    with pytest.raises(FeedError, match="takes no controls"):
        runner.control("give", "1")


def test_a_feed_that_has_failed_is_not_controlled_until_it_is_open_again() -> None:
    class FailingToldFeed(ToldFeed):
        def poll(self, now_ns: int) -> Poll:
            raise RuntimeError("no")

    run = Run(FailingToldFeed("A", {}))

    async def main() -> None:
        task = asyncio.create_task(run.runner.run())
        await eventually(lambda: run.runner.stats.state == "backing off")
        with pytest.raises(FeedError, match="about to be opened again"):
            run.runner.control("give", "1")
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(main())
