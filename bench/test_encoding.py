"""What it costs to write ticks: each is written once per encoding, however many get it."""

import time

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.test_model import per_row, quotes
from marketfeed.model import TRADE
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import Ticks
from marketfeed.stream.encoding import ENCODINGS, Encoding

INSTRUMENTS = 1_000

every_encoding = pytest.mark.parametrize("name", list(ENCODINGS))


def encoding(name: str) -> Encoding:
    directory = InstrumentDirectory.on_heap(INSTRUMENTS)
    feed = directory.add_feed("sim")
    for n in range(INSTRUMENTS):
        directory.add(feed, f"SIM-{n:04d}")
    return ENCODINGS[name](directory, True)


def ticks(n: int, kind: str) -> Ticks:
    """As a busy market gives them: each a little later than the one before."""
    rows = quotes(n, INSTRUMENTS)
    rows["ts_event"] += np.arange(n) * 123_457
    if kind == "mixed":
        rows["kind"][::5] = TRADE
        rows["price"], rows["size"] = rows["bid"], 100.0
    return rows


@pytest.mark.benchmark(timer=time.process_time)
@every_encoding
@pytest.mark.parametrize("kind", ["quotes", "mixed"])
@pytest.mark.parametrize("rows", [1, 50, 2_048])
def test_ticks(benchmark: BenchmarkFixture, rows: int, kind: str, name: str) -> None:
    encoded = benchmark(encoding(name).ticks, ticks(rows, kind), np.arange(1, rows + 1, dtype=np.uint64))
    assert len(encoded) == rows
    per_row(benchmark, rows)


@pytest.mark.benchmark(timer=time.process_time)
@every_encoding
@pytest.mark.parametrize("rows", [1, 50, 2_048])
def test_frame(benchmark: BenchmarkFixture, rows: int, name: str) -> None:
    encoded = encoding(name).ticks(ticks(rows, "quotes"), np.arange(1, rows + 1, dtype=np.uint64))
    assert benchmark(encoded.frame, list(range(rows))) == encoded.frame()
    per_row(benchmark, rows)
