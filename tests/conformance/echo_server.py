"""A server that sends every message back, on the project's own WebSocket handler: what a conformance suite talks to.

Run as a process: prints its port, and ends when its input does.

    python -m tests.conformance.echo_server [LIMITS AS JSON]
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from marketfeed.model import TickStore
from marketfeed.server.driver import Driver
from marketfeed.stream.hub import Hub
from marketfeed.stream.link import Took
from marketfeed.transports import upgrade
from marketfeed.transports.base import Connection, Gate, Limits

#: The suite sends messages of up to 16 MiB.
MOST_BYTES = 16 << 20


class EchoSession:
    """As :class:`Session`, as far as a gate uses it."""

    authenticated = True

    def __init__(self, link: Connection, name: str) -> None:
        self.name = name
        self._link = link
        self._unsent: deque[bytes] = deque()
        self._can_take = True
        self._closed = False

    def receive(self, data: str | bytes, now: float) -> None:
        binary = isinstance(data, bytes)
        self._unsent.append(self._link.wrap(data if binary else data.encode(), binary, None))
        self._flush()

    def writable(self) -> None:
        self._can_take = True
        self._flush()

    def stalled(self) -> None:
        self._can_take = False

    def _flush(self) -> None:
        while self._unsent and self._can_take and not self._closed:
            took = self._link.send(self._unsent[0])
            if took is not Took.NOTHING:
                self._unsent.popleft()
            self._can_take = took is Took.MORE

    def closed(self) -> None:
        self._closed = True

    def end(self, code: int, message: Any = None) -> None:
        self.closed()
        self._link.close(code, "")


class EchoGate(Gate):
    """Lets clients in who only want to hear themselves."""

    def admit(self, connection, name, encoding, feed, credentials):
        session = self._sessions[connection] = EchoSession(connection, name)
        return session

    def stalled(self, connection: Connection) -> None:
        session = self._sessions.get(connection)
        if session is not None:
            session.stalled()


async def main(limits: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    hub = Hub(TickStore.create(1024, 16))
    driver = Driver(hub, loop)
    gate = EchoGate(hub, driver.wake, driver.clock, "0", Limits(**{"message_bytes": MOST_BYTES, **limits}))
    server = HTTPServer(Application(upgrade.routes(gate)))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    print(sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}))
