"""A server that does as it is told, for what a good server never does: a whole process on loopback.

``python -m tests.integration.fake_server SCRIPT`` prints its port, and then each command it gets as a JSON line
``[connection, command]``. SCRIPT is a JSON list with an entry for each connection, the last one for all that follow. An
entry is a list of steps, one after the other; behind the last the connection stays open:

- ``["send", message, ...]``: one frame with these messages.
- ``["raw", text]``: one frame with this text.
- ``["quotes", symbol, first, last]``: quotes with these sequence numbers, 100 in a frame, as fast as they are taken.
- ``["expect"]``: wait for one command.
- ``["close", code, reason]``: end with a closing handshake.
- ``["cut"]``: end without one.
- ``["hang"]``: from now on answer nothing, not even a ping.
- ``["http", status]``: (alone) refuse the upgrade.
"""

import asyncio
import http
import json
import sys
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

Step = list[Any]


class FakeServer:
    """Plays the script."""

    def __init__(self, script: list[list[Step]]) -> None:
        self._script = script
        self._connections = 0

    def _entry(self, number: int) -> list[Step]:
        return self._script[min(number, len(self._script) - 1)]

    async def upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        """Take the connection, or refuse it."""
        connection.number = self._connections  # type: ignore[attr-defined]
        self._connections += 1
        for step in self._entry(self._connections - 1):
            if step[0] == "http":
                return connection.respond(http.HTTPStatus(step[1]), "no\n")
        return None

    async def handle(self, connection: ServerConnection) -> None:
        """Play one entry."""
        number: int = connection.number  # type: ignore[attr-defined]
        try:
            for name, *rest in self._entry(number):
                if name == "send":
                    await connection.send(json.dumps(rest))
                elif name == "raw":
                    await connection.send(rest[0])
                elif name == "quotes":
                    await self._quotes(connection, *rest)
                elif name == "expect":
                    say([number, json.loads(await connection.recv())])
                elif name == "close":
                    await connection.close(*rest)
                elif name == "cut":
                    connection.transport.abort()
                elif name == "hang":
                    connection.transport.pause_reading()
                else:
                    raise ValueError(f"no step {name!r}")
            await connection.wait_closed()
        except ConnectionClosed:
            pass  # the client may end it at any step

    @staticmethod
    async def _quotes(connection: ServerConnection, symbol: str, first: int, last: int) -> None:
        for begin in range(first, last + 1, 100):
            await connection.send(json.dumps([quote(symbol, seq) for seq in range(begin, min(begin + 100, last + 1))]))


def quote(symbol: str, seq: int) -> dict[str, Any]:
    """A quote whose prices tell its number."""
    return {"T": "q", "S": symbol, "bp": seq, "bs": 1, "ap": seq + 1, "as": 1, "t": "2024-01-01T00:00:00Z", "seq": seq}


def say(value: object) -> None:
    """One JSON line on stdout."""
    print(json.dumps(value), flush=True)


async def main() -> None:
    """Serve until killed."""
    server = FakeServer(json.loads(sys.argv[1]))
    async with serve(
        server.handle,
        "127.0.0.1",
        0,
        process_request=server.upgrade,
        compression=None,
        ping_interval=None,
        close_timeout=0.2,
    ) as listening:
        (socket,) = listening.sockets
        say(socket.getsockname()[1])
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    asyncio.run(main())
