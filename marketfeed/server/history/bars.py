"""Bars of what the ring holds, made in steps: those between two times, and the last of each instrument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bars import SECOND_NS, Bars, Sums, bars_of, prices_of, summed
from marketfeed.model.latest import LatestTable
from marketfeed.model.ring import NEVER
from marketfeed.model.store import TickStore
from marketfeed.model.tick import QUOTE, RAW, TICK, TRADE, Ticks, empty_ticks
from marketfeed.server.history.params import DAY_SECONDS, RangeQuery
from marketfeed.server.history.scan import STEP_TICKS, covers, held_from
from marketfeed.server.history.steps import InTime, OutOfTime, Steps

_MINUTE_SECONDS = 60
_MINUTE_NS, _DAY_NS = _MINUTE_SECONDS * SECOND_NS, DAY_SECONDS * SECOND_NS
#: So many ticks are made into bars in one step: fewer than can be looked through, for they are sorted.
_SUM_TICKS = 1 << 11
#: So many instruments are looked at in one step.
_INSTRUMENTS = 4096
_FIRST, _LAST = 0, (1 << 63) - 1


class BarPage(NamedTuple):
    """Bars that were asked for, by begin and then by instrument, in the order that was asked for."""

    #: shape (n,), BAR_RECORD
    bars: Bars
    #: whether no bar is missing before the first (ascending) or beyond the last (descending)
    complete: bool
    #: bars that begin before this are not given, for the ring may not hold all of their ticks: ns since the Unix
    #: epoch
    held: int
    #: where the next page begins; None = this is the last
    place: int | None


class LastBars(NamedTuple):
    """The last bars of instruments, by instrument id: each shape (n,), BAR_RECORD, of those that are held in full."""

    minute: Bars
    day: Bars
    day_before: Bars


def first_place(descending: bool) -> int:
    """Where the first page of bars begins."""
    return _LAST if descending else _FIRST


def bar_page(
    store: TickStore, query: RangeQuery, selected: NDArray[np.bool_], until: int, place: int, in_time: InTime
) -> Steps[BarPage]:
    """Bars of the selected instruments (shape (n,), by id), at most ``query.limit`` of them.

    Bars whose begin is within the query's times, of all ticks up to ``until``. One of which the ring may have lost a
    tick is left out; the last may still grow.

    Args:
        place: of the first bar (see :func:`_keys`), in the order that is asked for.

    Raises:
        OutOfTime: they could not be made in time.
    """
    ring, feed = store.ring, store.directory.feeds().index(query.feed)
    length, width = query.seconds * SECOND_NS, store.directory.capacity
    low = None if query.start is None else max(0, -(-query.start // length))
    high = _LAST // length if query.end is None else query.end // length
    if query.descending:
        high = min(high, place // width)
    elif place > _FIRST:
        low = max(low or 0, place // width)

    def keep(sums: Sums) -> Sums:
        """Of these, those that can be on the page: what is beyond those that fill it never can again."""
        keys = _keys(sums, width)
        sums = _where(sums, keys <= place if query.descending else keys >= place)
        # They are in order. One more than fits tells where the next page begins.
        return _where(sums, slice(-query.limit - 1, None) if query.descending else slice(query.limit + 1))

    first = max(low or 0, -(-held_from(ring, feed) // length))
    wanted = _Wanted(query.seconds, first, high, keep)
    (sums,) = yield from _gather(store, query.feed, selected, [wanted], until, in_time)
    if query.descending:
        sums = _where(sums, slice(None, None, -1))
    rest = int(_keys(sums, width)[query.limit]) if len(sums.number) > query.limit else None
    sums = _where(sums, slice(query.limit))
    # The ring may have moved on meanwhile: bars that may have lost a tick by now are all at the early end.
    held = held_from(ring, feed)
    sums = _where(sums, sums.number >= -(-held // length))
    if query.descending and rest is not None and rest // width * length < held:
        rest = None
    complete = (query.descending and rest is not None) or covers(held, None if low is None else low * length)
    return BarPage(bars_of(sums, query.seconds), complete, held, rest)


def last_bars(store: TickStore, feed: str, selected: NDArray[np.bool_], until: int, in_time: InTime) -> Steps[LastBars]:
    """Of each selected instrument (shape (n,), by id) the bars of the last minute, of the last day (UTC), and of the
    day before that, in which something happened.

    Raises:
        OutOfTime: they could not be made in time.
    """
    ring, feed_id = store.ring, store.directory.feeds().index(feed)
    ids = np.flatnonzero(selected)
    # Taken now, when the last that is known is what came up to ``until``.
    last = {kind: store.latest.of(kind, ids).ticks for kind in (QUOTE, TRADE)}
    quoted = not (yield from _has_trades(store, feed_id))
    since = _last_minutes_begin(last[QUOTE if quoted else TRADE])
    held = held_from(ring, feed_id)
    first = max(0, -(-max(held, since) // _MINUTE_NS))
    minutes = _Wanted(_MINUTE_SECONDS, first, _LAST // _MINUTE_NS, partial(_newest, most=1))
    days = _Wanted(DAY_SECONDS, max(0, -(-held // _DAY_NS)), _LAST // _DAY_NS, partial(_newest, most=2))
    found, of_days = yield from _gather(store, feed, selected, [minutes, days], until, in_time)
    # The ring may have moved on meanwhile, and with it what is held in full.
    held = held_from(ring, feed_id)
    minute, _ = _last_two(bars_of(found, _MINUTE_SECONDS), held)
    return LastBars(minute, *_last_two(bars_of(of_days, DAY_SECONDS), held))


def _last_minutes_begin(last: Ticks) -> int:
    """Before this none of these instruments has its last bar of a minute: ns since the Unix epoch.

    The bar itself cannot be taken from the latest table: the last that was told may be an older one, of a price that
    came late.

    Args:
        last: of each instrument, of those that have one, the last trade or quote; shape (n,).
    """
    if not len(last):
        return _LAST
    # Whoever has a price in some minute has no last bar before it; a quote with one side has no price.
    one_sided = (last["kind"] == QUOTE) & (np.isnan(last["bid"]) | np.isnan(last["ask"]))
    return NEVER if one_sided.any() else int(last["ts_event"].min()) // _MINUTE_NS * _MINUTE_NS


class _Wanted(NamedTuple):
    """Which bars are to be gathered."""

    seconds: int
    #: the first and the last, by number
    first: int
    last: int
    #: which of those that were gathered so far may stay
    keep: Callable[[Sums], Sums]

    @property
    def earliest(self) -> int:
        """When the first begins: ns since the Unix epoch."""
        return self.first * self.seconds * SECOND_NS

    def holds(self, times: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these times are in one of them."""
        numbers = times // (self.seconds * SECOND_NS)
        return (numbers >= self.first) & (numbers <= self.last)


def _gather(
    store: TickStore,
    feed: str,
    selected: NDArray[np.bool_],
    wanted: Sequence[_Wanted],
    until: int,
    in_time: InTime,
) -> Steps[list[Sums]]:
    """The bars that are wanted, of all ticks of the selected instruments up to ``until``; in order of their keys."""
    ring, width = store.ring, store.directory.capacity
    feed_id = store.directory.feeds().index(feed)
    quoted = () if (yield from _has_trades(store, feed_id)) else (feed_id,)
    gathered = [summed(prices_of(empty_ticks(0), ()), one.seconds) for one in wanted]
    earliest = min(one.earliest for one in wanted)
    place = ring.oldest - 1
    pending = np.empty(0, RAW)
    while place < until:
        passed = min(until, store.times.pass_over(place, earliest - 1))
        if passed > place and (passed < until or not len(pending)):
            place = passed
            if not in_time():
                raise OutOfTime
            yield
            continue
        span = ring.read(place, STEP_TICKS, until)
        mine = selected[span.ticks["instrument"]]
        mine &= span.ticks["kind"] == (QUOTE if quoted else TRADE)
        mine &= span.ticks["ts_event"] >= earliest
        place = span.cursor
        # Few are not worth the calls into numpy, many would take long: they are sorted.
        pending = np.concatenate((pending, span.ticks.view(RAW).compress(mine)))
        while len(pending) >= _SUM_TICKS or (place >= until and len(pending)):
            ticks, pending = pending[:_SUM_TICKS].view(TICK), pending[_SUM_TICKS:]
            for n, one in enumerate(wanted):
                if len(some := ticks[one.holds(ticks["ts_event"])]):
                    gathered[n] = one.keep(_merged(gathered[n], summed(prices_of(some, quoted), one.seconds), width))
            yield
        if not in_time():
            raise OutOfTime
        yield
    return gathered


def _has_trades(store: TickStore, feed: int) -> Steps[bool]:
    """Whether that feed has ever given a trade: one that has not has bars of mid-quotes."""
    ids = np.flatnonzero(store.directory.of_feed(feed))
    for begin in range(0, len(ids), _INSTRUMENTS):
        if len(_trades(store.latest, ids[begin : begin + _INSTRUMENTS])):
            return True
        yield
    return False


def _trades(latest: LatestTable, ids: NDArray[np.intp]) -> NDArray[np.uint64]:
    return latest.of(TRADE, ids).seqs


def _keys(sums: Sums, width: int) -> NDArray[np.int64]:
    """One number for a bar: the bars' order by begin and then by instrument."""
    return sums.number * width + sums.instrument


def _where(sums: Sums, which: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Sums:
    return Sums._make(column[which] for column in sums)


def _newest(sums: Sums, most: int) -> Sums:
    """Of each instrument its newest bars, at most so many; in order of their keys."""
    order = np.lexsort((sums.number, sums.instrument))
    instrument = sums.instrument[order]
    stays = np.ones(len(order), np.bool_)
    # One stays unless as many of the same instrument come after it.
    stays[:-most] = instrument[:-most] != instrument[most:]
    return _where(sums, np.sort(order[stays]))


def _last_two(bars: Bars, held: int) -> tuple[Bars, Bars]:
    """The last bar of each instrument, and the one before it; by instrument, and only what is held in full."""
    bars = bars[np.lexsort((bars["ts_event"], bars["instrument"]))]
    instrument = bars["instrument"]
    last, before = np.ones(len(bars), np.bool_), np.zeros(len(bars), np.bool_)
    last[:-1] = instrument[1:] != instrument[:-1]
    before[:-1] = ~last[:-1] & last[1:]
    whole = bars["ts_event"] >= held
    return bars[last & whole], bars[before & whole]


def _merged(some: Sums, more: Sums, width: int) -> Sums:
    """Bars of what came first and of what came after it as one, in order of their keys. Each has a key only once."""
    if not len(more.number):
        return some  # quotes, all of them with one side
    # Only the end of the one overlaps, as a rule, with the other.
    split = int(np.searchsorted(_keys(some, width), _keys(more, width)[0]))
    both = _joined(_where(some, slice(split, None)), more)
    keys = _keys(both, width)
    order = np.argsort(keys, kind="stable")
    both, keys = _where(both, order), keys[order]
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(keys)) - 1
    one, other = _where(both, first), _where(both, last)
    two = (first != last).astype(np.int64)
    joined = one._replace(
        open=np.where(other.opened < one.opened, other.open, one.open),
        opened=np.minimum(one.opened, other.opened),
        high=np.maximum(one.high, other.high),
        low=np.minimum(one.low, other.low),
        close=np.where(other.closed >= one.closed, other.close, one.close),
        closed=np.maximum(one.closed, other.closed),
        volume=one.volume + other.volume * two,
        turnover=one.turnover + other.turnover * two,
        n=one.n + other.n * two,
    )
    return _joined(_where(some, slice(split)), joined)


def _joined(some: Sums, more: Sums) -> Sums:
    columns: Iterable[tuple[Any, Any]] = zip(some, more, strict=True)
    return Sums._make(np.concatenate(column) for column in columns)
