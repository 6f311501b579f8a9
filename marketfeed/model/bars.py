"""Bars: open, high, low, close, vwap and volume of the trades (or mid-quotes) of one instrument in one span of time.

A bar of s seconds begins at a whole multiple of s seconds since the Unix epoch, UTC, and holds what happened at or
after its begin and before its end: what pandas' ``resample(f"{s}s")`` makes. Where nothing happened there is no bar.

Bars lie in the ring beside ticks, as records of the same size: :data:`BAR_RECORD` is another way to see the bytes of a
TICK whose kind is ``BAR`` (told for the first time) or ``UPDATED_BAR`` (told again: a late trade changed it).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.tick import BAR, QUOTE, RECORD, TICK, TRADE, Ticks

SECOND_NS = 1_000_000_000

#: One bar, the same 80 bytes as a :data:`TICK`.
#:
#: ========== ==== ===================================================================
#: column     type unit
#: ========== ==== ===================================================================
#: ts_event   i8   ns since the Unix epoch, UTC: where the bar begins
#: ts_recv    i8   ns since the Unix epoch, UTC: when it was made; 0 where nobody asked
#: count      u4   how many trades (or mid-quotes) are in it
#: seconds    u4   its length
#: instrument u4   as in TICK
#: feed       u2   as in TICK
#: kind       u1   ``BAR`` or ``UPDATED_BAR``
#: flags      u1   :data:`FROM_QUOTES` or 0
#: open..close f8  price
#: vwap       f8   price, weighted by size; NaN where the volume is 0
#: volume     f8   sum of the sizes; a size that the venue does not tell counts as 0
#: ========== ==== ===================================================================
BAR_RECORD = np.dtype(
    [
        ("ts_event", "<i8"),
        ("ts_recv", "<i8"),
        ("count", "<u4"),
        ("seconds", "<u4"),
        ("instrument", "<u4"),
        ("feed", "<u2"),
        ("kind", "u1"),
        ("flags", "u1"),
        ("open", "<f8"),
        ("high", "<f8"),
        ("low", "<f8"),
        ("close", "<f8"),
        ("vwap", "<f8"),
        ("volume", "<f8"),
    ]
)
assert BAR_RECORD.itemsize == TICK.itemsize

#: A bar with its sequence number: what a :data:`RECORD` of such a kind is.
BAR_ROW = np.dtype([("seq", "<u8"), *BAR_RECORD.descr])
assert BAR_ROW.itemsize == RECORD.itemsize

#: ``flags``: of the mid-prices of quotes, because the feed had given no trade.
FROM_QUOTES = 1

#: The lengths that there are, s.
SHORTEST_SECONDS, LONGEST_SECONDS = 1, 3600
#: The length that is always made, and that is meant where none is named.
DEFAULT_SECONDS = 60

_TWO_BYTES = (1 << 16) - 1
_MOST = np.finfo(np.float64).max

#: An array of BAR_RECORD, shape (n,).
Bars = Ticks


def empty_bars(n: int) -> Bars:
    """An array of shape (n,) of zeros."""
    return np.zeros(n, BAR_RECORD)


class Prices(NamedTuple):
    """What bars are made of, in order of arrival: each shape (n,)."""

    #: ns since the Unix epoch, UTC, i8
    time: NDArray[np.int64]
    instrument: NDArray[np.uint32]
    feed: NDArray[np.uint16]
    price: NDArray[np.float64]
    #: 0 where it is not known
    size: NDArray[np.float64]
    from_quotes: NDArray[np.bool_]

    def at(self, places: Any) -> Prices:
        """Some of them, as numpy's index says."""
        return Prices._make(column[places] for column in self)


class Sums(NamedTuple):
    """Bars while more may come into them, one row for an instrument and a bar: each shape (n,)."""

    instrument: NDArray[np.uint32]
    feed: NDArray[np.uint16]
    #: which bar: its begin in lengths since the Unix epoch
    number: NDArray[np.int64]
    open: NDArray[np.float64]
    high: NDArray[np.float64]
    low: NDArray[np.float64]
    close: NDArray[np.float64]
    volume: NDArray[np.float64]
    #: sum of price x size
    turnover: NDArray[np.float64]
    n: NDArray[np.int64]
    #: the times of the first and of the last price
    opened: NDArray[np.int64]
    closed: NDArray[np.int64]
    from_quotes: NDArray[np.bool_]

    def at(self, places: Any) -> Sums:
        """Some of them, as numpy's index says."""
        return Sums._make(column[places] for column in self)

    def put(self, places: Any, others: Sums) -> None:
        """Write others into these places, as numpy's index says."""
        columns: Iterable[tuple[Any, Any]] = zip(self, others, strict=True)
        for column, values in columns:
            column[places] = values


def prices_of(ticks: Ticks, quoted: Collection[int]) -> Prices:
    """The price of each trade, and of the feeds ``quoted`` the mid of each quote that has both sides.

    Args:
        ticks: shape (n,), TICK.
        quoted: ids of the feeds that have no trades.
    """
    kind = ticks["kind"].copy()
    wanted = kind == TRADE
    if quoted:
        both = ~(np.isnan(ticks["bid"]) | np.isnan(ticks["ask"]))
        wanted |= (kind == QUOTE) & both & np.isin(ticks["feed"], list(quoted))
    # Only now are numbers moved, column by column: of most markets few are trades.
    chosen = np.flatnonzero(wanted)
    time, instrument, feed, price, size = (
        ticks[column][chosen] for column in ("ts_event", "instrument", "feed", "price", "size")
    )
    from_quotes = kind[chosen] == QUOTE
    if quoted:
        # Halved first: the sum of two finite prices need not be finite.
        price[from_quotes] = (ticks["bid"][chosen] / 2 + ticks["ask"][chosen] / 2)[from_quotes]
        size[from_quotes] = 0.0
    size[np.isnan(size)] = 0.0
    return Prices(time, instrument, feed, price, size, from_quotes)


def summed(prices: Prices, seconds: int) -> Sums:
    """The prices gathered into bars of that length, in order of bar and then of instrument.

    The open is the earliest price of a bar and the close the latest, by time, and of one time by arrival.
    """
    time = prices.time
    number = time // (seconds * SECOND_NS)
    n = len(time)
    rising = n < 2 or bool((time[1:] >= time[:-1]).all())
    # Sorts that are stable keep the order of arrival. Of two bytes they take a fifth of the time.
    instrument: NDArray[np.unsignedinteger] = prices.instrument
    if n and int(instrument.max()) <= _TWO_BYTES:
        instrument = instrument.astype(np.uint16)
    if rising and n and number[0] == number[-1]:
        order = np.argsort(instrument, kind="stable")
    else:
        order = np.lexsort((instrument, number) if rising else (time, instrument, number))
    number, instrument, time = number[order], prices.instrument[order], time[order]
    price, size = prices.price[order], prices.size[order]
    begins = np.empty(n, np.bool_)
    begins[:1] = True
    np.logical_or(number[1:] != number[:-1], instrument[1:] != instrument[:-1], out=begins[1:])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], n)[: len(first)] - 1
    with np.errstate(over="ignore"):  # bars_of sees to what is not finite
        volume, turnover = np.add.reduceat(size, first), np.add.reduceat(price * size, first)
    return Sums(
        instrument=instrument[first],
        feed=prices.feed[order][first],
        number=number[first],
        open=price[first],
        high=np.maximum.reduceat(price, first),
        low=np.minimum.reduceat(price, first),
        close=price[last],
        volume=volume,
        turnover=turnover,
        n=last - first + 1,
        opened=time[first],
        closed=time[last],
        from_quotes=prices.from_quotes[order][first],
    )


def bars_of(sums: Sums, seconds: int) -> Bars:
    """As records, shape (n,), BAR_RECORD, in the same order."""
    bars = empty_bars(len(sums.number))
    bars["ts_event"] = sums.number * (seconds * SECOND_NS)
    bars["count"], bars["seconds"] = sums.n, seconds
    bars["instrument"], bars["feed"], bars["kind"] = sums.instrument, sums.feed, BAR
    bars["flags"] = sums.from_quotes * np.uint8(FROM_QUOTES)
    for column in ("open", "high", "low", "close"):
        bars[column] = getattr(sums, column)
    bars["volume"] = np.minimum(sums.volume, _MOST)
    finite = (sums.volume > 0) & (sums.volume <= _MOST) & (abs(sums.turnover) <= _MOST)
    bars["vwap"] = np.divide(sums.turnover, sums.volume, out=np.full(len(bars), np.nan), where=finite)
    return bars


def check_seconds(seconds: int) -> int:
    """The same.

    Raises:
        ValueError: no bar has that length.
    """
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise ValueError(f"a bar has {SHORTEST_SECONDS} to {LONGEST_SECONDS} seconds, not {seconds}")
    return seconds


def resample(ticks: Ticks, seconds: int = DEFAULT_SECONDS, quoted: Collection[int] | None = None) -> Bars:
    """All bars of these ticks, in order of begin and then of instrument; the first and the last may be cut short.

    Args:
        ticks: shape (n,), TICK, in any order; records that are no ticks are passed over.
        seconds: length of a bar.
        quoted: ids of the feeds whose bars are made of mid-quotes; None = those that have no trade in ``ticks``.

    Returns:
        shape (m,), BAR_RECORD; ``ts_recv`` is 0.

    Raises:
        ValueError: no bar has that length.
    """
    check_seconds(seconds)
    if quoted is None:
        traded = np.unique(ticks["feed"][ticks["kind"] == TRADE])
        quoted = np.setdiff1d(np.unique(ticks["feed"][ticks["kind"] == QUOTE]), traded).tolist()
    return bars_of(summed(prices_of(ticks, quoted), seconds), seconds)
