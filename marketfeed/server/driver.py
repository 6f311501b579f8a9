"""Runs the hub on the event loop, when it has something to do and not otherwise."""

from __future__ import annotations

import asyncio
import logging
from math import inf

from marketfeed.stream.hub import Hub

log = logging.getLogger("marketfeed.driver")


class Driver:
    """Calls :meth:`Hub.run` soon after :meth:`wake`, and again when the hub said."""

    def __init__(self, hub: Hub, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        self._loop = loop
        self._timer: asyncio.Handle | None = None
        self._at = inf
        self.clock = loop.time

    def wake(self) -> None:
        """Something was published, asked for, or became writable. Cheap: many wakes make one run."""
        if self._at > 0.0:
            self._schedule(0.0)

    def _schedule(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        if at == inf:
            self._timer = None
        elif at <= 0.0:
            self._timer = self._loop.call_soon(self._run)
        else:
            self._timer = self._loop.call_at(at, self._run)

    def _run(self) -> None:
        self._timer, self._at = None, inf
        now = self._loop.time()
        try:
            again = self._hub.run(now)
        except Exception:
            log.exception("the hub failed; going on in a second")
            again = now + 1.0
        self._schedule(0.0 if again <= now else again)

    def close(self) -> None:
        """Run no more."""
        self._schedule(inf)
        self._at = -inf
