"""marketfeed's own server, but each connection compresses every frame for itself, as servers do that keep a context.

What ``python -m bench.deflate`` measures shared compression against: nothing else differs.
"""

from __future__ import annotations

import zlib

from marketfeed.cli import main
from marketfeed.stream.link import NO_WIRE, Took
from marketfeed.transports import rfc6455, rfc7692, upgrade
from marketfeed.transports.websocket import WebSocketLink

#: In the first octet of what is a frame already, and of no JSON.
_FIN = 0x80


class DeflateEachLink(WebSocketLink):
    """Compresses with the same level and window as the server otherwise, and with what came before as its context."""

    head = None

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.wire = NO_WIRE
        self._compressor = zlib.compressobj(1, zlib.DEFLATED, -rfc7692.WINDOW_BITS, 5)

    @staticmethod
    def _inflater() -> rfc6455.Inflater:
        return rfc7692.Inflate()

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        return payload

    def send(self, frame: bytes) -> Took:
        if frame[0] & _FIN or self._unfinished or self._closing:
            return super().send(frame)
        data = (self._compressor.compress(frame) + self._compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        return super().send(rfc6455.head(rfc6455.first_octet(False, True), len(data)) + data)


if __name__ == "__main__":
    upgrade.deflating = lambda bits: DeflateEachLink
    rfc7692.ANSWER = "permessage-deflate; client_no_context_takeover"
    main()
