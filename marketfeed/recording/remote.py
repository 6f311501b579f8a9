"""From a server into a folder, through the client library: a cut is mended, and what cannot be is told as lost.

The wire has no ``ts_recv``, ``venue_seq`` and ``flags``: ``ts_recv`` is when the message was taken in here, the others
are 0. A size of 0, on the wire "none, or the venue tells none", is NaN.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from marketfeed.client.aio import Feed
from marketfeed.client.messages import Gap, Message, Position, Quote, Trade
from marketfeed.client.session import Since
from marketfeed.model.clock import Clock
from marketfeed.model.instruments import DirectoryFull, InstrumentDirectory
from marketfeed.model.tick import QUOTE, TICK, TRADE, Ticks
from marketfeed.recording.folder import RecordingFolder
from marketfeed.recording.hour import LostTicks

log = logging.getLogger("marketfeed.recording")

_INSTRUMENTS = 1 << 20
#: Seconds between two heartbeats: so soon a dead connection is noticed, two and a half times over.
_HEARTBEAT_S = 4.0
#: The folder is looked after so often while nothing comes.
_QUIET_S = 0.5
_NAN = float("nan")


class Translator:
    """Messages to ticks.

    Args:
        feed: of messages that name none.
    """

    def __init__(self, feed: str) -> None:
        self.directory = InstrumentDirectory.on_heap(_INSTRUMENTS)
        #: how many messages had a symbol or feed that cannot be
        self.refused = 0
        self._feed = feed
        self._ids: dict[tuple[str, str], tuple[int, int] | None] = {}

    def ticks(self, messages: Iterable[Quote | Trade], now_ns: int) -> tuple[Ticks, NDArray[np.uint64]]:
        """Ticks, shape (n,), taken in at this time, and their sequence numbers, shape (n,)."""
        rows, seqs = [], []
        ids = self._ids
        for message in messages:
            name = (message.feed, message.symbol)
            place = ids[name] if name in ids else self._new(name)
            if place is None:
                self.refused += 1
                continue
            seqs.append(message.seq)
            if isinstance(message, Quote):
                bid, ask = message.bid, message.ask
                sizes = (message.bid_size or _NAN, message.ask_size or _NAN)
                rows.append((message.t, now_ns, 0, *place, QUOTE, 0, bid, sizes[0], ask, sizes[1], _NAN, _NAN))
            else:
                traded = (message.price, message.size or _NAN)
                rows.append((message.t, now_ns, 0, *place, TRADE, 0, _NAN, _NAN, _NAN, _NAN, *traded))
        return np.array(rows, TICK), np.array(seqs, np.uint64)

    def _new(self, name: tuple[str, str]) -> tuple[int, int] | None:
        if len(self._ids) >= 2 * _INSTRUMENTS:
            return None
        self._ids[name] = None
        try:
            feed = self.directory.add_feed(name[0] or self._feed)
            self._ids[name] = (self.directory.add(feed, name[1]), feed)
        except (ValueError, DirectoryFull) as error:
            log.error("cannot be recorded: %s", error)
        return self._ids[name]


async def record_server(
    feed: Feed, folder: RecordingFolder, clock: Clock, name: str, since: Since | None, stop: asyncio.Event
) -> int:
    """Record all quotes and trades of an open feed until told to stop; returns how many could not be.

    Args:
        folder: not closed in the end.
        name: of the feed whose messages name none.
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
    stopping = asyncio.create_task(stop.wait())
    try:
        folder.begin(feed.epoch or 0, translator.directory)
        await feed.subscribe(["*"], ["*"], since=since, heartbeat=_HEARTBEAT_S)
        while not stop.is_set():
            taking = asyncio.create_task(feed.take())
            await asyncio.wait({taking, stopping}, timeout=_QUIET_S, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                await asyncio.wait({taking})
            messages = [] if taking.cancelled() else taking.result()
            # Awaited, so that a disk which is slower than the stream slows the reading, and that the server's sending.
            await asyncio.to_thread(_write, messages, translator, folder, feed.epoch or 0, clock.now_ns())
    finally:
        stopping.cancel()
    return translator.refused


def _exhaust(folder: RecordingFolder) -> None:
    for _ in folder.salvage():
        pass


def _write(messages: list[Message], translator: Translator, folder: RecordingFolder, epoch: int, now_ns: int) -> None:
    run: list[Quote | Trade] = []

    def write_run() -> None:
        if run:
            folder.write(*translator.ticks(run, now_ns))
            run.clear()

    for message in messages:
        if isinstance(message, Quote | Trade):
            run.append(message)
        elif isinstance(message, Gap):
            write_run()
            old = message.epoch
            folder.lost(LostTicks(epoch if old is None else old, message.first, message.last, message.reason))
            if old is not None:
                # Another life of the server, whose numbers begin anew: another file.
                folder.begin(epoch, translator.directory)
    write_run()
    folder.turn()
