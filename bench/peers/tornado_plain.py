"""Tornado as its documentation has it: ``write_message`` to each; nodelay, no compression."""

from __future__ import annotations

from typing import Any

from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from bench.peers.common import Audience, Config, main, play


async def run(config: Config) -> None:
    audience = Audience(config)

    class Session(WebSocketHandler):
        def open(self, *_args: str, **_kwargs: str) -> None:
            self.set_nodelay(True)

        def on_message(self, message: str | bytes) -> None:
            self.write_message(audience.subscribe(self, message))

        def on_close(self) -> None:
            audience.leave(self)

        def data_received(self, _chunk: bytes) -> None:
            """Nothing is uploaded here."""

    def send(payload: bytes, members: list[Any]) -> None:
        for session in members[:]:
            try:
                session.write_message(payload)
            except WebSocketClosedError:
                audience.leave(session)

    Application([("/stream", Session)]).listen(config.port, "127.0.0.1")
    await play(config, audience, send)


if __name__ == "__main__":
    main(run)
