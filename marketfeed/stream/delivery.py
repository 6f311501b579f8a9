"""Delivery: a lane's flush, from what it reads to the frames on the wires of all who are in step."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.ring import Lost
from marketfeed.model.store import TickStore
from marketfeed.model.tick import RAW, TICK
from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, GapReason
from marketfeed.stream.encoding import EncodedTicks, Encoding
from marketfeed.stream.frames import Frames
from marketfeed.stream.group import Seats, Subscriber
from marketfeed.stream.groups import Groups
from marketfeed.stream.lane import Changes, Lane, Wanted
from marketfeed.stream.link import Numbers, Sender, Took
from marketfeed.stream.session import Session

log = logging.getLogger("marketfeed.hub")


@dataclass
class HubStats:
    """What has been delivered so far."""

    frames: int = 0
    ticks: int = 0
    gaps: int = 0
    ticks_lost: int = 0
    #: how often a session could not take more
    stalls: int = 0


class Delivery:
    """Flushes lanes. Whoever could not take a frame keeps its cursor, and waits to be served by itself.

    Args:
        store: what is delivered.
        groups: to whom.
        sender: what puts frames on the wires of links that have one.

    Attributes:
        servable: sessions that are behind and can take frames.
        failing: sessions to be ended, but not in the midst of a flush: that knows who sits where.
    """

    def __init__(self, store: TickStore, groups: Groups, sender: Sender) -> None:
        self.stats = HubStats()
        self.servable: deque[Session] = deque()
        self.failing: list[Session] = []
        self._store = store
        self._groups = groups
        self._sender = sender

    def flush(self, lane: Lane, now: float) -> None:
        """Give all that are in step in this lane what comes next, at most a frame each."""
        if lane.cursor >= lane.until and lane.cursor < self._store.ring.head:
            lane.begin(now)
        before = lane.cursor
        changes = lane.read()
        if changes.lost:
            before = lane.cursor = changes.lost.last
            self._lane_lost(lane, changes.lost)
        lane.cursor = changes.cursor
        if len(changes.ticks):
            try:
                wanted = lane.wanted(changes.ticks)
            except Exception:
                log.exception("who wants which ticks could not be found out")
                self._serve_each(lane, lane.seats.taken(), before)
            else:
                if wanted is not None:
                    self._deliver(lane, wanted, changes, before)
        if not lane.every and lane.cursor >= lane.until:
            self._begin_late_passes(lane, now)

    def flush_to(self, lane: Lane, seq: int, now: float) -> None:
        """Flush until the lane stands there."""
        while lane.cursor < seq:
            self.flush(lane, now)

    def _deliver(self, lane: Lane, wanted: Wanted, changes: Changes, before: int) -> None:
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
            framer, given = self._groups.framer(style), 0
            try:
                encoded = encoded_in.get(framer.encoding)
                if encoded is None:
                    encoded = encoded_in[framer.encoding] = framer.encoding.ticks(ticks, seqs)
                for made in framer.frames(part, encoded, changes.cursor):
                    self._put_at_once(seats, part, made, before)
                    if careful:
                        self._put_with_care(careful, part, made, before)
                    given = made.groups.stop
            except Exception:
                log.exception("%s: ticks could not be written", framer.encoding.NAME)
                self._serve_each(lane, part.slots[given:], before, careful)

    def _serve_each(
        self,
        lane: Lane,
        slots: NDArray[np.int64],
        before: int,
        careful: dict[int, list[Subscriber]] | None = None,
    ) -> None:
        """What these groups want could not be made for all at once: a defect. None of it may be lost in silence, so
        each of them is behind from here, and is served by itself: that fails only for whom it has to.

        Args:
            before: where they were before it.
            careful: who was careful when it began, as some may have lost their seats since; None = nobody has.
        """
        if careful is None:
            careful = lane.seats.with_care(slots)
        for slot in slots.tolist():
            for subscriber in (*lane.seats.group(slot).ready, *careful.get(slot, ())):
                if subscriber.in_step:
                    self._groups.leave(subscriber)
                subscriber.cursor = before
                self.want_service(subscriber.session)

    def _put_at_once(self, seats: Seats, wanted: Wanted, made: Frames, before: int) -> None:
        """Send these frames to all who are ready for them."""
        slots = wanted.slots[made.groups]
        bounds = wanted.bounds[made.groups.start : made.groups.stop + 1]
        begins: Numbers
        spans: Numbers
        if len(slots) == 1:
            # One frame for all, as where everybody takes everything.
            wires = seats.group(int(slots[0])).wires
            ticks = len(wires) * int(bounds[1] - bounds[0])
            # It does not begin with the buffer where this is one of several.
            begins, spans = int(made.begins[0]), int(made.lengths[0])
        else:
            ready = seats.ready[slots]
            begins, spans = made.begins, made.lengths
            if (ready == 1).all():
                wires, ticks = seats.single(slots), int(bounds[-1] - bounds[0])
            else:
                wires, ticks = seats.wires(slots, ready), int((ready * (bounds[1:] - bounds[:-1])).sum())
                begins, spans = begins.repeat(ready), spans.repeat(ready)
        if not len(wires):
            return
        try:
            sent = self._sender(made.buffer, begins, spans, wires)
        except Exception:
            log.exception("the sender failed")
            self._sender_failed(seats, slots, before)
            return
        self.stats.frames += len(wires)
        self.stats.ticks += ticks
        if sent is None:
            return
        # Who they are has to be known of all before the first of them leaves.
        which = (sent != spans).nonzero()[0]
        late = seats.at(slots, seats.ready[slots], which)
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

    def _sender_failed(self, seats: Seats, slots: NDArray[np.int64], before: int) -> None:
        """Nobody knows what has left: whoever may have been sent a part of a frame can be sent nothing behind it, and
        has to come again. What was not taken is given to it then."""
        for slot in slots.tolist():
            for subscriber in list(seats.group(slot).ready):
                self.failed(subscriber.session)
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
            self.tell_lost(session, lost)

    def tell_lost(self, session: Session, lost: Lost, reason: GapReason = GapReason.LAPPED) -> None:
        """Tell a session what could not be given to it, by default because it was overwritten before."""
        self.stats.gaps += 1
        self.stats.ticks_lost += lost.last - lost.first + 1
        session.tell(protocol.gap(lost.first, lost.last, reason))

    def _begin_late_passes(self, lane: Lane, now: float) -> None:
        for subscriber in list(lane.behind):
            if subscriber.until is None and subscriber.session.can_take and now >= subscriber.not_before:
                subscriber.begin_pass(max(lane.cursor, subscriber.cursor))
                self.want_service(subscriber.session)

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

    def failed(self, session: Session, code: CloseCode = CloseCode.INTERNAL) -> None:
        """A session, or its link, does not do what it has to: nothing more is sent to it, and soon it is ended."""
        self.stalled(session)
        if session.doomed is None:
            session.doomed = code
            self.failing.append(session)

    def want_service(self, session: Session) -> None:
        """A session that is behind is to be served, if it can take frames."""
        if not session.servable and session.can_take:
            session.servable = True
            self.servable.append(session)
