"""What is asked of every program: who subscribes to what, and how fast the market moves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

#: Every program may hold a tick back for so long, to send several in one frame.
WINDOW_MS = 5

_SEED = 7


@dataclass(frozen=True)
class Workload:
    """One row of the table below."""

    name: str
    subscribers: int
    #: how many symbols the market has.
    symbols: int
    #: how many of them each subscriber takes, drawn at random; None = all, 0 = it only connects.
    each: int | None
    #: ticks/s of the whole market.
    rate: int
    #: per subscriber and symbol only the latest, at most so often; None = every tick.
    max_hz: float | None = None

    @property
    def feed(self) -> str:
        """The market as marketfeed's command line names it; the peers get the very same ticks in a file."""
        return f"sim?symbols={self.symbols}&rate={self.rate}&seed={_SEED}"

    @property
    def interval_ms(self) -> float:
        """How long a tick may be held back."""
        return WINDOW_MS if self.max_hz is None else 1000 / self.max_hz

    def subscriptions(self) -> Iterator[list[int] | None]:
        """What each subscriber takes: sorted indices of symbols, None = all. The same at every call."""
        choose = random.Random(_SEED)
        for _ in range(self.subscribers):
            yield None if self.each is None else sorted(choose.sample(range(self.symbols), self.each))


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("A", subscribers=100, symbols=100, each=None, rate=500),
        Workload("B", subscribers=100, symbols=100, each=None, rate=10_000),
        Workload("C", subscribers=500, symbols=1_000, each=20, rate=20_000),
        Workload("D", subscribers=500, symbols=1_000, each=20, rate=5_000),
        Workload("E", subscribers=2_000, symbols=1_000, each=20, rate=50_000, max_hz=10),
        Workload("F", subscribers=1_000, symbols=100, each=0, rate=1),
    )
}
