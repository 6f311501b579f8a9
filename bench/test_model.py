"""What the store costs: publishing by batch size, and "what changed since" by instruments and by changes."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from marketfeed.model import QUOTE, LatestTable, Ring, TickStore, empty_ticks
from marketfeed.model.screen import screen
from marketfeed.model.tick import Ticks

NOW = 1_700_000_000_000_000_000


def quotes(n: int, instruments: int) -> Ticks:
    """Quotes of random instruments, shape (n,), TICK."""
    rng = np.random.default_rng(1)
    ticks = empty_ticks(n)
    ticks["kind"] = QUOTE
    ticks["ts_event"] = NOW
    ticks["instrument"] = rng.integers(0, instruments, n)
    ticks["bid"] = rng.uniform(10, 20, n).round(2)
    ticks["ask"] = ticks["bid"] + 0.01
    ticks["bid_size"] = ticks["ask_size"] = 100.0
    return ticks


def per_row(benchmark: BenchmarkFixture, rows: int) -> None:
    if benchmark.stats is not None:  # None: benchmarks are switched off
        benchmark.extra_info["ns_per_row"] = round(benchmark.stats.stats.min / rows * 1e9, 1)


@pytest.mark.parametrize("rows", [1, 64, 1_024])
def test_ring_publish(benchmark: BenchmarkFixture, rows: int) -> None:
    ring = Ring.on_heap(1 << 20)
    benchmark(ring.publish, quotes(rows, 1_000))
    per_row(benchmark, rows)


@pytest.mark.parametrize("rows", [1, 64, 1_024])
def test_ring_read(benchmark: BenchmarkFixture, rows: int) -> None:
    ring = Ring.on_heap(1 << 20)
    ring.publish(quotes(1 << 16, 1_000))
    assert len(benchmark(ring.read, 1_000, rows).ticks) == rows
    per_row(benchmark, rows)


@pytest.mark.parametrize("rows", [1, 64, 1_024, 8_192])
def test_screen(benchmark: BenchmarkFixture, rows: int) -> None:
    assert benchmark(screen, quotes(rows, 1_000), NOW, 1_000) == (None, {})
    per_row(benchmark, rows)


@pytest.mark.parametrize("rows", [1, 64, 1_024])
def test_store_publish(benchmark: BenchmarkFixture, rows: int) -> None:
    store = TickStore.create()
    benchmark(store.publish, quotes(rows, 1_000))
    per_row(benchmark, rows)


@pytest.mark.parametrize("changed", ["none", "ten", "all"])
@pytest.mark.parametrize("instruments", [1_000, 16_384])
def test_latest_since(benchmark: BenchmarkFixture, instruments: int, changed: str) -> None:
    table = LatestTable.on_heap(16_384)
    every = quotes(instruments, instruments)
    every["instrument"] = np.random.default_rng(1).permutation(instruments)
    table.update(every, 1)
    rows = {"none": 0, "ten": 10, "all": instruments}[changed]
    assert len(benchmark(table.since, instruments - rows, instruments).ticks) == rows
