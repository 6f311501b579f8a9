"""Several recordings as one, by time: a streaming k-way merge over batches.

Of each source that is open one batch is in memory. A source is opened when the merge comes to its beginning, and closed
at its end, so a folder of a thousand days needs no more than a day's files at once.

The order is that of a merge which always takes the source whose next tick is the earliest, of equal ones the first in
the list. A source's own order is always kept: a tick that is earlier than one before it in its source counts as of the
same time as that.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing

import numpy as np
from numpy.typing import NDArray

from feeds.replay.readers.base import DAMAGE, ReaderContext, Source, one_line
from marketfeed.feed import FeedError
from marketfeed.model.tick import RAW, TICK, Ticks, empty_ticks

log = logging.getLogger("feeds.replay")

#: How many ticks a step gives: at the most this, or _WINDOW_LEAST from each source where there are many.
BATCH_ROWS = 4_096
_WINDOW_LEAST = 64
#: So many batches are looked at for a source's first tick.
_PEEK_BATCHES = 16
_DAY_NS = 86_400_000_000_000

_Keys = NDArray[np.int64]
_NONE = empty_ticks(0)
_NO_KEYS = np.empty(0, np.int64)


class _AnyInstrument:
    """Takes every symbol and counts nothing: for a first look."""

    def wants(self, symbol: str) -> bool:
        return True

    def instrument(self, symbol: str, rows: int) -> int:
        return 0

    def refuse(self, reason: str, count: int = 1, example: str = "") -> None:
        pass


def start_of(source: Source, now_ns: int, column: str = "ts_event") -> int | None:
    """No tick of the source's beginning is earlier than this, ns; None = the source has no ticks.

    Raises:
        FeedError: it cannot be read.
    """
    context = _AnyInstrument()
    try:
        with closing(source.read(context)) as batches:
            for _, ticks in zip(range(_PEEK_BATCHES), batches, strict=False):
                ticks = _playable(ticks, now_ns, context)
                if len(ticks):
                    return int(ticks[column].min())
            return 0 if next(batches, None) is not None else None
    except DAMAGE as error:
        raise FeedError(f"cannot read {source.name}: {one_line(error)}") from None


class _Open:
    """A source that is being read: its batch, how far that has been given out, and the keys to merge by."""

    def __init__(self, source: Source, context: ReaderContext, column: str, since: int | None) -> None:
        self.ticks: Ticks = _NONE
        self.keys: _Keys = _NO_KEYS
        self.at = 0
        self.ended = False
        self._source = source
        self._context = context
        self._column = column
        cheap = source.read_since
        self._batches = source.read(context) if since is None or cheap is None else cheap(context, since)
        self._latest = np.iinfo(np.int64).min

    def load(self, now_ns: int) -> None:
        """Read the next batch, which may turn out empty."""
        try:
            ticks = next(self._batches, None)
        except DAMAGE as error:
            self._context.refuse("damaged file", 1, f"{self._source.name}: {one_line(error)}")
            ticks = None
        if ticks is None:
            self.ended = True
            self.ticks, self.keys, self.at = _NONE, _NO_KEYS, 0
            return
        self.ticks = _playable(ticks, now_ns, self._context)
        self.keys = np.maximum.accumulate(np.maximum(self.ticks[self._column], self._latest))
        self.at = 0
        if len(self.keys):
            self._latest = int(self.keys[-1])

    def close(self) -> None:
        """Let go of the file."""
        self._batches.close()


class Merge:
    """Sources played as one.

    Args:
        sources: in the order that decides between ticks of the same time.
        starts: of each, :func:`start_of`.
        context: for the readers.
        column: of a tick, its time.
        since: ticks in front of the first one at or after this time may be left out, and are where that is cheap.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        starts: Sequence[int | None],
        context: ReaderContext,
        column: str = "ts_event",
        since: int | None = None,
    ) -> None:
        self._context = context
        self._column = column
        self._since = since
        # Soonest last: what is opened next is popped.
        numbered = enumerate(zip(starts, sources, strict=True))
        self._waiting = [(start, number, source) for number, (start, source) in numbered if start is not None]
        self._waiting.sort(key=lambda entry: entry[:2], reverse=True)
        #: by number: in the order of the list
        self._open: dict[int, _Open] = {}

    def read(self, now_ns: int) -> tuple[Ticks, _Keys] | None:
        """The next ticks, shape (n,), with the time each counts as of, shape (n,), never falling. None = the end.

        Reads one batch of one source at the most, so that it never takes long: none may come of it, n = 0.
        """
        for source in self._open.values():
            if source.at == len(source.keys):
                source.load(now_ns)
                break
        for number in [number for number, source in self._open.items() if source.ended]:
            self._open.pop(number).close()
        if not self._open:
            if not self._waiting:
                return None
            self._open_next()
            return _NONE, _NO_KEYS
        if any(source.at == len(source.keys) for source in self._open.values()):
            return _NONE, _NO_KEYS
        return self._cut()

    def _cut(self) -> tuple[Ticks, _Keys]:
        """All ticks up to the time that every source is known to."""
        live = list(self._open.values())
        window = max(_WINDOW_LEAST, BATCH_ROWS // len(live))
        ends = [min(source.at + window, len(source.keys)) for source in live]
        lasts = [int(source.keys[end - 1]) for source, end in zip(live, ends, strict=True)]
        cut = min(lasts)
        if self._waiting and self._waiting[-1][0] <= cut:
            self._open_next()
            return _NONE, _NO_KEYS
        # Of the sources that share the cut's time, the first may have more of it to come, before those behind it.
        limit = lasts.index(cut)
        parts, keys = [], []
        for place, source in enumerate(live):
            end = ends[place]
            if place != limit:
                within = source.keys[source.at : end]
                end = source.at + int(np.searchsorted(within, cut, "right" if place < limit else "left"))
            parts.append(source.ticks[source.at : end])
            keys.append(source.keys[source.at : end])
            source.at = end
        if len(live) == 1:
            return parts[0], keys[0]
        merged = np.concatenate(keys)
        order = np.argsort(merged, kind="stable")
        # As opaque bytes: field by field is several times slower.
        raw = np.concatenate([np.ascontiguousarray(part).view(RAW) for part in parts])
        return raw[order].view(TICK), merged[order]

    def _open_next(self) -> None:
        _, number, source = self._waiting.pop()
        self._open[number] = _Open(source, self._context, self._column, self._since)
        self._open = dict(sorted(self._open.items()))

    def close(self) -> None:
        """Let go of the files."""
        for source in self._open.values():
            source.close()
        self._open.clear()
        self._waiting.clear()


def _playable(ticks: Ticks, now_ns: int, context: ReaderContext) -> Ticks:
    """Without those whose time ingest would refuse: one of them would hold up all that follow."""
    ts = ticks["ts_event"]
    for reason, wrong in (("time before 1970", ts < 0), ("time beyond tomorrow", ts > now_ns + _DAY_NS)):
        if wrong.any():
            context.refuse(reason, int(wrong.sum()), f"ts_event {ts[wrong.argmax()]}")
    good = (ts >= 0) & (ts <= now_ns + _DAY_NS)
    return ticks if good.all() else ticks[good]
