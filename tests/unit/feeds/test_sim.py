import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feeds.sim import BLOCK, SimFeed, tick_times
from marketfeed.feed import FeedError, FeedSpec
from marketfeed.ingest import FeedRunner
from marketfeed.model import QUOTE, TRADE, InstrumentDirectory, ManualClock, TickStore
from marketfeed.model.tick import Ticks

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
MS = 1_000_000


class Directory:
    """What a feed needs of ingest: ids."""

    def __init__(self) -> None:
        self._directory = InstrumentDirectory.on_heap(100_000)
        self._directory.add_feed("sim")

    def instrument(self, symbol: str) -> int | None:
        return self._directory.add(0, symbol)

    def refuse(self, reason: str, count: int = 1, example: str = "") -> None:
        raise AssertionError(f"{reason}: {example}")

    def rewound(self) -> None:
        raise AssertionError("a market's time goes on")

    def symbols(self) -> list[str]:
        return self._directory.symbols()


def opened(options: str, now_ns: int = START) -> SimFeed:
    feed = FeedSpec.parse(f"sim?{options}").build()
    assert isinstance(feed, SimFeed)
    feed.open(Directory(), now_ns)
    return feed


def due_at(feed: SimFeed, now_ns: int) -> tuple[Ticks, int]:
    """All that is due at this time, in as many polls as it takes; and when to ask again."""
    batches = []
    while True:
        batch, due_ns = feed.poll(now_ns)
        assert len(batch) <= BLOCK
        assert due_ns is not None
        batches.append(batch.copy())
        if due_ns > now_ns:
            return np.concatenate(batches), due_ns
        assert len(batch) > 0


def first_ticks(options: str, n: int) -> Ticks:
    """The first n ticks, at the highest rate."""
    ticks, _ = due_at(opened(f"{options}&rate=1000000"), START + (n - 1) * 1_000)
    assert len(ticks) == n
    return ticks


def but_times(ticks: Ticks) -> bytes:
    ticks = ticks.copy()
    ticks["ts_event"] = 0
    return ticks.tobytes()


# --- the ticks ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_ticks_at_any_rate() -> None:
    slow, _ = due_at(opened("seed=7&symbols=50&rate=20000"), START + SECOND - 1)
    assert len(slow) == 20_000
    assert but_times(slow) == but_times(first_ticks("seed=7&symbols=50", 20_000))


def test_another_seed_gives_other_ticks() -> None:
    assert but_times(first_ticks("seed=7", 1_000)) != but_times(first_ticks("seed=8", 1_000))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 30 * MS), max_size=20))
def test_the_same_ticks_come_whenever_the_feed_is_asked(waits: list[int]) -> None:
    end = START + 600 * MS
    feed, now, batches = opened("symbols=20&rate=50000"), START, []
    for wait in [*waits, 0]:
        now += wait
        batches.append(feed.poll(now).batch.copy())
    batches.append(due_at(feed, end)[0])
    at_once, _ = due_at(opened("symbols=20&rate=50000"), end)
    assert np.concatenate(batches).tobytes() == at_once.tobytes()


@pytest.mark.parametrize("symbols", [1, 100, 20_000, 70_000])
def test_every_tick_is_one_a_market_could_give(symbols: int) -> None:
    ticks = first_ticks(f"symbols={symbols}", 20 * BLOCK + 17)
    quote = ticks[ticks["kind"] == QUOTE]
    trade = ticks[ticks["kind"] == TRADE]
    assert len(quote) + len(trade) == len(ticks)
    assert 0.05 < len(trade) / len(ticks) < 0.5 or symbols > 10_000  # an instrument's first tick is a quote
    assert ticks["instrument"].max() < symbols
    assert ticks["venue_seq"].tolist() == list(range(1, len(ticks) + 1))
    for column in ("bid", "ask", "bid_size", "ask_size"):
        assert np.isfinite(quote[column]).all()
        assert (quote[column] > 0).all()
        assert np.isnan(trade[column]).all()
    for column in ("price", "size"):
        assert np.isnan(quote[column]).all()
        assert np.isfinite(trade[column]).all()
        assert (trade[column] > 0).all()
    assert (quote["bid"] < quote["ask"]).all()
    for column in ("bid_size", "ask_size"):
        assert (quote[column] % 100 == 0).all()
    assert (trade["size"] % 100 == 0).all()


def test_a_trade_prints_at_the_bid_or_ask_that_its_instrument_has() -> None:
    now: dict[int, tuple[float, float]] = {}
    sides = {"bid": 0, "ask": 0}
    for tick in first_ticks("symbols=30", 16 * BLOCK):
        instrument = int(tick["instrument"])
        if tick["kind"] == QUOTE:
            now[instrument] = (float(tick["bid"]), float(tick["ask"]))
        else:
            bid, ask = now[instrument]  # there was a quote before
            assert tick["price"] in (bid, ask)
            sides["bid" if tick["price"] == bid else "ask"] += 1
    assert min(sides.values()) > 2_000


def test_prices_are_the_decimals_of_a_tick_grid_that_goes_with_the_price() -> None:
    ticks = first_ticks("symbols=400", 40 * BLOCK)
    quote = ticks[ticks["kind"] == QUOTE]
    opening: dict[int, float] = {}
    grids = set()
    for tick in quote:
        instrument, bid, ask = int(tick["instrument"]), float(tick["bid"]), float(tick["ask"])
        first = opening.setdefault(instrument, bid)
        # The price that opened it is within the widest spread of this one: left out where the band is in doubt.
        if any(0.9 < first / border < 1.1 for border in (1, 250, 1_000)):
            continue
        steps, decimals = (1, 4) if first < 1 else (1, 2) if first < 250 else (5, 2) if first < 1_000 else (5, 1)
        grids.add((steps, decimals))
        for price in (bid, ask):
            assert len(repr(price).partition(".")[2]) <= decimals  # 101.23, never 101.22999999
            assert round(price * 10**decimals) % steps == 0
    assert len(grids) == 4


def test_prices_spreads_and_sizes_move() -> None:
    ticks = first_ticks("symbols=3", 16 * BLOCK)
    quote = ticks[(ticks["kind"] == QUOTE) & (ticks["instrument"] == 0)]
    mid, spread = (quote["bid"] + quote["ask"]) / 2, np.round(quote["ask"] - quote["bid"], 4)
    assert len(np.unique(mid)) > 20
    assert len(np.unique(spread)) >= 2
    assert len(np.unique(quote["bid_size"])) > 5
    assert len(np.unique(quote["ask_size"])) > 5
    # It moves by steps, not by leaps.
    assert np.abs(np.diff(mid)).max() <= 4 * spread[spread > 0].min()


def test_prices_stay_within_half_and_twice_the_opening_price_for_good() -> None:
    ticks = first_ticks("symbols=1&seed=3", 400 * BLOCK)
    quote = ticks[ticks["kind"] == QUOTE]
    mid = (quote["bid"] + quote["ask"]) / 2
    assert mid.min() >= mid[0] * 0.49
    assert mid.max() <= mid[0] * 2.02


def test_a_few_instruments_are_busy_and_many_are_quiet() -> None:
    counts = np.bincount(first_ticks("symbols=1000", 80 * BLOCK)["instrument"], minlength=1_000)
    assert counts[:10].sum() > 0.3 * counts.sum()
    assert counts[0] > 20 * np.median(counts) > 0
    assert (counts > 0).all()


def test_symbols_are_numbered_in_a_width_that_fits_them() -> None:
    for symbols, first, last in ((1, "SIM-0000", "SIM-0000"), (12_000, "SIM-00000", "SIM-11999")):
        directory = Directory()
        feed = FeedSpec.parse(f"sim?symbols={symbols}").build()
        feed.open(directory, START)
        assert (directory.symbols()[0], directory.symbols()[-1], len(directory.symbols())) == (first, last, symbols)


def test_what_is_due_together_comes_together_wherever_a_block_ends() -> None:
    feed, now = opened("rate=20000"), START
    due_at(feed, now)
    for _ in range(3 * BLOCK // 100):
        now += 5 * MS
        batch, _ = feed.poll(now)
        assert len(batch) == 100


def test_opened_again_it_begins_again() -> None:
    feed = opened("rate=1000000")
    before, _ = due_at(feed, START + MS)
    feed.close()
    feed.open(Directory(), START)
    after, _ = due_at(feed, START + MS)
    assert before.tobytes() == after.tobytes()


def test_a_refused_symbols_ticks_are_left_out_and_the_others_are_as_they_were() -> None:
    store = TickStore.create(ticks=1 << 16, instruments=5)
    clock = ManualClock(START)
    runner = FeedRunner("sim", FeedSpec.parse("sim?symbols=20&rate=50000").build(), store, clock, lambda: None)
    clock.advance(0.1)
    while (due := runner.step()) is not None and due <= clock.now_ns():
        pass
    assert runner.stats.refused == {"directory full": 15}
    every = first_ticks("symbols=20", 5_001)
    known = every[every["instrument"] < 5]
    assert 0 < len(known) < len(every)
    got = store.read(0).ticks
    for column in ("venue_seq", "instrument", "kind"):
        assert got[column].tolist() == known[column].tolist()


# --- their times -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rate", "seconds"), [(1, 0.9), (7, 0.9), (1_000, 0.9), (999_983, 0.05), (1_000_000, 0.05)])
def test_tick_number_i_is_due_at_exactly_start_plus_i_over_rate(rate: int, seconds: float) -> None:
    feed, now, number = opened(f"rate={rate}"), START, 0
    while number < 5 * rate * seconds:
        ticks, due_ns = due_at(feed, now)
        numbers = range(number, number + len(ticks))
        assert ticks["ts_event"].tolist() == [START + i * SECOND // rate for i in numbers]
        number += len(ticks)
        # All that is due has come, and nothing before its time.
        assert START + (number - 1) * SECOND // rate <= now < START + number * SECOND // rate
        now = due_ns


@given(st.integers(1, 1_000_000), st.integers(0, 1_000 * 86_400), st.integers(0, 1_000_000))
def test_times_stay_exact_after_hundreds_of_days(rate: int, seconds: int, more: int) -> None:
    first = seconds * rate + more
    exact = [START + number * SECOND // rate for number in range(first, first + 100)]
    assert tick_times(START, rate, first, 100).tolist() == exact


def test_it_asks_to_be_woken_when_the_next_tick_is_due() -> None:
    feed = opened("rate=100")
    for number in range(1, 20):
        ticks, due_ns = due_at(feed, START + (number - 1) * 10 * MS)
        assert len(ticks) == 1
        assert due_ns == START + number * 10 * MS
    assert feed.poll(START + 19 * 10 * MS - 1) == (pytest.approx(ticks[:0]), START + 19 * 10 * MS)


@pytest.mark.parametrize("rate", [1_500, 20_000, 1_000_000])
def test_at_a_high_rate_it_is_woken_every_five_milliseconds(rate: int) -> None:
    feed, now, wakes, ticks = opened(f"rate={rate}"), START, 0, 0
    while now < START + 200 * MS:
        batch, now_due = due_at(feed, now)
        # Each wake-up comes a little late, as in life.
        now, wakes, ticks = now_due + 70_000, wakes + 1, ticks + len(batch)
    assert 38 <= wakes <= 41
    assert abs(ticks - rate / 5) <= rate / 100


def test_after_a_short_stall_every_tick_comes_with_the_time_it_should_have_had() -> None:
    feed = opened("rate=50000")
    due_at(feed, START)
    ticks, _ = due_at(feed, START + 900 * MS)
    assert ticks["ts_event"].tolist() == [START + i * 20_000 for i in range(1, 45_001)]


def test_after_a_long_stall_no_tick_is_missing_and_the_delay_is_a_second(caplog: pytest.LogCaptureFixture) -> None:
    feed = opened("rate=10000")
    before, _ = due_at(feed, START)
    now = START + 3_600 * SECOND
    with caplog.at_level(logging.WARNING):
        after, due_ns = due_at(feed, now)
    assert after["venue_seq"].tolist() == list(range(2, 10_003))
    assert but_times(np.concatenate((before, after))) == but_times(first_ticks("", 10_002))
    assert int(after["ts_event"][0]) == now - SECOND
    assert set(np.diff(after["ts_event"]).tolist()) == {SECOND // 10_000}
    assert now < due_ns <= now + 6 * MS
    assert "3599" in caplog.text or "3600" in caplog.text


def test_a_machine_too_slow_for_the_rate_is_told_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    feed, now = opened("rate=1000000&symbols=1"), START
    with caplog.at_level(logging.WARNING):
        for _ in range(650):
            now += 100 * MS
            assert len(feed.poll(now).batch) > 0
    assert len(caplog.records) == 2


def test_when_the_clock_is_set_back_the_ticks_go_on_at_once() -> None:
    feed = opened("rate=1000")
    due_at(feed, START + 500 * MS)
    now = START - 3_600 * SECOND
    ticks, _ = due_at(feed, now)
    assert ticks["venue_seq"].tolist() == [502]
    assert ticks["ts_event"].tolist() == [now]
    assert len(due_at(feed, now + 10 * MS)[0]) == 10


# --- what it refuses, and what it bears --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sim?symbols=0", "symbols=0: want a whole number from 1 to 100,000"),
        ("sim?symbols=100001", "from 1 to 100,000"),
        ("sim?rate=0.5", "from 1 to 1,000,000"),
        ("sim?rate=1000001", "from 1 to 1,000,000"),
        ("sim?rate=fast", "rate=fast: want a whole number"),
        ("sim?rate=nan", "want a whole number"),
        ("sim?rate=inf", "want a whole number"),
        ("sim?seed=-1", "seed=-1: want a whole number"),
        ("sim?seed=x", "seed=x: want a whole number"),
        ("sim?speed=1", "has no option 'speed'; it has: symbols, rate, seed"),
        ("sim:target", "takes no target"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(FeedError, match=message) as caught:
        FeedSpec.parse(spec).build()
    assert len(str(caught.value).splitlines()) == 1


def test_numbers_may_be_written_as_a_configuration_file_does() -> None:
    feed = FeedSpec.from_table({"type": "sim", "rate": 1e6, "symbols": 10}).build()
    feed.open(Directory(), START)
    assert len(due_at(feed, START + MS)[0]) == 1_001


def test_a_million_ticks_a_second_are_all_in_the_store_after_each_millisecond() -> None:
    """What they cost is in bench/test_sim.py."""
    store, clock = TickStore.create(), ManualClock(START)
    feed = FeedSpec.parse("sim?rate=1000000&symbols=1000").build()
    runner = FeedRunner("sim", feed, store, clock, lambda: None)
    for elapsed in range(1, 101):
        clock.advance(0.001)
        while (runner.step() or 0) <= clock.now_ns():
            pass
        assert runner.stats.ticks == store.ring.head == 1_000 * elapsed + 1
