"""The latest time of each part of a ring, so that who looks for what is later need not look at all of it."""

from __future__ import annotations

import numpy as np

from marketfeed.model.ring import NEVER, Ring

#: A part has so many ticks.
_PART_TICKS = 1 << 14
_NONE = -1


class LatestTimes:
    """The latest ``ts_event`` of each part of a ring that is complete, found out when it is asked for and then kept.

    In no order whatever: nothing is taken for granted of the times.
    """

    def __init__(self, ring: Ring) -> None:
        self._ring = ring
        self._ticks = min(_PART_TICKS, ring.capacity)
        parts = ring.capacity // self._ticks
        #: by place in the ring: which part is known there, counted from the first that there ever was
        self._known = np.full(parts, _NONE, np.int64)
        self._latest = np.full(parts, NEVER)

    def pass_over(self, cursor: int, time_ns: int) -> int:
        """Where to read on for who only wants what is later than this: in between nothing is that is still held.

        At most one part is looked at anew, so that this takes a fraction of a millisecond: where the cursor has moved,
        ask again.
        """
        ring, looked = self._ring, False
        while (end := (cursor // self._ticks + 1) * self._ticks) <= ring.head:
            part = cursor // self._ticks
            place = part % len(self._known)
            if self._known[place] != part:
                if looked:
                    break
                looked = True
                times = ring.view(cursor, end - cursor, end).ticks["ts_event"]
                self._latest[place] = times.max() if len(times) else NEVER
                self._known[place] = part
            if self._latest[place] > time_ns:
                break
            cursor = end
        return cursor
