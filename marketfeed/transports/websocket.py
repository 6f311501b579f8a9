"""WebSocket (RFC 6455) on Tornado, past Tornado's own way of sending.

`write_message` makes a task and a frame for each client. Here a frame is made once and given to each socket's own
`send`; only what a socket does not take goes through Tornado's buffer, and while anything is in there nothing else is
sent to it. TLS connections always go through that buffer, for only Tornado knows their state.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import ssl
import struct
from collections.abc import Iterable, Mapping
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13, _WebSocketParams

from marketfeed.stream.codes import CloseCode
from marketfeed.stream.encoding import ENCODINGS
from marketfeed.stream.lane import Subscriber
from marketfeed.stream.link import RawSend, Took
from marketfeed.stream.protocol import Auth
from marketfeed.transports.base import Gate

log = logging.getLogger("marketfeed.websocket")

_SUBPROTOCOL = "marketfeed."
_TEXT, _BINARY = 0x81, 0x82  # FIN and opcode


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
        #: writes that the socket has not taken yet, and since when there are any
        self._unfinished = 0
        self._full_since = 0.0
        self._closing = False
        self.heard = gate.clock()
        self._pinged: float | None = None

    @staticmethod
    def wrap(payload: bytes, binary: bool) -> bytes:
        """An unmasked, unfragmented frame (RFC 6455, 5.2)."""
        n = len(payload)
        first = _BINARY if binary else _TEXT
        if n < 126:
            return struct.pack("!BB", first, n) + payload
        if n < 1 << 16:
            return struct.pack("!BBH", first, 126, n) + payload
        return struct.pack("!BBQ", first, 127, n) + payload

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
                except OSError:
                    # Tornado finds out by itself, on its next read, and closes.
                    full.append((subscriber, False))
                    continue
                if sent != n:
                    link = subscriber.session.link
                    assert isinstance(link, WebSocketLink)
                    full.append((subscriber, link._finish(frame, sent)))
        return full

    def send(self, frame: bytes) -> Took:
        if self._unfinished or self._closing or self._stream.closed():
            return Took.NOTHING
        try:
            sent = self.raw_send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            return Took.NOTHING
        if sent == len(frame):
            return Took.MORE
        return Took.LAST if self._finish(frame, sent) else Took.NOTHING

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
            self._full_since = self._gate.clock()
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
            if now - self._full_since > limits.write_seconds:
                log.warning("%s: took nothing for %.0f s", self._handler.name, limits.write_seconds)
                self._closing = True
                self._stream.close()
        elif self._pinged is not None:
            if now - self._pinged > limits.ping_seconds:
                log.info("%s: no pong for %.0f s", self._handler.name, limits.ping_seconds)
                self.close(CloseCode.PONG_TIMEOUT, "pong timeout")
        elif now - self.heard > limits.ping_seconds:
            self._pinged = now
            try:
                self._handler.ping(b"")
            except StreamClosedError:
                self._gate.left(self)

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
    key, secret = headers.get("APCA-API-KEY-ID"), headers.get("APCA-API-SECRET-KEY")
    if key or secret:
        return Auth(key=key or "", secret=secret or "")
    scheme, _, value = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return Auth(token=value.strip())
    if scheme.lower() == "basic":
        try:
            name, _, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return Auth()
        return Auth(key=name, secret=password)
    return None


def routes(gate: Gate) -> list[tuple[str, type[WebSocketHandler], dict[str, Any]]]:
    """What this transport serves."""
    return [
        (r"/stream", StreamHandler, {"gate": gate}),
        (r"/v2/(?P<feed>[^/]+)", StreamHandler, {"gate": gate}),
    ]
