"""The one record that everything carries."""

from collections.abc import Iterator
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: One tick, 80 bytes, little-endian, no padding.
#:
#: ========== ==== ===================================================================
#: column     type unit
#: ========== ==== ===================================================================
#: ts_event   i8   ns since the Unix epoch, UTC: when the venue says it happened
#: ts_recv    i8   ns since the Unix epoch, UTC: when ingest took it; 0 until then
#: venue_seq  u8   the venue's own number, 0 = none
#: instrument u4   id in the :class:`InstrumentDirectory`
#: feed       u2   id of the feed in the :class:`InstrumentDirectory`
#: kind       u1   :data:`QUOTE` or :data:`TRADE`; :data:`BAR` and :data:`UPDATED_BAR` are
#:                 other records of the same size: see :mod:`marketfeed.model.bars`
#: flags      u1   reserved, 0
#: bid, ask   f8   price; NaN = no such side
#: *_size     f8   NaN = the venue tells none
#: price,size f8   of a trade; NaN in a quote
#: ========== ==== ===================================================================
TICK = np.dtype(
    [
        ("ts_event", "<i8"),
        ("ts_recv", "<i8"),
        ("venue_seq", "<u8"),
        ("instrument", "<u4"),
        ("feed", "<u2"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("bid", "<f8"),
        ("bid_size", "<f8"),
        ("ask", "<f8"),
        ("ask_size", "<f8"),
        ("price", "<f8"),
        ("size", "<f8"),
    ]
)
assert TICK.itemsize == 80

_ROW = Struct("<qqQIHBB6d")
assert _ROW.size == TICK.itemsize

#: A tick with its sequence number before it, 88 bytes: what a tick is wherever it does not lie in the ring.
RECORD = np.dtype([("seq", "<u8"), *((name, TICK[name]) for name in TICK.names or ())])
assert RECORD.itemsize == 88

#: ``kind``: the best bid and ask changed.
QUOTE = 1
#: ``kind``: something traded.
TRADE = 2
#: ``kind``: a bar has ended; made by the service itself, no feed gives one.
BAR = 3
#: ``kind``: a bar that was told before is now this, because a late trade belongs to it.
UPDATED_BAR = 4
#: The kinds of ticks: what feeds give.
TICK_KINDS = (QUOTE, TRADE)
#: Every kind of record, ticks first. They follow one another: ``kind - KINDS[0]`` is the row of a kind in tables that
#: have a row for each.
KINDS = (*TICK_KINDS, BAR, UPDATED_BAR)

#: Same bytes as a TICK, opaque: numpy copies these several times faster than a record field by field.
RAW = np.dtype(f"V{TICK.itemsize}")

#: An array of TICK, shape (n,).
Ticks = NDArray[Any]
#: An array of RECORD, shape (n,).
Records = NDArray[Any]


#: A RECORD as numpy moves it fastest: the tick as one piece.
_PACKED = np.dtype([("seq", "<u8"), ("tick", RAW)])


def rows_of(ticks: Ticks) -> Iterator[tuple[Any, ...]]:
    """Ticks, shape (n,), TICK, one by one: each a tuple of Python's numbers, in the order of the columns.

    As numpy's `tolist` gives them, in a third of its time.
    """
    return _ROW.iter_unpack(ticks.tobytes())


def records_of(ticks: Ticks, seqs: NDArray[np.uint64]) -> Records:
    """Ticks, shape (n,), TICK, with these sequence numbers: shape (n,), RECORD; a copy."""
    packed = np.empty(len(ticks), _PACKED)
    packed["seq"] = seqs
    packed["tick"] = np.ascontiguousarray(ticks, TICK).view(RAW)
    return packed.view(RECORD)


def empty_ticks(n: int) -> Ticks:
    """An array of shape (n,) with every price and size NaN and everything else 0."""
    ticks = np.zeros(n, TICK)
    for column in ("bid", "bid_size", "ask", "ask_size", "price", "size"):
        ticks[column] = np.nan
    return ticks
