"""What a flush costs the hub, the network left out: who wants what, each tick written once, a frame for each group."""

import time

import numpy as np
import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.test_model import quotes
from marketfeed.model import TickStore
from marketfeed.stream.codes import CloseCode
from marketfeed.stream.hub import Hub
from marketfeed.stream.link import Took
from marketfeed.stream.session import Session
from marketfeed.transports.websocket import WebSocketLink

ACTIVE = 1_000
QUIET = 10_000
SYMBOLS_EACH = 20
TICKS_A_FLUSH = 100
ROUNDS = 100


class Count:
    """A link that takes everything at once."""

    head = WebSocketLink.head
    wrap = staticmethod(WebSocketLink.wrap)

    def __init__(self, wire: int) -> None:
        self.wire = wire

    def send(self, frame: bytes) -> Took:
        return Took.MORE

    def finish(self, frame: bytes, sent: int) -> bool:
        raise AssertionError("everything was taken")

    def close(self, code: CloseCode | int, reason: str) -> None:
        raise AssertionError(f"closed: {code} {reason}")


def take_all(buffer: bytes, begins: object, lengths: object, wires: np.ndarray) -> None:
    """A sender on whose wires all fits."""


class Market:
    """A store in which the first ACTIVE instruments move, a hub, and the same ticks before each flush."""

    def __init__(self, every: bool, ticks: int = TICKS_A_FLUSH) -> None:
        self.store = TickStore.create(1 << 16, ACTIVE + QUIET)
        feed = self.store.directory.add_feed("sim")
        for n in range(ACTIVE + QUIET):
            self.store.directory.add(feed, f"SIM-{n:05d}")
        self.hub = Hub(self.store, sender=take_all)
        self.every = every
        self.now = 0.0
        self.batch = quotes(ticks, ACTIVE)
        moving = self.batch["instrument"]
        #: how many ticks of each instrument one flush delivers
        self.given = np.bincount(moving if every else np.unique(moving), minlength=ACTIVE + QUIET)
        self.rounds = 0
        self.expected = 0
        self._random = np.random.default_rng(1)

    def subscribe(self, sessions: int, begin: int, end: int, same: bool = False) -> None:
        """Sessions with SYMBOLS_EACH random ones of these instruments each; ``same`` = the same for all."""
        command = {"action": "subscribe"} if self.every else {"action": "subscribe", "max_hz": 10}
        for n in range(sessions):
            if n == 0 or not same:
                mine = begin + self._random.choice(end - begin, SYMBOLS_EACH, replace=False)
            session = Session(self.hub, Count(n), self.hub.encoding("json", True), "bench")
            names = [f"SIM-{i:05d}" for i in mine]
            session.receive(orjson.dumps({**command, "quotes": names}).decode(), self.now)
            self.expected += int(self.given[mine].sum())

    def publish(self) -> None:
        self.store.publish(self.batch)
        self.rounds += 1
        self.now += 1.0

    def flush(self) -> None:
        while self.hub.run(self.now) <= self.now:
            pass

    def measure(self, benchmark: BenchmarkFixture) -> None:
        for _ in range(3):  # all are in step, and what is made once is made
            self.publish()
            self.flush()
        begin, self.rounds = self.hub.stats.ticks, 0
        benchmark.pedantic(self.flush, setup=self.publish, rounds=ROUNDS)
        assert self.hub.stats.ticks - begin == self.expected * self.rounds
        if benchmark.stats is not None and self.expected:  # None: benchmarks are switched off
            benchmark.extra_info["ns_per_update"] = round(benchmark.stats.stats.min / self.expected * 1e9, 1)


by_processor_time = pytest.mark.benchmark(timer=time.process_time)


@by_processor_time
@pytest.mark.parametrize("cadence", ["every", "latest"])
@pytest.mark.parametrize("groups", [1, 100, 1_000])
def test_flush_by_groups(benchmark: BenchmarkFixture, groups: int, cadence: str) -> None:
    market = Market(cadence == "every")
    market.subscribe(groups, 0, ACTIVE)
    market.measure(benchmark)


@by_processor_time
@pytest.mark.parametrize("sessions", [1, 100, 1_000])
def test_flush_by_sessions_of_one_group(benchmark: BenchmarkFixture, sessions: int) -> None:
    market = Market(True)
    market.subscribe(sessions, 0, ACTIVE, same=True)
    market.measure(benchmark)


@by_processor_time
@pytest.mark.parametrize("cadence", ["every", "latest"])
@pytest.mark.parametrize("quiet", [0, 1_000, 10_000])
def test_flush_beside_groups_whose_symbols_do_not_move(benchmark: BenchmarkFixture, quiet: int, cadence: str) -> None:
    """All rows of one cadence must be alike."""
    market = Market(cadence == "every")
    market.subscribe(10, 0, ACTIVE)
    market.subscribe(quiet, ACTIVE, ACTIVE + QUIET)
    market.measure(benchmark)


@by_processor_time
@pytest.mark.parametrize("ticks", [100, 1_000, 10_000])
def test_flush_of_the_latest_by_ticks_between(benchmark: BenchmarkFixture, ticks: int) -> None:
    """Throttled delivery costs by what has changed, not by how often."""
    market = Market(False, ticks)
    market.subscribe(100, 0, ACTIVE)
    market.measure(benchmark)
