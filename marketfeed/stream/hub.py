"""The hub: when to flush and to serve, and what becomes of a subscription."""

from __future__ import annotations

import logging
from collections.abc import Iterable, KeysView
from itertools import islice
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bars import DEFAULT_SECONDS
from marketfeed.model.clock import Clock, SystemClock
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.steps import Steps
from marketfeed.model.store import TickStore
from marketfeed.stream import protocol
from marketfeed.stream.catchup import CatchUp
from marketfeed.stream.codes import CloseCode, ErrorCode, GapReason, ProtocolError
from marketfeed.stream.delivery import Delivery, HubStats
from marketfeed.stream.encoding import Encoding
from marketfeed.stream.group import Subscriber
from marketfeed.stream.groups import Groups
from marketfeed.stream.heartbeat import Heartbeats
from marketfeed.stream.link import Sender, no_wires
from marketfeed.stream.positions import Found, check_position, position_of_time
from marketfeed.stream.session import Session
from marketfeed.stream.subscription import BARS, Options, covering

log = logging.getLogger("marketfeed.hub")

#: So many frames a lane may send before the loop may do something else.
_FRAMES_AT_ONCE = 4
#: So many sessions that are behind are served before the loop may do something else.
_SERVED_AT_ONCE = 16
#: So many sessions that look for a time go one step further before the loop may do something else.
_LOOKING_AT_ONCE = 4
#: Bars of so many lengths may be wanted at a time, by all sessions together: each costs for every trade.
_BAR_LENGTHS = 16


class Started(NamedTuple):
    """Where the stream of some symbols begins."""

    #: the first tick of it comes after this sequence number (a snapshot: before it)
    seq: int
    #: whether all that was asked for can be given; None = nothing was asked for
    recovered: bool | None = None
    #: what is known to be lost already: a `gap` message
    gap: protocol.Message | None = None


class Handover(NamedTuple):
    """Where some subscribers are, for one that takes instruments from them."""

    #: all up to here each of them has been given
    low: int
    #: nothing beyond this has been given to any of them
    reach: int
    #: the earliest place of one that is owed only the latest, and of one that is owed every tick; at most ``reach``
    conflated: int
    behind: int
    #: seconds on the hub's clock when a throttled one may have been given something last
    sent: float
    #: which cells have been given up to ``reach`` tick by tick; shape (kinds, capacity) each
    given: list[NDArray[np.bool_]]


class Hub:
    """One for a store. Not thread-safe: everything happens on the loop of whoever calls it.

    Args:
        store: what is delivered.
        coalesce: seconds from one flush of a lane to the next while ticks keep coming; less after one that came late.
            After an idle moment the first tick goes out at once.
        clock: the time that heartbeats tell; the machine's by default.
        sender: what puts frames on the wires of links that have one.

    Whoever drives it calls :meth:`run` when ticks were published, and again when :meth:`run` said.
    """

    def __init__(
        self, store: TickStore, coalesce: float = 0.005, clock: Clock | None = None, sender: Sender = no_wires
    ) -> None:
        if not 0 < coalesce <= 1:
            raise ValueError(f"the coalescing window is more than 0 s and at most 1 s, not {coalesce}")
        self.store = store
        self._groups = Groups(store, coalesce)
        self._delivery = Delivery(store, self._groups, sender)
        self._catch_up = CatchUp(store, self._groups, self._delivery)
        self._instruments_seen = len(store.directory)
        self._clock = clock or SystemClock()
        self._heartbeats = Heartbeats()
        #: sessions that look for a time, the next in turn first
        self._looking: dict[Session, None] = {}

    @property
    def stats(self) -> HubStats:
        """What has been delivered so far."""
        return self._delivery.stats

    @property
    def directory(self) -> InstrumentDirectory:
        """The store's."""
        return self.store.directory

    def bar_lengths(self) -> KeysView[int]:
        """Which lengths of bars somebody wants, s; it follows what they want."""
        return self._groups.bar_lengths.keys()

    def encoding(self, name: str, with_feed: bool) -> Encoding:
        """The one instance of that encoding."""
        return self._groups.encoding(name, with_feed)

    def beat(self, session: Session, now: float) -> None:
        """A session's heartbeat was set: the next one is due an interval from now."""
        self._heartbeats.set(session, session.heartbeat, now)

    # ---- time ------------------------------------------------------------------------------------------------

    def run(self, now: float) -> float:
        """Do what is due at ``now`` (seconds on any steady clock). Returns when to be called again; infinite = not
        before something is published, subscribed or writable."""
        self._follow_directory()
        for lane in self._groups.lanes():
            for _ in range(_FRAMES_AT_ONCE):
                if lane.due() > now:
                    break
                self._delivery.flush(lane, now)
        for _ in range(min(_SERVED_AT_ONCE, len(self._delivery.servable))):
            session = self._delivery.servable.popleft()
            session.servable = False
            try:
                self._catch_up.serve(session, now)
            except Exception:
                # A defect, but one client's: the others go on.
                log.exception("%s: could not be served", session.name)
                session.end(CloseCode.INTERNAL, protocol.error(ErrorCode.INTERNAL, "internal error"))
        if self._looking:
            for session in list(islice(self._looking, _LOOKING_AT_ONCE)):
                del self._looking[session]
                session.look_on(now)
        if self._delivery.failing:
            failing, self._delivery.failing = self._delivery.failing, []
            for session in failing:
                session.end_if_doomed()
        if self._heartbeats:
            for session in self._heartbeats.pop(now):
                # Else it hears of us as soon as it takes what is on its way.
                if session.can_take and not session.looking:
                    session.tell(protocol.heartbeat(self.store.epoch, session.reached, self._clock.now_ns()))
        return self.due()

    def due(self) -> float:
        """When :meth:`run` has something to do; in the past = now."""
        if self._delivery.servable or self._delivery.failing or self._looking:
            return -inf
        at = self._heartbeats.due()
        for lane in self._groups.lanes():
            at = min(at, lane.due())
        return at

    def _follow_directory(self) -> None:
        begin, count = self._instruments_seen, len(self.store.directory)
        if begin < count:
            self._instruments_seen = count
            self._groups.instruments_added(begin)

    # ---- links ------------------------------------------------------------------------------------------------

    def stalled(self, session: Session) -> None:
        """A session's link is full because of something it sent itself."""
        self._delivery.stalled(session)

    def failed(self, session: Session, code: CloseCode = CloseCode.INTERNAL) -> None:
        """A session, or its link, does not do what it has to: nothing more is sent to it, and soon it is ended."""
        self._delivery.failed(session, code)

    def writable(self, session: Session) -> None:
        """A session's link can take frames again."""
        session.can_take = True
        self._delivery.want_service(session)

    def settled(self, session: Session, after: int, until: int) -> tuple[list[bytes], int]:
        """See :meth:`CatchUp.settled`."""
        return self._catch_up.settled(session, after, until)

    # ---- subscriptions ----------------------------------------------------------------------------------------

    def locate(self, session: Session, keys: Iterable[tuple[int, str]], options: Options, time_ns: int) -> Steps[Found]:
        """Look for a time (ns since the Unix epoch), to :meth:`subscribe` these there.

        Raises:
            ProtocolError: there are bars of too many lengths.
        """
        keys = set(keys)
        self._check_length(keys, options)
        self._follow_directory()
        mask = self._groups.selection(session, keys).mask(self.store.directory)
        return position_of_time(self.store, mask, time_ns)

    def look_on(self, session: Session) -> None:
        """A session has not found its time yet: soon it is to :meth:`Session.look_on`."""
        self._looking[session] = None

    def subscribe(
        self,
        session: Session,
        keys: Iterable[tuple[int, str]],
        options: Options,
        snapshot: bool,
        since: protocol.Position | Found | None,
        now: float,
    ) -> Started:
        """Add symbols to what a session receives.

        Args:
            keys: (kind, pattern); one that it has already takes the new options.
            snapshot: the latest of each symbol first; with ``since``, of those that did not change after it.
            since: what came after this position, or after a time that was :meth:`locate`-d, first.

        Raises:
            ProtocolError: the position is not one of this store's, or there are bars of too many lengths.
        """
        self._follow_directory()
        keys = list(keys)
        self._check_length(keys, options)
        if isinstance(since, protocol.Position):
            check_position(self.store, since)
        anew = snapshot or since is not None
        moved = {key for key in keys if anew or session.state.get(key) != options}
        if not moved:
            return Started(self._position(session, set(keys)))
        opened = None if anew else self._groups.open_subscriber(session, options)
        overlapping = [] if anew else self._overlapping(session, moved)
        if opened is not None and all(subscriber is opened for subscriber in overlapping):
            session.state.update(dict.fromkeys(keys, options))
            opened.keys |= moved
            self._groups.regroup(session)
            return Started(opened.position)
        if overlapping:
            handover = self._handover(overlapping, now)
            session.state.update(dict.fromkeys(keys, options))
            return self._take_over(session, moved, options, handover, now)

        subscriber = self._groups.add(session, moved, options, keys)
        lane = subscriber.group.lane
        live = lane.cursor if lane.every else self.store.ring.head
        started = self._start(subscriber, since) if since is not None else Started(live)
        if lane.every:
            self._delivery.flush_to(lane, started.seq, now)
        live = max(live, started.seq)
        subscriber.cursor = 0 if snapshot else started.seq
        if snapshot or (not lane.every and started.seq < live):
            subscriber.begin_pass(started.seq if lane.every else live)
        if anew and not lane.every:
            subscriber.not_before = now + lane.interval
        if subscriber.until is None:
            self._groups.join(subscriber)
        self._delivery.want_service(session)
        return started

    def unsubscribe(self, session: Session, keys: Iterable[tuple[int, str]], now: float) -> list[protocol.Message]:
        """Take symbols away; those it does not have are passed over. Returns what is lost by it: `gap` messages."""
        self._follow_directory()
        keys = set(keys) & session.state.keys()
        overlapping = self._overlapping(session, keys)
        # Where another subscriber has a pattern that covers these symbols too, they are its from now on.
        heirs: dict[Options, set[tuple[int, str]]] = {}
        if len(overlapping) > 1:
            handover = self._handover(overlapping, now)
            for subscriber in overlapping:
                heirs.setdefault(subscriber.options, set()).update(covering(subscriber.keys - keys, keys))
        for key in keys:
            del session.state[key]
        self._groups.take_away(session, keys)
        self._groups.regroup(session)
        # Who was in the midst of several frames may be gone.
        self._delivery.want_service(session)
        taken = [
            self._take_over(session, theirs, options, handover, now) for options, theirs in heirs.items() if theirs
        ]
        return [started.gap for started in taken if started.gap is not None]

    def drop(self, session: Session) -> None:
        """A session has ended."""
        session.can_take = False
        session.state.clear()
        self._heartbeats.set(session, 0.0, 0.0)
        self._looking.pop(session, None)
        for subscriber in list(session.subscribers):
            self._groups.remove(subscriber)

    def _overlapping(self, session: Session, keys: set[tuple[int, str]]) -> list[Subscriber]:
        """The session's subscribers who may have instruments that these keys cover too."""
        return [subscriber for subscriber in session.subscribers if covering(subscriber.keys, keys)]

    def _handover(self, givers: list[Subscriber], now: float) -> Handover:
        """Where whoever takes instruments from these subscribers has to go on."""
        every = [giver for giver in givers if giver.group.lane.every]
        if every:
            # Those in step come to where the throttled ones may be already.
            self._delivery.flush_to(every[0].group.lane, self.store.ring.head, now)
        reach = max(giver.reach for giver in givers)
        return Handover(
            low=min(giver.position for giver in givers),
            reach=reach,
            conflated=min((g.position for g in givers if g not in every or g.until is not None), default=reach),
            behind=min((g.position if g.until is None else g.until for g in every), default=reach),
            sent=max((g.group.lane.begun for g in givers if g not in every), default=-inf),
            given=[g.group.mask(self.store) for g in every if g.until is None and g.position == reach],
        )

    def _take_over(
        self,
        session: Session,
        keys: set[tuple[int, str]],
        options: Options,
        handover: Handover,
        now: float,
    ) -> Started:
        """A new subscriber for these keys, which goes on where others are with the instruments it takes from them."""
        subscriber = self._groups.add(session, keys, options, ())
        lane = subscriber.group.lane
        if lane.every:
            self._delivery.flush_to(lane, handover.reach, now)
            subscriber.cursor = handover.reach
            if handover.conflated < handover.reach:
                subscriber.cursor = handover.conflated
                subscriber.begin_pass(handover.reach)
                if handover.given:
                    subscriber.given = np.logical_or.reduce(handover.given)
        else:
            subscriber.cursor = handover.low
            subscriber.not_before = handover.sent + lane.interval
        position = handover.reach if lane.every else handover.low
        gap = None
        if lane.every and handover.behind < handover.reach:
            # They are in different places, one of them behind: what lies between cannot be given in order any more.
            self.stats.gaps += 1
            self.stats.ticks_lost += handover.reach - handover.behind
            gap = protocol.gap(handover.behind + 1, handover.reach, GapReason.MOVED)
        if subscriber.until is None and now >= subscriber.not_before:
            self._groups.join(subscriber)
        self._delivery.want_service(session)
        return Started(position, gap=gap)

    def _check_length(self, keys: Iterable[tuple[int, str]], options: Options) -> None:
        if not any(kind in BARS for kind, _ in keys):
            return
        seconds, lengths = options.bar_seconds, self.bar_lengths() | {DEFAULT_SECONDS}
        if seconds not in lengths and len(lengths) >= _BAR_LENGTHS:
            raise ProtocolError(
                ErrorCode.SYMBOL_LIMIT,
                f"bar length limit exceeded: {_BAR_LENGTHS} at a time, now {', '.join(map(str, sorted(lengths)))} s",
            )

    def _position(self, session: Session, keys: set[tuple[int, str]]) -> int:
        """The earliest position of those who have these keys."""
        return min(s.position for s in session.subscribers if not keys.isdisjoint(s.keys))

    def _start(self, subscriber: Subscriber, since: protocol.Position | Found) -> Started:
        """Where this position or time is, and whether every tick after it is still held."""
        every = subscriber.group.lane.every
        if isinstance(since, Found):
            # It was whole when it was found.
            return Started(since.seq, not every or (since.whole and since.seq + 1 >= self.store.ring.oldest))
        if since.epoch in (None, self.store.epoch):
            return Started(since.seq, since.seq + 1 >= self.store.ring.oldest or not every)
        if not every:
            return Started(0, True)
        self.stats.gaps += 1
        return Started(0, False, protocol.gap(since.seq + 1, None, GapReason.EPOCH, since.epoch))
