"""The market that every peer plays: the ticks of marketfeed's own feed, written to a file once.

A row of the file is seven little-endian f8: when it is created (ns after the start), index of the symbol, kind (1
quote, 2 trade), then bid, bid size, ask, ask size of a quote, or price, size, 0, 0 of a trade. A peer plays it again
and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.load.workloads import Workload
from marketfeed.feed import FeedSpec
from marketfeed.model.tick import TRADE, empty_ticks

#: Enough that no two seconds look alike, few enough to write in a moment.
_TICKS = 100_000
_LONGEST_S = 20
_START_NS = 1_700_000_000_000_000_000


@dataclass(frozen=True)
class Market:
    """One workload's market."""

    #: symbols by index.
    symbols: list[str]
    #: shape (ticks, 7), f8: the file's rows, ordered by time.
    rows: NDArray[np.float64]
    #: after so many ns it begins again.
    period_ns: int

    def write(self, path: Path) -> None:
        """Write the file that the peers read."""
        self.rows.astype("<f8").tofile(path)

    def offered(self, workload: Workload) -> float:
        """How many updates/s the workload's subscribers are to get together."""
        seconds = self.period_ns / 1e9
        n = len(self.symbols)
        symbol = self.rows[:, 1].astype(np.int64)
        if workload.max_hz is not None:
            # The latest quote and the latest trade of each symbol once an interval.
            interval = (self.rows[:, 0] // (workload.interval_ms * 1e6)).astype(np.int64)
            symbol = np.unique((interval * 3 + self.rows[:, 2].astype(np.int64)) * n + symbol) % n
        per_symbol = np.bincount(symbol, minlength=n) / seconds
        return float(
            sum(per_symbol.sum() if wanted is None else per_symbol[wanted].sum() for wanted in workload.subscriptions())
        )


class _Names:
    """What a feed sees while it is written down: every symbol gets the next index."""

    def __init__(self) -> None:
        self.symbols: list[str] = []

    def instrument(self, symbol: str) -> int | None:
        if symbol not in self.symbols:
            self.symbols.append(symbol)
        return self.symbols.index(symbol)

    def refuse(self, reason: str, count: int = 1, example: str = "") -> None:
        raise ValueError(f"the feed refused {count} ticks: {reason} {example}")

    def rewound(self) -> None:
        pass


def play(workload: Workload) -> Market:
    """Take the workload's feed and write down what it gives, on a clock that only this function moves."""
    names = _Names()
    feed = FeedSpec.parse(workload.feed).build()
    feed.open(names, _START_NS)
    period = int(min(_LONGEST_S, max(2.0, _TICKS / workload.rate)) * 1e9)
    batches = []
    now: int | None = _START_NS
    while now is not None and now <= _START_NS + period:
        batch, due = feed.poll(now)
        if len(batch):
            batches.append(batch.copy())
        # A feed that lags asks for a time that has passed; time moves on here all the same.
        now = None if due is None else max(due, now + 1_000_000)
    feed.close()
    ticks = np.concatenate(batches) if batches else empty_ticks(0)
    if not len(ticks):
        raise ValueError(f"{workload.feed} gave no tick in {period / 1e9:g} s")
    trade = ticks["kind"] == TRADE
    columns = [
        ticks["ts_event"] - _START_NS,
        ticks["instrument"],
        ticks["kind"],
        np.where(trade, ticks["price"], ticks["bid"]),
        np.where(trade, ticks["size"], ticks["bid_size"]),
        np.where(trade, 0.0, ticks["ask"]),
        np.where(trade, 0.0, ticks["ask_size"]),
    ]
    rows = np.stack([column.astype(np.float64) for column in columns], axis=1)
    rows = rows[(rows[:, 0] >= 0) & (rows[:, 0] < period)]
    return Market(names.symbols, rows[np.argsort(rows[:, 0], kind="stable")], period)
