"""The columns of a recording, and ticks to them and back.

=================== ================================ ==============================================================
column              type                             what it is
=================== ================================ ==============================================================
symbol, feed        dictionary of text               the instrument, and the feed that it came from
ts_event, ts_recv   timestamp, ns, UTC               when the venue says it happened; when it was taken in
seq                 u8                               sequence number in the server's stream; 0 = the server had none
kind                u1                               1 = quote, 2 = trade
bid ... size        f8                               as in :data:`TICK`; null where that has NaN
venue_seq, flags    u8, u1                           as in :data:`TICK`
=================== ================================ ==============================================================

The schema's metadata has ``marketfeed.format`` (:data:`FORMAT`) and ``marketfeed.epoch``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.tick import Ticks, empty_ticks

#: Raised when what is written could not be read by those who knew it before.
FORMAT = 1

NUMBERS = ("bid", "bid_size", "ask", "ask_size", "price", "size")
TIMES = ("ts_event", "ts_recv")

_TIME = pa.timestamp("ns", "UTC")
_SYMBOL = pa.dictionary(pa.int32(), pa.string())
_FEED = pa.dictionary(pa.int16(), pa.string())

#: Every column, in its order.
SCHEMA = pa.schema(
    [
        ("symbol", _SYMBOL),
        ("feed", _FEED),
        *((name, _TIME) for name in TIMES),
        ("seq", pa.uint64()),
        ("kind", pa.uint8()),
        *((name, pa.float64()) for name in NUMBERS),
        ("venue_seq", pa.uint64()),
        ("flags", pa.uint8()),
    ]
)


def schema_of(epoch: int) -> Any:
    """The schema of a recording of this life of a server (0 = it has none)."""
    return SCHEMA.with_metadata({"marketfeed.format": str(FORMAT), "marketfeed.epoch": str(epoch)})


class Encoder:
    """Ticks to record batches. The dictionaries only grow, at their end.

    Args:
        directory: names the instruments and feeds; read only by the thread that encodes.
    """

    def __init__(self, directory: InstrumentDirectory, epoch: int) -> None:
        self.epoch = epoch
        self.schema = schema_of(epoch)
        self._directory = directory
        # Two feeds may have one symbol: ids become places in a dictionary without repetition.
        self._place_of: dict[str, int] = {}
        self._places = np.empty(0, np.int32)
        self._symbols = pa.array([], pa.string())
        self._feeds = pa.array([], pa.string())

    def batch(self, ticks: Ticks, seqs: NDArray[np.uint64]) -> Any:
        """A record batch of ticks, shape (n,), with their sequence numbers, shape (n,)."""
        self._follow()
        columns = [
            pa.DictionaryArray.from_arrays(pa.array(self._places[ticks["instrument"]]), self._symbols),
            pa.DictionaryArray.from_arrays(pa.array(ticks["feed"].astype(np.int16)), self._feeds),
            *(pa.array(np.ascontiguousarray(ticks[name])).cast(_TIME) for name in TIMES),
            pa.array(seqs),
            pa.array(np.ascontiguousarray(ticks["kind"])),
            *(pa.array(np.ascontiguousarray(ticks[name]), from_pandas=True) for name in NUMBERS),
            pa.array(np.ascontiguousarray(ticks["venue_seq"])),
            pa.array(np.ascontiguousarray(ticks["flags"])),
        ]
        return pa.record_batch(columns, schema=self.schema)

    def _follow(self) -> None:
        feeds, symbols = self._directory.feeds(), self._directory.symbols()
        if len(feeds) > len(self._feeds):
            self._feeds = pa.array(feeds, pa.string())
        if len(symbols) > len(self._places):
            new = [self._place_of.setdefault(name, len(self._place_of)) for name in symbols[len(self._places) :]]
            self._places = np.concatenate((self._places, np.array(new, np.int32)))
            self._symbols = pa.array(list(self._place_of), pa.string())


def ticks_of(batch: Any) -> Ticks:
    """The ticks of a record batch with these columns, shape (n,); ``instrument`` and ``feed`` are 0."""
    ticks = empty_ticks(len(batch))
    for name in TIMES:
        ticks[name] = batch.column(name).cast(pa.int64()).to_numpy(zero_copy_only=False)
    for name in ("kind", "venue_seq", "flags"):
        ticks[name] = batch.column(name).to_numpy(zero_copy_only=False)
    for name in NUMBERS:
        ticks[name] = batch.column(name).to_numpy(zero_copy_only=False)
    return ticks
