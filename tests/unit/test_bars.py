"""The stage that reads ticks from the ring and publishes bars into it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.bars import BarStage
from marketfeed.model import BAR, UPDATED_BAR, ManualClock, TickStore, resample
from marketfeed.model.bars import BAR_RECORD, FROM_QUOTES, Bars
from marketfeed.model.tick import Ticks
from tests.realdata import DATA, needs_data
from tests.unit.feeds.replay_helper import drain, play, replay
from tests.unit.model.test_bars import NOON, SECOND, quotes, trades

MINUTE = 60
FIELDS = ("ts_event", "instrument", "open", "high", "low", "close", "volume", "count", "flags", "seconds")


class Market:
    """A store, its stage, and a wall clock that stands at noon of the day unless it is moved."""

    def __init__(self, ticks: int = 1 << 16, wall: int = NOON, instruments: int = 8) -> None:
        self.store = TickStore.create(ticks, instruments)
        self.clock = ManualClock(wall)
        self.lengths: set[int] = set()
        self.stage = BarStage(self.store, self.clock, lambda: self.lengths)
        self._read = 0

    def publish(self, ticks: Ticks, lag: float = 0.0) -> None:
        """Received so many seconds after they happened."""
        ticks["ts_recv"] = ticks["ts_event"] + round(lag * SECOND)
        self.store.publish(ticks)

    def give(self, ticks: Ticks, lag: float = 0.0) -> Bars:
        self.publish(ticks, lag)
        self.stage.run()
        return self.told()

    def told(self) -> Bars:
        """The bars that were published since this was last asked."""
        span = self.store.read(self._read)
        self._read = span.cursor
        return span.ticks[span.ticks["kind"] >= BAR].view(BAR_RECORD)


OLD = 86_400.0 * 365
#: Instrument 0 of feed 0, minute by minute: what a recording is.
MINUTES = [trades((MINUTE * n, 10 + n, 1), (MINUTE * n + 30, 20 + n, 1)) for n in range(20)]


def test_bars_are_published_behind_the_ticks_that_end_them() -> None:
    market = Market()
    assert not len(market.give(MINUTES[0]))
    (bar,) = market.give(MINUTES[1])
    assert (bar["kind"], bar["ts_event"], bar["open"], bar["close"], bar["seconds"]) == (BAR, NOON, 10, 20, 60)
    assert bar["ts_recv"] == market.clock.now_ns()
    assert market.store.ring.head == 5
    assert market.stage.backlog == 1  # its own bar
    assert not market.stage.run()
    assert (market.stage.stats.bars, market.stage.stats.updates, market.stage.backlog) == (1, 0, 0)


def test_many_batches_are_one_run() -> None:
    market = Market()
    for ticks in MINUTES:
        market.publish(ticks)
    assert market.stage.run()
    assert market.told()["ts_event"].tolist() == [NOON + MINUTE * SECOND * n for n in range(19)]


def test_a_recording_makes_the_bars_of_its_own_time_however_late_it_is_played() -> None:
    market = Market(wall=NOON + round(OLD * SECOND))
    market.give(trades((0, 10, 1), (59, 11, 1)), lag=OLD)
    market.clock.advance(3600)
    assert not market.stage.run()
    assert market.give(trades((60, 12, 1)), lag=OLD)["ts_event"].tolist() == [NOON]


def test_a_live_feed_that_goes_quiet_has_its_bars_ended_by_the_wall_clock() -> None:
    market = Market()
    market.give(trades((0, 10, 1), (59, 11, 1)), lag=0.5)
    market.clock.advance(62.4)  # half a second that its ticks need, and two of grace
    market.stage.run()
    assert not len(market.told())
    market.clock.advance(0.2)
    market.stage.run()
    (bar,) = market.told()
    assert (bar["kind"], bar["ts_event"], bar["count"]) == (BAR, NOON, 2)
    (bar,) = market.give(trades((59.5, 12, 1)), lag=3)
    assert (bar["kind"], bar["count"], bar["close"]) == (UPDATED_BAR, 3, 12)
    assert market.stage.stats.updates == 1


def test_the_end_of_a_feed_ends_its_bars_as_they_are() -> None:
    market = Market()
    for ticks in MINUTES[:2]:
        market.publish(ticks, lag=OLD)
    assert market.stage.end(0)
    assert market.told()["open"].tolist() == [10, 11]
    assert not market.stage.end(0)


def test_a_recording_that_plays_again_makes_the_same_bars_again() -> None:
    market = Market()
    passes = []
    for _ in range(3):
        for ticks in MINUTES[:3]:
            market.publish(ticks, lag=OLD)
            market.stage.run()
        market.stage.end(0)
        passes.append(market.told())
    assert [len(told) for told in passes] == [3, 3, 3]
    for told in passes[1:]:
        for column in FIELDS:
            assert told[column].tolist() == passes[0][column].tolist()


def test_a_time_that_is_set_back_without_a_word_is_noticed_after_some_ticks_and_one_stray_tick_is_not() -> None:
    market = Market()
    late = trades(*((n, 5, 1) for n in range(300)), (600, 6, 1))
    market.give(trades((0, 1, 1)))
    market.give(trades((7200, 10, 1)))
    market.told()
    assert not len(market.give(trades((0, 99, 1))))
    assert (market.stage.stats.late, market.stage.stats.set_back) == (1, 0)
    assert market.give(trades((7260, 11, 1)))["ts_event"].tolist() == [NOON + 7200 * SECOND]

    told = market.give(late)
    assert market.stage.stats.set_back == 1
    # The bar that was open of the time before, and then those of the other time.
    assert told["ts_event"].tolist() == [NOON + s * SECOND for s in (7260, 0, 60, 120, 180, 240)]
    assert told["count"].tolist() == [1, 60, 60, 60, 60, 60]
    assert (told["kind"] == BAR).all()


def test_it_is_noticed_too_where_the_ticks_come_one_by_one() -> None:
    market = Market()
    market.give(trades((7200, 10, 1)))
    told = np.concatenate([market.give(trades((n, 5, 1))) for n in range(600)])
    assert (market.stage.stats.set_back, market.stage.stats.late) == (1, 255)
    assert [(int(bar["ts_event"]) - NOON) // SECOND for bar in told] == [7200, 240, 300, 360, 420, 480]
    assert told["count"].tolist() == [1, 45, 60, 60, 60, 60]


def test_another_feeds_time_is_its_own() -> None:
    market = Market()
    market.give(trades((0, 10, 1), feed=0))
    both = np.concatenate([trades((7200, 20, 1), instrument=1, feed=1), trades((30, 11, 1), feed=0)])
    assert not len(market.give(both))
    assert market.give(trades((60, 12, 1), feed=0))["count"].tolist() == [2]


def test_a_tick_of_the_future_is_in_no_bar_and_ends_none() -> None:
    market = Market()
    market.give(trades((0, 10, 1)))
    future = trades((3600, 99, 1))
    future["ts_recv"] = NOON
    market.store.publish(future)
    market.stage.run()
    assert not len(market.told())
    assert market.stage.stats.ahead == 1
    (bar,) = market.give(trades((60, 11, 1)))
    assert (bar["high"], bar["count"]) == (10, 1)


def test_a_feed_without_trades_has_bars_of_quotes_until_its_first_trade() -> None:
    market = Market()
    market.give(quotes((0, 10, 11)))
    (bar,) = market.give(quotes((60, 20, 21)))
    assert (bar["flags"], bar["open"], bar["volume"]) == (FROM_QUOTES, 10.5, 0)
    assert not len(market.give(trades((70, 50, 3))))
    (bar,) = market.give(quotes((120, 30, 31)))
    assert (bar["flags"], bar["open"], bar["count"], bar["volume"]) == (0, 50, 1, 3)
    assert not len(market.give(quotes((300, 30, 31))))


def test_other_lengths_are_made_while_they_are_wanted_from_the_first_whole_bar_on() -> None:
    market = Market()
    market.give(trades((3, 1, 1)))
    market.lengths = {5}
    assert not len(market.give(trades((4, 2, 1), (6, 3, 1))))
    (bar,) = market.give(trades((10, 4, 1)))
    assert (bar["seconds"], bar["ts_event"], bar["open"]) == (5, NOON + 5 * SECOND, 3)
    market.lengths = set()
    assert not len(market.give(trades((20, 5, 1))))
    # The bar that begins where the feed's time stands may lack what came at that very time.
    market.lengths = {5, 10}
    market.give(trades((20, 5, 1), (26, 6, 1)))
    told = market.give(trades((40, 6, 1)))
    assert [(bar["seconds"], bar["ts_event"]) for bar in told] == [(5, NOON + 25 * SECOND)]


def test_where_no_length_is_always_made_a_minute_is_one_like_the_others() -> None:
    market = Market()
    market.stage = BarStage(market.store, market.clock, lambda: market.lengths, ())
    assert not len(market.give(trades((0, 1, 1), (70, 2, 1))))
    market.lengths = {60}
    assert market.give(trades((130, 3, 1), (190, 4, 1)))["ts_event"].tolist() == [NOON + 120 * SECOND]


def test_ticks_that_the_ring_has_lost_are_counted() -> None:
    market = Market(ticks=8)
    for ticks in MINUTES[:6]:
        market.publish(ticks)
    market.stage.run()
    assert market.stage.stats.lost == 4


@given(st.lists(st.integers(1, 50), max_size=30), st.lists(st.booleans(), min_size=30, max_size=30))
def test_however_it_is_run_the_bars_are_those_of_all_ticks(sizes: list[int], runs: list[bool]) -> None:
    rng = np.random.default_rng(len(sizes))
    ticks = trades(*((n * 0.7, 10 + n % 7, n % 3) for n in range(sum(sizes))))
    ticks["instrument"] = rng.integers(0, 8, len(ticks))
    market = Market()
    for part, run in zip(np.split(ticks, np.cumsum(sizes)), [*runs, True], strict=False):
        market.publish(part)
        if run:
            market.stage.run()
    market.stage.end(0)
    told, wanted = market.told(), resample(ticks)
    for column in FIELDS:
        assert told[column].tolist() == wanted[column].tolist()


@needs_data
@pytest.mark.parametrize("symbol", ["ibm", "spy"])
def test_a_real_days_bars_come_out_of_a_replay(symbol: str) -> None:
    path = DATA / f"lean/equity/usa/tick/{symbol}/20131007_trade.zip"
    market = Market(1 << 19, wall=NOON + round(OLD * SECOND))
    market.lengths = {5, 300}
    ticks, context = play(path)
    for batch in drain(replay(path), context):
        market.publish(batch, lag=OLD)
        market.stage.run()
    market.stage.end(0)
    told = market.told()
    for seconds in (5, 60, 300):
        mine, wanted = told[told["seconds"] == seconds], resample(ticks, seconds)
        if seconds != 60:
            # Wanted from the beginning on: the feed had given nothing yet, so that every bar is a whole one.
            assert len(mine) == len(wanted)
        for column in FIELDS:
            assert mine[column].tolist() == wanted[column].tolist()
