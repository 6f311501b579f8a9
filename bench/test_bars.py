"""What bars cost: each tick that passes the stage while nobody wants any, and each length that somebody wants."""

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.test_model import per_row, quotes
from marketfeed.bars import BarStage
from marketfeed.model import TRADE, ManualClock, TickStore, resample
from marketfeed.model.tick import Ticks

INSTRUMENTS = 1_000
#: A run of the stage 50 ms after the one before, at a million ticks a second.
ROWS = 50_000
#: Of ten ticks one is a trade.
TRADES = 10

by_processor_time = pytest.mark.benchmark(timer=time.process_time)


def ticks_of(rows: int, trades: int | None) -> Ticks:
    """Ticks within 50 ms, of which one in ``trades`` is a trade; None = none is."""
    ticks = quotes(rows, INSTRUMENTS)
    ticks["ts_event"] += np.arange(rows) * 1_000
    ticks["ts_recv"] = ticks["ts_event"]
    if trades is not None:
        mine = ticks[::trades]
        mine["price"], mine["size"], mine["kind"] = mine["bid"], 100.0, TRADE
    return ticks


@by_processor_time
@pytest.mark.parametrize("lengths", [(), (5,), (1, 5, 10, 300)], ids=lambda lengths: f"{1 + len(lengths)} lengths")
@pytest.mark.parametrize("trades", [TRADES, None], ids=["of trades", "of quotes"])
@pytest.mark.parametrize("rows", [ROWS, 100])
def test_stage(benchmark: BenchmarkFixture, rows: int, trades: int | None, lengths: tuple[int, ...]) -> None:
    """Nothing ends: what is measured is that ticks are looked at."""
    store = TickStore.create(1 << 17)
    feed = store.directory.add_feed("sim")
    for n in range(INSTRUMENTS):
        store.directory.add(feed, f"SIM-{n:04d}")
    batch = ticks_of(rows, trades)
    stage = BarStage(store, ManualClock(int(batch["ts_recv"][-1])), lambda: lengths)
    store.publish(batch)
    stage.run()
    benchmark.pedantic(stage.run, setup=lambda: store.publish(batch) and None, rounds=100)
    per_row(benchmark, rows)
    assert stage.stats.lost == 0


@by_processor_time
def test_a_minute_ends(benchmark: BenchmarkFixture) -> None:
    """A bar of each of so many instruments."""
    instruments = 10_000
    store = TickStore.create(1 << 17)
    feed = store.directory.add_feed("sim")
    for n in range(instruments):
        store.directory.add(feed, f"SIM-{n:05d}")
    batch = ticks_of(instruments, 1)
    batch["instrument"] = np.arange(instruments)
    minute = 60_000_000_000
    stage = BarStage(store, ManualClock(int(batch["ts_recv"][-1])))

    def next_minute() -> None:
        batch["ts_event"] += minute
        batch["ts_recv"] += minute
        store.publish(batch)

    next_minute()
    stage.run()
    benchmark.pedantic(stage.run, setup=next_minute, rounds=20)
    per_row(benchmark, instruments)
    assert stage.stats.bars >= instruments


@by_processor_time
@pytest.mark.parametrize("seconds", [1, 60])
def test_resample(benchmark: BenchmarkFixture, seconds: int) -> None:
    rows = 1_000_000
    ticks = ticks_of(rows, 1)
    ticks["ts_event"] = ticks["ts_event"][0] + np.arange(rows) * 23_400_000  # a trading day
    benchmark.pedantic(resample, (ticks, seconds), rounds=3)
    per_row(benchmark, rows)
