"""What a client means by `since`: a place in the ring."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.store import TickStore
from marketfeed.model.tick import QUOTE
from marketfeed.stream.codes import ErrorCode, ProtocolError
from marketfeed.stream.protocol import Position

#: At most so many ticks of the ring are looked through at one go.
SCAN_TICKS = 1 << 16


def check_position(store: TickStore, position: Position) -> None:
    """See that this is, or may be, a place in the stream.

    Raises:
        ProtocolError: it can be none of this store's.
    """
    if position.epoch is None and position.seq:
        raise ProtocolError(ErrorCode.SYNTAX, "since needs the epoch that its seq belongs to")
    if position.epoch in (None, store.epoch) and position.seq > store.ring.head:
        raise ProtocolError(ErrorCode.SYNTAX, f"since.seq {position.seq} is beyond the last tick, {store.ring.head}")


def position_of_time(store: TickStore, mask: NDArray[np.bool_], time_ns: int) -> int | None:
    """The place before the first tick that is later than this; None = that one may be lost already.

    Args:
        mask: of these (kind, instrument) only, shape (kinds, capacity).
        time_ns: ns since the Unix epoch.
    """
    ring = store.ring
    certain = ring.oldest == 1
    cursor = ring.oldest - 1
    while cursor < ring.head:
        span = ring.read(cursor, SCAN_TICKS)
        mine = mask[span.ticks["kind"].astype(np.intp) - QUOTE, span.ticks["instrument"]]
        later = span.ticks["ts_event"] > time_ns
        found = np.nonzero(mine & later)[0]
        # Where one is held that is not later, what was lost before it is not later either.
        certain |= bool((mine & ~later)[: found[0] if len(found) else None].any())
        if len(found):
            return span.first + int(found[0]) - 1 if certain else None
        cursor = span.cursor
    return ring.head if certain else None
