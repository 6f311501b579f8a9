"""What a client means by `since`: a place in the ring."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.steps import Steps
from marketfeed.model.store import TickStore
from marketfeed.model.tick import QUOTE
from marketfeed.stream.codes import ErrorCode, ProtocolError
from marketfeed.stream.protocol import Position

#: At most so many ticks of the ring are looked through at one go.
SCAN_TICKS = 1 << 16
#: And of so many at the time alone.
TIMES_TICKS = 1 << 14


def check_position(store: TickStore, position: Position) -> None:
    """See that this is, or may be, a place in the stream.

    Raises:
        ProtocolError: it can be none of this store's.
    """
    if position.epoch is None and position.seq:
        raise ProtocolError(ErrorCode.SYNTAX, "since needs the epoch that its seq belongs to")
    if position.epoch in (None, store.epoch) and position.seq > store.ring.head:
        raise ProtocolError(ErrorCode.SYNTAX, f"since.seq {position.seq} is beyond the last tick, {store.ring.head}")


class Found(NamedTuple):
    """Where a time is in the ring."""

    #: the place before the first tick that is later; 0 where that one may be lost already
    seq: int
    #: whether nothing that is later was lost
    whole: bool


def position_of_time(store: TickStore, mask: NDArray[np.bool_], time_ns: int, step: int = TIMES_TICKS) -> Steps[Found]:
    """The place before the first tick that is later than this.

    Every tick is looked at: they lie in the order in which they came, and by their own time (``ts_event``) in none. Not
    even those of one symbol have to be, several feeds are mixed, and a recording may play again. Nor does ``ts_recv``
    help, which ascends as long as the clock does: a recording's ticks are received years after they happened.

    Whatever is published after the first step is behind the place that is found.

    Args:
        mask: of these (kind, instrument) only, shape (kinds, capacity).
        time_ns: ns since the Unix epoch.
        step: so many ticks are looked at in one step.
    """
    ring = store.ring
    until, cursor = ring.head, ring.oldest - 1
    feeds = _feeds(store, mask)

    def may_be_lost() -> bool:
        return any(ring.gone_until(feed) > time_ns for feed in feeds)

    if may_be_lost():
        return Found(0, False)
    while cursor < until:
        passed = min(until, store.times.pass_over(cursor, time_ns))
        if passed > cursor and ring.oldest - 1 <= cursor:
            cursor = passed
            if cursor < until:
                yield
            continue
        span = ring.view(cursor, step, until)
        places = np.flatnonzero(span.ticks["ts_event"] > time_ns)
        if len(places):
            kinds, instruments = span.ticks["kind"][places], span.ticks["instrument"][places]
            places = places[mask[kinds.astype(np.intp) - QUOTE, instruments]]
        lost = ring.oldest - 1
        if lost > cursor:
            # Overwritten since the step before, or while it was looked at.
            if may_be_lost():
                return Found(0, False)
            places = places[places + span.first > lost]
        if len(places):
            return Found(span.first + int(places[0]) - 1, True)
        cursor = span.cursor
        if cursor < until:
            yield
    return Found(until, True)


def _feeds(store: TickStore, mask: NDArray[np.bool_]) -> Iterable[int]:
    """Those that any of these instruments is of."""
    wanted = mask.any(axis=0)
    directory = store.directory
    if wanted.all():
        return range(directory.feed_capacity)
    return [feed for feed in range(len(directory.feeds())) if (directory.of_feed(feed) & wanted).any()]
