"""python-socketio on Tornado as its documentation has it: ``emit`` to a room, which encodes a packet once for all."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import socketio
from tornado.web import Application

from bench.peers.common import Audience, Config, main, play


async def run(config: Config) -> None:
    audience = Audience(config)
    server = socketio.AsyncServer(async_mode="tornado", ping_interval=1_000_000, ping_timeout=1_000_000)
    sending: set[asyncio.Task[None]] = set()

    async def subscribe(sid: str, command: dict[str, Any]) -> None:
        answer = audience.subscribe(sid, json.dumps(command))
        for members in audience.members_with(sid):
            await server.enter_room(sid, str(id(members)))
        await server.emit("m", json.loads(answer), to=sid)

    def send(payload: bytes, members: list[Any]) -> None:
        task = asyncio.ensure_future(server.emit("m", json.loads(payload), room=str(id(members))))
        sending.add(task)
        task.add_done_callback(sending.discard)

    server.on("subscribe", subscribe)
    server.on("disconnect", lambda sid, _reason: audience.leave(sid))
    Application([("/socket.io/", socketio.get_tornado_handler(server))]).listen(config.port, "127.0.0.1")
    await play(config, audience, send)


if __name__ == "__main__":
    main(run)
