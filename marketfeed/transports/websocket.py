"""WebSocket (RFC 6455) on Tornado; how a frame gets into the socket is in socketlink.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from collections.abc import Callable
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError
from tornado.websocket import (
    WebSocketClosedError,
    WebSocketHandler,
    WebSocketProtocol,
    WebSocketProtocol13,
    _WebSocketParams,
)

from marketfeed.stream.codes import CloseCode
from marketfeed.stream.encoding import ENCODINGS
from marketfeed.transports.base import Gate
from marketfeed.transports.credentials import credentials
from marketfeed.transports.socketlink import SocketLink

log = logging.getLogger("marketfeed.websocket")

_SUBPROTOCOL = "marketfeed."
_FIN_TEXT, _FIN_BINARY = 0x81, 0x82


def _made(n: int, binary: bool) -> bytes:
    first = _FIN_BINARY if binary else _FIN_TEXT
    if n < 126:
        return struct.pack("!BB", first, n)
    if n < 1 << 16:
        return struct.pack("!BBH", first, 126, n)
    return struct.pack("!BBQ", first, 127, n)


#: Headers of text and of binary frames, by the length of the payload: the usual ones need not be made again.
_HEADS = tuple(tuple(_made(n, binary) for n in range(4096)) for binary in (False, True))


def head(n: int, binary: bool) -> bytes:
    """The header of an unmasked, unfragmented frame (RFC 6455, 5.2) whose payload has so many bytes."""
    return _HEADS[binary][n] if n < len(_HEADS[0]) else _made(n, binary)


class _Protocol(WebSocketProtocol13):
    """Tornado's, which tells its handler when a control frame of Tornado's own did not fit into the socket."""

    handler: StreamHandler

    def _write_frame(self, fin: bool, opcode: int, data: bytes, flags: int = 0) -> asyncio.Future[None]:
        done = super()._write_frame(fin, opcode, data, flags)
        if self.stream is not None and self.stream.writing():
            self.handler.link.filled(done)
        return done


class WebSocketLink(SocketLink):
    """One client's socket."""

    head: Callable[[int, bool], bytes] | None = staticmethod(head)

    def __init__(self, handler: StreamHandler, gate: Gate) -> None:
        assert handler.ws_connection is not None
        assert handler.ws_connection.stream is not None
        super().__init__(handler.ws_connection.stream, handler.name, gate)
        self._handler = handler
        self.heard = gate.clock()
        self._pinged: float | None = None

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        return head(len(payload), binary) + payload

    def drained(self) -> None:
        self.heard, self._pinged = self._gate.clock(), None
        super().drained()

    def check(self, now: float) -> None:
        """Ping when it is quiet; end it when it does not answer, or does not take a frame in time.

        A client that takes nothing at all cannot answer a ping either, so then only the time to write counts.
        """
        super().check(now)
        seconds = self._gate.limits.ping_seconds
        if self._closing or self._unfinished:
            return
        if self._pinged is not None:
            if now - self._pinged > seconds:
                log.info("%s: no pong for %.0f s", self._name, seconds)
                self._gate.end(self, CloseCode.PONG_TIMEOUT)
        elif now - self.heard > seconds:
            self._pinged = now
            # A connection that has just gone is not pinged: Tornado tells the gate of it.
            with contextlib.suppress(StreamClosedError, WebSocketClosedError):
                self._handler.ping(b"")

    def close(self, code: CloseCode | int, reason: str) -> None:
        # Tornado waits 5 s for the client's answer and then cuts.
        self._closing = True
        self._handler.close(int(code), reason)

    def answered(self) -> None:
        """The client is alive."""
        self.heard, self._pinged = self._gate.clock(), None


class StreamHandler(WebSocketHandler):
    """`/stream` and `/v2/{feed}`."""

    link: WebSocketLink

    def initialize(self, gate: Gate) -> None:
        self._gate = gate
        self.name = f"ws {self.request.remote_ip}"

    def prepare(self) -> None:
        feed = self.path_kwargs.get("feed")
        if feed is not None and not self._gate.has_feed(feed):
            raise HTTPError(404, "no feed %s", feed)
        encoding = self.get_query_argument("encoding", None)
        if encoding is not None and encoding not in ENCODINGS:
            raise HTTPError(400, "no encoding %s", encoding)

    def check_origin(self, origin: str) -> bool:
        trusted = self.settings.get("trusted_origins", [])
        return "*" in trusted or super().check_origin(origin)

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        known = (name for name in subprotocols if name.removeprefix(_SUBPROTOCOL) in ENCODINGS)
        return next((name for name in known if name.startswith(_SUBPROTOCOL)), None)

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        if super().get_websocket_protocol() is None:
            return None
        # Pings are the gate's business, and compression would be done for each client anew.
        params = _WebSocketParams(
            ping_interval=0, ping_timeout=0, max_message_size=self._gate.limits.message_bytes, compression_options=None
        )
        return _Protocol(self, False, params)

    def open(self, *args: str, **kwargs: Any) -> None:
        self.set_nodelay(True)
        self.link = WebSocketLink(self, self._gate)
        self._gate.admit(self.link, self.name, self._encoding(), kwargs.get("feed"), credentials(self.request))
        self._gate.wake()

    def _encoding(self) -> str:
        if self.selected_subprotocol:
            return self.selected_subprotocol.removeprefix(_SUBPROTOCOL)
        asked = self.get_query_argument("encoding", None)
        if asked is not None:
            return asked
        return "msgpack" if self.request.headers.get("Content-Type") == "application/msgpack" else "json"

    def on_message(self, message: str | bytes) -> None:
        self.link.answered()
        self._gate.receive(self.link, message)

    def on_pong(self, data: bytes) -> None:
        self.link.answered()

    def on_close(self) -> None:
        if hasattr(self, "link"):
            self._gate.left(self.link)


def routes(gate: Gate) -> list[tuple[str, type[WebSocketHandler], dict[str, Any]]]:
    """What this transport serves."""
    return [
        (r"/stream", StreamHandler, {"gate": gate}),
        (r"/v2/(?P<feed>[^/]+)", StreamHandler, {"gate": gate}),
    ]
