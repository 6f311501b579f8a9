"""What a simulated tick costs, made and on its way into the store. Processor time: others use the machine too."""

import time

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from feeds.sim import BLOCK, SimMarket
from marketfeed.feed import FeedSpec
from marketfeed.ingest import FeedRunner
from marketfeed.model import ManualClock, TickStore


def per_tick(benchmark: BenchmarkFixture, ticks: int) -> None:
    if benchmark.stats is not None:  # None: benchmarks are switched off
        benchmark.extra_info["ns_per_tick"] = round(benchmark.stats.stats.min / ticks * 1e9, 1)


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("symbols", [100, 1_000, 100_000])
def test_making_a_block_of_ticks(benchmark: BenchmarkFixture, symbols: int) -> None:
    ticks, _ = benchmark(SimMarket(symbols, 1).block)
    assert len(ticks) == BLOCK
    per_tick(benchmark, BLOCK)


@pytest.mark.benchmark(timer=time.process_time, warmup=False)
@pytest.mark.parametrize("symbols", [100, 1_000, 16_384])
def test_a_tenth_of_a_second_at_a_million_a_second_into_the_store(benchmark: BenchmarkFixture, symbols: int) -> None:
    """Woken every millisecond, as on the server: poll, screen, stamp, publish."""
    clock = ManualClock()
    feed = FeedSpec.parse(f"sim?rate=1000000&symbols={symbols}").build()
    store = TickStore.create()
    runner = FeedRunner("sim", feed, store, clock, lambda: None)

    def tenth() -> int:
        before = runner.stats.ticks
        for _ in range(100):
            clock.advance(0.001)
            while (runner.step() or 0) <= clock.now_ns():
                pass
        return runner.stats.ticks - before

    assert benchmark.pedantic(tenth, rounds=10, warmup_rounds=1) == 100_000
    per_tick(benchmark, 100_000)
