"""The hub runs the lanes: it says when to flush, gives groups their frames, and serves those who are behind."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.bars import DEFAULT_SECONDS
from marketfeed.model.clock import Clock, SystemClock
from marketfeed.model.instruments import InstrumentDirectory
from marketfeed.model.ring import Lost
from marketfeed.model.store import TickStore
from marketfeed.model.tick import QUOTE, RAW, TICK, Ticks
from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode, GapReason, ProtocolError
from marketfeed.stream.encoding import EncodedTicks, Encoding
from marketfeed.stream.frames import Frames
from marketfeed.stream.groups import Groups
from marketfeed.stream.heartbeat import Heartbeats
from marketfeed.stream.lane import FRAME_TICKS, Changes, Lane, Seats, Subscriber, Wanted
from marketfeed.stream.link import Sender, Took, no_wires
from marketfeed.stream.positions import SCAN_TICKS, check_position, position_of_time
from marketfeed.stream.session import Session
from marketfeed.stream.subscription import BARS, Options, covering

log = logging.getLogger("marketfeed.hub")

#: So many frames a lane may send before the loop may do something else.
_FRAMES_AT_ONCE = 4
#: So many sessions that are behind are served before the loop may do something else.
_SERVED_AT_ONCE = 16
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


@dataclass
class HubStats:
    """What has been delivered so far."""

    frames: int = 0
    ticks: int = 0
    gaps: int = 0
    ticks_lost: int = 0
    #: how often a session could not take more
    stalls: int = 0


class Hub:
    """One for a store. Not thread-safe: everything happens on the loop of whoever calls it.

    Args:
        store: what is delivered.
        coalesce: seconds; the shortest time between two flushes of a lane while ticks keep coming. After an idle
            moment the first tick goes out at once.
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
        self.stats = HubStats()
        self._groups = Groups(store, coalesce)
        self._servable: deque[Session] = deque()
        #: to be ended, but not in the midst of a flush: that knows who sits where
        self._failed: list[Session] = []
        self._instruments_seen = len(store.directory)
        self._clock = clock or SystemClock()
        self._sender = sender
        self._heartbeats = Heartbeats()

    @property
    def directory(self) -> InstrumentDirectory:
        """The store's."""
        return self.store.directory

    def bar_lengths(self) -> set[int]:
        """Which lengths of bars somebody wants, s."""
        return set(self._groups.bar_lengths)

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
                self._flush(lane, now)
        for _ in range(min(_SERVED_AT_ONCE, len(self._servable))):
            session = self._servable.popleft()
            session.servable = False
            try:
                self._serve(session, now)
            except Exception:
                # A defect, but one client's: the others go on.
                log.exception("%s: could not be served", session.name)
                session.end(CloseCode.INTERNAL, protocol.error(ErrorCode.INTERNAL, "internal error"))
        failed, self._failed = self._failed, []
        for session in failed:
            session.end(CloseCode.INTERNAL)
        for session in self._heartbeats.pop(now):
            if session.can_take:  # else it hears of us as soon as it takes what is on its way
                seq = min([subscriber.position for subscriber in session.subscribers], default=self.store.ring.head)
                session.tell(protocol.heartbeat(self.store.epoch, seq, self._clock.now_ns()))
        return self.due()

    def due(self) -> float:
        """When :meth:`run` has something to do; in the past = now."""
        if self._servable or self._failed:
            return -inf
        times = [lane.due() for lane in self._groups.lanes()]
        times.append(self._heartbeats.due())
        return min(times)

    def _follow_directory(self) -> None:
        begin, count = self._instruments_seen, len(self.store.directory)
        if begin < count:
            self._instruments_seen = count
            self._groups.instruments_added(begin)

    # ---- a lane's flush ----------------------------------------------------------------------------------------

    def _flush(self, lane: Lane, now: float) -> None:
        if lane.cursor >= lane.until and lane.cursor < self.store.ring.head:
            lane.begin(now)
        before = lane.cursor
        changes = lane.read()
        if changes.lost:
            before = lane.cursor = changes.lost.last
            self._lane_lost(lane, changes.lost)
        lane.cursor = changes.cursor
        if len(changes.ticks):
            self._deliver(lane, changes, before)
        if not lane.every and lane.cursor >= lane.until:
            self._begin_late_passes(lane, now)

    def _flush_to(self, lane: Lane, seq: int, now: float) -> None:
        while lane.cursor < seq:
            self._flush(lane, now)

    def _deliver(self, lane: Lane, changes: Changes, before: int) -> None:
        wanted = lane.wanted(changes.ticks)
        if wanted is None:
            return
        ticks, seqs = changes.ticks, changes.seqs
        if len(wanted.slots) > 1 or len(wanted.order) < len(ticks):
            needed = np.zeros(len(ticks), np.bool_)
            needed[wanted.order] = True
            if not needed.all():
                # Only what somebody wants is written.
                places = needed.nonzero()[0]
                ticks, seqs = ticks.view(RAW)[places].view(TICK), seqs[places]
                wanted = wanted._replace(order=(needed.cumsum() - 1)[wanted.order])
        seats = lane.seats
        # Looked up before anything is sent: a session that can take no more loses the seats of all its subscribers.
        careful = seats.with_care(wanted.slots)
        encoded_in: dict[Encoding, EncodedTicks] = {}
        for style, part in lane.by_style(wanted):
            framer = self._groups.framer(style)
            encoded = encoded_in.get(framer.encoding)
            if encoded is None:
                encoded = encoded_in[framer.encoding] = framer.encoding.ticks(ticks, seqs)
            for made in framer.frames(part, encoded, changes.cursor):
                self._put_at_once(seats, part, made, before)
                if careful:
                    self._put_with_care(careful, part, made, before)

    def _put_at_once(self, seats: Seats, wanted: Wanted, made: Frames, before: int) -> None:
        """Send these frames to all who are ready for them."""
        slots = wanted.slots[made.groups]
        ready = seats.ready[slots]
        wires = seats.wires(slots, ready)
        if not len(wires):
            return
        self.stats.frames += len(wires)
        if len(slots) == 1:
            # One frame for all, as where everybody takes everything.
            self.stats.ticks += len(wires) * len(wanted.order)
            # It does not begin with the buffer where this is one of several.
            sent = self._sender(made.buffer, int(made.begins[0]), int(made.lengths[0]), wires)
        else:
            self.stats.ticks += int((ready * np.diff(wanted.bounds[made.groups.start : made.groups.stop + 1])).sum())
            sent = self._sender(made.buffer, made.begins.repeat(ready), made.lengths.repeat(ready), wires)
        if sent is None:
            return
        lengths = made.lengths.repeat(ready)
        # Who they are has to be known of all before the first of them leaves.
        which = (sent != lengths).nonzero()[0]
        late = seats.at(slots, ready, which)
        for (n, subscriber), taken in zip(late, sent[which].tolist(), strict=True):
            try:
                on_its_way = subscriber.session.link.finish(made.frame(n), taken)
            except Exception:
                log.exception("%s: its link failed", subscriber.session.name)
                on_its_way = False
                self.failed(subscriber.session)
            self.stalled(subscriber.session)
            if not on_its_way:
                subscriber.cursor = before

    def _put_with_care(self, careful: dict[int, list[Subscriber]], wanted: Wanted, made: Frames, before: int) -> None:
        """Send these frames to those who may not be able to take them any more."""
        sizes = np.diff(wanted.bounds)[made.groups].tolist()
        for n, slot in enumerate(wanted.slots[made.groups].tolist()):
            for subscriber in careful.get(slot, ()):
                session = subscriber.session
                took = session.give(made.frame(n)) if session.can_take else Took.NOTHING
                if took is not Took.MORE:
                    self.stalled(session)
                if took is Took.NOTHING:
                    subscriber.cursor = before
                else:
                    self.stats.frames += 1
                    self.stats.ticks += sizes[n]

    def _lane_lost(self, lane: Lane, lost: Lost) -> None:
        """The lane itself was lapped, and with it all that are in step."""
        sessions = {s.session: None for group in lane.groups.values() for s in (*group.ready, *group.careful)}
        for session in sessions:
            self._tell_lost(session, lost)

    def _tell_lost(self, session: Session, lost: Lost) -> None:
        self.stats.gaps += 1
        self.stats.ticks_lost += lost.last - lost.first + 1
        session.tell(protocol.gap(lost.first, lost.last, GapReason.LAPPED))

    def _begin_late_passes(self, lane: Lane, now: float) -> None:
        for subscriber in list(lane.behind):
            if subscriber.until is None and subscriber.session.can_take and now >= subscriber.not_before:
                subscriber.begin_pass(max(lane.cursor, subscriber.cursor))
                self._want_service(subscriber.session)

    # ---- those who are behind -----------------------------------------------------------------------------------

    def _stalled(self, session: Session) -> None:
        """This session can take no more for now: its subscribers keep their cursors."""
        session.can_take = False
        self.stats.stalls += 1
        for subscriber in session.subscribers:
            if subscriber.in_step:
                self._groups.leave(subscriber)

    def stalled(self, session: Session) -> None:
        """A session's link is full because of something it sent itself."""
        if session.can_take:
            self._stalled(session)

    def failed(self, session: Session) -> None:
        """A session's link does not do what it has to: nothing more is sent over it, and soon it is ended."""
        self.stalled(session)
        self._failed.append(session)

    def writable(self, session: Session) -> None:
        """A session's link can take frames again."""
        session.can_take = True
        self._want_service(session)

    def _want_service(self, session: Session) -> None:
        if not session.servable and session.can_take:
            session.servable = True
            self._servable.append(session)

    def _serve(self, session: Session, now: float) -> None:
        """Give each of the session's late subscribers one frame at the most."""
        more = False
        for subscriber in list(session.subscribers):
            if not session.can_take:
                return
            if subscriber.in_step or subscriber not in session.subscribers:
                continue
            if subscriber.until is not None:
                more |= self._serve_latest(subscriber, now)
            elif subscriber.group.lane.every:
                more |= self._serve_every(subscriber)
        if more:
            self._want_service(session)

    def _serve_latest(self, subscriber: Subscriber, now: float) -> bool:
        """One frame of the latest of what changed after its cursor. Returns whether there is more to do."""
        group, until = subscriber.group, subscriber.until
        assert until is not None
        lane = group.lane
        mask = group.mask(self.store)
        mask.reshape(-1)[: subscriber.next_cell] = False
        if subscriber.given is not None:
            mask &= ~subscriber.given
        # A snapshot ends where every tick goes on. Else there is no end: a symbol that never rests would never come.
        changed = self.store.latest.since(subscriber.cursor, len(self.directory), until if lane.every else None, mask)
        ticks, seqs = changed.ticks, changed.seqs
        if group.where is not None:
            holds = group.where.holds(ticks)
            ticks, seqs = ticks[holds], seqs[holds]
        complete = len(ticks) <= FRAME_TICKS
        in_one = complete and not subscriber.next_cell
        if in_one and until == lane.cursor:
            # It can go in step where the lane is, and the lane gives what is newer.
            n = int(np.searchsorted(seqs, until, side="right"))
            ticks, seqs = ticks[:n], seqs[:n]
        if not complete:
            # Cell by cell, so that each has its turn however often it changes meanwhile.
            cells = (ticks["kind"].astype(np.intp) - QUOTE) * self.directory.capacity + ticks["instrument"]
            chosen = np.argpartition(cells, FRAME_TICKS)[:FRAME_TICKS]
            next_cell = int(cells[chosen].max()) + 1
            chosen.sort()
            ticks, seqs = ticks[chosen], seqs[chosen]
        # In one frame all up to now was seen; of several the first are old by now.
        end = self.store.ring.head if in_one and until < lane.cursor and not lane.every else until
        if len(ticks):
            if self._send(subscriber, ticks, seqs, end if complete else None) is Took.NOTHING:
                return False
            subscriber.top = max(subscriber.top, int(seqs[-1]))
        if not complete:
            subscriber.next_cell = next_cell
            return True
        subscriber.cursor = end
        subscriber.until = subscriber.given = None
        if now < subscriber.not_before:
            return False
        return not self._groups.join(subscriber) and lane.every

    def _serve_every(self, subscriber: Subscriber) -> bool:
        """The ticks after its cursor, up to where its lane stands. Returns whether there is more to do."""
        group = subscriber.group
        span = self.store.read(subscriber.cursor, subscriber.scan, group.lane.cursor)
        if span.lost:
            # First the gap by itself: should the link take no more after it, the ticks behind it are still to be had.
            subscriber.cursor = span.lost.last
            self._tell_lost(subscriber.session, span.lost)
            if not subscriber.session.can_take:
                return True
            # What this read did save goes out at once: the next one may come too late for it again, and so on.
        ticks = span.ticks
        mine = group.mask(self.store)[ticks["kind"].astype(np.intp) - QUOTE, ticks["instrument"]]
        places = np.nonzero(mine)[0]
        if group.where is not None:
            places = places[group.where.holds(ticks[places])]
        cursor = span.cursor
        if len(places) > FRAME_TICKS:
            places = places[:FRAME_TICKS]
            cursor = span.first + int(places[-1])
            subscriber.scan = max(FRAME_TICKS, subscriber.scan // 2)
        elif len(ticks) == subscriber.scan and len(places) <= FRAME_TICKS // 2:
            subscriber.scan = min(SCAN_TICKS, subscriber.scan * 2)
        if len(places):
            seqs = (places + span.first).astype(np.uint64)
            if len(places) < len(ticks):
                # As one piece each: numpy copies a record column by column otherwise.
                ticks = ticks.view(RAW).take(places).view(TICK)
            if self._send(subscriber, ticks, seqs, cursor) is Took.NOTHING:
                return False
        subscriber.cursor = cursor
        return not self._groups.join(subscriber)

    def _send(self, subscriber: Subscriber, ticks: Ticks, seqs: NDArray[np.uint64], seq: int | None) -> Took:
        """``seq``: see :meth:`Link.wrap`."""
        group = subscriber.group
        frame = group.wrap(group.encoding.ticks(ticks, seqs).frame(), group.encoding.BINARY_TICKS, seq)
        took = subscriber.session.give(frame)
        if took is not Took.NOTHING:
            self.stats.frames += 1
            self.stats.ticks += len(ticks)
        if took is not Took.MORE:
            self._stalled(subscriber.session)
        return took

    def settled(self, session: Session, after: int, until: int) -> tuple[list[bytes], int]:
        """The latest of its throttled symbols that changed last between two sequence numbers, the first exclusive.

        For a link that may lose ticks: what was given before ``until`` and has not changed since is given once more.

        Returns:
            Payloads of frames, at most one for each subscription, and up to where they go; the rest is had from there.
        """
        found = []
        for subscriber in session.subscribers:
            group = subscriber.group
            if not group.lane.every:
                changed = self.store.latest.since(after, len(self.directory), until, group.mask(self.store))
                if len(changed.seqs) > FRAME_TICKS:
                    until = int(changed.seqs[FRAME_TICKS - 1])
                found.append((group, changed))
        payloads = []
        for group, (ticks, seqs) in found:
            keep = seqs <= until
            if group.where is not None:
                keep &= group.where.holds(ticks)
            if keep.any():
                payloads.append(group.encoding.ticks(ticks[keep], seqs[keep]).frame())
        return payloads, until

    # ---- subscriptions ----------------------------------------------------------------------------------------

    def subscribe(
        self,
        session: Session,
        keys: Iterable[tuple[int, str]],
        options: Options,
        snapshot: bool,
        since: protocol.Position | int | None,
        now: float,
    ) -> Started:
        """Add symbols to what a session receives.

        Args:
            keys: (kind, pattern); one that it has already takes the new options.
            snapshot: the latest of each symbol first.
            since: what came after this position or time (ns since the Unix epoch) first.

        Raises:
            ProtocolError: the position is not one of this store's, or there are bars of too many lengths.
        """
        self._follow_directory()
        keys = list(keys)
        if any(kind in BARS for kind, _ in keys):
            self._check_length(options.bar_seconds)
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
            self._flush_to(lane, started.seq, now)
        live = max(live, started.seq)
        subscriber.cursor = 0 if snapshot else started.seq
        if snapshot or (not lane.every and started.seq < live):
            subscriber.begin_pass(live)
        if anew and not lane.every:
            subscriber.not_before = now + lane.interval
        if subscriber.until is None:
            self._groups.join(subscriber)
        self._want_service(session)
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
        taken = [
            self._take_over(session, theirs, options, handover, now) for options, theirs in heirs.items() if theirs
        ]
        return [started.gap for started in taken if started.gap is not None]

    def drop(self, session: Session) -> None:
        """A session has ended."""
        session.can_take = False
        session.state.clear()
        self._heartbeats.set(session, 0.0, 0.0)
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
            self._flush_to(every[0].group.lane, self.store.ring.head, now)
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
            self._flush_to(lane, handover.reach, now)
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
        self._want_service(session)
        return Started(position, gap=gap)

    def _check_length(self, seconds: int) -> None:
        lengths = self.bar_lengths() | {DEFAULT_SECONDS}
        if seconds not in lengths and len(lengths) >= _BAR_LENGTHS:
            raise ProtocolError(
                ErrorCode.SYMBOL_LIMIT,
                f"bar length limit exceeded: {_BAR_LENGTHS} at a time, now {', '.join(map(str, sorted(lengths)))} s",
            )

    def _position(self, session: Session, keys: set[tuple[int, str]]) -> int:
        """The earliest position of those who have these keys."""
        return min(s.position for s in session.subscribers if not keys.isdisjoint(s.keys))

    def _start(self, subscriber: Subscriber, since: protocol.Position | int) -> Started:
        """Where this position or time is, and whether every tick after it is still held."""
        every = subscriber.group.lane.every
        if isinstance(since, int):
            seq = position_of_time(self.store, subscriber.group.mask(self.store), since)
            return Started(seq or 0, seq is not None or not every)
        if since.epoch in (None, self.store.epoch):
            return Started(since.seq, since.seq + 1 >= self.store.ring.oldest or not every)
        if not every:
            return Started(0, True)
        self.stats.gaps += 1
        return Started(0, False, protocol.gap(since.seq + 1, None, GapReason.EPOCH, since.epoch))
