"""A server inside the test's own loop, whose clock the test moves: for what happens only after a long time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from marketfeed.model import QUOTE, TickStore, empty_ticks
from marketfeed.server.app import make_app
from marketfeed.server.auth import authenticator
from marketfeed.server.driver import Driver
from marketfeed.stream.hub import Hub
from marketfeed.transports import optional
from marketfeed.transports.base import Gate, Limits
from marketfeed.transports.senders import best_sender


class Inside:
    """Real sockets, a real hub; ticks and time come from the test."""

    def __init__(
        self,
        origins: tuple[str, ...] = (),
        keys: tuple[str, ...] = (),
        ticks: int = 1024,
        instruments: int = 64,
        **limits: Any,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.store = TickStore.create(ticks, instruments)
        self.hub = Hub(self.store, sender=best_sender())
        self._driver = Driver(self.hub, loop)
        self._ahead = 0.0
        self.gate = Gate(
            self.hub, self._driver.wake, lambda: loop.time() + self._ahead, "9", Limits(**limits), authenticator(keys)
        )
        self._server = HTTPServer(make_app(self.gate, dict, origins, more=optional.routes(optional.load(), self.gate)))
        sockets = bind_sockets(0, "127.0.0.1")
        self._server.add_sockets(sockets)
        self.address = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
        self._feed = self.store.directory.add_feed("sim")

    async def __aenter__(self) -> Inside:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._server.stop()
        self.gate.close()
        self.later(self.gate.limits.poll_seconds + 1)  # long polls that nobody asks any more
        await asyncio.wait_for(self.gate.emptied(), 10)
        self._driver.close()
        await self._server.close_all_connections()

    def publish(self, *symbols: str) -> int:
        """A quote of each, whose price is its number. Returns the head."""
        batch = empty_ticks(len(symbols))
        for n, (row, symbol) in enumerate(zip(batch, symbols, strict=True)):
            row["instrument"], row["kind"], row["ts_event"] = self.store.directory.add(self._feed, symbol), QUOTE, 1
            row["bid"], row["ask"] = self.store.ring.head + n + 1, self.store.ring.head + n + 2
        head = self.store.publish(batch)
        self._driver.published()
        return head

    def later(self, seconds: float) -> None:
        """So much time has passed, and the gate looks at its clients."""
        self._ahead += seconds
        self.gate.check()


def event(text: bytes) -> Mapping[str, str]:
    """The fields of a server-sent event."""
    lines = text.decode().splitlines()
    return dict(line.split(": ", 1) if ": " in line else (line, "") for line in lines if line)
