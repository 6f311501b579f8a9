"""Bars on their way: a cursor into the ring that reads ticks and publishes the bars they make.

::

    ring ──ticks──> each feed's time ──> a builder for each length ──bars──> ring

Bars go by the time of the ticks' feed (``ts_event``), not by the wall clock: a recording of 2013, replayed a thousand
times as fast, makes the bars of 2013. Only where a feed is live and has gone quiet does the wall clock end its bars.
Knows no loop: whoever runs it calls :meth:`BarStage.run`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bar_builder import KEPT, BarBuilder
from marketfeed.model.bars import DEFAULT_SECONDS, SECOND_NS, Bars, prices_of
from marketfeed.model.clock import Clock
from marketfeed.model.store import TickStore
from marketfeed.model.tick import TICK, TICK_KINDS, TRADE, UPDATED_BAR, Ticks

log = logging.getLogger("marketfeed.bars")

#: At most so many ticks are looked at in one go.
_ROWS = 1 << 16

#: A tick whose time is further ahead of when it was received is in no bar: it would end those of the present.
_AHEAD_NS = 10 * SECOND_NS
#: A feed whose last tick was received within so long of its time is live.
_LIVE_NS = 60 * SECOND_NS
#: A live feed's bar ends so long after its end, by the wall clock and by how late its ticks come, where none comes.
_GRACE_NS = 2 * SECOND_NS
#: So many ticks in a row, each earlier than the feed's time by more than this, and the feed's time has been set back.
_BACK_ROWS, _BACK_NS = 256, KEPT * DEFAULT_SECONDS * SECOND_NS

_NEVER = -1


@dataclass
class BarStats:
    """What has been made so far."""

    bars: int = 0
    #: how often a bar was told again
    updates: int = 0
    #: prices that belong to a bar that is not remembered any more; of the longest bars that are made
    late: int = 0
    #: ticks whose time was too far ahead
    ahead: int = 0
    #: how often a feed's time was found to have been set back
    set_back: int = 0
    #: ticks that the ring no longer held: bars lack them
    lost: int = 0


class BarStage:
    """Makes the bars of a store. Nothing else publishes on another thread meanwhile.

    A feed's bars are made of its trades. Until it gives its first trade they are made of the mids of its quotes; what
    is open of these when that trade comes is dropped.

    Args:
        store: read from, and published into.
        clock: the wall clock.
        wanted: the lengths that somebody wants, s.
        always: those that are made in any case, s.
    """

    def __init__(
        self,
        store: TickStore,
        clock: Clock,
        wanted: Callable[[], Collection[int]] = tuple,
        always: Collection[int] = (DEFAULT_SECONDS,),
    ) -> None:
        self.stats = BarStats()
        self._store = store
        self._clock = clock
        self._wanted = wanted
        self._always = frozenset(always)
        self._cursor = 0
        feeds = store.directory.feed_capacity
        #: by feed: the latest time of its ticks, ns; and how much later the last ones were received
        self._time = np.full(feeds, _NEVER, np.int64)
        self._lag = np.zeros(feeds, np.int64)
        #: by feed: how many ticks in a row were far earlier than its time
        self._back = np.zeros(feeds, np.int64)
        self._traded: set[int] = set()
        self._builders: dict[int, BarBuilder] = {}
        self._follow_wanted()

    def _builder(self, seconds: int) -> BarBuilder:
        # What a feed gave before this is not in it: its first bar is the first whole one.
        return BarBuilder(seconds, self._store.directory.capacity, len(self._time), self._time + 1)

    @property
    def backlog(self) -> int:
        """How many records have been published that it has not looked at."""
        return self._store.ring.head - self._cursor

    @property
    def watched(self) -> bool:
        """Whether somebody wants bars."""
        return bool(self._wanted())

    def run(self) -> bool:
        """Look at all that was published, and publish the bars that have ended. Returns whether there were any."""
        self._follow_wanted()
        told: list[Bars] = []
        self._read(told)
        self._end_of_quiet(told)
        return self._publish(told)

    def end(self, feed: int) -> bool:
        """A feed has given the last tick of its time: it has ended, or plays from the beginning again. Its open bars
        end as they are. Returns whether there were any."""
        told: list[Bars] = []
        self._read(told)
        self._end(feed, told)
        return self._publish(told)

    # ---- in ----------------------------------------------------------------------------------------------------------

    def _read(self, told: list[Bars]) -> None:
        head = self._store.ring.head
        while self._cursor < head:
            span = self._store.read(self._cursor, _ROWS, head)
            if span.lost:
                if not self.stats.lost:
                    log.error("bars lack ticks: the ring was overwritten before they were looked at")
                self.stats.lost += span.lost.last - span.lost.first + 1
            self._cursor = span.cursor
            ticks = span.ticks
            kinds = ticks["kind"].copy()
            if len(ticks) and kinds.max() > TICK_KINDS[-1]:
                ticks = ticks[kinds <= TICK_KINDS[-1]]
            self._take(ticks, told)

    def _take(self, ticks: Ticks, told: list[Bars]) -> None:
        if not len(ticks):
            return
        # A column that is looked at more than once is copied, out of rows of 80 bytes.
        time, feed = ticks["ts_event"].copy(), ticks["feed"].copy()
        received = ticks["ts_recv"]
        if time.max() > received.min() + _AHEAD_NS:
            ahead = time > received + _AHEAD_NS
            if ahead.any():
                if not self.stats.ahead:
                    first = int(np.argmax(ahead))
                    log.error(
                        "bars lack ticks: one is of a time %d s ahead", (time[first] - received[first]) // SECOND_NS
                    )
                self.stats.ahead += int(np.count_nonzero(ahead))
                self._take(ticks[~ahead], told)
                return
        before, after = self._time.copy(), self._time
        alone = bool((feed == feed[0]).all())
        present = [int(feed[0])] if alone else np.unique(feed).tolist()
        for number in present:
            rows = None if alone else np.flatnonzero(feed == number)
            mine = slice(None) if rows is None else rows
            back = self._set_back(number, time[mine])
            if back is not None:
                # Up to there it is of the time before, and from there on of another.
                at = back if rows is None else int(rows[back])
                self._time[:] = before
                self._take(ticks[:at], told)
                self.stats.set_back += 1
                log.warning("feed %d: its time was set back: bars go on from there", number)
                self._end(number, told)
                self._take(ticks[at:], told)
                return
            self._time[number] = max(int(before[number]), int(time[mine].max()))
            last = ticks[-1 if rows is None else rows[-1]]
            self._lag[number] = last["ts_recv"] - last["ts_event"]
            if number not in self._traded and (ticks["kind"][mine] == TRADE).any():
                self._traded.add(number)
                for builder in self._builders.values():
                    builder.forget(number)
        prices = prices_of(ticks, [number for number in present if number not in self._traded])
        late = 0
        for builder in self._builders.values():  # the longest last
            late = builder.late
            told.append(builder.take(prices, before, after))
            late = builder.late - late
        self.stats.late += late

    def _set_back(self, feed: int, time: NDArray[np.int64]) -> int | None:
        """Where in these times of a feed another time begins: all from there on are far earlier than its time so far,
        and enough in a row. One wrong tick does not do it."""
        bound = int(self._time[feed]) - _BACK_NS
        if time.min() >= bound:
            self._back[feed] = 0
            return None
        in_time = np.flatnonzero(time >= bound)
        begin = int(in_time[-1]) + 1 if len(in_time) else 0
        self._back[feed] = len(time) - begin + (0 if len(in_time) else self._back[feed])
        if self._back[feed] < _BACK_ROWS:
            return None
        self._back[feed] = 0
        return begin

    # ---- out ---------------------------------------------------------------------------------------------------------

    def _end(self, feed: int, told: list[Bars]) -> None:
        told += [builder.end(feed) for builder in self._builders.values()]
        self._time[feed], self._back[feed] = _NEVER, 0

    def _end_of_quiet(self, told: list[Bars]) -> None:
        """A live feed's time goes on where no tick comes."""
        live = (self._time != _NEVER) & (np.abs(self._lag) < _LIVE_NS)
        now = self._clock.now_ns() - np.maximum(self._lag, 0) - _GRACE_NS
        goes_on = live & (now > self._time)
        if goes_on.any():
            self._time[goes_on] = now[goes_on]
            told += [builder.close(self._time) for builder in self._builders.values()]

    def _follow_wanted(self) -> None:
        wanted = self._always | set(self._wanted())
        if wanted != self._builders.keys():
            self._builders = {
                seconds: self._builders.get(seconds) or self._builder(seconds) for seconds in sorted(wanted)
            }

    def _publish(self, told: list[Bars]) -> bool:
        told = [bars for bars in told if len(bars)]
        if not told:
            return False
        bars = np.concatenate(told)
        bars["ts_recv"] = self._clock.now_ns()
        updates = int(np.count_nonzero(bars["kind"] == UPDATED_BAR))
        self.stats.bars += len(bars) - updates
        self.stats.updates += updates
        self._store.publish(bars.view(TICK))
        return True
