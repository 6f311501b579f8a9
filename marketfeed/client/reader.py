"""Batches out of a store whose server writes on meanwhile."""

from __future__ import annotations

import numpy as np

from marketfeed.client.batch import Batch
from marketfeed.client.instruments import InstrumentTable
from marketfeed.client.messages import Gap, Instrument
from marketfeed.model.store import TickStore
from marketfeed.model.tick import Ticks, records_of


class Reader:
    """Reads the ring of an attached store. One copy a tick: from the server's memory into the batch."""

    def __init__(self, store: TickStore) -> None:
        self._store = store
        self._instruments = InstrumentTable(store.epoch)

    @property
    def instruments(self) -> InstrumentTable:
        """What the ids stand for: all that there are now."""
        table, directory = self._instruments, self._store.directory
        known = len(table)
        if known < len(directory):
            symbols, feed_of, feeds = directory.symbols(), directory.feed_of(), directory.feeds()
            table.tell(Instrument(i, symbols[i], feeds[feed_of[i]]) for i in range(known, len(symbols)))
        return table

    def batch(self, cursor: int, most: int, until: int | None = None) -> tuple[Batch, int]:
        """The ticks after the cursor, at most so many, and the next cursor; validated as :meth:`Ring.read` does.

        Args:
            until: none beyond this sequence number.
        """
        ring = self._store.ring
        view = ring.view(cursor, most, until)
        behind = view.first + len(view.ticks)
        records = records_of(view.ticks, np.arange(view.first, behind, dtype=np.uint64))
        # Only now is it known which of these the server left alone meanwhile.
        first = max(view.first, min(ring.oldest, behind))
        lost = (Gap(cursor + 1, first - 1, "lapped"),) if first > cursor + 1 else ()
        return self._batch(records[first - view.first :], lost), behind - 1

    def latest(self, ticks: Ticks, seqs: np.ndarray) -> Batch:
        """Last values as a batch."""
        return self._batch(records_of(ticks, seqs), ())

    def _batch(self, records: Ticks, lost: tuple[Gap, ...]) -> Batch:
        records.flags.writeable = False
        # Looked up after the copy: the server knows an instrument before it publishes a tick of it.
        return Batch(records, self.instruments, lost)
