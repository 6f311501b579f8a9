"""Runs the hub on the event loop, when it has something to do and not otherwise."""

from __future__ import annotations

import asyncio
import logging
from math import inf

from marketfeed.ingest import call_later
from marketfeed.stream.hub import Hub

log = logging.getLogger("marketfeed.driver")

#: How long a hub that failed is left alone.
_PAUSE_SECONDS = 1.0


class Driver:
    """Calls :meth:`Hub.run` soon after it was woken, and again when the hub said."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        self._loop = loop
        self._timer: asyncio.Handle | None = None
        self._at = inf
        self.clock = loop.time

    def wake(self) -> None:
        """Something was asked for, or became writable. Cheap: many wakes make one run."""
        if self._at > 0.0:
            self._schedule(0.0)

    def published(self) -> None:
        """Ticks were published. Where they are due, they are delivered at once: another turn of the loop for it would
        cost as much as looking for who wants them. Where a run is to come in time for them, nothing is done."""
        if self._at > 0.0 and (at := self._hub.due()) < self._at:
            if at <= self._loop.time():
                self._run()
            else:
                self._schedule(at)

    def _schedule(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = None if at == inf else call_later(at - self._loop.time(), self._run)

    def _run(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = None, inf
        now = self._loop.time()
        try:
            again = self._hub.run(now)
        except Exception:
            log.exception("the hub failed; going on in a second")
            if self._at != -inf:
                self._schedule(now + _PAUSE_SECONDS)
                self._at = 0.0  # no wake shortens it: every tick would bring the same failure
            return
        # libuv reckons how long to sleep from the time it had last: by that of before a long run, every timer would be
        # that much late. To ask for the time is to have libuv look at the clock.
        self._loop.time()
        # A wake meanwhile is kept, and so is a close.
        if self._at > 0.0:
            self._schedule(0.0 if again <= now else again)

    def close(self) -> None:
        """Run no more."""
        self._schedule(inf)
        self._at = -inf
