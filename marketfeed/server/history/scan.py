"""The ring, looked through in steps: which ticks happened between two times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.ring import NEVER, Lost, Ring
from marketfeed.model.store import TickStore
from marketfeed.model.tick import RAW, TICK, Ticks
from marketfeed.server.history.params import RangeQuery
from marketfeed.server.history.steps import InTime, Steps

#: So many ticks of the ring are looked through in one step.
STEP_TICKS = 1 << 14


class TickPage(NamedTuple):
    """Ticks that were asked for, in the order that was asked for."""

    #: shape (n,), TICK
    ticks: Ticks
    #: shape (n,), i8: the sequence number of each
    seqs: NDArray[np.int64]
    #: of these numbers, those that were asked for are lost; of ascending pages what lies before the first tick, of
    #: descending ones what lies beyond the last. None = nothing is lost.
    gap: Lost | None
    #: where the next page begins; None = this is the last
    place: int | None


def held_from(ring: Ring, feed: int) -> int:
    """Every tick of that feed from this time on is held: ns since the Unix epoch. To be asked for after a read."""
    gone = ring.gone_until(feed)
    return gone if gone == NEVER else gone + 1


def covers(held: int, start: int | None) -> bool:
    """Whether all from ``start`` on (None = from the beginning) is held where all from ``held`` on is."""
    return held <= (NEVER if start is None else start)


def tick_page(
    store: TickStore,
    query: RangeQuery,
    selected: NDArray[np.bool_],
    until: int,
    place: int,
    in_time: InTime,
    step: int = STEP_TICKS,
) -> Steps[TickPage]:
    """Ticks of one kind of the selected instruments (shape (n,), by id), at most ``query.limit`` of them.

    Order is that in which they came, by sequence number. Nothing beyond ``until`` is looked at. Where there is no time
    left the page ends early.

    Args:
        place: of ascending pages the last sequence number that is accounted for, of descending ones the next.
        step: so many ticks are looked through in one step.
    """
    look = _Look(store.ring, store.directory.feeds().index(query.feed), until, in_time, step)
    return (yield from (_down if query.descending else _up)(look, _Wanted(query, selected), place))


class _Look(NamedTuple):
    """Where is looked, and how."""

    ring: Ring
    feed: int
    until: int
    in_time: InTime
    step: int


class _Wanted:
    """What is asked for, and what was found so far."""

    def __init__(self, query: RangeQuery, selected: NDArray[np.bool_]) -> None:
        self._query = query
        self._selected = selected
        self._found: list[tuple[Ticks, NDArray[np.int64]]] = []
        self.room = query.limit
        self.start = query.start

    def matching(self, ticks: Ticks) -> NDArray[np.intp]:
        """Which of these are wanted, ascending."""
        query = self._query
        wanted = self._selected[ticks["instrument"]]
        wanted &= ticks["kind"] == query.kind
        if query.start is not None:
            wanted &= ticks["ts_event"] >= query.start
        if query.end is not None:
            wanted &= ticks["ts_event"] <= query.end
        return np.flatnonzero(wanted)

    def take(self, ticks: Ticks, first: int, indices: NDArray[np.intp]) -> int | None:
        """Take as many of these as there is room for; the sequence number of the first that was left out."""
        taken, left = indices[: self.room], indices[self.room :]
        if len(taken):
            self._found.append((ticks.view(RAW).take(taken), taken + first))
            self.room -= len(taken)
        return int(left[0]) + first if len(left) else None

    def page(self, gap: Lost | None, place: int | None) -> TickPage:
        if not self._found:
            return TickPage(np.empty(0, TICK), np.empty(0, np.int64), gap, place)
        raw, seqs = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        return TickPage(raw.view(TICK), seqs, gap, place)


def _up(look: _Look, wanted: _Wanted, place: int) -> Steps[TickPage]:
    ring, until = look.ring, look.until
    empty_room = wanted.room
    gap: Lost | None = None
    while place < until:
        span = ring.read(place, look.step, until)
        lost = span.lost
        if lost is not None and not covers(held_from(ring, look.feed), wanted.start):
            if wanted.room < empty_room:
                return wanted.page(gap, place)  # the next page begins with the gap
            gap = Lost(gap.first if gap else lost.first, lost.last)
        left = wanted.take(span.ticks, span.first, wanted.matching(span.ticks))
        if left is not None:
            return wanted.page(gap, left - 1)
        place = span.cursor
        if place < until:
            if not look.in_time():
                return wanted.page(gap, place)
            yield
    return wanted.page(gap, None)


def _down(look: _Look, wanted: _Wanted, place: int) -> Steps[TickPage]:
    place = min(place, look.until)
    while place > 0:
        begin = max(0, place - look.step)
        span = look.ring.read(begin, until=place)
        left = wanted.take(span.ticks, span.first, wanted.matching(span.ticks)[::-1])
        if left is not None:
            return wanted.page(None, left)
        if span.lost is not None:
            covered = covers(held_from(look.ring, look.feed), wanted.start)
            return wanted.page(None if covered else Lost(1, span.lost.last), None)
        place = begin
        if place > 0:
            if not look.in_time():
                return wanted.page(None, place)
            yield
    return wanted.page(None, None)
