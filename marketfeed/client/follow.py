"""Waiting for the ticks of a server whose memory is read.

The server makes no system call for its readers, and they write nothing that it could see: so a reader looks again and
again, and sleeps between. How long is a matter of its own time: an eighth of what it has waited already, so that where
ticks are 1 ms apart it looks about every 0.1 ms, and where they are seconds apart it does not look thousands of times.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Self

from marketfeed.client.batch import Batch
from marketfeed.client.errors import WriterLost
from marketfeed.client.inbox import BatchesAsked
from marketfeed.client.life import Life
from marketfeed.client.messages import Position
from marketfeed.client.reader import Reader
from marketfeed.model.clock import Clock
from marketfeed.model.store import TickStore

#: Looks at the head in a row, about 0.2 us each: before a nap, and between two looks at the clock.
_LOOKS = 16
#: The shortest nap, and how long one is of the time waited so far.
_LEAST_NAP_S, _NAP_SHARE = 50e-6, 1 / 8
#: How often somebody who waits asks whether the writer lives.
_CHECK_S = 0.1


class Follow:
    """Ticks as they come, in batches as :meth:`Attached.ticks` yields them. Made by :meth:`Attached.follow`.

    A loop over it ends after its ``timeout`` or ``max_rows``, or when the server was shut down and its last tick was
    given; another loop goes on where the last one ended, also after Ctrl-C.

    Raises:
        WriterLost: from the loop, when the server died or hangs. All that it published was given before.
    """

    def __init__(
        self,
        store: TickStore,
        reader: Reader,
        life: Life,
        cursor: int,
        ask: Callable[[], BatchesAsked],
        nap: float,
        clock: Clock,
        sleep: Callable[[float], None],
    ) -> None:
        self._epoch = store.epoch
        self._ring = store.ring
        self._reader = reader
        self._life = life
        self._cursor = cursor
        self._ask = ask
        self._asked = ask()
        self._nap = nap
        self._clock = clock
        self._sleep = sleep
        self._check_at = -inf

    @property
    def position(self) -> Position:
        """The place behind the last tick that was given."""
        return Position(self._cursor, self._epoch)

    def __iter__(self) -> Self:
        self._asked = self._ask()
        return self

    def __next__(self) -> Batch:
        rows = self._asked.rows()
        if not rows or not self._wait():
            raise StopIteration
        batch, self._cursor = self._reader.batch(self._cursor, rows)
        return self._asked.given(batch)

    def _wait(self) -> bool:
        """Until there is more; False = the loop is to end."""
        ring, cursor, clock = self._ring, self._cursor, self._clock
        left, begin = self._asked.seconds_left(), clock.monotonic()
        deadline = inf if left is None else begin + left
        while begin < deadline:  # a server that always has more does not keep a loop from its end
            for _ in range(_LOOKS):
                if ring.head > cursor:
                    return True
            now = clock.monotonic()
            if now >= deadline:
                break
            if now >= self._check_at:
                self._check_at = now + _CHECK_S
                ended = self._ended()
                if ring.head > cursor:
                    continue
                if ended:
                    break
            if self._nap:
                nap = min(self._nap, max(_LEAST_NAP_S, _NAP_SHARE * (now - begin)))
                self._sleep(min(nap, deadline - now))
        return False

    def _ended(self) -> bool:
        """Whether the server was shut down; raises where it is lost, but not before all it published is given."""
        try:
            return self._life.ended()
        except WriterLost:
            if self._ring.head > self._cursor:
                return False
            raise
