"""Ticks whose every column follows from one number, so that a row that is torn, moved or lost is found out."""

import numpy as np

from marketfeed.model import QUOTE, TICK, TRADE
from marketfeed.model.tick import Records, Ticks

_FLOATS = ("bid", "bid_size", "ask", "ask_size", "price", "size")


def numbered(first: int, n: int, instruments: int = 7) -> Ticks:
    """Ticks number ``first``, ``first + 1``, ..., shape (n,), TICK."""
    number = np.arange(first, first + n, dtype=np.int64)
    ticks = np.zeros(n, TICK)
    ticks["ts_event"] = number * 1_000 + 1
    ticks["ts_recv"] = number * 1_000 + 2
    ticks["venue_seq"] = number
    ticks["instrument"] = number * number % instruments
    ticks["feed"] = number % 61
    ticks["kind"] = np.where(number % 3 == 0, TRADE, QUOTE)
    for place, column in enumerate(_FLOATS):
        ticks[column] = number + place / 8
    return ticks


def ticks_in(records: Records) -> Ticks:
    """Records without their numbers, shape (n,), TICK."""
    return records[list(TICK.names or ())].astype(TICK)


def same(some: Ticks, others: Ticks) -> bool:
    """Whether they are equal byte for byte (NaN equals NaN)."""
    return some.dtype == others.dtype and some.shape == others.shape and some.tobytes() == others.tobytes()
