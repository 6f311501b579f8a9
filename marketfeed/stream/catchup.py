"""Those who are behind: each is served from its own cursor until it is where its lane is."""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import NDArray

from marketfeed.model.ring import Lost
from marketfeed.model.store import TickStore
from marketfeed.model.tick import QUOTE, RAW, TICK, Ticks
from marketfeed.stream import protocol
from marketfeed.stream.codes import GapReason
from marketfeed.stream.delivery import Delivery
from marketfeed.stream.group import FRAME_TICKS, Subscriber
from marketfeed.stream.groups import Groups
from marketfeed.stream.link import Took
from marketfeed.stream.positions import SCAN_TICKS
from marketfeed.stream.session import Session

log = logging.getLogger("marketfeed.hub")


class CatchUp:
    """Serves sessions one by one, a frame at a time."""

    def __init__(self, store: TickStore, groups: Groups, delivery: Delivery) -> None:
        self._store = store
        self._groups = groups
        self._delivery = delivery

    def serve(self, session: Session, now: float) -> None:
        """Give each of the session's late subscribers one frame at the most."""
        more = False
        self._tell_place(session)
        for subscriber in list(session.subscribers):
            if not session.can_take:
                return
            if subscriber.in_step or subscriber not in session.subscribers:
                continue
            if subscriber.until is not None:
                more |= self._serve_latest(subscriber, now, FRAME_TICKS)
            elif subscriber.group.lane.every:
                more |= self._serve_every(subscriber, FRAME_TICKS)
        if more:
            self._delivery.want_service(session)

    def _serve_latest(self, subscriber: Subscriber, now: float, most: int) -> bool:
        """One frame, of so many ticks at most, of the latest of what changed after its cursor.

        Returns whether there is more to do.
        """
        group, until = subscriber.group, subscriber.until
        assert until is not None
        lane = group.lane
        mask = group.mask(self._store)
        mask.reshape(-1)[: subscriber.next_cell] = False
        if subscriber.given is not None:
            mask &= ~subscriber.given
        # A snapshot ends where every tick goes on. Else there is no end: a symbol that never rests would never come.
        changed = self._store.latest.since(
            subscriber.cursor, len(self._store.directory), until if lane.every else None, mask
        )
        ticks, seqs = changed.ticks, changed.seqs
        if group.where is not None:
            holds = group.where.holds(ticks)
            ticks, seqs = ticks[holds], seqs[holds]
        complete = len(ticks) <= most
        in_one = complete and not subscriber.next_cell
        if in_one and until == lane.cursor:
            # It can go in step where the lane is, and the lane gives what is newer.
            n = int(np.searchsorted(seqs, until, side="right"))
            ticks, seqs = ticks[:n], seqs[:n]
        if not complete:
            # Cell by cell, so that each has its turn however often it changes meanwhile.
            cells = (ticks["kind"].astype(np.intp) - QUOTE) * self._store.directory.capacity + ticks["instrument"]
            chosen = np.argpartition(cells, most)[:most]
            next_cell = int(cells[chosen].max()) + 1
            chosen.sort()
            ticks, seqs = ticks[chosen], seqs[chosen]
            if not self._tell_no_place(subscriber):
                return False
        # In one frame all up to now was seen; of several the first are old by now.
        end = self._store.ring.head if in_one and until < lane.cursor and not lane.every else until
        if len(ticks):
            payload = self._payload(subscriber, ticks, seqs)
            if payload is None:
                if len(ticks) > 1:
                    return self._serve_latest(subscriber, now, len(ticks) // 2)
            elif self._send(subscriber, payload, len(ticks), end if complete else None) is Took.NOTHING:
                return False
            subscriber.top = max(subscriber.top, int(seqs[-1]))
        if not complete:
            subscriber.next_cell = next_cell
            return True
        subscriber.cursor = end
        subscriber.until = subscriber.given = None
        subscriber.in_pieces = False
        self._tell_place(subscriber.session)
        if now < subscriber.not_before:
            return False
        return not self._groups.join(subscriber) and lane.every

    def _serve_every(self, subscriber: Subscriber, most: int) -> bool:
        """The ticks after its cursor, so many at most, up to where its lane stands.

        Returns whether there is more to do.
        """
        group = subscriber.group
        span = self._store.read(subscriber.cursor, subscriber.scan, group.lane.cursor)
        if span.lost:
            # First the gap by itself: should the link take no more after it, the ticks behind it are still to be had.
            subscriber.cursor = span.lost.last
            self._delivery.tell_lost(subscriber.session, span.lost)
            if not subscriber.session.can_take:
                return True
            # What this read did save goes out at once: the next one may come too late for it again, and so on.
        ticks = span.ticks
        mine = group.mask(self._store)[ticks["kind"].astype(np.intp) - QUOTE, ticks["instrument"]]
        places = np.nonzero(mine)[0]
        if group.where is not None:
            places = places[group.where.holds(ticks[places])]
        cursor = span.cursor
        if len(places) > most:
            places = places[:most]
            cursor = span.first + int(places[-1])
            subscriber.scan = max(FRAME_TICKS, subscriber.scan // 2)
        elif len(ticks) == subscriber.scan and len(places) <= FRAME_TICKS // 2:
            subscriber.scan = min(SCAN_TICKS, subscriber.scan * 2)
        if len(places):
            seqs = (places + span.first).astype(np.uint64)
            if len(places) < len(ticks):
                # As one piece each: numpy copies a record column by column otherwise.
                ticks = ticks.view(RAW).take(places).view(TICK)
            payload = self._payload(subscriber, ticks, seqs)
            if payload is None:
                if len(ticks) > 1:
                    return self._serve_every(subscriber, len(ticks) // 2)
            elif self._send(subscriber, payload, len(ticks), cursor) is Took.NOTHING:
                return False
        subscriber.cursor = cursor
        return not self._groups.join(subscriber)

    def _payload(self, subscriber: Subscriber, ticks: Ticks, seqs: NDArray[np.uint64]) -> bytes | None:
        """These ticks as they are written. None = they cannot be, a defect: of several fewer are to be tried, so that
        no other is lost; one alone is told as lost."""
        try:
            return subscriber.group.encoding.ticks(ticks, seqs).frame()
        except Exception:
            if len(ticks) == 1:
                log.exception("%s: tick %d could not be written", subscriber.session.name, seqs[0])
                lost = Lost(int(seqs[0]), int(seqs[0]))
                self._delivery.tell_lost(subscriber.session, lost, GapReason.INTERNAL)
            return None

    def _send(self, subscriber: Subscriber, payload: bytes, ticks: int, seq: int | None) -> Took:
        """``seq``: see :meth:`Link.wrap`."""
        group = subscriber.group
        took = subscriber.session.give(group.wrap(payload, group.encoding.BINARY_TICKS, seq))
        if took is not Took.NOTHING:
            self._delivery.stats.frames += 1
            self._delivery.stats.ticks += ticks
        if took is not Took.MORE:
            self._delivery.stalled(subscriber.session)
        return took

    def _tell_no_place(self, subscriber: Subscriber) -> bool:
        """What follows is one of several frames: a client that is cut between them must not go on behind what it has.

        Returns whether the link can take more now.
        """
        session = subscriber.session
        subscriber.in_pieces = True
        if session.placed:
            session.placed = False
            session.tell(protocol.position(self._store.epoch, None))
        return session.can_take

    def _tell_place(self, session: Session) -> None:
        """Where it is, once it is not in the midst of several frames any more."""
        if not session.placed and not any(subscriber.in_pieces for subscriber in session.subscribers):
            session.placed = True
            session.tell(protocol.position(self._store.epoch, session.reached))

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
                changed = self._store.latest.since(after, len(self._store.directory), until, group.mask(self._store))
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
