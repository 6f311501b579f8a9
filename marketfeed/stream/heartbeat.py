"""When each session's next heartbeat is due."""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf

from marketfeed.stream.session import Session


class Heartbeats:
    """A heap, in which what was changed or taken away stays until its time comes, or until it is the larger part."""

    def __init__(self) -> None:
        self._next: dict[Session, float] = {}
        self._interval: dict[Session, float] = {}
        self._heap: list[tuple[float, int, Session]] = []

    def __len__(self) -> int:
        return len(self._next)

    def set(self, session: Session, interval: float, now: float) -> None:
        """The session wants one every so many seconds from now on; 0 = none."""
        self._next.pop(session, None)
        self._interval.pop(session, None)
        if interval:
            self._interval[session] = interval
            self._push(session, now + interval)
        if len(self._heap) > 2 * len(self._next) + 64:
            self._heap = [(at, id(session), session) for session, at in self._next.items()]
            heapify(self._heap)

    def due(self) -> float:
        """When :meth:`pop` has something to give; infinite = never."""
        while self._heap and self._next.get(self._heap[0][2]) != self._heap[0][0]:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else inf

    def pop(self, now: float) -> list[Session]:
        """Those whose heartbeat is due; their next one is an interval from now."""
        found = []
        while self.due() <= now:
            session = heappop(self._heap)[2]
            found.append(session)
            self._push(session, now + self._interval[session])
        return found

    def _push(self, session: Session, at: float) -> None:
        self._next[session] = at
        heappush(self._heap, (at, id(session), session))
