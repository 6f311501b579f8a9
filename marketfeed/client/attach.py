"""The feed of a server on the same machine, read from its memory: no socket, no encoding, no copy but one.

::

    server ──publish──> store in a mapped file <──read── Attached ─┬─ latest()    last values of each instrument
                        (marketfeed serve --share NAME)            ├─ ticks()     all that is held, in batches
                                                                   ├─ scan()      the same without a copy
                                                                   └─ follow()    what comes, as it comes
"""

from __future__ import annotations

import datetime
import operator
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import inf
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from marketfeed.client.batch import Batch
from marketfeed.client.errors import AttachError, WriterLost
from marketfeed.client.follow import Follow
from marketfeed.client.inbox import BATCH_ROWS, BatchesAsked
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.life import Life
from marketfeed.client.messages import Gap, Position, parse_time
from marketfeed.client.parts import matcher
from marketfeed.client.reader import Reader
from marketfeed.client.request import Since
from marketfeed.model.clock import Clock, SystemClock
from marketfeed.model.shared import DIRECTORY, OpenedStore, ShareError, open_shared
from marketfeed.model.steps import all_of
from marketfeed.model.tick import KINDS, TICK_KINDS, Ticks
from marketfeed.stream.positions import position_of_time

T = TypeVar("T")

#: How long a row that is being written is left alone.
_AGAIN_S = 50e-6


class Scanned(NamedTuple, Generic[T]):
    """What :meth:`Attached.scan` made of some ticks."""

    #: what the function returned; None where there were no ticks: all were lost
    value: T | None
    #: sequence number of the first of them
    first: int
    #: how many
    rows: int
    #: what lies before them and was overwritten before it was looked at
    gaps: tuple[Gap, ...]


class Attached:
    """The read side of a server's store. Made by :func:`attach`; a context manager.

    It writes nothing into the server's memory, and costs the server nothing. For one thread at a time.

    Attributes:
        name: under which the server shares it.
        epoch: id of this life of the server; a position is (epoch, sequence number).
    """

    def __init__(
        self, opened: OpenedStore, name: str, stale_after: float, clock: Clock, sleep: Callable[[float], None]
    ) -> None:
        self.name = name
        self._opened = opened
        self._store = opened.store
        self.epoch = self._store.epoch
        self._reader = Reader(self._store)
        self._clock = clock
        self._sleep = sleep
        self._life = Life(opened, name, stale_after, clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the server's memory. Arrays that were given stay; what is asked later is an error."""
        self._opened.close()

    @property
    def head(self) -> int:
        """Sequence number of the last tick; 0 = none yet."""
        return self._store.ring.head

    @property
    def oldest(self) -> int:
        """Sequence number of the oldest tick that is still held; head + 1 where there is none."""
        return self._store.ring.oldest

    @property
    def position(self) -> Position:
        """The place behind the last tick, to be given as ``since`` later, here or to a server's ``subscribe``."""
        return Position(self.head, self.epoch)

    @property
    def ended(self) -> bool:
        """Whether the server was shut down in order: no more ticks will come."""
        return self._store.ended

    def check(self) -> None:
        """See that the server lives. A system call, about 1 us.

        Raises:
            WriterLost: it has died, hangs, or was shut down.
            AttachError: this was closed.
        """
        if self._life.ended():
            raise WriterLost(f"the server that shared {self.name!r} was shut down")

    @property
    def instruments(self) -> InstrumentTable:
        """What the ids in ticks stand for: ``instruments[id]`` is (symbol, feed)."""
        return self._reader.instruments

    @property
    def symbols(self) -> list[str]:
        """The symbol of each id. Grows at its end; not to be changed."""
        return self._store.directory.symbols()

    @property
    def feeds(self) -> list[str]:
        """The feeds that the server has."""
        return list(self._store.directory.feeds())

    def find(self, pattern: str) -> NDArray[np.uint32]:
        """The ids of the instruments of this name or glob (`*` and `?`), alone or behind ``FEED:``.

        Shape (n,), u4, ascending. ``np.isin(ticks["instrument"], feed.find("BTC-*"))`` tells which ticks are theirs.
        """
        match, directory = matcher(pattern), self._store.directory
        symbols, feed_of, feeds = directory.symbols(), directory.feed_of(), directory.feeds()
        with_feed = ":" in pattern
        found = [
            number
            for number, (symbol, feed) in enumerate(zip(symbols, feed_of, strict=True))
            if match(symbol) or (with_feed and match(f"{feeds[feed]}:{symbol}"))
        ]
        return np.array(found, np.uint32)

    def find_one(self, name: str) -> int:
        """The id of the one instrument of that name, ``SYMBOL`` or ``FEED:SYMBOL``.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = self.find(name)
        if len(found) != 1:
            which = "no instrument" if not len(found) else "more than one instrument"
            raise LookupError(f"{which} is named {name!r}")
        return int(found[0])

    def latest(self, kind: int | None = None, since: int = 0) -> Batch:
        """The last quote and the last trade of each instrument as one array: a copy, validated row by row.

        Args:
            kind: QUOTE or TRADE; None = both.
            since: only what came after this sequence number. To ask again and again for what changed, take
                :attr:`head` before each call and give it to the next.

        In the order of their sequence numbers, ``seq``. No row is torn, and none is left out: one that the server is
        writing just then is waited for.

        Raises:
            WriterLost: the server has died, hangs, or was shut down: these are no last prices any more. What it held
                can still be had from :meth:`ticks`.
        """
        table, count = self._store.latest, len(self._store.directory)
        if kind not in (None, *TICK_KINDS):
            raise ValueError(f"kind is QUOTE or TRADE, not {kind}")
        among = np.zeros((len(KINDS), table.capacity), np.bool_)
        for each in TICK_KINDS if kind is None else (kind,):
            among[KINDS.index(each)] = True
        while True:
            self.check()
            there = table.count(since, count, among)
            found = table.since(since, count, among=among)
            # Values are replaced and never removed: fewer than there were means that some could not be copied whole.
            if len(found.ticks) >= there:
                return self._reader.latest(*found)
            self._sleep(_AGAIN_S)

    def ticks(self, since: Since | int = 0, *, batch_rows: int = BATCH_ROWS) -> Iterator[Batch]:
        """Every tick after a place, up to the last one that is there at the call. Copies, validated.

        Args:
            since: a sequence number of this epoch; or a position or time, as in ``subscribe``. 0 = all that is held.
            batch_rows: at most so many at one go.

        Yields batches in which each ``seq`` is one more than the one before; what was overwritten before it could be
        read is told in the :attr:`Batch.gaps`. Ticks and gaps together are every sequence number once.

        What a server held can be read after its end, too.

        Raises:
            ValueError: no such place.
            AttachError: the position is of another life of the server.
        """
        cursor, until = self._cursor(since), self.head
        asked = BatchesAsked(None, None, batch_rows, self._clock)
        return self._ticks(cursor, until, asked.rows())

    def _ticks(self, cursor: int, until: int, rows: int) -> Iterator[Batch]:
        while cursor < until:
            batch, cursor = self._reader.batch(cursor, rows, until)
            yield batch

    def scan(
        self, function: Callable[[Ticks], T], since: Since | int = 0, *, batch_rows: int = BATCH_ROWS
    ) -> Iterator[Scanned[T]]:
        """What a function makes of the ticks after a place, up to the last one at the call. **No copy.**

        The function is given read-only views of the server's memory, one after the other: shape (n,), with the columns
        of a batch but ``seq``, for which there is :attr:`Scanned.first`. Whether the server overwrote some of one
        meanwhile is looked at when the function has returned: then its result is thrown away, and it is called again
        with a copy of what is left. So it may see torn rows, but no result comes of them; it should do nothing but
        return something, and that must not hold on to the view (an array that is a part of it is copied).

        Args:
            function: as in ``lambda ticks: ticks["size"].sum()``.
            since, batch_rows: as in :meth:`ticks`.

        Raises:
            ValueError, AttachError: as :meth:`ticks`; and whatever the function raises on whole rows.
        """
        cursor, until = self._cursor(since), self.head
        asked = BatchesAsked(None, None, batch_rows, self._clock)
        return self._scan(function, cursor, until, asked.rows())

    def _scan(self, function: Callable[[Ticks], T], cursor: int, until: int, rows: int) -> Iterator[Scanned[T]]:
        ring = self._store.ring
        while cursor < until:
            span = ring.view(cursor, rows, until)
            value: T | None = None
            try:
                value = function(span.ticks) if len(span.ticks) else None
                if isinstance(value, np.ndarray) and np.may_share_memory(value, span.ticks):
                    value = value.copy()
            except Exception:
                if ring.oldest <= span.first:
                    raise  # the rows were whole
            if ring.oldest > span.first:
                span = ring.read(cursor, rows, until)
                value = function(span.ticks) if len(span.ticks) else None
            cursor = span.cursor
            gaps = (Gap(*span.lost, "lapped"),) if span.lost else ()
            yield Scanned(value, span.first, len(span.ticks), gaps)

    def follow(
        self,
        since: Since | int | None = None,
        *,
        max_rows: int | None = None,
        timeout: float | None = None,
        batch_rows: int = BATCH_ROWS,
        nap: float = 0.001,
    ) -> Follow:
        """What comes, as it comes: an iterator whose ``next`` waits until there is more. Copies, validated.

        Args:
            since: begin after this place, as in :meth:`ticks`; None = after the last tick at the call.
            max_rows, timeout, batch_rows: as of :meth:`marketfeed.client.Feed.batches`; they count for each loop anew.
            nap: seconds. How it waits: it looks at the server's counter, then sleeps for an eighth of the time that it
                has waited so far, but 50 us at least and this at most, and looks again. So a nap delays a tick by this
                at most; to be woken, and to get a CPU, comes on top. See bench/README.md for what it takes: some %
                of a core where ticks are rare, up to a sixth where they are 1 ms apart. 0 = never sleep: the least
                delay, for a whole core.

        Raises:
            ValueError, AttachError: as :meth:`ticks`.
        """
        cursor = self._cursor(self.head if since is None else since)
        if not 0 <= nap < inf:
            raise ValueError(f"nap is a number of seconds, not {nap}")
        ask = partial(BatchesAsked, max_rows, timeout, batch_rows, self._clock)
        return Follow(self._store, self._reader, self._life, cursor, ask, nap, self._clock, self._sleep)

    def _cursor(self, since: Since | int) -> int:
        """The sequence number after which to begin."""
        self._life.check_open()
        if isinstance(since, Mapping):
            since = msgspec.convert(since, Position)
        if isinstance(since, datetime.datetime):
            if since.tzinfo is None:
                raise ValueError(f"since has no time zone: {since}")
            since = since.isoformat()
        if isinstance(since, str):
            everything = np.ones((len(KINDS), self._store.latest.capacity), np.bool_)
            # Where what came after that time may be lost in part this is 0, and reading from there tells so.
            return all_of(position_of_time(self._store, everything, parse_time(since))).seq
        if isinstance(since, Position):
            if since.epoch not in (None, self.epoch):
                raise AttachError(
                    f"the position is of another life of the server: epoch {since.epoch}, and now it is {self.epoch}"
                )
            since = since.seq
        cursor, head = operator.index(since), self.head
        if not 0 <= cursor <= head:
            raise ValueError(f"since {cursor} is outside 0..{head}")
        return cursor


def attach(
    name: str,
    *,
    directory: str | os.PathLike[str] = DIRECTORY,
    stale_after: float = 5.0,
    clock: Clock | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Attached:
    """Read the memory of a server on this machine: ``marketfeed serve --share NAME``, then ``attach(NAME)``.

    It needs Linux on x86-64, and the same user as the server's (or root).

    Args:
        name: as the server was given it.
        directory: the server's ``share_dir``.
        stale_after: seconds; a server that has not beaten for so long is taken for one that hangs. It beats every
            second.
        clock, sleep: for tests.

    Raises:
        AttachError: no server shares that name, or its store is of another version, damaged, or another user's.
        WriterLost: the server that shared it has died, or hangs.
    """
    try:
        opened = open_shared(name, directory)
    except ShareError as error:
        raise AttachError(str(error)) from None
    try:
        feed = Attached(opened, name, stale_after, clock or SystemClock(), sleep)
        feed.check()
    except BaseException:
        opened.close()
        raise
    return feed
