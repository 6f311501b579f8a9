"""websockets: its own ``broadcast``, with bytes that are already UTF-8; no compression, no keepalive pings."""

from __future__ import annotations

import asyncio
from typing import Any

from websockets.asyncio.server import ServerConnection, broadcast, serve

from bench.peers.common import Audience, Config, main, play


async def run(config: Config) -> None:
    audience = Audience(config)

    async def session(connection: ServerConnection) -> None:
        async for command in connection:
            await connection.send(audience.subscribe(connection, command), text=True)
        audience.leave(connection)

    def send(payload: bytes, members: list[Any]) -> None:
        broadcast(members, payload, text=True)

    async with serve(session, "127.0.0.1", config.port, compression=None, ping_interval=None):
        await asyncio.gather(play(config, audience, send))


if __name__ == "__main__":
    main(run)
