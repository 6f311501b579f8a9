"""What a condition costs: read once, and asked for every batch of ticks. Processor time: others use the machine too."""

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from marketfeed.model import QUOTE, TRADE, empty_ticks
from marketfeed.model.tick import Ticks
from marketfeed.stream import where
from marketfeed.stream.where import Where, WhereError

CONDITIONS = {
    "one comparison": "bid > 15",
    "two, one derived": "spread_bps > 1 and bid_size >= 100",
    "six": "bid_size >= 100 and ask_size >= 100 and (spread_bps < 5 or not 11 <= mid <= 19) or size > 250",
}
#: as deep, as long, and as full as may be read before it is refused
WORST = {
    "deep": "(" * 60 + "bid < 1 and not abs bid" + ")" * 60,
    "full": "not " * 64 + "bid",
    "long": "bid" + " " * 1000 + "!",
}


def ticks(n: int) -> Ticks:
    """Nine quotes to each trade, shape (n,), TICK."""
    rng = np.random.default_rng(1)
    rows = empty_ticks(n)
    rows["kind"] = QUOTE
    rows["bid"] = rng.uniform(10, 20, n).round(2)
    rows["ask"] = rows["bid"] + 0.01
    rows["bid_size"] = rng.integers(0, 500, n)
    rows["ask_size"] = rng.integers(0, 500, n)
    trades = rng.random(n) < 0.1
    for column in ("bid", "ask", "bid_size", "ask_size"):
        rows[column][trades] = np.nan
    rows["kind"][trades] = TRADE
    rows["price"][trades] = 15.0
    rows["size"][trades] = 300.0
    return rows


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("rows", [1, 100, 2_048])
@pytest.mark.parametrize("name", CONDITIONS)
def test_asking_a_condition(benchmark: BenchmarkFixture, name: str, rows: int) -> None:
    held = benchmark(Where.parse(CONDITIONS[name]).holds, ticks(rows))
    assert held.shape == (rows,)
    assert rows < 100 or 0 < np.count_nonzero(held) < rows
    if benchmark.stats is not None:  # None: benchmarks are switched off
        benchmark.extra_info["ns_per_row"] = round(benchmark.stats.stats.min / rows * 1e9, 1)


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", CONDITIONS)
def test_reading_a_condition(benchmark: BenchmarkFixture, name: str) -> None:
    """One that no other client has sent."""
    assert isinstance(benchmark(where._parse.__wrapped__, CONDITIONS[name]), Where)


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", WORST)
def test_refusing_the_worst_of_texts(benchmark: BenchmarkFixture, name: str) -> None:
    def refuse() -> None:
        with pytest.raises(WhereError):
            where._parse.__wrapped__(WORST[name])

    benchmark(refuse)
