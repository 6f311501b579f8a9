"""What it costs to find a time in a ring of 1,048,576 ticks of 1,000 symbols.

In the extra info (`--benchmark-json`) `cpu_ms` is the CPU time of all steps, and `longest_step_ms` that of the longest:
so long `since` keeps the loop at one go.
"""

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from bench.full_ring import BEGIN, HOUR_NS, SYMBOLS, full_ring
from bench.steps import cost
from marketfeed.model import TickStore
from marketfeed.model.steps import all_of
from marketfeed.model.tick import KINDS
from marketfeed.stream.positions import position_of_time


@pytest.fixture(scope="module")
def store() -> TickStore:
    return full_ring()


def symbols(store: TickStore, *ids: int) -> NDArray[np.bool_]:
    """The quotes of these; of all of them where none is named."""
    mask = np.zeros((len(KINDS), store.directory.capacity), np.bool_)
    mask[0, list(ids) if ids else slice(None)] = True
    return mask


CASES = {
    "all symbols, a minute ago": ((), 59 / 60),
    "all symbols, half an hour ago": ((), 1 / 2),
    "a quiet symbol, a minute ago": ((900,), 59 / 60),
    "one that never ticks, an hour ago": ((SYMBOLS + 1,), 1 / 30),
}


@pytest.mark.parametrize("case", CASES)
def test_since(benchmark: BenchmarkFixture, store: TickStore, case: str) -> None:
    ids, part = CASES[case]
    mask, time_ns = symbols(store, *ids), BEGIN + round(HOUR_NS * part)
    benchmark.pedantic(lambda: all_of(position_of_time(store, mask, time_ns)), rounds=10, warmup_rounds=1)
    benchmark.extra_info |= cost(lambda: position_of_time(store, mask, time_ns))
