"""Bars held against pandas, on made up and on real ticks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import BAR, QUOTE, TRADE, empty_ticks, resample
from marketfeed.model.bars import BAR_RECORD, FROM_QUOTES, Bars
from marketfeed.model.tick import Ticks
from tests.realdata import DATA, needs_data
from tests.unit.feeds.replay_helper import play

SECOND = 1_000_000_000
NOON = 1_381_147_200 * SECOND  # 2013-10-07, 12:00 UTC


def trades(*rows: tuple[float, float, float], instrument: int = 0, feed: int = 0) -> Ticks:
    """(seconds after noon, price, size) each."""
    ticks = empty_ticks(len(rows))
    ticks["kind"], ticks["instrument"], ticks["feed"] = TRADE, instrument, feed
    for row, (after, price, size) in zip(ticks, rows, strict=True):
        row["ts_event"], row["price"], row["size"] = NOON + round(after * SECOND), price, size
    return ticks


def quotes(*rows: tuple[float, float, float], instrument: int = 0, feed: int = 0) -> Ticks:
    """(seconds after noon, bid, ask) each."""
    ticks = empty_ticks(len(rows))
    ticks["kind"], ticks["instrument"], ticks["feed"] = QUOTE, instrument, feed
    for row, (after, bid, ask) in zip(ticks, rows, strict=True):
        row["ts_event"], row["bid"], row["ask"] = NOON + round(after * SECOND), bid, ask
    return ticks


def by_pandas(time: np.ndarray, price: np.ndarray, size: np.ndarray, seconds: int) -> pd.DataFrame:
    """Bars of one instrument, as pandas makes them."""
    table = pd.DataFrame({"price": price, "size": size}, index=pd.to_datetime(time)).sort_index(kind="stable")
    table["turnover"] = table["price"] * table["size"]
    bins = table.resample(f"{seconds}s", origin="epoch")
    bars = bins["price"].ohlc()
    bars["volume"], bars["count"] = bins["size"].sum(), bins["price"].count()
    bars["vwap"] = bins["turnover"].sum() / bars["volume"]
    return bars[bars["count"] > 0]


def assert_equal(bars: Bars, wanted: pd.DataFrame) -> None:
    assert bars["ts_event"].tolist() == wanted.index.as_unit("ns").asi8.tolist()
    for column in ("open", "high", "low", "close", "volume", "count"):
        assert bars[column].tolist() == wanted[column].tolist(), column
    # Sums of products come out in another order: the last digit may differ.
    np.testing.assert_allclose(bars["vwap"], wanted["vwap"], rtol=1e-12, equal_nan=True)


def test_a_bar_holds_what_happened_from_its_begin_to_before_its_end() -> None:
    (one, two) = resample(trades((0, 10, 1), (30, 12, 2), (59.999999999, 9, 1), (60, 11, 5)))
    assert (one["ts_event"], one["seconds"], one["kind"], one["flags"]) == (NOON, 60, BAR, 0)
    assert [one[c].item() for c in ("open", "high", "low", "close", "volume", "count", "vwap")] == [
        10, 12, 9, 9, 4, 3, 10.75,
    ]  # fmt: skip
    assert (two["ts_event"], two["open"], two["count"]) == (NOON + 60 * SECOND, 11, 1)


def test_where_nothing_happened_there_is_no_bar() -> None:
    assert resample(trades((0, 10, 1), (600, 12, 2)))["ts_event"].tolist() == [NOON, NOON + 600 * SECOND]
    assert resample(empty_ticks(0)).dtype == BAR_RECORD


def test_open_and_close_are_the_first_and_the_last_by_time_and_of_one_time_by_arrival() -> None:
    (bar,) = resample(trades((5, 1, 1), (3, 2, 1), (3, 3, 1), (9, 4, 1), (9, 5, 1), (4, 6, 1)))
    assert (bar["open"], bar["close"], bar["high"], bar["low"]) == (2, 5, 6, 1)


def test_a_feed_without_trades_has_bars_of_its_mid_quotes_and_says_so() -> None:
    ticks = np.concatenate(
        [
            quotes((0, 10, 11), (1, math.nan, 12), (2, 12, 13), instrument=0, feed=0),
            quotes((0, 99, 100), instrument=1, feed=1),
            trades((1, 50, 7), instrument=1, feed=1),
        ]
    )
    quoted, traded = resample(ticks)
    assert (quoted["instrument"], quoted["feed"], quoted["flags"]) == (0, 0, FROM_QUOTES)
    assert [quoted[c].item() for c in ("open", "high", "low", "close", "volume", "count")] == [
        10.5,
        12.5,
        10.5,
        12.5,
        0,
        2,
    ]
    assert np.isnan(quoted["vwap"])
    assert (traded["feed"], traded["flags"], traded["close"], traded["count"]) == (1, 0, 50, 1)


def test_which_feeds_have_no_trades_may_be_told() -> None:
    both = np.concatenate([quotes((0, 10, 11)), trades((1, 50, 7))])
    assert [bar["count"].item() for bar in resample(both, quoted=[])] == [1]
    assert [bar["count"].item() for bar in resample(quotes((0, 10, 11)), quoted=[])] == []


def test_a_size_that_is_not_told_counts_as_none() -> None:
    (bar,) = resample(trades((0, 10, math.nan), (1, 20, 3)))
    assert (bar["count"], bar["volume"], bar["vwap"], bar["open"]) == (2, 3, 20, 10)


def test_numbers_too_large_to_be_added_leave_finite_ones() -> None:
    huge = np.finfo(np.float64).max
    (bar,) = resample(trades((0, huge, huge), (1, huge, huge)))
    assert bar["volume"] == huge
    assert np.isnan(bar["vwap"])
    (mid,) = resample(quotes((0, huge, huge)))
    assert mid["open"] == huge


def test_records_that_are_no_ticks_are_passed_over() -> None:
    ticks = trades((0, 10, 1), (1, 11, 1))
    ticks["kind"][1] = BAR
    assert resample(ticks)["count"].tolist() == [1]


@pytest.mark.parametrize("seconds", [0, -1, 3601])
def test_a_length_that_no_bar_has_is_an_error(seconds: int) -> None:
    with pytest.raises(ValueError, match="1 to 3600 seconds"):
        resample(trades((0, 1, 1)), seconds)


TRADES = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 400), st.integers(1, 30), st.integers(0, 5)), min_size=1, max_size=60
)


@given(TRADES, st.sampled_from([1, 7, 60, 90]))
def test_the_bars_of_any_trades_are_those_of_pandas(rows: list[tuple[int, int, int, int]], seconds: int) -> None:
    ticks = empty_ticks(len(rows))
    ticks["kind"] = TRADE
    for tick, (instrument, quarter, price, size) in zip(ticks, rows, strict=True):
        tick["instrument"], tick["ts_event"] = instrument, NOON + quarter * SECOND // 4
        tick["price"], tick["size"] = price, size
    bars = resample(ticks, seconds)
    order = np.lexsort((bars["instrument"], bars["ts_event"]))
    assert order.tolist() == list(range(len(bars)))
    for instrument in range(4):
        mine = ticks[ticks["instrument"] == instrument]
        found = bars[bars["instrument"] == instrument]
        if len(mine):
            assert_equal(found, by_pandas(mine["ts_event"], mine["price"], mine["size"], seconds))
        else:
            assert not len(found)


@needs_data
@pytest.mark.parametrize("seconds", [1, 60, 300, 3600])
@pytest.mark.parametrize("symbol", ["ibm", "spy"])
def test_the_bars_of_real_trades_are_those_of_pandas(symbol: str, seconds: int) -> None:
    ticks, _ = play(DATA / f"lean/equity/usa/tick/{symbol}/20131007_trade.zip")
    assert len(ticks) > 10_000
    assert_equal(resample(ticks, seconds), by_pandas(ticks["ts_event"], ticks["price"], ticks["size"], seconds))


@needs_data
def test_the_bars_of_real_quotes_are_those_of_pandas() -> None:
    ticks, _ = play(DATA / "lean/forex/oanda/tick/eurusd/20140508_quote.zip")
    bars = resample(ticks)
    mid = (ticks["bid"] + ticks["ask"]) / 2
    assert_equal(bars, by_pandas(ticks["ts_event"], mid, np.zeros(len(mid)), 60))
    assert (bars["flags"] == FROM_QUOTES).all()
