"""Every tick, in order, in a buffer that never grows.

Protocol of the two published counters (after agrona's BroadcastTransmitter): the writer raises ``claim`` *before* it
touches a slot and ``head`` *after*. A reader copies first and looks at ``claim`` afterwards: whatever the writer may
have begun to overwrite by then is thrown away and reported, so a torn row is never handed out.

This needs stores to become visible in program order, and loads not to overtake one another: x86-64's memory model
gives both (TSO), and between two accesses through Python's memory views no compiler reorders anything. On a weaker
memory model, do not share a ring between processes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.tick import TICK, Ticks

#: Of a feed none of whose ticks is gone: before any time, ns.
NEVER = -(1 << 63)
#: This part of a ring, but never more than so many ticks, is looked through before the first of it is overwritten.
_PART, _PART_TICKS = 16, 4096

_TICK_BYTES = TICK.itemsize


class Lost(NamedTuple):
    """Sequence numbers ``first`` to ``last``, both inclusive, that the ring no longer holds."""

    first: int
    last: int


class Span(NamedTuple):
    """What a read gave."""

    #: shape (n,), TICK; a copy, the caller's own.
    ticks: Ticks
    #: sequence number of ``ticks[0]``; where there are none, of the tick that will come next.
    first: int
    #: what lies between the cursor and ``first`` and is gone; None = nothing.
    lost: Lost | None

    @property
    def cursor(self) -> int:
        """Where to read on: the last sequence number this read accounts for."""
        return self.first + len(self.ticks) - 1


class Ring:
    """A fixed number of ticks; one writer, any number of readers, in this process or others.

    Args:
        slots: shape (capacity,), TICK; capacity a power of two.
        counters: shape (2,), u8: claim and head. Zero in a new ring.
        gone: shape (feeds,), i8, see :meth:`gone_until`. :data:`NEVER` in a new ring.
    """

    def __init__(self, slots: Ticks, counters: NDArray[np.uint64], gone: NDArray[np.int64]) -> None:
        capacity = len(slots)
        if slots.dtype != TICK or capacity < 1 or capacity & (capacity - 1):
            raise ValueError(f"a ring is a power of two of TICK, not {capacity} of {slots.dtype}")
        self.capacity = capacity
        self._mask = capacity - 1
        self._slots = slots
        # As plain memory: of a few ticks each call into numpy would take longer than to copy them.
        self._bytes = slots.view(np.uint8).data
        self._counters = counters.data
        self._gone = gone
        #: (of the writer) up to this sequence number ``gone`` accounts for all
        self._counted = 0
        self._part = min(_PART_TICKS, max(1, capacity // _PART))

    @classmethod
    def on_heap(cls, capacity: int, feeds: int = 1 << 16) -> "Ring":
        """A ring of this process alone."""
        return cls(np.zeros(capacity, TICK), np.zeros(2, np.uint64), np.full(feeds, NEVER))

    @property
    def head(self) -> int:
        """Sequence number of the last published tick; 0 = none yet."""
        return self._counters[1]

    @property
    def oldest(self) -> int:
        """Sequence number of the oldest tick that is still held; head + 1 where there is none."""
        return max(1, self._counters[0] - self.capacity + 1)

    def gone_until(self, feed: int) -> int:
        """No record of that feed that the ring no longer holds has a later ``ts_event``: ns since the Unix epoch.

        It may be the time of one that is next to go: of a sixteenth of the ring, or of 4,096 ticks. :data:`NEVER` =
        none is gone. Asked for after a read it holds for all that the read did not find any more.
        """
        return int(self._gone[feed])

    def publish(self, batch: Ticks) -> int:
        """Append a batch, shape (n,), TICK, of any length. Returns the new head.

        Only the one writer may call this. Of a batch longer than the ring only the end stays.

        Raises:
            ValueError: these are other records than TICK; nothing was published.
        """
        if batch.itemsize != _TICK_BYTES:
            raise ValueError(f"a ring takes TICK, {_TICK_BYTES} bytes each, not {batch.itemsize}")
        n = len(batch)
        head = self._counters[1]
        new_head = head + n
        if new_head - self.capacity > self._counted:
            self._count(batch, head, new_head - self.capacity)
        self._counters[0] = new_head
        skip = max(0, n - self.capacity)
        new = batch[skip:].tobytes()
        begin = ((head + skip) & self._mask) * _TICK_BYTES
        fits = min(len(new), len(self._bytes) - begin)
        self._bytes[begin : begin + fits] = new[:fits]
        if fits < len(new):
            self._bytes[: len(new) - fits] = new[fits:]
        self._counters[1] = new_head
        return new_head

    def _count(self, batch: Ticks, head: int, last: int) -> None:
        """Before they are overwritten: all up to the sequence number ``last``, of those held and of the batch to come,
        and some more, so that this is done once for many batches."""
        held = min(head, max(last, self._counted + self._part))
        parts = [batch[: last - head]] if last > head else []
        if held > self._counted:
            # Twice where it goes around the end of the memory.
            while (begin := self._counted & self._mask) + held - self._counted > self.capacity:
                parts.append(self._slots[begin:])
                self._counted += self.capacity - begin
            parts.append(self._slots[begin : begin + held - self._counted])
        for part in parts:
            feed, time = part["feed"], part["ts_event"]
            if (feed == feed[0]).all():
                one = int(feed[0])
                self._gone[one] = max(int(self._gone[one]), int(time.max()))
            else:
                np.maximum.at(self._gone, feed, time)
        self._counted = max(held, last)

    def read(self, cursor: int, limit: int | None = None, until: int | None = None) -> Span:
        """The ticks after ``cursor``, oldest first, as a copy.

        Args:
            cursor: sequence number of the last tick already seen; 0 = from the beginning.
            limit: at most so many ticks.
            until: none beyond this sequence number, neither in the ticks nor in what is lost.

        Ticks that were overwritten before they could be copied are told in :attr:`Span.lost`; those that only ``limit``
        left out are not.

        Raises:
            ValueError: the cursor is negative or beyond the head.
        """
        first, n, end = self._held(cursor, limit, until)
        begin = ((first - 1) & self._mask) * _TICK_BYTES
        end_byte = begin + n * _TICK_BYTES
        copy = bytearray(self._bytes[begin:end_byte])
        if end_byte > len(self._bytes):
            copy += self._bytes[: end_byte - len(self._bytes)]
        ticks = np.frombuffer(copy, TICK)
        # Only now is it known which of these the writer left alone meanwhile.
        safe = min(self.oldest, end + 1)
        if safe > first:
            ticks = ticks[safe - first :]
            first = safe
        lost = Lost(cursor + 1, first - 1) if first > cursor + 1 else None
        return Span(ticks, first, lost)

    def view(self, cursor: int, limit: int | None = None, until: int | None = None) -> Span:
        """As :meth:`read`, without a copy: the ticks are a read-only view of the ring itself, in one piece.

        So they may end before what :meth:`read` gives, where the ring's memory does, and **the writer may overwrite
        them at any time**: after their use, those with a sequence number below :attr:`oldest` may have been torn, and
        what came of them is worth nothing. The others were whole.

        Raises:
            ValueError: the cursor is negative or beyond the head.
        """
        first, n, _ = self._held(cursor, limit, until)
        begin = (first - 1) & self._mask
        n = min(n, self.capacity - begin)
        ticks = self._slots[begin : begin + n]
        ticks.flags.writeable = False
        return Span(ticks, first, Lost(cursor + 1, first - 1) if first > cursor + 1 else None)

    def _held(self, cursor: int, limit: int | None, until: int | None) -> tuple[int, int, int]:
        """What is there to be read now: the first, how many, and the last that this read may account for."""
        head = self._counters[1]
        if not 0 <= cursor <= head:
            raise ValueError(f"cursor {cursor} is outside 0..{head}")
        # A read accounts for nothing beyond the head it saw: what is lost of later ticks, the next one tells.
        end = head if until is None or until > head else max(cursor, until)
        first = max(cursor + 1, min(self.oldest, end + 1))
        n = end - first + 1
        return first, n if limit is None or limit > n else max(0, limit), end

    def column(self, name: str, first: int, last: int) -> NDArray[np.generic]:
        """One column of the ticks ``first`` to ``last`` as a copy, not checked against overwriting.

        For searches whose answer is checked by a later :meth:`read`.
        """
        begin = (first - 1) & self._mask
        n = last - first + 1
        column = self._slots[name]
        if begin + n <= self.capacity:
            return column[begin : begin + n].copy()
        return np.concatenate((column[begin:], column[: begin + n - self.capacity]))
