"""Which instruments are meant by symbols and globs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.server.history.params import SymbolsQuery
from marketfeed.server.history.steps import InTime, OutOfTime, Steps
from marketfeed.stream.subscription import is_glob, matcher

#: So many names are looked up, or held against a glob, in one step.
_NAMES = 1024


def select(
    directory: InstrumentDirectory, feed: int, patterns: Iterable[str], in_time: InTime
) -> Steps[NDArray[np.bool_]]:
    """Which instruments of that feed are meant, by id: shape (number of instruments,). To match none is no error.

    Raises:
        OutOfTime: too many globs for so many instruments.
    """
    symbols, feed_of = directory.symbols(), directory.feed_of()
    count = len(symbols)
    selected = np.zeros(count, np.bool_)
    looked = 0
    for pattern in patterns:
        if pattern == "*":
            return directory.of_feed(feed)[:count]
        if not is_glob(pattern):
            found = directory.find(feed, pattern)
            # One that came since the beginning has no tick that is asked for.
            if found is not None and found < count:
                selected[found] = True
            looked += 1
            if looked % _NAMES == 0:
                yield
            continue
        match = matcher(pattern)
        for begin in range(0, count, _NAMES):
            for i in range(begin, min(begin + _NAMES, count)):
                if feed_of[i] == feed and match(symbols[i]):
                    selected[i] = True
            if not in_time():
                raise OutOfTime
            yield
    return selected


class SymbolPage(NamedTuple):
    """Ids of instruments, ascending."""

    ids: list[int]
    #: where the next page begins; None = this is the last
    place: int | None


def symbol_page(directory: InstrumentDirectory, query: SymbolsQuery, place: int, in_time: InTime) -> Steps[SymbolPage]:
    """Instruments whose symbol matches, from id ``place`` on. A glob with a colon is held against ``feed:SYMBOL``."""
    symbols, feed_of, feeds = directory.symbols(), directory.feed_of(), directory.feeds()
    match = matcher(query.match)
    with_feed = ":" in query.match
    count = len(symbols)
    ids: list[int] = []
    while place < count:
        for i in range(place, min(place + _NAMES, count)):
            if query.feed is not None and feeds[feed_of[i]] != query.feed:
                continue
            if match(symbols[i]) or (with_feed and match(f"{feeds[feed_of[i]]}:{symbols[i]}")):
                if len(ids) == query.limit:
                    return SymbolPage(ids, i)
                ids.append(i)
        place = min(place + _NAMES, count)
        if place < count:
            if not in_time():
                return SymbolPage(ids, place)
            yield
    return SymbolPage(ids, None)
