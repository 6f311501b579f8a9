"""What the tests of history share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from marketfeed.model import QUOTE, TRADE, TickStore, empty_ticks
from marketfeed.model.tick import Ticks
from marketfeed.server.history.answers import Answer
from marketfeed.server.history.params import RangeQuery, SymbolLimits
from marketfeed.server.history.steps import Steps

T = TypeVar("T")

LIMITS = SymbolLimits(symbols=100, globs=5)
SECOND = 10**9
#: A whole minute, hour and day.
BEGIN = 1_700_006_400 * SECOND


def always() -> bool:
    """There is time left."""
    return True


def done(steps: Steps[T], between: Callable[[], Any] = lambda: None) -> T:
    """What these steps lead to; ``between`` is called between two."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        between()


def told(steps: Steps[Answer]) -> Any:
    """The JSON of an answer."""
    return json.loads(done(steps).body)


def store_of(ticks: int = 1024, **feeds: list[str]) -> TickStore:
    """A store with these symbols of these feeds, ids in that order."""
    store = TickStore.create(ticks, 64)
    for feed, symbols in feeds.items():
        number = store.directory.add_feed(feed)
        for symbol in symbols:
            store.directory.add(number, symbol)
    return store


def quote(store: TickStore, instrument: int, time: int, bid: float, ask: float, size: float = 1.0) -> Ticks:
    """One quote."""
    tick = empty_ticks(1)
    tick["ts_event"], tick["instrument"], tick["kind"] = time, instrument, QUOTE
    tick["feed"] = store.directory.feed_of()[instrument]
    tick["bid"], tick["ask"], tick["bid_size"], tick["ask_size"] = bid, ask, size, size
    return tick


def trade(store: TickStore, instrument: int, time: int, price: float, size: float = 1.0) -> Ticks:
    """One trade."""
    tick = empty_ticks(1)
    tick["ts_event"], tick["instrument"], tick["kind"] = time, instrument, TRADE
    tick["feed"] = store.directory.feed_of()[instrument]
    tick["price"], tick["size"] = price, size
    return tick


def batch_of(store: TickStore, rows: list[tuple[int, int, int, float]]) -> Ticks:
    """Ticks of (instrument, kind, time, price); a quote has the price as bid, and one more as ask."""
    parts = [
        trade(store, instrument, time, price, 2.0)
        if kind == TRADE
        else quote(store, instrument, time, price, price + 1)
        for instrument, kind, time, price in rows
    ]
    return np.concatenate([empty_ticks(0), *parts])


def query(feed: str, kind: int, **others: Any) -> RangeQuery:
    """All of a feed, but for what else is said."""
    given: dict[str, Any] = {
        "symbols": ("*",), "start": None, "end": None, "limit": 1000, "descending": False, "token": None,
    }  # fmt: skip
    return RangeQuery(feed=feed, kind=kind, **{**given, **others})
