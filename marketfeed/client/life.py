"""Whether the server whose memory is read still lives."""

from __future__ import annotations

from marketfeed.client.errors import AttachError, WriterLost
from marketfeed.model.clock import Clock
from marketfeed.model.shared import OpenedStore


class Life:
    """Looks at the writer's lock, which it holds while its process lives, and at its heartbeat.

    How long the heart has been still is counted on this process's own monotonic clock from when a beat was first
    seen: a wall clock that is set to another time while nobody beats is not taken for the writer's death. Only how
    old a beat was when it was first seen comes from the wall clock, which both processes share.

    Args:
        stale_after: seconds without a beat after which the writer is taken for one that hangs.
    """

    def __init__(self, opened: OpenedStore, name: str, stale_after: float, clock: Clock) -> None:
        self._opened = opened
        self._name = name
        self._stale_after = stale_after
        self._clock = clock
        self._beat_ns = -1
        self._beaten_at = 0.0

    def check_open(self) -> None:
        """See that it was not closed on this side.

        Raises:
            AttachError: it was.
        """
        if self._opened.closed:
            raise AttachError(f"the feed {self._name!r} was closed")

    def ended(self) -> bool:
        """Whether the writer was shut down in order; False = it lives.

        Raises:
            WriterLost: it has died, or hangs.
            AttachError: it was closed on this side.
        """
        self.check_open()
        store = self._opened.store
        # The end is looked at after the lock: a writer lets go of it after it said so.
        lives = self._opened.writer_lives()
        if store.ended:
            return True
        if not lives:
            raise WriterLost(
                f"the server that shared {self._name!r}, process {store.pid}, has died; attach again when it is back"
            )
        now, beat_ns = self._clock.monotonic(), store.beat_ns
        if beat_ns != self._beat_ns:
            self._beat_ns = beat_ns
            self._beaten_at = now - max(0, self._clock.now_ns() - beat_ns) / 1e9
        silence = now - self._beaten_at
        if silence > self._stale_after:
            raise WriterLost(
                f"the server that shares {self._name!r}, process {store.pid}, hangs: no heartbeat for {silence:.1f} s"
            )
        return False
