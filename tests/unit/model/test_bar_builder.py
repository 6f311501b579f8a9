"""Bars built batch by batch are those that are made of all ticks at once, however the ticks are cut into batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import BAR, UPDATED_BAR, resample
from marketfeed.model.bar_builder import KEPT, BarBuilder
from marketfeed.model.bars import Bars, prices_of
from marketfeed.model.tick import Ticks
from tests.realdata import DATA, needs_data
from tests.unit.feeds.replay_helper import play
from tests.unit.model.test_bars import NOON, SECOND, quotes, trades

INSTRUMENTS, FEEDS = 4, 2
COLUMNS = ("ts_event", "instrument", "feed", "open", "high", "low", "close", "volume", "count", "flags", "seconds")


class Builder:
    """A builder whose feeds' times follow the ticks."""

    def __init__(self, seconds: int = 60, whole_from: int | None = None) -> None:
        times = None if whole_from is None else np.full(FEEDS, whole_from)
        self.inner = BarBuilder(seconds, INSTRUMENTS, FEEDS, times)
        self.time = np.full(FEEDS, -1, np.int64)

    def take(self, ticks: Ticks, quoted: tuple[int, ...] = ()) -> Bars:
        before = self.time.copy()
        np.maximum.at(self.time, ticks["feed"], ticks["ts_event"])
        return self.inner.take(prices_of(ticks, quoted), before, self.time)

    def at(self, seconds: float) -> Bars:
        return self.inner.close(np.full(FEEDS, NOON + round(seconds * SECOND)))


def last_of_each(bars: list[Bars]) -> Bars:
    """What a reader who goes by the last that was told knows in the end, in order of begin and instrument."""
    known = {(bar["ts_event"], bar["instrument"]): bar for part in bars for bar in part}
    return np.array([known[key] for key in sorted(known)], bars[0].dtype)


def assert_same(bars: Bars, wanted: Bars) -> None:
    for column in COLUMNS:
        assert bars[column].tolist() == wanted[column].tolist(), column
    np.testing.assert_allclose(bars["vwap"], wanted["vwap"], rtol=1e-12, equal_nan=True)


def test_a_bar_is_told_once_when_its_feeds_time_has_passed_its_end() -> None:
    builder = Builder()
    assert not len(builder.take(trades((0, 10, 1), (59, 11, 2))))
    assert not len(builder.at(59.9))
    (bar,) = builder.take(trades((60, 12, 1)))
    assert (bar["kind"], bar["ts_event"], bar["open"], bar["close"], bar["volume"]) == (BAR, NOON, 10, 11, 3)
    assert not len(builder.take(trades((61, 12, 1))))
    assert builder.at(120)["ts_event"].tolist() == [NOON + 60 * SECOND]
    assert not len(builder.at(1200))


def test_the_time_of_one_feed_ends_no_bar_of_another() -> None:
    builder = Builder()
    builder.take(trades((0, 10, 1), feed=0))
    assert not len(builder.take(trades((300, 10, 1), instrument=1, feed=1)))
    assert builder.take(trades((60, 10, 1), feed=0))["feed"].tolist() == [0]


def test_a_late_trade_amends_its_bar_which_is_told_again() -> None:
    builder = Builder()
    builder.take(trades((10, 10, 1), (50, 11, 1)))
    builder.take(trades((65, 12, 1)))
    (bar,) = builder.take(trades((20, 99, 2)))
    assert (bar["kind"], bar["ts_event"], bar["count"], bar["volume"]) == (UPDATED_BAR, NOON, 3, 4)
    assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (10, 99, 10, 11)
    (bar,) = builder.take(trades((5, 1, 1), (55, 2, 1)))
    assert (bar["kind"], bar["open"], bar["low"], bar["close"], bar["count"]) == (UPDATED_BAR, 1, 1, 2, 5)


def test_a_late_trade_of_a_minute_that_had_no_bar_makes_one() -> None:
    builder = Builder()
    builder.take(trades((0, 10, 1)))
    builder.take(trades((130, 12, 1)))
    (bar,) = builder.take(trades((70, 11, 1)))
    assert (bar["kind"], bar["ts_event"]) == (BAR, NOON + 60 * SECOND)


def test_a_trade_of_a_bar_that_is_not_remembered_is_counted_and_changes_nothing() -> None:
    builder = Builder()
    builder.take(trades((0, 10, 1)))
    builder.take(trades((60 * KEPT, 12, 1)))
    assert not len(builder.take(trades((59, 11, 1))))
    assert builder.inner.late == 1
    (bar,) = builder.take(trades((60, 11, 1)))
    assert bar["ts_event"] == NOON + 60 * SECOND
    assert builder.inner.late == 1


def test_a_batch_of_many_bars_gives_them_all_in_order() -> None:
    builder = Builder(1)
    ticks = np.concatenate([trades((n, n + 1, 1), instrument=n % 3) for n in range(5 * KEPT)])
    told = builder.take(ticks)
    assert_same(told, resample(ticks, 1)[:-1])
    assert (told["kind"] == BAR).all()


def test_the_end_of_a_feeds_time_tells_its_open_bars_and_what_follows_may_be_earlier() -> None:
    builder = Builder()
    builder.take(np.concatenate([trades((0, 10, 1), feed=0), trades((0, 20, 1), instrument=1, feed=1)]))
    assert builder.inner.end(0)["open"].tolist() == [10]
    assert not len(builder.inner.end(0))
    builder.time[0] = -1
    assert not len(builder.take(trades((-6000, 5, 1), feed=0)))
    assert builder.take(trades((-5900, 6, 1), feed=0))["ts_event"].tolist() == [NOON - 6000 * SECOND]
    assert builder.inner.end(1)["open"].tolist() == [20]


def test_what_is_forgotten_is_told_never_and_amended_by_nothing() -> None:
    builder = Builder()
    builder.take(quotes((0, 10, 11)), quoted=(0,))
    builder.inner.forget(0)
    (bar,) = np.concatenate([builder.take(trades((1, 50, 1))), builder.at(60)])
    assert (bar["kind"], bar["open"], bar["count"], bar["flags"]) == (BAR, 50, 1, 0)


def test_bars_whose_beginning_was_not_seen_are_not_told() -> None:
    builder = Builder(whole_from=NOON + 10 * SECOND)
    builder.take(trades((20, 10, 1), (70, 11, 1)))
    (bar,) = builder.at(300)
    assert bar["ts_event"] == NOON + 60 * SECOND
    assert not len(builder.take(trades((30, 10, 1))))


ROWS = st.lists(
    st.tuples(st.integers(0, INSTRUMENTS - 1), st.integers(0, 60 * (KEPT - 1)), st.integers(1, 20), st.integers(0, 5)),
    min_size=1,
    max_size=60,
)


@given(ROWS, st.lists(st.integers(0, 60), max_size=6), st.sampled_from([1, 13, 60]), st.booleans())
def test_however_late_and_however_cut_the_last_told_is_what_all_ticks_make(
    rows: list[tuple[int, int, int, int]], cuts: list[int], seconds: int, in_order: bool
) -> None:
    ticks = trades(*((after, price, size) for _, after, price, size in rows))
    ticks["instrument"] = [instrument for instrument, *_ in rows]
    ticks["feed"] = ticks["instrument"] % FEEDS
    # None is late by more than is remembered: the scale is that of the bars.
    ticks["ts_event"] = NOON + (ticks["ts_event"] - NOON) * seconds // 60
    if in_order:
        ticks = ticks[np.argsort(ticks["ts_event"], kind="stable")]
    builder = Builder(seconds)
    told = [builder.take(part) for part in np.split(ticks, sorted(cuts))]
    told += [builder.inner.end(feed) for feed in range(FEEDS)]
    assert builder.inner.late == 0
    assert_same(last_of_each(told), resample(ticks, seconds))
    bars = np.concatenate(told)
    first_told = bars[bars["kind"] == BAR]
    keys = list(zip(first_told["ts_event"].tolist(), first_told["instrument"].tolist(), strict=True))
    assert len(keys) == len(set(keys))
    if in_order:
        assert (bars["kind"] == BAR).all()


@needs_data
@pytest.mark.parametrize("seconds", [1, 60])
@pytest.mark.parametrize("rows", [7, 4096])
def test_real_trades_in_batches_make_the_bars_of_all_at_once(seconds: int, rows: int) -> None:
    ticks, _ = play(DATA / "lean/equity/usa/tick/ibm/20131007_trade.zip")
    builder = Builder(seconds)
    told = [builder.take(ticks[n : n + rows]) for n in range(0, len(ticks), rows)]
    told.append(builder.inner.end(0))
    bars = np.concatenate(told)
    assert (bars["kind"] == BAR).all()
    assert_same(bars, resample(ticks, seconds))
