"""A lane is one delivery cadence: what comes next, and which of its groups want which of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import cache
from math import inf
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.latest import Changed
from marketfeed.model.ring import Lost
from marketfeed.model.store import TickStore
from marketfeed.model.tick import QUOTE, TICK_KINDS, Ticks, empty_ticks
from marketfeed.stream.encoding import Encoding
from marketfeed.stream.group import FRAME_TICKS, Group, Seats, Style, Subscriber
from marketfeed.stream.link import Link
from marketfeed.stream.routes import Routes
from marketfeed.stream.subscription import CHANNELS, Condition, Options, Selection

#: By so much of its window a pass of every tick may begin early.
_EARLY = 0.2
#: So much of its window nearer to the one before it may be, where that was late.
_SLACK = 0.4

#: No feed has this id: a directory holds far fewer.
_NO_FEED = np.iinfo(np.uint16).max

_K = TypeVar("_K")
#: A feed, None = every, and kinds of which everything is taken.
_Wide = tuple[str | None, tuple[int, ...]]


@cache
def _of_kinds(kinds: tuple[int, ...]) -> NDArray[np.bool_]:
    """Shape (256,): which kinds of tick are among these."""
    among = np.zeros(256, np.bool_)
    among[list(kinds)] = True
    return among


class Changes(NamedTuple):
    """What a lane reads at one go."""

    #: shape (n,), TICK
    ticks: Ticks
    #: shape (n,), u8
    seqs: NDArray[np.uint64]
    lost: Lost | None
    #: where the lane stands after this
    cursor: int


class Wanted(NamedTuple):
    """Who wants which ticks: group ``slots[g]`` the places ``order[bounds[g]:bounds[g + 1]]``, ascending."""

    #: shape (groups,), ascending
    slots: NDArray[np.int64]
    #: shape (groups + 1,)
    bounds: NDArray[np.int64]
    #: shape (pairs,)
    order: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> Wanted:
        """The same of some groups only; chosen: shape (groups,)."""
        lengths = np.diff(self.bounds)
        bounds = np.concatenate(([0], lengths[chosen].cumsum()))
        return Wanted(self.slots[chosen], bounds, self.order[chosen.repeat(lengths)])


_NOTHING = Changed(empty_ticks(0), np.zeros(0, np.uint64))


class Lane:
    """One cadence: every tick, or the latest of each symbol at an interval.

    Args:
        every: every tick, else the latest.
        interval: seconds from the begin of one pass to the next.

    It knows for each (kind, instrument) - a cell - which groups want it, so that a flush costs as much as there are
    ticks and wants for them, whatever else is subscribed.
    """

    def __init__(self, store: TickStore, every: bool, interval: float) -> None:
        self.every = every
        self.interval = interval
        self._store = store
        self._capacity = store.directory.capacity
        self.cursor = store.ring.head
        #: where the pass that has begun ends; = cursor between passes
        self.until = self.cursor
        #: when the pass that began last began, or may be taken to have begun, on the hub's clock
        self.begun = -inf
        # A feed's burst that comes a little before the window has passed is sent at once: then one wake-up does for
        # both, bursts and passes fall into step, and with the timer's rounding no tick waits longer than the window.
        # And one that came late may be followed by one on time: else a late wake-up would have the next burst wait for
        # a timer, a wake-up of its own. Throttled lanes are never early: theirs is a promise.
        self._early, self._slack = (interval * _EARLY, interval * _SLACK) if every else (0.0, 0.0)
        #: (latest) what is still to be sent of the pass that has begun
        self._rest = _NOTHING
        self.groups: dict[tuple[Selection, Options, Encoding, type[Link]], Group] = {}
        self.behind: dict[Subscriber, None] = {}
        self.seats = Seats()
        self._routes = Routes()
        #: groups that take everything
        self._wide: dict[_Wide, dict[Group, None]] = {}
        #: how a group is written -> the number that stands for it in ``seats``, and how many groups are written so
        self.styles: dict[Style, int] = {}
        self._of_style: Counter[Style] = Counter()
        #: how many groups have a condition
        self._conditional = 0
        # Whom to ask when a new instrument appears.
        self._by_name: dict[str, dict[Group, None]] = {}
        self._globbing: dict[Group, None] = {}

    def due(self) -> float:
        """Seconds on the hub's clock when the next flush may be; infinite = there is nothing to do."""
        if self.cursor < self.until:
            return -inf
        if self.cursor < self._store.ring.head:
            return self.begun + self.interval - self._early
        if self.every:
            return inf
        late = (s.not_before for s in self.behind if s.until is None and s.session.can_take)
        return max(self.begun + self.interval, min(late, default=inf))

    def begin(self, now: float) -> None:
        """Begin a pass: to the head as it is now."""
        self.until = self._store.ring.head
        late = now - self.begun - self.interval + self._early
        # After a whole window without ticks nothing was late.
        self.begun = now - min(late, self._slack) if 0 < late < self.interval else now
        if not self.every:
            # All at once: asked for again from frame to frame, a symbol that never rests would never have its turn.
            # Bars are not throttled, so nobody here wants one.
            self._rest = self._store.latest.since(self.cursor, len(self._store.directory), kinds=len(TICK_KINDS))

    def read(self) -> Changes:
        """What comes after the cursor, at most :data:`FRAME_TICKS`."""
        if self.every:
            span = self._store.ring.read(self.cursor, FRAME_TICKS, self.until)
            seqs = np.arange(span.first, span.first + len(span.ticks), dtype=np.uint64)
            return Changes(span.ticks, seqs, span.lost, span.cursor)
        ticks, seqs = self._rest
        if len(ticks) <= FRAME_TICKS:
            self._rest = _NOTHING
            return Changes(ticks, seqs, None, self.until)
        self._rest = Changed(ticks[FRAME_TICKS:], seqs[FRAME_TICKS:])
        return Changes(ticks[:FRAME_TICKS], seqs[:FRAME_TICKS], None, int(seqs[FRAME_TICKS - 1]))

    def wanted(self, ticks: Ticks) -> Wanted | None:
        """Which groups that have somebody in step want which of these ticks; None = nobody wants any."""
        n = len(ticks)
        if len(self._wide) == 1 and self._routes.empty:
            ((key, groups),) = self._wide.items()
            if len(groups) == 1:
                return self._wanted_by(next(iter(groups)), ticks, key)
        found = [self._wanting_all(ticks, *wide) for wide in self._wide.items()]
        if not self._routes.empty:
            cells = ticks["kind"].astype(np.int64)
            cells -= QUOTE
            cells *= self._capacity
            cells += ticks["instrument"]
            found.append(self._routes.wanting(cells))
        if not found:
            return None
        places, slots = found[0]
        if len(found) > 1:
            places = np.concatenate([each[0] for each in found])
            slots = np.concatenate([each[1] for each in found])
        if not self.seats.all_taken:
            taken = ((self.seats.ready + self.seats.careful) > 0)[slots]
            places, slots = places[taken], slots[taken]
        if not len(slots):
            return None
        # By slot, and in order within each.
        bits = n.bit_length()
        keys = slots << bits
        keys |= places
        keys.sort()
        order = keys & (1 << bits) - 1
        keys >>= bits
        # Where another slot begins, and behind the last.
        first = np.empty(len(keys) + 1, np.bool_)
        first[0] = first[-1] = True
        np.not_equal(keys[1:], keys[:-1], out=first[1:-1])
        bounds = first.nonzero()[0]
        wanted = Wanted(keys[bounds[:-1]], bounds, order)
        return self._where_holds(wanted, ticks) if self._conditional else wanted

    def _wanted_by(self, group: Group, ticks: Ticks, key: _Wide) -> Wanted | None:
        """The same where there is no other group, as where everybody takes everything."""
        places = self._of_wide(ticks, key)
        if not len(places) or not (group.ready or group.careful):
            return None
        wanted = Wanted(np.array([group.slot]), np.array([0, len(places)]), places)
        return self._where_holds(wanted, ticks) if self._conditional else wanted

    def _wanting_all(
        self, ticks: Ticks, key: _Wide, groups: dict[Group, None]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """As :meth:`Routes.wanting`, of groups that take all of these kinds, of this feed or of any."""
        places = self._of_wide(ticks, key)
        slots = np.array([group.slot for group in groups]).repeat(len(places))
        return (places, slots) if len(groups) == 1 else (np.tile(places, len(groups)), slots)

    def _of_wide(self, ticks: Ticks, key: _Wide) -> NDArray[np.int64]:
        """Which of the ticks are of these kinds, and of this feed."""
        feed, kinds = key
        mine = _of_kinds(kinds)[ticks["kind"]]
        feeds = self._store.directory.feeds()
        if feed is not None and feeds != [feed]:
            mine &= ticks["feed"] == (feeds.index(feed) if feed in feeds else _NO_FEED)
        places: NDArray[np.int64] = mine.nonzero()[0]
        return places

    def by_style(self, wanted: Wanted) -> list[tuple[Style, Wanted]]:
        """The same by how the groups are written."""
        if len(self.styles) == 1:
            return [(next(iter(self.styles)), wanted)]
        styles = self.seats.style[wanted.slots]
        parts = [(how, styles == number) for how, number in self.styles.items()]
        return [(how, wanted.of(mine)) for how, mine in parts if mine.any()]

    def _where_holds(self, wanted: Wanted, ticks: Ticks) -> Wanted | None:
        """Leave out what a group's condition does not hold for; each condition is asked once."""
        held: dict[Condition, NDArray[np.bool_]] = {}
        keep = np.ones(len(wanted.order), np.bool_)
        for slot, begin, end in zip(wanted.slots.tolist(), wanted.bounds, wanted.bounds[1:], strict=False):
            group = self.seats.group(slot)
            if group.where is not None:
                if group.where not in held:
                    held[group.where] = group.where.holds(ticks)
                keep[begin:end] = held[group.where][wanted.order[begin:end]]
        bounds = np.concatenate(([0], keep.cumsum()))[wanted.bounds]
        some = bounds[1:] > bounds[:-1]
        if not some.any():
            return None
        return Wanted(wanted.slots[some], np.append(bounds[:-1][some], bounds[-1]), wanted.order[keep])

    def add(self, group: Group) -> None:
        """Route to this group what it selects, now and when it appears."""
        group.slot = self._routes.new()
        style = group.style
        if style not in self.styles:
            self.styles[style] = max(self.styles.values(), default=-1) + 1
        self._of_style[style] += 1
        self.seats.add(group, self.styles[style])
        self._conditional += group.where is not None
        if group.wide:
            self._wide.setdefault((group.selection.feed, group.wide), {})[group] = None
        for name in group.selection.names():
            self._by_name.setdefault(name, {})[group] = None
        if group.selection.has_globs():
            self._globbing[group] = None
        self._route(group, 0)

    def remove(self, group: Group) -> None:
        """Forget this group."""
        self.seats.remove(group.slot)
        self._routes.retire(group.slot)
        self._of_style[group.style] -= 1
        if not self._of_style[group.style]:
            del self._of_style[group.style], self.styles[group.style]
        self._conditional -= group.where is not None
        if group.wide:
            _discard(self._wide, (group.selection.feed, group.wide), group)
        for name in group.selection.names():
            _discard(self._by_name, name, group)
        self._globbing.pop(group, None)

    def instruments_added(self, begin: int) -> Iterable[Group]:
        """Instruments from id ``begin`` on are new: route them to whoever waits for such.

        Returns those who may take one of them.
        """
        directory = self._store.directory
        waiting = dict(self._globbing)
        feeds = directory.feeds()
        for symbol, feed in zip(directory.symbols()[begin:], directory.feed_of()[begin:], strict=True):
            for name in (symbol, f"{feeds[feed]}:{symbol}"):
                waiting |= self._by_name.get(name, {})
        for group in waiting:
            self._route(group, begin)
        return waiting

    def extend(self, group: Group, selection: Selection) -> bool:
        """Give a group a selection that takes what it took and more, at the cost of what is more.

        False = it is not that simple, and nothing was done.
        """
        added = selection.rules - group.selection.rules
        if not group.selection.rules <= selection.rules or any(rule.pattern == "*" for rule in added):
            return False
        if not all(rule.take for rule in selection.rules):
            return False
        more = Selection(selection.feed, added)
        group.selection = selection
        for name in more.names():
            self._by_name.setdefault(name, {})[group] = None
        if more.has_globs():
            self._globbing[group] = None
        self._route(group, 0, more)
        return True

    def _route(self, group: Group, begin: int, selection: Selection | None = None) -> None:
        """Route to the group what it selects, or what this selection does, of the instruments from id ``begin`` on."""
        if len(group.wide) == len(CHANNELS):
            return
        cells = [
            i + (kind - QUOTE) * self._capacity
            for kind, i in (selection or group.selection).resolve(self._store.directory, begin)
            if kind not in group.wide
        ]
        new = [cell for cell in cells if cell not in group.cells]
        group.cells.update(dict.fromkeys(new))
        self._routes.add(group.slot, new)


def _discard(table: dict[_K, dict[Group, None]], key: _K, group: Group) -> None:
    """Take the group out of that entry, and the entry with the last one."""
    entry = table[key]
    del entry[group]
    if not entry:
        del table[key]
