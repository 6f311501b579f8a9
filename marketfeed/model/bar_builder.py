"""Bars of one length while they are being made: ticks in, bars that have ended and bars that were amended out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bars import SECOND_NS, Bars, Prices, Sums, bars_of, check_seconds, empty_bars, prices_of, summed
from marketfeed.model.tick import BAR, UPDATED_BAR, empty_ticks

#: So many bars of an instrument are remembered, the one that is open among them: a price that belongs to one of these
#: amends it, and one that belongs to an older one is too late.
KEPT = 8

_NO_SUMS = summed(prices_of(empty_ticks(0), ()), 60)

#: Earlier and later than any time.
_NONE = np.iinfo(np.int64).min
_NEVER = np.iinfo(np.int64).max


class BarBuilder:
    """The bars of one length, of every instrument.

    Each feed has a time of its own, which only goes forward; a bar ends when its feed's time has passed its end. A bar
    of which a price comes after that is told again.

    Memory: :data:`KEPT` bars an instrument, about 90 bytes each, of which the system gives only what is written to.

    Args:
        seconds: length of a bar.
        instruments, feeds: how many there may be.
        whole_from: shape (feeds,), ns: bars of a feed that begin before this are not told, because their beginning was
            not seen. None = every bar is told.
    """

    def __init__(self, seconds: int, instruments: int, feeds: int, whole_from: NDArray[np.int64] | None = None) -> None:
        self.seconds = check_seconds(seconds)
        self._length = seconds * SECOND_NS
        self._capacity = instruments
        cells = KEPT * instruments
        #: no instrument from this id on has had a bar
        self._top = 0
        # By cell, which is one of the KEPT places of an instrument: a row of instruments for each place. Zeros are not
        # written, and so take no memory.
        self._bars = Sums._make(np.zeros(cells, column.dtype) for column in _NO_SUMS)
        #: still to be told
        self._pending = np.zeros(cells, np.bool_)
        #: by feed: where the earliest bar ends that is still to be told
        self._next_end = np.full(feeds, _NEVER, np.int64)
        self._whole_from = np.full(feeds, _NONE, np.int64) if whole_from is None else whole_from.copy()
        #: prices that came too late to be in a bar
        self.late = 0

    def take(self, prices: Prices, before: NDArray[np.int64], after: NDArray[np.int64]) -> Bars:
        """Take prices in.

        Args:
            prices: shape (n,).
            before, after: shape (feeds,): the time of each feed before these prices and after them, ns. No price is
                later than its feed's time after it.

        Returns:
            The bars that have ended, and again those that were told before and are others now; shape (m,), BAR_RECORD,
            in order of begin.
        """
        told: list[Bars] = []
        if len(prices.time):
            # Too late: its place may belong to another bar by now.
            oldest = (before // self._length - (KEPT - 1)) * self._length
            oldest[before < 0] = _NONE
            late = prices.time < oldest[prices.feed]
            if late.any():
                self.late += int(np.count_nonzero(late))
                prices = prices.at(~late)
            self._add(summed(prices, self.seconds), told)
        told.append(self.close(after))
        bars = np.concatenate(told) if len(told) > 1 else told[0]
        return bars[np.argsort(bars["ts_event"], kind="stable")]

    def close(self, until: NDArray[np.int64]) -> Bars:
        """The bars that end with this time of each feed, shape (feeds,), ns: shape (m,), BAR_RECORD."""
        due = self._next_end <= until
        if not due.any():
            return empty_bars(0)
        cells = self._cells(self._pending)
        ends = (self._bars.number[cells] + 1) * self._length
        feeds = self._bars.feed[cells]
        ended = ends <= until[feeds]
        bars = self._tell(cells[ended])
        self._next_end[:] = _NEVER
        np.minimum.at(self._next_end, feeds[~ended], ends[~ended])
        return bars

    def end(self, feed: int) -> Bars:
        """The time of a feed ends: its open bars, as far as they have come, shape (m,), BAR_RECORD. What follows, if
        anything, is of another time."""
        until = np.full(len(self._next_end), _NONE, np.int64)
        until[feed] = _NEVER
        bars = self.close(until)
        self.forget(feed)
        return bars

    def forget(self, feed: int) -> None:
        """As if nothing had come of this feed."""
        used = self._cells(self._bars.n)
        mine = used[self._bars.feed[used] == feed]
        self._bars.n[mine] = 0
        self._pending[mine] = False
        self._next_end[feed] = _NEVER
        self._whole_from[feed] = _NONE

    def _cells(self, marks: NDArray[np.generic]) -> NDArray[np.intp]:
        """Those of the cells of which the mark, shape (cells,), is true."""
        place, instrument = np.nonzero(marks.reshape(KEPT, self._capacity)[:, : self._top])
        return place * self._capacity + instrument

    def _add(self, sums: Sums, told: list[Bars]) -> None:
        if not len(sums.number):
            return
        self._top = max(self._top, int(sums.instrument.max()) + 1)
        # KEPT bars that follow one another have a place each; more go one lot after the other.
        lot = sums.number // KEPT
        cuts = np.flatnonzero(lot[1:] != lot[:-1]) + 1
        for begin, end in zip([0, *cuts.tolist()], [*cuts.tolist(), len(lot)], strict=True):
            self._add_lot(sums.at(slice(begin, end)) if len(cuts) else sums, told)

    def _add_lot(self, sums: Sums, told: list[Bars]) -> None:
        cells = (sums.number % KEPT) * self._capacity + sums.instrument
        known = (self._bars.number[cells] == sums.number) & (self._bars.n[cells] > 0)
        if not known.all():
            fresh = ~known
            new = cells[fresh]
            replaced = new[self._pending[new]]
            if len(replaced):
                told.append(self._tell(replaced))
            self._bars.put(new, sums.at(fresh))
            self._pending[new] = True
            np.minimum.at(self._next_end, sums.feed[fresh], (sums.number[fresh] + 1) * self._length)
        if known.any():
            self._merge(cells[known], sums.at(known))
            again = cells[known & ~self._pending[cells]]
            if len(again):
                told.append(self._tell(again, UPDATED_BAR))

    def _merge(self, cells: NDArray[np.int64], sums: Sums) -> None:
        bars = self._bars
        earlier, later = sums.opened < bars.opened[cells], sums.closed >= bars.closed[cells]
        bars.open[cells[earlier]], bars.opened[cells[earlier]] = sums.open[earlier], sums.opened[earlier]
        bars.close[cells[later]], bars.closed[cells[later]] = sums.close[later], sums.closed[later]
        bars.high[cells] = np.maximum(bars.high[cells], sums.high)
        bars.low[cells] = np.minimum(bars.low[cells], sums.low)
        bars.n[cells] += sums.n
        with np.errstate(over="ignore"):  # bars_of sees to what is not finite
            bars.volume[cells] += sums.volume
            bars.turnover[cells] += sums.turnover

    def _tell(self, cells: NDArray[np.intp], kind: int = BAR) -> Bars:
        self._pending[cells] = False
        whole = self._bars.number[cells] * self._length >= self._whole_from[self._bars.feed[cells]]
        bars = bars_of(self._bars.at(cells[whole]), self.seconds)
        bars["kind"] = kind
        return bars
