"""The store: one memory, one writer, many readers. Pure numpy; knows no I/O and no clock but the one handed in.

::

    batch of TICK ──publish──> TickStore ── InstrumentDirectory   (feed, symbol) <-> id
                                  │    ├── Ring                  every tick, by sequence number
                                  │    └── LatestTable           last quote, trade and bar of each
                                  └──read──> stream (hub), and other processes that attach

A sequence number is a tick's absolute position in the ring: the first tick is 1, 0 means "before any".
"""

from marketfeed.model.bars import resample
from marketfeed.model.clock import Clock, ManualClock, SystemClock
from marketfeed.model.instruments import DirectoryFull, InstrumentDirectory
from marketfeed.model.latest import LatestTable
from marketfeed.model.ring import Lost, Ring, Span
from marketfeed.model.store import StoreError, TickStore
from marketfeed.model.tick import BAR, QUOTE, TICK, TRADE, UPDATED_BAR, empty_ticks

__all__ = [
    "BAR",
    "QUOTE",
    "TICK",
    "TRADE",
    "UPDATED_BAR",
    "Clock",
    "DirectoryFull",
    "InstrumentDirectory",
    "LatestTable",
    "Lost",
    "ManualClock",
    "Ring",
    "Span",
    "StoreError",
    "SystemClock",
    "TickStore",
    "empty_ticks",
    "resample",
]
