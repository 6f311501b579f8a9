"""Playing a recording in a test: without a loop, with a clock that stands."""

from collections import Counter
from pathlib import Path

import numpy as np

from feeds.replay import ReplayFeed
from marketfeed.feed import FeedContext, parse_options
from marketfeed.model.tick import RAW, TICK, Ticks, empty_ticks

#: 2026-01-01, later than every recording.
NOW = 1_767_225_600_000_000_000


class Context:
    """A context that takes every symbol, or as many as ``room`` tells, and remembers what was refused."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.symbols: list[str] = []
        self.refused: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.rewinds = 0
        self._room = room

    def instrument(self, symbol: str) -> int | None:
        if symbol not in self.symbols:
            if len(self.symbols) >= self._room:
                self.refuse("directory full", example=symbol)
                return None
            self.symbols.append(symbol)
        return self.symbols.index(symbol)

    def refuse(self, reason: str, count: int = 1, example: str = "") -> None:
        self.refused[reason] += count
        self.examples.setdefault(reason, example)

    def rewound(self) -> None:
        self.rewinds += 1


class Taking:
    """What a reader sees of a context that takes everything; remembers what was refused."""

    def __init__(self) -> None:
        self._context = Context()
        self.refused = self._context.refused
        self.examples = self._context.examples
        self.refuse = self._context.refuse

    def wants(self, symbol: str) -> bool:
        return True

    def instrument(self, symbol: str, rows: int) -> int:
        number = self._context.instrument(symbol)
        assert number is not None
        return number


def replay(target: Path | str, **options: str) -> ReplayFeed:
    """The feed as a command line would make it; as fast as it goes unless told otherwise."""
    return ReplayFeed(str(target), parse_options("replay", ReplayFeed.OPTIONS, {"speed": "max", **options}))


def drain(feed: ReplayFeed, context: FeedContext, now: int = NOW) -> list[Ticks]:
    """Every batch until the feed ends."""
    feed.open(context, now)
    batches = []
    for _ in range(1_000_000):
        batch, due = feed.poll(now)
        if len(batch):
            batches.append(batch.copy())
        if due is None:
            feed.close()
            return batches
    raise AssertionError("the feed does not end")


def play(target: Path | str, context: Context | None = None, **options: str) -> tuple[Ticks, Context]:
    """Every tick of a recording, shape (n,), and what the feed said meanwhile."""
    context = context or Context()
    return joined(drain(replay(target, **options), context)), context


def joined(batches: list[Ticks]) -> Ticks:
    """One array of them all."""
    if not batches:
        return empty_ticks(0)
    return np.concatenate([np.ascontiguousarray(batch).view(RAW) for batch in batches]).view(TICK)


def same(column: np.ndarray, wanted: list[float]) -> bool:
    """Whether a column has exactly these values; NaN is equal to NaN."""
    return np.array_equal(column, np.array(wanted, np.float64), equal_nan=True)
