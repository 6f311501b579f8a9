"""Server-Sent Events (HTML Standard, 9.2): one request, and an answer that does not end.

An event is a frame: its data the array of messages that a WebSocket frame would be, its id the position from which
nothing is lost, written `epoch:seq`. The body ends with its connection and has no chunks, so that an event is the same
bytes for all who want the same, and goes into each socket past Tornado.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from typing import Any, ClassVar

import msgspec
import orjson
from tornado.http1connection import HTTP1Connection
from tornado.iostream import IOStream, StreamClosedError
from tornado.web import RequestHandler

from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode, ProtocolError
from marketfeed.stream.link import NO_WIRE, Took
from marketfeed.stream.protocol import Position, Subscribe
from marketfeed.transports.base import Gate
from marketfeed.transports.http import MOST_COMMANDS, Refused, StreamingHandler, parse_position, subscribe_of_query
from marketfeed.transports.socketlink import SocketLink

#: Seconds between two signs of life: proxies cut what is quiet for 30 to 60 s.
_BEAT_SECONDS = 15.0
#: A browser comes again after so many ms, each after another time, so that not all come at once.
_RETRY_MS = (500, 1500)
#: Seconds in which a client has to take the last event.
_CLOSE_SECONDS = 5.0
#: A client has nothing more to say; one that says so much is cut.
_MOST_BYTES = 1 << 16


class SseLink(SocketLink):
    """One client's stream of one subscription: each event tells where the client is."""

    #: of the store: half of every id
    epoch: ClassVar[int]
    #: seconds between two looks at where the client is, for an event that tells nothing else
    mark_seconds: ClassVar[float] = _BEAT_SECONDS

    def __init__(self, stream: IOStream, name: str, gate: Gate) -> None:
        super().__init__(stream, name, gate)
        #: what is told before it is known whether there will be a stream
        self._early: list[bytes] | None = []
        self._marked: int | None = None
        self._marked_at = self._beat_at = gate.clock()

    @classmethod
    def wrap(cls, payload: bytes, binary: bool, seq: int | None) -> bytes:
        """An event. JSON has no line ends in it."""
        if seq is None:
            return b"data: %b\n\n" % payload
        return b"id: %d:%d\ndata: %b\n\n" % (cls.epoch, seq, payload)

    def send(self, frame: bytes) -> Took:
        if self._early is not None:
            self._early.append(frame)
            return Took.MORE
        return super().send(frame)

    def begin(self, head: bytes) -> None:
        """The stream begins: with the HTTP head, and what has been told already."""
        early, self._early = self._early or [], None
        retry = b"retry: %d\n\n" % random.randint(*_RETRY_MS)
        self._stream.set_nodelay(True)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A client never says that it lives. One that is gone without a word does not acknowledge the signs of life.
            milliseconds = int(self._gate.limits.write_seconds * 1000)
            self._stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._send_own(b"".join((head, retry, *early, self._mark())))

    def _mark(self) -> bytes:
        """Where the client is: an event without data, which a browser remembers and shows to nobody."""
        seq = self._gate.position(self)
        if seq is None or seq == self._marked:
            return b""
        self._marked = seq
        return b"id: %d:%d\n\n" % (self.epoch, seq)

    def _send_own(self, data: bytes) -> None:
        if data and self.send(data) is not Took.MORE:
            self._gate.stalled(self)

    def check(self, now: float) -> None:
        """Sign of life and position; end it when it does not take a frame in time."""
        super().check(now)
        if self._closing or self._unfinished:
            return
        data = b""
        if now - self._beat_at >= _BEAT_SECONDS:
            self._beat_at = now
            data = b":\n\n"
        if now - self._marked_at >= self.mark_seconds:
            self._marked_at = now
            data += self._mark()
        self._send_own(data)

    def close(self, code: CloseCode | int, reason: str) -> None:
        if self._early is not None or self._closing:
            return
        self._closing = True
        last = orjson.dumps({"code": int(code), "reason": reason})
        with contextlib.suppress(StreamClosedError):
            done = self._stream.write(b"event: close\ndata: %b\n\n" % last)
            done.add_done_callback(lambda _: self._stream.close())
            asyncio.get_running_loop().call_later(_CLOSE_SECONDS, self._stream.close)

    async def gone(self) -> None:
        """Wait until the client has gone."""
        said = 0
        with contextlib.suppress(StreamClosedError):
            while said < _MOST_BYTES:
                said += len(await self._stream.read_bytes(4096, partial=True))
        self._stream.close()
        self._gate.left(self)


class SeveralLink(SseLink):
    """One client's stream of several subscriptions, each of which may be somewhere else.

    Its frames have no id. A second at the latest after it has changed, an event without data tells the position of the
    one that is furthest behind: who resumes there loses nothing, and may be given again what the others had already.
    """

    mark_seconds = 1.0

    def __init__(self, stream: IOStream, name: str, gate: Gate) -> None:
        super().__init__(stream, name, gate)
        # While the later subscriptions are made, the hub may have frames for the first: only by `send` do they wait
        # until the stream has begun.
        self.wire = NO_WIRE

    @classmethod
    def wrap(cls, payload: bytes, binary: bool, seq: int | None) -> bytes:
        return super().wrap(payload, binary, None)


class SseHandler(StreamingHandler):
    """`GET /sse`."""

    def initialize(self, gate: Gate, **types: Any) -> None:
        super().initialize(gate)
        self._one: type[SseLink] = types["one"]
        self._several: type[SseLink] = types["several"]

    async def get(self) -> None:
        query = {name: self.get_query_arguments(name, strip=False) for name in self.request.query_arguments}
        for name in ("key", "secret", "token"):
            query.pop(name, None)
        feed = query.pop("feed", [""])[-1] or None
        try:
            commands = _commands(query, self.request.headers.get("Last-Event-ID"))
        except ProtocolError as error:
            raise Refused(protocol.error(error.code, str(error))) from None
        name = f"sse {self.request.remote_ip}"
        # From here to the detached stream nothing else may run: neither the hub nor Tornado writes to it meanwhile.
        assert isinstance(self.request.connection, HTTP1Connection)
        stream = self.request.connection.stream
        if self.gate.closing:
            # Any answer but a stream would have a browser give up; a connection that breaks it makes anew.
            stream.close()
        if stream.closed():
            return
        link = (self._one if len(commands) == 1 else self._several)(stream, name, self.gate)
        texts = [msgspec.json.encode(command).decode() for command in commands]
        self.admit(link, name, feed, texts, in_query=True)
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("Connection", "close")
        self.set_header("X-Accel-Buffering", "no")
        self.detach()
        head = "".join(f"{name}: {value}\r\n" for name, value in self._headers.get_all())
        link.begin(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode("latin-1"))
        await link.gone()


def _commands(query: dict[str, list[str]], last_event_id: str | None) -> list[Subscribe]:
    """The subscriptions that a request asks for, one at least.

    Args:
        last_event_id: where the client is: each of them begins there, whatever it says of its begin itself.

    Raises:
        ProtocolError: they are not possible.
    """
    texts = query.pop("subscribe", [])
    last = last_event_id or query.pop("last_event_id", [""])[-1]
    query.pop("last_event_id", None)
    if len(texts) >= MOST_COMMANDS:
        raise ProtocolError(ErrorCode.SYNTAX, f"fewer than {MOST_COMMANDS} subscriptions with one request")
    plain = subscribe_of_query(query)
    found = [] if plain is None and texts else [plain or Subscribe()]
    for text in texts:
        try:
            found.append(msgspec.json.decode(text, type=Subscribe))
        except msgspec.MsgspecError as error:
            raise ProtocolError(ErrorCode.SYNTAX, f"subscribe: {error}") from None
    if last:
        position = parse_position(last)
        if position is None or position.epoch is None:
            raise ProtocolError(ErrorCode.SYNTAX, f"Last-Event-ID is epoch:seq, not {last[:120]!r}")
        since = Position(position.seq, position.epoch)
        found = [msgspec.structs.replace(command, snapshot=False, since=since) for command in found]
    return found


def routes(gate: Gate) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """What this transport serves."""
    epoch = {"epoch": gate.hub.store.epoch}
    one: type[SseLink] = type("SseLink", (SseLink,), epoch)
    several: type[SseLink] = type("SeveralLink", (SeveralLink,), epoch)
    return [(r"/sse", SseHandler, {"gate": gate, "one": one, "several": several})]
