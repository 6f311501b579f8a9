"""picows: ``WSTransport.send`` of the same bytes to each; no pings."""

from __future__ import annotations

from typing import Any

from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from bench.peers.common import Audience, Config, main, play


async def run(config: Config) -> None:
    audience = Audience(config)
    text = WSMsgType.TEXT

    class Session(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == text:
                transport.send(text, audience.subscribe(transport, frame.get_payload_as_bytes()))

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            audience.leave(transport)

    def send(payload: bytes, members: list[Any]) -> None:
        for transport in members:
            transport.send(text, payload)

    def factory(_request: WSUpgradeRequest) -> WSListener:
        return Session()

    server = await ws_create_server(factory, "127.0.0.1", config.port)
    async with server:
        await play(config, audience, send)


if __name__ == "__main__":
    main(run)
