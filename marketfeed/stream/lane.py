"""A lane is one delivery cadence; a group is all in it who want exactly the same; a subscriber is a cursor."""

from __future__ import annotations

from collections import defaultdict
from math import inf
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.latest import Changed
from marketfeed.model.ring import Lost
from marketfeed.model.store import TickStore
from marketfeed.model.tick import QUOTE, TICK_KINDS, Ticks, empty_ticks
from marketfeed.stream.encoding import Encoding
from marketfeed.stream.link import Link, RawSend
from marketfeed.stream.subscription import CHANNELS, Condition, Options, Selection

if TYPE_CHECKING:
    from marketfeed.stream.session import Session

#: At most so many ticks go into one frame, so that it stays well below the 1 MiB that clients accept by default.
FRAME_TICKS = 2048

#: By so much of its window a pass of every tick may begin early.
_EARLY = 0.2

_K = TypeVar("_K")


class Subscriber:
    """A cursor into the store that belongs to a session.

    In step = its lane's cursor is its cursor, and its group's frames are its frames. Else it is behind: it has taken
    all up to ``cursor``, and is served by itself until it has caught up.
    """

    def __init__(self, session: Session, options: Options, keys: set[tuple[int, str]], group: Group) -> None:
        self.session = session
        self.options = options
        #: (kind, pattern) of what it asked for
        self.keys = keys
        self.group = group
        self.in_step = False
        self.cursor = 0
        #: set = it is being given the latest of each symbol that changed after ``cursor`` up to here
        self.until: int | None = None
        #: cells below this one have had their turn in that pass
        self.next_cell = 0
        #: in that pass these have been given already, shape (kinds, capacity)
        self.given: NDArray[np.bool_] | None = None
        #: the newest that it has been given by itself
        self.top = 0
        #: (latest lanes) seconds on the hub's clock before which it is given nothing more
        self.not_before = -inf

    @property
    def position(self) -> int:
        """All up to this sequence number it has been given, or needs no more."""
        return self.group.lane.cursor if self.in_step else self.cursor

    @property
    def reach(self) -> int:
        """Nothing beyond this sequence number has been given to it."""
        return max(self.position, self.until or 0, self.top)

    def begin_pass(self, until: int) -> None:
        """From now on it is given the latest of each symbol that changed after its cursor."""
        self.until, self.next_cell = until, 0


class Group:
    """All subscribers of a lane that get the same frames."""

    def __init__(
        self, lane: Lane, selection: Selection, where: Condition | None, encoding: Encoding, link_type: type[Link]
    ) -> None:
        self.lane = lane
        self.selection = selection
        self.where = where
        self.encoding = encoding
        self.link_type = link_type
        self.wrap = link_type.wrap
        self.members = 0
        #: in step, the session's only subscriber: one send each, with nothing to ask first
        self.ready: dict[Subscriber, RawSend] = {}
        #: in step, but another subscriber of the session may have filled its link meanwhile
        self.careful: dict[Subscriber, RawSend] = {}
        #: kinds of which it takes everything
        self.wide = [kind for kind in CHANNELS.values() if selection.takes_all(kind)]
        self.cells: list[int] = []

    def mask(self, store: TickStore) -> NDArray[np.bool_]:
        """Which (kind, instrument) it takes, shape (kinds, capacity)."""
        capacity = store.directory.capacity
        mask = np.zeros((len(CHANNELS), capacity), np.bool_)
        mask.reshape(-1)[self.cells] = True
        for kind in self.wide:
            if self.selection.feed is None:
                mask[kind - QUOTE] = True
            else:
                feeds = store.directory.feeds()
                if self.selection.feed in feeds:
                    mask[kind - QUOTE] |= store.directory.of_feed(feeds.index(self.selection.feed))
        return mask


class Changes(NamedTuple):
    """What a lane reads at one go."""

    #: shape (n,), TICK
    ticks: Ticks
    #: shape (n,), u8
    seqs: NDArray[np.uint64]
    lost: Lost | None
    #: where the lane stands after this
    cursor: int


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
        #: when the pass that began last began, on the hub's clock
        self.begun = -inf
        # A feed's burst that comes a little before the window has passed is sent at once: then one wake-up does for
        # both, bursts and passes fall into step, and with the timer's rounding no tick waits longer than the window.
        # Throttled lanes are never early: theirs is a promise.
        self._early = interval * _EARLY if every else 0.0
        #: (latest) what is still to be sent of the pass that has begun
        self._rest = _NOTHING
        self.groups: dict[tuple[Selection, Options, Encoding, type[Link]], Group] = {}
        self.behind: dict[Subscriber, None] = {}
        self._routes: dict[int, dict[Group, None]] = {}
        self._routed = np.zeros(len(CHANNELS) * self._capacity, np.bool_)
        self._wide: dict[tuple[str | None, int], dict[Group, None]] = {}
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
        self.begun = now
        if not self.every:
            # All at once: asked for again from frame to frame, a symbol that never rests would never have its turn.
            # Bars are not throttled, so nobody here wants one.
            self._rest = self._store.latest.since(self.cursor, len(self._store.directory), kinds=len(TICK_KINDS))

    def read(self) -> Changes:
        """What comes after the cursor, at most :data:`FRAME_TICKS`."""
        if self.every:
            span = self._store.read(self.cursor, FRAME_TICKS, self.until)
            seqs = np.arange(span.first, span.first + len(span.ticks), dtype=np.uint64)
            return Changes(span.ticks, seqs, span.lost, span.cursor)
        ticks, seqs = self._rest
        if len(ticks) <= FRAME_TICKS:
            self._rest = _NOTHING
            return Changes(ticks, seqs, None, self.until)
        self._rest = Changed(ticks[FRAME_TICKS:], seqs[FRAME_TICKS:])
        return Changes(ticks[:FRAME_TICKS], seqs[:FRAME_TICKS], None, int(seqs[FRAME_TICKS - 1]))

    def wanted(self, ticks: Ticks) -> tuple[NDArray[np.intp], dict[Group, list[int]]]:
        """Which ticks anyone wants (their places, ascending), and each group's ticks (places in those places)."""
        kinds = ticks["kind"].astype(np.intp) - QUOTE
        cells = ticks["instrument"] + kinds * self._capacity
        hit = self._routed[cells]
        wide = self._wide_groups() if self._wide else {}
        for (feed, kind), groups in wide.items():
            if groups:
                hit |= (ticks["feed"] == feed) & (kinds == kind - QUOTE)
        places = np.nonzero(hit)[0]
        pairs: defaultdict[Group, list[int]] = defaultdict(list)
        routes = self._routes
        nobody: dict[Group, None] = {}
        for n, cell in enumerate(cells[places].tolist()):
            for group in routes.get(cell, nobody):
                pairs[group].append(n)
        if wide:
            for n, key in enumerate(zip(ticks["feed"][places].tolist(), ticks["kind"][places].tolist(), strict=True)):
                for group in wide[key]:
                    pairs[group].append(n)
            # A group that takes all of one kind and some of the other is given both in one order.
            for group in {group for groups in wide.values() for group in groups if group.cells and group in pairs}:
                pairs[group].sort()
        if self._conditional:
            _keep_where(ticks[places], pairs)
        return places, pairs

    def _wide_groups(self) -> dict[tuple[int, int], list[Group]]:
        """(feed, kind) -> the groups that take all of it."""
        return {
            (feed, kind): [group for name in (None, text) for group in self._wide.get((name, kind), ())]
            for feed, text in enumerate(self._store.directory.feeds())
            for kind in CHANNELS.values()
        }

    def add(self, group: Group) -> None:
        """Route to this group what it selects, now and when it appears."""
        self._conditional += group.where is not None
        for kind in group.wide:
            self._wide.setdefault((group.selection.feed, kind), {})[group] = None
        for name in group.selection.names():
            self._by_name.setdefault(name, {})[group] = None
        if group.selection.has_globs():
            self._globbing[group] = None
        self._route(group, 0)

    def remove(self, group: Group) -> None:
        """Forget this group."""
        self._conditional -= group.where is not None
        for kind in group.wide:
            _discard(self._wide, (group.selection.feed, kind), group)
        for name in group.selection.names():
            _discard(self._by_name, name, group)
        self._globbing.pop(group, None)
        for cell in group.cells:
            if _discard(self._routes, cell, group):
                self._routed[cell] = False

    def instruments_added(self, begin: int) -> None:
        """Instruments from id ``begin`` on are new: route them to whoever waits for such."""
        directory = self._store.directory
        waiting = dict(self._globbing)
        feeds = directory.feeds()
        for symbol, feed in zip(directory.symbols()[begin:], directory.feed_of()[begin:], strict=True):
            for name in (symbol, f"{feeds[feed]}:{symbol}"):
                waiting |= self._by_name.get(name, {})
        for group in waiting:
            self._route(group, begin)

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
        for cell in cells:
            groups = self._routes.setdefault(cell, {})
            if group not in groups:
                groups[group] = None
                group.cells.append(cell)
        self._routed[cells] = True


def _keep_where(ticks: Ticks, pairs: dict[Group, list[int]]) -> None:
    """Take out the pairs whose group has a condition that does not hold; each condition is asked once."""
    held: dict[Condition, list[bool]] = {}
    for group in [group for group in pairs if group.where is not None]:
        where = group.where
        assert where is not None
        if where not in held:
            held[where] = where.holds(ticks).tolist()
        keep = held[where]
        pairs[group] = [n for n in pairs[group] if keep[n]]
        if not pairs[group]:
            del pairs[group]


def _discard(table: dict[_K, dict[Group, None]], key: _K, group: Group) -> bool:
    """Take the group out of that entry; whether the entry went with it."""
    entry = table[key]
    del entry[group]
    if entry:
        return False
    del table[key]
    return True
