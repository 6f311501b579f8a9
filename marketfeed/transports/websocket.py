"""One client's WebSocket: what its frames are, what comes in from it, and how it ends.

How a frame gets into the socket is in socketlink.py, the protocol itself in rfc6455.py and rfc7692.py, and how a
WebSocket begins in upgrade.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

from tornado.iostream import IOStream, StreamClosedError

from marketfeed.stream.codes import CloseCode
from marketfeed.stream.link import Took
from marketfeed.transports import rfc6455, rfc7692
from marketfeed.transports.base import Gate
from marketfeed.transports.socketlink import SocketLink

log = logging.getLogger("marketfeed.websocket")

#: Headers of text and of binary frames, by the length of the payload: the usual ones need not be made again.
_HEADS = tuple(tuple(rfc6455.head(rfc6455.first_octet(binary), n) for n in range(4096)) for binary in (False, True))
#: So much is read at a time: what a client sends at once must not keep the others waiting.
_READ_BYTES = 4096


def head(n: int, binary: bool) -> bytes:
    """The header of an unmasked, unfragmented frame (RFC 6455, 5.2) whose payload has so many bytes."""
    return _HEADS[binary][n] if n < len(_HEADS[0]) else rfc6455.head(rfc6455.first_octet(binary), n)


class WebSocketLink(SocketLink):
    """One client's socket, from when the opening handshake is done."""

    head: Callable[[int, bool], bytes] | None = staticmethod(head)

    def __init__(self, stream: IOStream, name: str, gate: Gate) -> None:
        super().__init__(stream, name, gate)
        self._receiver = rfc6455.Receiver(gate.limits.message_bytes, self._inflater())
        self.heard = gate.clock()
        self._pinged: float | None = None
        #: the data of a ping that could not be answered yet
        self._owed: bytes | None = None
        #: our close frame, from when it is written on, and what cuts the connection if that leads to nothing
        self._goodbye: asyncio.Future[None] | None = None
        self._cutting: asyncio.TimerHandle | None = None
        if stream.writing():  # the answer to the handshake
            self._wait_for(stream.write(b""))

    @staticmethod
    def _inflater() -> rfc6455.Inflater | None:
        """What undoes the client's compression, if that was agreed on."""
        return None

    @staticmethod
    def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
        return head(len(payload), binary) + payload

    def drained(self) -> None:
        self.heard, self._pinged = self._gate.clock(), None
        if self._owed is not None:
            data, self._owed = self._owed, None
            self._send_own(rfc6455.pong(data))
        if not self._unfinished:
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
            self._send_own(rfc6455.ping())

    def _send_own(self, frame: bytes) -> None:
        """Send something that is not the hub's, which is told where that fills the link."""
        if self.send(frame) is not Took.MORE:
            self._gate.stalled(self)

    # ---- what comes in ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Read what the client sends, until it is gone."""
        self._stream.set_close_callback(self._gone)
        self._read()

    def _read(self) -> None:
        try:
            coming = self._stream.read_bytes(_READ_BYTES, partial=True)
        except StreamClosedError:
            self._gone()
        else:
            asyncio.ensure_future(coming).add_done_callback(self._received)

    def _received(self, done: asyncio.Future[bytes]) -> None:
        if done.cancelled() or done.exception() is not None:
            return  # it is closed, and the stream tells us
        self.heard, self._pinged = self._gate.clock(), None
        try:
            for event in self._receiver.receive(done.result()):
                self._take(event)
        except Exception:
            log.exception("%s: what it sent could not be taken", self._name)
            self._gate.end(self, CloseCode.INTERNAL)
        self._read()

    def _take(self, event: rfc6455.Event) -> None:
        if isinstance(event, str | bytes):
            self._gate.receive(self, event)
        elif isinstance(event, rfc6455.Ping):
            if self._closing:
                return  # nothing follows a close frame
            if self._unfinished:
                self._owed = event.data  # only the last one needs an answer (RFC 6455, 5.5.3)
            else:
                self._send_own(rfc6455.pong(event.data))
        elif isinstance(event, rfc6455.Close):
            self._hang_up(event.code, "")
        elif isinstance(event, rfc6455.Fail):
            log.info("%s: %d %s", self._name, event.code, event.reason)
            self._hang_up(event.code, event.reason)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def close(self, code: CloseCode | int, reason: str) -> None:
        """Begin the closing handshake; what it is not completed by is cut after a time."""
        if self._closing:
            return
        self._closing = True
        self._owed = None
        try:
            self._goodbye = self._stream.write(rfc6455.close(int(code), reason))
        except StreamClosedError:
            return
        loop = asyncio.get_running_loop()
        self._cutting = loop.call_later(self._gate.limits.close_seconds, self._stream.close)

    def _hang_up(self, code: int, reason: str) -> None:
        """The client has closed, or broke the rules: nothing that it sends counts any more."""
        self._gate.left(self)
        self.close(code, reason)
        if self._goodbye is not None:
            self._goodbye.add_done_callback(self._half_close)

    def _half_close(self, done: asyncio.Future[None]) -> None:
        """Our close frame is on its way: say that nothing follows, and wait for the client to do so too (7.1.1).

        Closed at once with something unread, the kernel would take back the close frame together with all the rest.
        """
        if done.cancelled() or done.exception() is not None or self._stream.closed():
            return
        if self._tls:
            self._stream.close()
        else:
            with contextlib.suppress(OSError):  # the client was faster
                self._stream.socket.shutdown(socket.SHUT_WR)

    def _gone(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
        self._gate.left(self)


def deflating(bits: int) -> type[WebSocketLink]:
    """The type of the links with which permessage-deflate with a window of so many bits was agreed on.

    A type of its own, for those of one type share their frames.
    """

    class DeflateLink(WebSocketLink):
        head = None

        @staticmethod
        def _inflater() -> rfc6455.Inflater:
            return rfc7692.Inflate()

        @staticmethod
        def wrap(payload: bytes, binary: bool, seq: int | None) -> bytes:
            return rfc7692.frame(payload, binary, bits)

    return DeflateLink
