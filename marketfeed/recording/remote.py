"""From a server into a folder, through the client library: a cut is mended, and what cannot be is told as lost.

As records the server's ticks come as they are. As JSON, for a server that has nothing else, they lack ``ts_recv``,
``venue_seq`` and ``flags``: ``ts_recv`` is when they were taken in here, the others are 0, and a size of 0, on that
wire "none, or the venue tells none", is NaN.
"""

from __future__ import annotations

import asyncio
import logging

import numpy as np
from numpy.typing import NDArray

from marketfeed.client.aio import Feed
from marketfeed.client.batch import Batch
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Position
from marketfeed.client.request import Since
from marketfeed.model.clock import Clock
from marketfeed.model.instruments import DirectoryFull, InstrumentDirectory
from marketfeed.model.tick import TICK, Ticks
from marketfeed.recording.folder import PIECE_ROWS, RecordingFolder
from marketfeed.recording.hour import LostTicks

log = logging.getLogger("marketfeed.recording")

_INSTRUMENTS = 1 << 20
#: Seconds between two heartbeats: so soon a dead connection is noticed, two and a half times over.
_HEARTBEAT_S = 4.0
#: The folder is looked after at least so often, whether something comes or not.
_TURN_S = 0.5
_SIZES = ("bid_size", "ask_size", "size")
#: In the table from a server's ids to ours.
_UNKNOWN, _REFUSED = -1, -2


class Translator:
    """A server's records to ticks of a directory that outlives the server's lives.

    Args:
        feed: of instruments that name none.
    """

    def __init__(self, feed: str) -> None:
        self.directory = InstrumentDirectory.on_heap(_INSTRUMENTS)
        #: how many ticks had a symbol or feed that cannot be
        self.refused = 0
        self._feed = feed
        self._table: InstrumentTable | None = None
        self._ids = np.empty(0, np.int64)
        self._feed_of = np.empty(0, np.uint16)

    def ticks(self, batch: Batch, now_ns: int) -> tuple[Ticks, NDArray[np.uint64]]:
        """Ticks, shape (n,), with their sequence numbers, shape (n,).

        Args:
            now_ns: when they were taken in, where the server does not say.
        """
        records = batch.ticks
        if batch.instruments is not self._table:
            self._table, self._ids = batch.instruments, np.empty(0, np.int64)
        theirs = records["instrument"]
        self._learn(theirs)
        ours = self._ids[theirs]
        known = ours >= 0
        if not known.all():
            self.refused += int(np.count_nonzero(~known))
            records, ours = records[known], ours[known]
        ticks = np.empty(len(records), TICK)
        for name in TICK.names or ():
            ticks[name] = records[name]
        ticks["instrument"] = ours
        ticks["feed"] = self._feed_of[ours]
        here = ticks["ts_recv"] == 0
        if here.any():
            ticks["ts_recv"][here] = now_ns
            for name in _SIZES:
                ticks[name][here & (ticks[name] == 0)] = np.nan
        return ticks, records["seq"].astype(np.uint64)

    def _learn(self, theirs: NDArray[np.uint32]) -> None:
        most = int(theirs.max()) + 1 if len(theirs) else 0
        if most > len(self._ids):
            self._ids = np.concatenate((self._ids, np.full(most - len(self._ids), _UNKNOWN)))
        assert self._table is not None
        for number in np.unique(theirs[self._ids[theirs] == _UNKNOWN]).tolist():
            symbol, feed = self._table[number]
            try:
                self._ids[number] = self.directory.add(self.directory.add_feed(feed or self._feed), symbol)
            except (ValueError, DirectoryFull) as error:
                self._ids[number] = _REFUSED
                log.error("cannot be recorded: %s", error)
        if len(self.directory) > len(self._feed_of):
            self._feed_of = np.array(self.directory.feed_of(), np.uint16)


async def record_server(
    feed: Feed, folder: RecordingFolder, clock: Clock, name: str, since: Since | None, stop: asyncio.Event
) -> int:
    """Record all quotes and trades of an open feed until told to stop; returns how many could not be.

    Args:
        folder: not closed in the end.
        name: of the feed of instruments that name none.
        since: where to begin; None = where this folder's recording ends, or now where it has none.

    Raises:
        ClientError: the feed has come to its end.
        OSError: the folder cannot be written.
    """
    await asyncio.to_thread(_exhaust, folder)
    last = await asyncio.to_thread(folder.last_position) if since is None else None
    if last is not None:
        since = Position(last[1], last[0])
    translator = Translator(name)
    epoch = feed.epoch or 0
    folder.begin(epoch, translator.directory)
    await feed.subscribe(["*"], ["*"], since=since, heartbeat=_HEARTBEAT_S)

    def write(batch: Batch) -> None:
        nonlocal epoch
        for gap in batch.gaps:
            of = epoch if gap.epoch is None else gap.epoch
            folder.lost(LostTicks(of, gap.first, gap.last, gap.reason))
        now = batch.instruments.epoch or feed.epoch or 0
        if now != epoch:
            # Another life of the server, whose numbers begin anew: another file.
            epoch = now
            folder.begin(epoch, translator.directory)
        folder.write(*translator.ticks(batch, clock.now_ns()))

    while not stop.is_set():
        # Awaited, so that a disk which is slower than the stream slows the reading, and that the server's sending.
        async for batch in feed.batches(timeout=_TURN_S, batch_rows=PIECE_ROWS):
            await asyncio.to_thread(write, batch)
        await asyncio.to_thread(folder.turn)
    return translator.refused


def _exhaust(folder: RecordingFolder) -> None:
    for _ in folder.salvage():
        pass
