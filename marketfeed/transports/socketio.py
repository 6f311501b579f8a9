"""Socket.IO (protocol 5) on python-socketio: `/` is every feed, a namespace `/NAME` that one.

Connections, namespaces and the handshake are the library's. An event of ticks is made once for all who get it, as it
goes over a WebSocket, and sent past the library: its own `emit` costs a task, a packet and a frame for each client
(see :mod:`marketfeed.transports.engineio` for when it is sent).

==================== ===================================================================================
from a client        `subscribe`, `unsubscribe`, `auth`: the command of that name without its `action`
acknowledged with    the `subscription`, `success` or `error` message that answers it
to a client          `ticks` (an array of `q`, `t`, ...); `gap`, `heartbeat`, `position`, `success`, `error`: one
                     message; `subscription` where the client wanted no acknowledgement; `close` (`code`, `reason`)
                     at the end
==================== ===================================================================================
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import deque
from typing import Any

import msgspec
import socketio
from socketio import packet as packets
from socketio.exceptions import ConnectionRefusedError as Refused
from tornado.web import RequestHandler

from marketfeed.stream import protocol
from marketfeed.stream.codes import CloseCode, ErrorCode
from marketfeed.stream.link import Took
from marketfeed.transports.base import EachLink, Gate
from marketfeed.transports.credentials import credentials
from marketfeed.transports.engineio import Engine, EngineHandler, Outgoing
from marketfeed.transports.jsonframe import ALONE, ANSWERS, GREETING, kind
from marketfeed.transports.websocket import WebSocketLink

log = logging.getLogger("marketfeed.socketio")
#: The library tells of each packet, and of what clients do wrong.
_library_log = logging.getLogger("marketfeed.socketio.library")
_library_log.setLevel(logging.ERROR)

#: Engine.IO's `message`; in it Socket.IO's `event` and `ack`.
_EVENT, _ACK = b"42", b"43"
#: From here on a client is not to come again (docs/protocol.md).
_FOR_GOOD = 3500


class _Answer(bytes):
    """A frame whose message answers a command: to be sent as an acknowledgement where one is waited for."""

    message: bytes


class SocketIOLink(EachLink):
    """One client in one namespace. Each namespace has a class of its own: its name is part of every frame.

    Args:
        sid: of the client in this namespace.
        unasked: how many answers it is given that no command of it asked for.
    """

    #: as it stands in a packet: nothing for `/`, else `/NAME,`
    PREFIX = b""

    def __init__(self, server: Server, namespace: str, sid: str, outgoing: Outgoing, name: str, unasked: int) -> None:
        self.name = name
        self.sid = sid
        self.namespace = namespace
        self.outgoing = outgoing
        self.refusal: CloseCode | None = None
        self._server = server
        self._gate = server.gate
        self._open = False
        #: what answers are waited for: numbers of acknowledgements, or None where the client wants none
        self._asked: deque[int | None] = deque([None] * unasked)

    @classmethod
    def wrap(cls, payload: bytes, binary: bool, seq: int | None) -> bytes:
        """A WebSocket frame of an event. The payload is JSON whose messages begin with their type."""
        event = kind(payload)
        if event not in ALONE:
            return WebSocketLink.wrap(b'%b%b["ticks",%b]' % (_EVENT, cls.PREFIX, payload), False, None)
        message = payload[1:-1]
        frame = WebSocketLink.wrap(b'%b%b["%b",%b]' % (_EVENT, cls.PREFIX, event, message), False, None)
        if event not in ANSWERS or payload.startswith(GREETING):
            return frame
        answer = _Answer(frame)
        answer.message = message
        return answer

    def send(self, frame: bytes) -> Took:
        if not self._open or self.refusal is not None:
            return Took.NOTHING
        answers = isinstance(frame, _Answer) and bool(self._asked)
        if answers and (number := self._asked[0]) is not None:
            assert isinstance(frame, _Answer)
            text = b"%b%b%d[%b]" % (_ACK, self.PREFIX, number, frame.message)
            took = self.outgoing.send(WebSocketLink.wrap(text, False, None), text)
        else:
            took = self.outgoing.send(frame, memoryview(frame)[_head_bytes(frame) :])
        if answers and took is not Took.NOTHING:
            self._asked.popleft()
        return took

    def command(self, event: str, arguments: list[Any], number: int | None) -> None:
        """An event came from the client; it is answered."""
        self._asked.append(number)
        given = arguments[0] if arguments else {}
        # An event of another name, or one whose argument is no object, is told what is wrong with it as a command.
        command = {**given, "action": event} if isinstance(given, dict) else given
        self._gate.receive(self, json.dumps(command))

    def drained(self) -> None:
        self._open = True
        self._gate.writable(self)

    def gone(self) -> None:
        self._server.forget(self)

    def check(self, now: float) -> None:
        if not self.outgoing.check():
            log.info("%s: no pong for %.0f s", self.name, self._gate.limits.ping_seconds)
            self._gate.end(self, CloseCode.PONG_TIMEOUT)

    def close(self, code: CloseCode | int, reason: str) -> None:
        self.refusal = CloseCode(code)
        if self in self.outgoing.listeners:
            told = json.dumps(["close", {"code": int(code), "reason": reason}])
            self.outgoing.tell(f"{packets.EVENT}{self.PREFIX.decode()}{told}")
            self._server.end(self)


def _head_bytes(frame: bytes) -> int:
    """How long the header of an unmasked WebSocket frame is."""
    return {126: 4, 127: 10}.get(frame[1], 2)


class Server(socketio.AsyncServer):  # type: ignore[misc]  # the library has no types
    """The library's server, in front of the gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        limits = gate.limits
        super().__init__(
            async_mode="tornado",
            namespaces="*",
            async_handlers=False,
            ping_interval=limits.ping_seconds,
            ping_timeout=limits.ping_seconds,
            max_http_buffer_size=limits.message_bytes,
            http_compression=False,
            # Done by the gate.
            monitor_clients=False,
            # The handler has looked at the origin before.
            cors_allowed_origins="*",
            logger=_library_log,
            engineio_logger=_library_log,
            gate=gate,
        )
        self._links: dict[str, SocketIOLink] = {}
        self._link_types: dict[str, type[SocketIOLink]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self.on("connect", self._connected, namespace="*")
        self.on("disconnect", self._disconnected, namespace="*")

    def _engineio_server_class(self) -> type[Engine]:
        return Engine

    # ---- a client comes and goes ---------------------------------------------------------------------------------

    def _connected(self, namespace: str, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        feed = namespace.removeprefix("/") or None
        if feed is not None and not self.gate.has_feed(feed):
            raise Refused(f"no feed {feed!r}")
        handler: EngineHandler = environ["tornado.handler"]
        try:
            given = msgspec.convert(auth, protocol.Auth) if auth else credentials(handler.request)
        except msgspec.ValidationError as error:
            raise Refused(f"auth: {error}", protocol.error(ErrorCode.SYNTAX, f"auth: {error}")) from None
        outgoing = self.eio.sockets[self.manager.eio_sid_from_sid(sid, namespace)].queue
        link = self._link_type(namespace)(self, namespace, sid, outgoing, handler.name, given is not None)
        session = self.gate.admit(link, handler.name, "json", feed, given)
        if session.ended is not None:
            self.gate.left(link)
            why = session.error
            raise Refused(why["msg"], why) if why else Refused(session.ended.name.lower())
        self._links[sid] = link
        outgoing.add(link)
        self.gate.wake()

    def _link_type(self, namespace: str) -> type[SocketIOLink]:
        """One for each feed, of which there are as many as the server was started with."""
        if namespace not in self._link_types:
            prefix = b"" if namespace == "/" else namespace.encode() + b","
            self._link_types[namespace] = type("SocketIOLink", (SocketIOLink,), {"PREFIX": prefix})
        return self._link_types[namespace]

    def _disconnected(self, namespace: str, sid: str, reason: str) -> None:
        link = self._links.get(sid)
        # Where we end the whole connection, it has gone when all is sent.
        if link is not None and not link.outgoing.ending:
            self.forget(link)

    def forget(self, link: SocketIOLink) -> None:
        """A client has left a namespace."""
        self._links.pop(link.sid, None)
        link.outgoing.remove(link)
        self.gate.left(link)

    def end(self, link: SocketIOLink) -> None:
        """Have a client leave: it connects again by itself after a connection ends, and not after a `disconnect`."""
        assert link.refusal is not None
        if link.refusal < _FOR_GOOD:
            link.outgoing.end()
            return
        task = asyncio.get_running_loop().create_task(self.disconnect(link.sid, link.namespace))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # ---- packets -------------------------------------------------------------------------------------------------

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        engine = self.eio.sockets[eio_sid]
        engine.queue.bind(engine)

    async def _handle_eio_message(self, eio_sid: str, data: Any) -> None:
        """Connects and disconnects are the library's; events are ours, which knows an acknowledgement only afterwards.

        What cannot be read ends the connection, as in the first of all implementations. So do attachments, which no
        command has and which the library would collect without a bound.
        """
        if eio_sid not in self.environ:
            return  # it came before its connection ended, and is looked at after
        packet = _read(data)
        if packet is None:
            log.info("%s: not a packet", self.environ[eio_sid]["tornado.handler"].name)
            self.eio.sockets[eio_sid].queue.end()
        elif packet.packet_type == packets.EVENT:
            link = self._links.get(self.manager.sid_from_eio_sid(eio_sid, packet.namespace or "/"))
            if link is not None:
                link.command(packet.data[0], packet.data[1:], packet.id)
        else:
            await super()._handle_eio_message(eio_sid, data)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        engine = self.eio.sockets.pop(eio_sid, None)
        if engine is not None and not engine.queue.ending:
            engine.queue.over()


def _read(data: Any) -> packets.Packet | None:
    """A packet that a client may send; None = it is none."""
    if not isinstance(data, str):
        return None
    try:
        packet = packets.Packet(encoded_packet=data)
    except (ValueError, TypeError, IndexError, RecursionError):
        return None
    good = {
        packets.CONNECT: packet.data is None or isinstance(packet.data, dict),
        packets.DISCONNECT: True,
        packets.EVENT: isinstance(packet.data, list) and bool(packet.data) and isinstance(packet.data[0], str),
    }
    return packet if good.get(packet.packet_type, False) else None


def routes(gate: Gate) -> list[tuple[str, type[RequestHandler], dict[str, Any]]]:
    """What this transport serves."""
    return [(r"/socket\.io/", EngineHandler, {"engine": Server(gate).eio, "gate": gate})]
