"""Bars, held against a plain loop over everything that was ever published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketfeed.model import QUOTE, TRADE, resample
from marketfeed.server.history.bars import BarPage, bar_page, first_place, last_bars
from marketfeed.server.history.steps import OutOfTime
from tests.unit.server.history.support import BEGIN, SECOND, always, batch_of, done, query, quote, store_of, trade
from tests.unit.server.history.test_scan import SELECTED, Market

BAR = 5 * SECOND


def naive(every, until):
    """Each bar of the selected instruments, by begin and instrument: open, high, low, close, volume, n."""
    bars = {}
    for tick in every[:until]:
        if tick["kind"] == TRADE and SELECTED[tick["instrument"]]:
            price = float(tick["price"])
            key = (int(tick["ts_event"]) // BAR * BAR, int(tick["instrument"]))
            bars.setdefault(key, []).append((int(tick["ts_event"]), price))
    made = {}
    for key, prices in bars.items():
        prices.sort(key=lambda pair: pair[0])
        values = [price for _, price in prices]
        made[key] = (values[0], max(values), min(values), values[-1], 2.0 * len(values), len(values))
    return made


def as_dict(bars):
    columns = ("open", "high", "low", "close", "volume", "count")
    return {
        (int(bar["ts_event"]), int(bar["instrument"])): tuple(float(bar[column]) for column in columns) for bar in bars
    }


ROW = st.tuples(st.integers(0, 3), st.sampled_from([QUOTE, TRADE, TRADE]), st.integers(0, 2).map(lambda s: s * SECOND))
ROWS = st.lists(ROW, max_size=30)


@given(
    before=st.lists(ROWS, max_size=4),
    while_asking=st.lists(ROWS, max_size=8),
    descending=st.booleans(),
    start=st.none() | st.integers(-1, 60),
    length=st.none() | st.integers(0, 60),
    limit=st.integers(1, 5),
)
def test_pages_hold_whole_bars_each_once_and_say_where_some_are_missing(
    before, while_asking, descending, start, length, limit
):
    market = Market(64)
    # Of an instrument that is not selected: so this is not a feed without trades.
    market.publish([(2, TRADE, 0)])
    for rows in before:
        market.publish(rows)
    first = None if start is None else BEGIN + start * SECOND
    last = None if length is None else (first or BEGIN) + length * SECOND
    asked = query("a", TRADE, start=first, end=last, limit=limit, descending=descending, seconds=5)
    until = market.store.ring.head
    every, coming = market.every[:until], iter(while_asking)
    pages: list[BarPage] = []
    place: int | None = first_place(descending)
    while place is not None:
        assert len(pages) <= until + 1
        page = bar_page(market.store, asked, SELECTED, until, place, always)
        pages.append(done(page, lambda: market.publish(next(coming, []))))
        place = pages[-1].place

    expected = {
        key: bar
        for key, bar in naive(every, until).items()
        if (first is None or first <= key[0]) and (last is None or key[0] <= last)
    }
    keys = [key for page in pages for key in as_dict(page.bars)]
    assert keys == sorted(set(keys), reverse=descending)
    given_bars = {key: bar for page in pages for key, bar in as_dict(page.bars).items()}
    assert given_bars.items() <= expected.items()
    assert all(len(page.bars) <= limit for page in pages)
    if given_bars.keys() != expected.keys():
        assert not all(page.complete for page in pages)
    if market.store.ring.oldest == 1:
        assert all(page.complete for page in pages)


@pytest.mark.parametrize("descending", [False, True])
def test_more_ticks_than_one_step_takes_make_the_same_bars_late_ones_too(descending):
    market = Market(1 << 16)
    market.now += 1000 * SECOND
    random = np.random.default_rng(1)
    for _ in range(20):
        n = 2000
        later = random.integers(-SECOND, SECOND + SECOND // 20, n)
        rows = zip(random.integers(0, 5, n), random.integers(1, 3, n), later, strict=True)
        market.publish([(int(i), int(k), int(t)) for i, k, t in rows])
    asked = query("a", TRADE, seconds=5, descending=descending, limit=10_000)
    head = market.store.ring.head
    page = done(bar_page(market.store, asked, SELECTED, head, first_place(descending), always))
    expected = naive(market.every, head)
    assert (as_dict(page.bars), page.place, page.complete) == (expected, None, True)
    assert list(as_dict(page.bars)) == sorted(expected, reverse=descending)


def test_bars_whose_ticks_were_overwritten_while_the_ring_was_looked_through_are_left_out():
    store = store_of(1 << 15, a=["A0", "A1", "A2"])

    def publish(n):
        batch = np.repeat(trade(store, 0, BEGIN, 10.0), n)
        batch["ts_event"] += (store.ring.head + np.arange(n)) * (SECOND // 10)
        store.publish(batch)

    publish(1 << 15)
    # The first step takes half of the ring; then the writer overwrites more than that.
    coming = iter([20_000])
    asked = query("a", TRADE, seconds=5, limit=10_000)
    page = done(bar_page(store, asked, SELECTED, 1 << 15, 0, always), lambda: publish(next(coming, 0)))
    assert not page.complete
    assert (page.bars["ts_event"] >= BEGIN + 20_000 * (SECOND // 10)).all()
    assert set(page.bars["count"][:-1].tolist()) == {50}
    assert page.place is None


def test_a_late_trade_belongs_to_its_own_bar_and_is_not_its_close():
    store = store_of(a=["A0", "A1", "A2"])
    for seconds, price in ((1, 10.0), (4, 11.0), (6, 12.0), (2, 9.0), (0, 8.0)):
        store.publish(trade(store, 0, BEGIN + seconds * SECOND, price))
    page = done(bar_page(store, query("a", TRADE, seconds=5), SELECTED, 5, 0, always))
    assert as_dict(page.bars) == {
        (BEGIN, 0): (8.0, 11.0, 8.0, 11.0, 4.0, 4.0),
        (BEGIN + BAR, 0): (12.0, 12.0, 12.0, 12.0, 1.0, 1.0),
    }


def test_a_feed_without_trades_has_bars_of_mid_quotes():
    store = store_of(a=["A0", "A1", "A2"], b=["B0"])
    store.publish(batch_of(store, [(0, QUOTE, BEGIN, 10.0), (3, TRADE, BEGIN, 5.0), (0, QUOTE, BEGIN + 1, 20.0)]))
    page = done(bar_page(store, query("a", TRADE, seconds=60), SELECTED, 3, 0, always))
    assert as_dict(page.bars) == {(BEGIN, 0): (10.5, 20.5, 10.5, 20.5, 0.0, 2.0)}
    assert page.bars["flags"].tolist() == [1]


def test_quotes_with_one_side_make_no_bar():
    store = store_of(a=["A0", "A1", "A2"])
    store.publish(quote(store, 0, BEGIN, np.nan, 10.0))
    page = done(bar_page(store, query("a", TRADE, seconds=60), SELECTED, 1, 0, always))
    assert (len(page.bars), page.complete, page.place) == (0, True, None)


def test_a_bar_that_may_have_lost_a_tick_is_left_out():
    market = Market(64)
    market.publish([(0, TRADE, SECOND)] * 100)  # at BEGIN + 1 s to BEGIN + 100 s; the first 36 are gone
    page = done(bar_page(market.store, query("a", TRADE, seconds=5), SELECTED, 100, 0, always))
    assert page.held == BEGIN + 36 * SECOND + 1
    assert (page.bars["ts_event"][0], page.complete) == (BEGIN + 40 * SECOND, False)
    later = query("a", TRADE, seconds=5, start=BEGIN + 39 * SECOND)
    page = done(bar_page(market.store, later, SELECTED, 100, 0, always))
    assert (page.bars["ts_event"][0], page.complete) == (BEGIN + 40 * SECOND, True)


def test_without_time_left_there_are_no_bars():
    market = Market(64)
    market.publish([(0, TRADE, SECOND)] * 10)
    with pytest.raises(OutOfTime):
        done(bar_page(market.store, query("a", TRADE, seconds=5), SELECTED, 10, 0, lambda: False))


def test_the_last_bars_are_those_of_each_instruments_last_minute_and_days():
    store = store_of(a=["A0", "A1", "A2"])
    day = 86_400 * SECOND
    midnight = BEGIN // day * day
    rows = [
        (0, TRADE, midnight - 3 * day, 1.0),
        (0, TRADE, midnight + 10, 2.0),
        (0, TRADE, midnight + 90 * SECOND, 3.0),
        (0, TRADE, midnight + 91 * SECOND, 4.0),
        (1, TRADE, midnight + 5 * SECOND, 5.0),
        (2, TRADE, midnight + 5 * SECOND, 6.0),
    ]
    store.publish(batch_of(store, rows))
    minute, today, before = done(last_bars(store, "a", SELECTED, 6, always))
    assert [(bar["instrument"], bar["open"], bar["close"]) for bar in minute] == [(0, 3.0, 4.0), (1, 5.0, 5.0)]
    assert [(bar["instrument"], bar["open"], bar["close"]) for bar in today] == [(0, 2.0, 4.0), (1, 5.0, 5.0)]
    assert [(bar["instrument"], bar["ts_event"]) for bar in before] == [(0, midnight - 3 * day)]


def test_a_day_whose_beginning_is_gone_has_no_bar_but_its_last_minute_has():
    market = Market(64)
    market.publish([(0, TRADE, SECOND)] * 300)
    minute, today, before = done(last_bars(market.store, "a", SELECTED, 300, always))
    assert (minute["ts_event"].tolist(), len(today), len(before)) == ([BEGIN + 300 * SECOND], 0, 0)


MOVE = st.tuples(st.integers(0, 2), st.sampled_from([TRADE, TRADE, QUOTE]), st.integers(-70, 60), st.booleans())


@given(
    moves=st.lists(MOVE, min_size=1, max_size=60),
    capacity=st.sampled_from([32, 1024]),
    with_trades=st.booleans(),
    chosen=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_last_bars_are_the_newest_of_all_bars_however_late_the_last_price_came(moves, capacity, with_trades, chosen):
    store = store_of(capacity, a=["A0", "A1", "A2"])
    every, now = [trade(store, 2, BEGIN, 5.0)] if with_trades else [], BEGIN + 100 * SECOND
    for instrument, kind, later, one_sided in moves:
        now = max(BEGIN, now + later * SECOND)
        price = 100.0 + len(every) % 13
        if kind == TRADE and with_trades:
            every.append(trade(store, instrument, now, price, 2.0))
        else:
            every.append(quote(store, instrument, now, np.nan if one_sided else price, price + 1))
    for tick in every:
        store.publish(tick)
    selected = np.array(chosen)
    minute, today, before = done(last_bars(store, "a", selected, store.ring.head, always))
    held = store.ring.gone_until(0)
    expected = {int(bar["instrument"]): bar for bar in resample(np.concatenate(every), 60)}  # in order of their begin
    expected = {i: bar for i, bar in expected.items() if selected[i] and bar["ts_event"] > held}
    assert minute["instrument"].tolist() == sorted(expected)
    columns = ("ts_event", "open", "high", "low", "close", "volume", "count", "flags")
    for bar in minute:
        whole = expected[int(bar["instrument"])]
        assert [bar[column] for column in columns] == [whole[column] for column in columns]
    if store.ring.oldest == 1:
        assert today["instrument"].tolist() == sorted(expected)
    assert len(before) == 0
