"""WebSocket (RFC 6455) on Tornado, past Tornado's own way of sending.

`write_message` makes a task and a frame for each client. Here a frame is made once and given to each socket's own
`send`; only what a socket does not take goes through Tornado's buffer, and while anything is in there nothing else is
sent to it. TLS connections always go through that buffer, for only Tornado knows their state.

Tried, measured and lost: all sends of a flush as one ``map(call, sends, frames)`` (no bytecode between two sends, no
difference beside a send's 8 us); headers joined with the pieces in one ``join`` (0.2 us a frame, for an encoding that
would have to know its transport).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import ssl
import struct
from collections.abc import Iterable, Mapping
from typing import Any, cast

from tornado.httputil import HTTPServerRequest
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
from marketfeed.stream.lane import Subscriber
from marketfeed.stream.link import RawSend, Took
from marketfeed.stream.protocol import Auth
from marketfeed.transports.base import Gate

log = logging.getLogger("marketfeed.websocket")

_SUBPROTOCOL = "marketfeed."
_FIN_TEXT, _FIN_BINARY = 0x81, 0x82


def _head(n: int, binary: bool) -> bytes:
    """The header of a frame whose payload has so many bytes."""
    first = _FIN_BINARY if binary else _FIN_TEXT
    if n < 126:
        return struct.pack("!BB", first, n)
    if n < 1 << 16:
        return struct.pack("!BBH", first, 126, n)
    return struct.pack("!BBQ", first, 127, n)


#: Headers of text and of binary frames, by the length of the payload: the usual ones need not be made again.
_HEADS = tuple(tuple(_head(n, binary) for n in range(4096)) for binary in (False, True))


class _Protocol(WebSocketProtocol13):
    """Tornado's, which tells its handler when a control frame of Tornado's own did not fit into the socket."""

    handler: StreamHandler

    def _write_frame(self, fin: bool, opcode: int, data: bytes, flags: int = 0) -> asyncio.Future[None]:
        done = super()._write_frame(fin, opcode, data, flags)
        if self.stream is not None and self.stream.writing():
            self.handler.link.filled(done)
        return done


class WebSocketLink:
    """One client's socket."""

    def __init__(self, handler: StreamHandler, gate: Gate) -> None:
        assert handler.ws_connection is not None
        assert handler.ws_connection.stream is not None
        self._handler = handler
        self._gate = gate
        self._stream = handler.ws_connection.stream
        self._tls = isinstance(self._stream.socket, ssl.SSLSocket)
        self.raw_send: RawSend = self._send_through_stream if self._tls else self._stream.socket.send
        #: writes that the socket has not taken yet; what it has taken of all, and when that was seen to grow
        self._unfinished = 0
        self._progress = (0, 0.0)
        self._closing = False
        self.heard = gate.clock()
        self._pinged: float | None = None

    @staticmethod
    def wrap(payload: bytes, binary: bool) -> bytes:
        """An unmasked, unfragmented frame (RFC 6455, 5.2)."""
        n = len(payload)
        if n < len(_HEADS[0]):
            return _HEADS[binary][n] + payload
        return _head(n, binary) + payload

    @staticmethod
    def deliver(frames: Iterable[tuple[bytes, Mapping[Subscriber, RawSend]]]) -> list[tuple[Subscriber, bool]]:
        full: list[tuple[Subscriber, bool]] = []
        for frame, subscribers in frames:
            n = len(frame)
            for subscriber, send in subscribers.items():
                try:
                    sent = send(frame)
                except BlockingIOError:
                    sent = 0
                except OSError as error:
                    cast(WebSocketLink, subscriber.session.link)._cut(error)
                    full.append((subscriber, False))
                    continue
                if sent != n:
                    link = cast(WebSocketLink, subscriber.session.link)
                    full.append((subscriber, link._finish(frame, sent)))
        return full

    def send(self, frame: bytes) -> Took:
        if self._unfinished or self._closing or self._stream.closed():
            return Took.NOTHING
        try:
            sent = self.raw_send(frame)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._cut(error)
            return Took.NOTHING
        if sent == len(frame):
            return Took.MORE
        return Took.LAST if self._finish(frame, sent) else Took.NOTHING

    def _cut(self, error: OSError) -> None:
        """Nothing can be sent any more: Tornado is told, and tells the gate when all is closed."""
        log.debug("%s: %s", self._handler.name, error)
        self._stream.close(exc_info=error)

    def _finish(self, frame: bytes, sent: int) -> bool:
        """Leave the rest of a frame to the stream, which writes it when the socket takes it. False = it is closed."""
        if sent < 0:  # it is in the stream already
            return not self._stream.closed()
        try:
            self._wait_for(self._stream.write(memoryview(frame)[sent:]))
        except StreamClosedError:
            return False
        return True

    def _send_through_stream(self, frame: bytes) -> int:
        try:
            done = self._stream.write(frame)
        except StreamClosedError as error:
            raise OSError("closed") from error
        if not self._stream.writing():
            return len(frame)
        self._wait_for(done)
        return -1

    def filled(self, done: asyncio.Future[None]) -> None:
        """Something that is not the hub's is in the stream's buffer."""
        self._wait_for(done)
        self._gate.stalled(self)

    def _wait_for(self, done: asyncio.Future[None]) -> None:
        """Nobody may send past what is in the stream's buffer until it is gone."""
        if not self._unfinished:
            self._progress = (0, self._gate.clock())
        self._unfinished += 1
        done.add_done_callback(self._finished)

    def _finished(self, done: asyncio.Future[None]) -> None:
        self._unfinished -= 1
        if self._unfinished or done.cancelled() or done.exception() is not None:
            return
        self.heard, self._pinged = self._gate.clock(), None
        self._gate.writable(self)

    def check(self, now: float) -> None:
        """Ping when it is quiet; end it when it does not answer, or does not take a frame in time.

        A client that takes nothing at all cannot answer a ping either, so then only the time to write counts.
        """
        limits = self._gate.limits
        if self._closing:
            return
        if self._unfinished:
            taken, since = self._progress
            if self._stream._total_write_done_index > taken:
                self._progress = (self._stream._total_write_done_index, now)
            elif now - since > limits.write_seconds:
                log.warning("%s: took nothing for %.0f s", self._handler.name, limits.write_seconds)
                self._closing = True
                self._stream.close()
        elif self._pinged is not None:
            if now - self._pinged > limits.ping_seconds:
                log.info("%s: no pong for %.0f s", self._handler.name, limits.ping_seconds)
                self._gate.end(self, CloseCode.PONG_TIMEOUT)
        elif now - self.heard > limits.ping_seconds:
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
        self._gate.admit(self.link, self.name, self._encoding(), kwargs.get("feed"), _credentials(self.request))
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


def _credentials(request: HTTPServerRequest) -> Auth | None:
    """Those of the handshake's headers: Alpaca's pair, a bearer token, or basic (key and secret)."""
    headers = request.headers
    key, secret = _utf8(headers.get("APCA-API-KEY-ID", "")), _utf8(headers.get("APCA-API-SECRET-KEY", ""))
    if key or secret:
        return Auth(key=key, secret=secret)
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Auth(token=_utf8(value.strip()))
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return Auth()
        return Auth(key=name, secret=password)
    return None


def _utf8(value: str) -> str:
    """A header's bytes, which Tornado reads as Latin-1, read as UTF-8."""
    return value.encode("latin-1").decode(errors="replace")


def routes(gate: Gate) -> list[tuple[str, type[WebSocketHandler], dict[str, Any]]]:
    """What this transport serves."""
    return [
        (r"/stream", StreamHandler, {"gate": gate}),
        (r"/v2/(?P<feed>[^/]+)", StreamHandler, {"gate": gate}),
    ]
