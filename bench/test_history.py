"""What history costs without the network: a ring of 1,048,576 ticks of 1,000 symbols, every fifth a trade, in an hour.

In the extra info (`--benchmark-json`) `cpu_ms` is the CPU time of all steps, and `longest_step_ms` that of the longest:
so long a request keeps the loop at one go.
"""

from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.full_ring import BEGIN, full_ring
from bench.steps import cost
from marketfeed.model import QUOTE, TRADE, TickStore
from marketfeed.server.history import answers
from marketfeed.server.history.answers import Form
from marketfeed.server.history.params import RangeQuery


@pytest.fixture(scope="module")
def store() -> TickStore:
    return full_ring()


def always() -> bool:
    """There is time left."""
    return True


def asked(kind: int, symbols: str = "*", **others: Any) -> RangeQuery:
    """All that is held, in pages as long as may be, but for what else is said."""
    query = RangeQuery("sim", kind, (symbols,), None, None, 10_000, False, None)
    return query._replace(**others)


JSON, ARROW = Form(arrow=False), Form(arrow=True)
CASES = {
    "full scan, nothing found": lambda store: answers.ticks(store, asked(QUOTE, start=BEGIN * 2), JSON, always),
    "full scan, a quiet symbol": lambda store: answers.ticks(store, asked(QUOTE, "SIM-0900"), JSON, always),
    "page of 10,000 quotes": lambda store: answers.ticks(store, asked(QUOTE), JSON, always),
    "page of 10,000 quotes, Arrow": lambda store: answers.ticks(store, asked(QUOTE), ARROW, always),
    "the last 100 trades": lambda store: answers.ticks(store, asked(TRADE, limit=100, descending=True), JSON, always),
    "page of 10,000 bars of 1 min": lambda store: answers.bars(store, asked(TRADE, seconds=60), JSON, always),
    "bars of 1 min of one symbol": lambda store: answers.bars(
        store, asked(TRADE, "SIM-0001", seconds=60), JSON, always
    ),
    "latest of 1,000 symbols": lambda store: answers.latest(store, "sim", QUOTE, ("*",), JSON, always),
    "latest of one symbol": lambda store: answers.latest(store, "sim", QUOTE, ("SIM-0001",), JSON, always),
    "snapshots of 1,000 symbols": lambda store: answers.snapshots(store, "sim", ("*",), JSON, always),
    "snapshot of one symbol": lambda store: answers.snapshots(store, "sim", ("SIM-0001",), JSON, always),
}


@pytest.mark.parametrize("case", CASES)
def test_answer(benchmark: BenchmarkFixture, store: TickStore, case: str) -> None:
    def all_steps() -> None:
        for _ in CASES[case](store):
            pass

    benchmark.pedantic(all_steps, rounds=10, warmup_rounds=1)
    benchmark.extra_info |= cost(lambda: CASES[case](store))
