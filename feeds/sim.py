"""A simulated market, at any pace up to a million ticks a second, and the same again for the same seed.

:class:`SimMarket` makes the ticks, in blocks of a fixed size, and knows no time; :class:`SimFeed` hands them out at
their times. So the ticks depend on ``seed`` and ``symbols`` alone, whatever the pace and whenever the feed is asked.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from marketfeed.feed import FeedContext, FeedError, Option, Poll
from marketfeed.model.tick import QUOTE, TRADE, Ticks, empty_ticks

log = logging.getLogger("feeds.sim")

MAX_SYMBOLS = 100_000
MAX_RATE = 1_000_000
#: Ticks that are made at once, and the most that one poll gives. It takes half a millisecond, for which whatever else
#: runs on the loop has to wait. Four times as many cost a quarter less each at the full rate, but p99 shows the delay.
BLOCK = 2_048

_SECOND_NS = 1_000_000_000
_WAKE_NS = 5_000_000
_EARLY_NS = 1_000_000
_MAX_BEHIND_NS = _SECOND_NS
#: Stands for an instrument that the directory refused: it never has so many.
_REFUSED = np.iinfo(np.uint32).max

#: Price bands by opening price: from, tick size = unit / scale. A price is an integer times the unit, divided by the
#: scale: the division of two exact numbers gives the double that stands for that decimal, 101.23 and not 101.22999999.
_BANDS = ((0.0, 1, 10_000), (1.0, 1, 100), (250.0, 5, 100), (1_000.0, 5, 10))
_LOWEST_OPEN, _HIGHEST_OPEN = 0.5, 2_000.0


def _table(values: list[int], shares: list[int]) -> NDArray[np.int32]:
    """256 entries: looked up with a random byte, each value comes up in its share of 256."""
    table = np.repeat(np.array(values, np.int32), shares)
    if len(table) != 256:
        raise ValueError(f"shares {shares} make {len(table)} of 256")
    return table


# What one random byte decides.
_KIND = _table([QUOTE, TRADE], [208, 48]).astype(np.uint8)
_CENTRE_STEP = _table([-2, -1, 0, 1, 2], [8, 56, 128, 56, 8])
_SPREAD_STEP = _table([-1, 0, 1], [40, 176, 40])
#: Round lots of 100, many small and few large.
_QUOTE_SIZE = 100.0 * _table([1, 2, 3, 4, 5, 8, 10, 20, 50, 100], [64, 48, 40, 28, 24, 20, 16, 10, 4, 2])
_TRADE_SIZE = 100.0 * np.repeat([1, 2, 3, 5, 10, 25], [72, 26, 14, 10, 4, 2])


class SimMarket:
    """An endless row of ticks of ``symbols`` instruments, numbered from 0, the busiest first.

    Activity falls with the rank as 1/rank (Zipf's law). Centre and spread of each instrument are random walks on its
    own tick grid, reflected at half and twice the opening price, and at one tick and the instrument's widest spread.
    An instrument's first tick is a quote; a trade prints at the bid or ask that its instrument has at that moment.
    """

    def __init__(self, symbols: int, seed: int) -> None:
        rng = np.random.Generator(np.random.SFC64(seed))
        share = 1.0 / np.arange(1, symbols + 1)
        self._cumulative = np.cumsum(share / share.sum())[:-1]
        opening = np.exp(rng.uniform(np.log(_LOWEST_OPEN), np.log(_HIGHEST_OPEN), symbols))
        starts, units, scales = zip(*_BANDS, strict=True)
        band = np.searchsorted(starts, opening, side="right") - 1
        self._unit = np.array(units, np.int32)[band]
        self._scale = np.array(scales, np.float64)[band]
        ticks = np.rint(opening * self._scale / self._unit).astype(np.int32)
        self._centre = _Walk(ticks, ticks // 2, ticks * 2)
        widest = rng.integers(2, 13, symbols, np.int32)
        self._spread = _Walk(np.ones(symbols, np.int32), np.ones(symbols, np.int32), widest)
        self._quoted = np.zeros(symbols, np.bool_)
        self._rng = rng
        # 16 bits are sorted by radix, several times faster.
        self._symbol_type = np.uint16 if symbols <= 1 << 16 else np.uint32
        self._block = empty_ticks(BLOCK)

    def block(self) -> tuple[Ticks, NDArray[np.intp]]:
        """The next BLOCK ticks, and the number of the instrument of each; both shape (BLOCK,).

        Times, ``feed`` and ``instrument`` are not filled in. The memory is used again by the next call.
        """
        rng = self._rng
        symbol = np.searchsorted(self._cumulative, rng.random(BLOCK), side="right")
        dice = rng.integers(0, 256, (6, BLOCK), np.uint8)

        # In order of the symbol, time order kept within each: a symbol's ticks are one run.
        order = np.argsort(symbol.astype(self._symbol_type), kind="stable")
        runs = _Runs(symbol[order])
        kind = _KIND[dice[0]][order]
        kind[runs.begins[~self._quoted[runs.symbols]]] = QUOTE
        self._quoted[runs.symbols] = True
        is_quote = kind == QUOTE
        centre = self._centre.advance(runs, _CENTRE_STEP[dice[1]][order] * is_quote)
        spread = self._spread.advance(runs, _SPREAD_STEP[dice[2]][order] * is_quote)

        # Back in order of time.
        in_time = np.empty_like(order)
        in_time[order] = np.arange(BLOCK)
        is_quote = is_quote[in_time]
        spread = spread[in_time]
        unit, scale = self._unit[symbol], self._scale[symbol]
        bid_ticks = centre[in_time] - (spread >> 1)
        bid = bid_ticks * unit / scale
        ask = (bid_ticks + spread) * unit / scale

        ticks = self._block
        ticks["kind"] = kind[in_time]
        ticks["bid"] = np.where(is_quote, bid, np.nan)
        ticks["ask"] = np.where(is_quote, ask, np.nan)
        ticks["bid_size"] = np.where(is_quote, _QUOTE_SIZE[dice[3]], np.nan)
        ticks["ask_size"] = np.where(is_quote, _QUOTE_SIZE[dice[4]], np.nan)
        # A trade's byte: one bit for its side, seven for its lots.
        ticks["price"] = np.where(is_quote, np.nan, np.where(dice[5] & 1, ask, bid))
        ticks["size"] = np.where(is_quote, np.nan, _TRADE_SIZE[dice[5] >> 1])
        return ticks, symbol


class _Runs:
    """Where each symbol's run begins and ends in an array that is sorted by symbol."""

    def __init__(self, symbols: NDArray[np.intp]) -> None:
        changes = np.flatnonzero(symbols[1:] != symbols[:-1]) + 1
        self.begins = np.concatenate(([0], changes))
        self.lasts = np.concatenate((changes - 1, [len(symbols) - 1]))
        self.lengths = self.lasts - self.begins + 1
        #: the symbol of each run; all different
        self.symbols = symbols[self.begins]


class _Walk:
    """One reflected random walk an instrument, on integers.

    A free walk, folded into its bounds like a mirrored corridor: that is the reflected walk, and the free one is a
    plain cumulative sum.
    """

    def __init__(self, start: NDArray[np.int32], low: NDArray[np.int32], high: NDArray[np.int32]) -> None:
        self._free = start
        self._low = low
        self._span = high - low

    def advance(self, runs: _Runs, steps: NDArray[np.int32]) -> NDArray[np.int32]:
        """The walk's value after each step; steps are sorted by symbol, shape (n,), as the result is."""
        total = np.cumsum(steps, dtype=np.int32)
        before = total[runs.begins] - steps[runs.begins]
        free = total + np.repeat(self._free[runs.symbols] - before, runs.lengths)
        low, span = np.repeat(self._low[runs.symbols], runs.lengths), np.repeat(self._span[runs.symbols], runs.lengths)
        folded: NDArray[np.int32] = low + span - np.abs((free - low) % (2 * span) - span)
        # Going on from the folded value keeps the numbers small; up and down are alike, so it is the same walk.
        self._free[runs.symbols] = folded[runs.lasts]
        return folded


def tick_times(start_ns: int, rate: int, first: int, n: int) -> NDArray[np.int64]:
    """When ticks number ``first``, ``first + 1``, ... are due: ``start_ns + number / rate`` seconds, rounded down."""
    # Whole seconds apart: number times 10**9 would not fit after some hours.
    seconds, rest = divmod(first, rate)
    return np.arange(rest, rest + n, dtype=np.int64) * _SECOND_NS // rate + (start_ns + seconds * _SECOND_NS)


def _count(most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not (value.is_integer() and 1 <= value <= most):
            raise ValueError(f"want a whole number from 1 to {most:,}")
        return int(value)

    return parse


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError("want a whole number of up to 18 digits")
    return int(text)


class SimFeed:
    """The simulated market at a steady pace.

    Tick number i happens at ``start + i / rate`` whenever it is asked for, so a reader sees how late it really is.
    After a stall the feed catches up, every tick with the time it should have had. If it is more than a second behind
    (a machine that slept, a rate it cannot keep up), or the clock was set back, then the times of all ticks to come are
    moved to where that is so no longer: no tick is left out, and a line in the log tells it.
    """

    SUMMARY: ClassVar[str] = "a simulated market: random walks, a few busy instruments and many quiet ones"
    OPTIONS: ClassVar[tuple[Option, ...]] = (
        Option("symbols", _count(MAX_SYMBOLS), 100, f"instruments, 1 to {MAX_SYMBOLS:,}"),
        Option("rate", _count(MAX_RATE), 1_000, f"ticks a second over all instruments, 1 to {MAX_RATE:,}"),
        Option("seed", _seed, 1, "the same seed gives the same ticks"),
    )

    def __init__(self, target: str, options: Mapping[str, Any]) -> None:
        if target:
            raise FeedError(f"feed 'sim' takes no target, only options: sim?symbols=100, not sim:{target}")
        self._symbols: int = options["symbols"]
        self._rate: int = options["rate"]
        self._seed: int = options["seed"]
        width = max(4, len(str(self._symbols - 1)))
        self._names = [f"SIM-{number:0{width}}" for number in range(self._symbols)]

    def open(self, context: FeedContext, now_ns: int) -> None:
        ids = [context.instrument(name) for name in self._names]
        #: the directory's id of each instrument of the market
        self._ids = np.array([_REFUSED if number is None else number for number in ids], np.uint32)
        self._refused = None in ids
        self._market = SimMarket(self._symbols, self._seed)
        self._start_ns = now_ns
        self._done = 0
        #: what is left of the block that was made last
        self._left = empty_ticks(0)
        self._told_ns: int | None = None

    def poll(self, now_ns: int) -> Poll:
        self._bound_delay(now_ns)
        due = -(-(now_ns - self._start_ns + 1) * self._rate // _SECOND_NS) - self._done
        if due <= 0:
            return Poll(empty_ticks(0), self._next_wake(now_ns))
        n = min(due, BLOCK)
        if n <= len(self._left):
            ticks, self._left = self._left[:n], self._left[n:]
        else:
            # Over the end of a block in one piece: the rest would be a batch of its own, and wait for the next flush.
            rest = self._left.copy()
            self._next_block(self._done + len(rest))
            more = n - len(rest)
            ticks, self._left = np.concatenate((rest, self._left[:more])), self._left[more:]
        self._done += n
        if self._refused:
            ticks = ticks[ticks["instrument"] != _REFUSED]
        return Poll(ticks, now_ns if due > n else self._next_wake(now_ns))

    def _next_block(self, first: int) -> None:
        """Make the ticks from number ``first`` on, with all that is known of them before they are due."""
        self._left, symbol = self._market.block()
        n = len(self._left)
        self._left["instrument"] = self._ids[symbol]
        self._left["venue_seq"] = np.arange(first + 1, first + n + 1)
        self._left["ts_event"] = tick_times(self._start_ns, self._rate, first, n)

    def close(self) -> None:
        """Nothing is held."""

    def _due_ns(self, number: int) -> int:
        return self._start_ns + number * _SECOND_NS // self._rate

    def _next_wake(self, now_ns: int) -> int:
        due = self._due_ns(self._done)
        if self._rate * _WAKE_NS <= _SECOND_NS:
            return due
        # Batches are cheaper than ticks: one wake-up every 5 ms, on a fixed grid so that delays do not add up.
        # One that comes a little too early, as a loop's may, stands for the one it was meant to be.
        return max(due, now_ns - (now_ns + _EARLY_NS - self._start_ns) % _WAKE_NS + _EARLY_NS + _WAKE_NS)

    def _bound_delay(self, now_ns: int) -> None:
        behind = now_ns - self._due_ns(self._done)
        if behind > _MAX_BEHIND_NS:
            shift = behind - _MAX_BEHIND_NS
        elif behind < -2 * _SECOND_NS:  # no two ticks are further apart than a second: the clock was set back
            shift = behind
        else:
            return
        self._start_ns += shift
        self._left["ts_event"] += shift
        # A machine that is too slow for the rate comes here at every poll.
        if self._told_ns is None or abs(now_ns - self._told_ns) > 60 * _SECOND_NS:
            log.warning(
                "simulated market: %.3f s behind its %d ticks/s; all that follow are moved", behind / 1e9, self._rate
            )
            self._told_ns = now_ns
