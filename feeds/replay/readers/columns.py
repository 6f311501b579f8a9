"""Named columns to ticks: what CSV and Parquet recordings have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feeds.replay.readers.base import ReaderContext
from marketfeed.model.tick import QUOTE, TRADE, Ticks, empty_ticks

#: What a column means, by its name in lower case with ``_`` for blanks, dashes and points; the first found wins.
ALIASES = {
    "time": (
        "ts_event",
        "timestamp",
        "time",
        "datetime",
        "date_time",
        "ts",
        "t",
        "exchange_timestamp",
        "local_timestamp",
    ),
    "symbol": ("symbol", "sym", "ticker", "instrument", "pair"),
    "bid": ("bid", "bid_price", "bidprice", "best_bid", "best_bid_price", "bid_px", "bp"),
    "bid_size": (
        "bid_size",
        "bidsize",
        "bid_amount",
        "bid_qty",
        "bid_quantity",
        "bid_volume",
        "bidvolume",
        "bid_sz",
        "bs",
    ),
    "ask": ("ask", "ask_price", "askprice", "best_ask", "best_ask_price", "ask_px", "ap", "offer"),
    "ask_size": (
        "ask_size",
        "asksize",
        "ask_amount",
        "ask_qty",
        "ask_quantity",
        "ask_volume",
        "askvolume",
        "ask_sz",
        "as",
    ),
    "price": ("price", "trade_price", "last", "last_price", "px", "p"),
    "size": ("size", "qty", "quantity", "amount", "volume", "trade_size"),
    "venue_seq": ("venue_seq", "seq", "sequence"),
}
PRICES = ("bid", "ask", "price")
NUMBERS = ("bid", "bid_size", "ask", "ask_size", "price", "size")


def roles(header: Sequence[str]) -> dict[str, int] | None:
    """Which column, by its place, has which meaning. None = these are no columns of ticks: no time, or no price."""
    names = [name.strip().strip('"').lower().translate(str.maketrans(" -.", "___")) for name in header]
    found = {}
    for role, aliases in ALIASES.items():
        for alias in aliases:
            if alias in names:
                found[role] = names.index(alias)
                break
    return found if "time" in found and any(role in found for role in PRICES) else None


@dataclass
class Rows:
    """A batch of rows, column by column, every one of shape (n,)."""

    #: ns since the epoch, UTC
    ts: NDArray[np.int64]
    #: instrument ids
    ids: NDArray[np.int64]
    #: f8 by its name in NUMBERS, NaN = absent; a column that is missing is absent in every row
    numbers: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    venue_seq: NDArray[np.int64] | None = None


def ticks_of(rows: Rows, context: ReaderContext) -> Ticks:
    """The ticks of a batch of rows: a row with a bid or an ask is a quote, a row with a price a trade.

    One that is both is both, the quote first. One that is neither is refused.
    """
    n = len(rows.ts)
    absent = np.full(n, np.nan)
    quoted = ~(np.isnan(rows.numbers.get("bid", absent)) & np.isnan(rows.numbers.get("ask", absent)))
    traded = ~np.isnan(rows.numbers.get("price", absent))
    neither = ~(quoted | traded)
    if neither.any():
        context.refuse("no price", int(neither.sum()), f"ts_event {rows.ts[neither.argmax()]}")
    # One place for each tick, in the order of the rows.
    row = np.repeat(np.arange(n), quoted.astype(np.int64) + traded)
    trade = traded[row]
    trade[:-1] &= ~(quoted[row[:-1]] & (row[:-1] == row[1:]))
    ticks = empty_ticks(len(row))
    ticks["ts_event"] = rows.ts[row]
    ticks["instrument"] = rows.ids[row]
    ticks["kind"] = np.where(trade, TRADE, QUOTE)
    if rows.venue_seq is not None:
        ticks["venue_seq"] = rows.venue_seq[row]
    for name, values in rows.numbers.items():
        wanted = trade if name in ("price", "size") else ~trade
        ticks[name] = np.where(wanted, values[row], np.nan)
    return ticks
