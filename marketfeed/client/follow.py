"""Waiting for the ticks of a server whose memory is read.

The server makes no system call for its readers, and they write nothing that it could see: so a reader looks again and
again, and sleeps between. How long is a matter of its own time: an eighth of what it has waited already, so that where
ticks are 1 ms apart it looks about every 0.1 ms, and where they are seconds apart it does not look thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple, Self

from marketfeed.client.errors import WriterLost
from marketfeed.client.life import Life
from marketfeed.client.messages import Position
from marketfeed.model.clock import Clock
from marketfeed.model.ring import Span
from marketfeed.model.store import TickStore

#: Looks at the head in a row, about 0.2 us each: before a nap, and between two looks at the clock.
_LOOKS = 16
#: The shortest nap, and how long one is of the time waited so far.
_LEAST_NAP_S, _NAP_SHARE = 50e-6, 1 / 8
#: How often somebody who waits asks whether the writer lives.
_CHECK_S = 0.1


class Ends(NamedTuple):
    """When a loop ends by itself."""

    #: seconds since it began; None = never
    timeout: float | None
    #: ticks; None = never
    max_rows: int | None


class Pace(NamedTuple):
    """How it reads and waits."""

    #: at most so many ticks at one go
    batch_rows: int
    #: the longest nap, s; 0 = none
    nap: float
    clock: Clock
    sleep: Callable[[float], None]


class Follow:
    """Ticks as they come, in batches as :meth:`Attached.ticks` yields them. Made by :meth:`Attached.follow`.

    A loop over it ends after its ``timeout`` or ``max_rows``, or when the server was shut down and its last tick was
    given; another loop goes on where the last one ended, also after Ctrl-C.

    Raises:
        WriterLost: from the loop, when the server died or hangs. All that it published was given before.
    """

    def __init__(self, store: TickStore, life: Life, cursor: int, ends: Ends, pace: Pace) -> None:
        self._epoch = store.epoch
        self._ring = store.ring
        self._life = life
        self._cursor = cursor
        self._ends = ends
        self._pace = pace
        self._check_at = -inf
        self._begin()

    def _begin(self) -> None:
        timeout, self._room = self._ends
        self._deadline = inf if timeout is None else self._pace.clock.monotonic() + timeout

    @property
    def position(self) -> Position:
        """The place behind the last tick that was given."""
        return Position(self._cursor, self._epoch)

    def __iter__(self) -> Self:
        self._begin()
        return self

    def __next__(self) -> Span:
        rows = self._pace.batch_rows if self._room is None else min(self._room, self._pace.batch_rows)
        if not rows or not self._wait():
            raise StopIteration
        span = self._ring.read(self._cursor, rows)
        if self._room is not None:
            self._room -= len(span.ticks)
        self._cursor = span.cursor
        return span

    def _wait(self) -> bool:
        """Until there is more; False = the loop is to end."""
        ring, cursor, clock = self._ring, self._cursor, self._pace.clock
        begin = clock.monotonic()
        while True:
            for _ in range(_LOOKS):
                if ring.head > cursor:
                    # A server that always has more does not keep a loop from its end.
                    return self._deadline == inf or clock.monotonic() < self._deadline
            now = clock.monotonic()
            if now >= self._deadline:
                return False
            if now >= self._check_at:
                self._check_at = now + _CHECK_S
                ended = self._ended()
                if ring.head > cursor:
                    continue
                if ended:
                    return False
            if self._pace.nap:
                nap = min(self._pace.nap, max(_LEAST_NAP_S, _NAP_SHARE * (now - begin)))
                self._pace.sleep(min(nap, self._deadline - now))

    def _ended(self) -> bool:
        """Whether the server was shut down; raises where it is lost, but not before all it published is given."""
        try:
            return self._life.ended()
        except WriterLost:
            if self._ring.head > self._cursor:
                return False
            raise
