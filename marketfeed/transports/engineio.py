"""Engine.IO (protocol 4), which carries Socket.IO: HTTP polling, and WebSocket by an upgrade; on python-engineio.

The library keeps a queue of packets for each connection, without a bound, and a task that empties it. Here the queue
has one (:class:`Outgoing`), and tells when somebody waits at its end: then all before has left. Only then is a frame
sent: to a WebSocket past queue and library, by the socket's own `send`; else as the packet that answers a poll. So
never more than one frame waits for a client, and it is made when the client asks for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol
from urllib.parse import urlsplit

import engineio
import engineio.async_drivers.tornado
from engineio.async_socket import AsyncSocket
from engineio.packet import CLOSE, MESSAGE, PONG, UPGRADE, Packet
from engineio.payload import Payload
from tornado.http1connection import HTTP1Connection
from tornado.web import HTTPError
from tornado.websocket import WebSocketHandler, WebSocketProtocol, WebSocketProtocol13, _WebSocketParams

from marketfeed.stream.link import Took
from marketfeed.transports.base import Gate
from marketfeed.transports.socketlink import Socket

log = logging.getLogger("marketfeed.engineio")

#: Packets besides ticks that may wait for a client; a client that causes more is read from no further.
_MOST_PACKETS = 64
#: Messages of a WebSocket that were read but not looked at yet.
_MOST_UNREAD = 16
#: A connection that was told to end is cut after so long.
_CLOSE_SECONDS = 5.0
#: Packets that may come with one request. A client sends all that it has at that moment, and the library's own limit,
#: which is one for the process, is less than a page may subscribe to when it starts.
Payload.max_decode_packets = 64
#: How a packet from a client may begin; `2probe` is the first of an upgrade.
_FROM_CLIENT = tuple(str(kind) for kind in (CLOSE, PONG, MESSAGE, UPGRADE))


def readable(packet: str | bytes) -> bool:
    """Whether it is a packet that a client may send: the library is left in a muddle by others."""
    return isinstance(packet, str) and (packet.startswith(_FROM_CLIENT) or packet == "2probe")


class Listener(Protocol):
    """Whoever sends over a connection: one for each Socket.IO namespace."""

    def drained(self) -> None:
        """All has left; a frame can be sent."""

    def gone(self) -> None:
        """The connection is no more."""


class _Socket(Socket):
    """The socket of a connection that is a WebSocket by now.

    Tornado answers a client's pings by itself. Of such a pong a socket that is nearly full takes a part, and a frame
    that is sent past Tornado then would land inside it: frames wait until it has left.
    """

    def __init__(self, outgoing: Outgoing, handler: EngineHandler, gate: Gate) -> None:
        assert handler.ws_connection is not None
        assert handler.ws_connection.stream is not None
        super().__init__(handler.ws_connection.stream, handler.name, gate)
        self.handler = handler
        self._outgoing = outgoing

    def drained(self) -> None:
        self._outgoing.ask()

    def lost(self) -> None:
        """The handler is told when it is closed."""

    def send(self, frame: bytes) -> Took:
        return super().send(frame) if self.clear() else Took.NOTHING

    def clear(self) -> bool:
        """Whether nothing is on its way, neither a frame nor a pong. If something is, :meth:`drained` follows."""
        if not self._unfinished and self._stream.writing() and not self._stream.closed():
            self._wait_for(self._stream.write(b""))
        return not self._unfinished

    @property
    def writing(self) -> bool:
        return bool(self._unfinished) or self._stream.writing()

    @property
    def written(self) -> int:
        """Bytes that the socket has taken."""
        return self._stream._total_write_done_index

    def cut(self) -> None:
        self._stream.close()


class Outgoing(asyncio.Queue[Any]):
    """What is on its way to one client."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(_MOST_PACKETS)
        self._gate = gate
        self._loop = asyncio.get_running_loop()
        self._engine: AsyncSocket | None = None
        self._socket: _Socket | None = None
        self._written = 0
        #: somebody waits for packets, and there are none: all that there was has left
        self._asked = False
        self._over = False
        self.ending = False
        self.listeners: dict[Listener, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def bind(self, engine: AsyncSocket) -> None:
        """The connection is there; where nobody sends over it within the time to authenticate, it is ended."""
        self._engine = engine
        self._look_later()

    def opened(self, handler: EngineHandler) -> None:
        """It is a WebSocket, or will be as soon as the client has tried it."""
        self._socket = _Socket(self, handler, self._gate)

    def closed(self, handler: EngineHandler) -> None:
        """This WebSocket is closed, or this request was left by the client."""
        assert self._engine is not None
        if self._socket is None:
            self.end()
        elif self._socket.handler is handler:
            if self._engine.upgraded:
                self.over()
            else:
                # Some proxy does not let it pass: polling goes on, which the library would have waiting for good.
                self._socket, self._engine.upgrading = None, False

    @property
    def has_socket(self) -> bool:
        """Whether there is a WebSocket."""
        return self._socket is not None

    # ---- frames --------------------------------------------------------------------------------------------------

    def send(self, frame: bytes, text: bytes | memoryview) -> Took:
        """Send a packet, if all before it has left.

        Args:
            frame: as it is on a WebSocket.
            text: without the WebSocket's header.
        """
        if not self._asked or self.ending:
            return Took.NOTHING
        assert self._engine is not None
        if self._engine.upgraded:
            assert self._socket is not None
            return self._socket.send(frame)
        # The library writes the packet's type itself.
        self.put_nowait(Packet(MESSAGE, str(text[1:], "utf-8")))
        return Took.LAST

    def tell(self, text: str) -> None:
        """Have a packet follow whatever is on its way; where that is too much, it is left out."""
        if not self._over and not self.full():
            self.put_nowait(Packet(MESSAGE, text))

    def ask(self) -> None:
        """Tell all who send over this connection that they can, if so it is."""
        if self._asked and not self.ending and (self._socket is None or self._socket.clear()):
            for listener in list(self.listeners):
                listener.drained()

    async def get(self) -> Any:
        if self.empty():
            if self._over:
                return None
            self._asked = True
            self.ask()
        try:
            return await super().get()
        except asyncio.CancelledError:
            self._asked = False
            raise

    def full(self) -> bool:
        return not self._over and super().full()

    def _put(self, item: Any) -> None:
        self._asked = False
        if not self._over or item is None:
            super()._put(item)

    # ---- its life ------------------------------------------------------------------------------------------------

    def add(self, listener: Listener) -> None:
        self.listeners[listener] = None
        self._stop_looking()

    def remove(self, listener: Listener) -> None:
        self.listeners.pop(listener, None)
        if not self.listeners and not self._over:
            self._look_later()

    def _look_later(self) -> None:
        self._stop_looking()
        self._timer = self._loop.call_later(self._gate.limits.auth_seconds, self.end)

    def _stop_looking(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self) -> bool:
        """Called about once a second. False = it has not answered a ping in time."""
        engine, socket = self._engine, self._socket
        assert engine is not None
        if socket is not None and not self.ending:
            socket.check(self._gate.clock())
        if not engine.last_ping:
            return True
        if socket is not None and socket.writing and socket.written > self._written:
            # The ping waits behind a frame of which the client takes something.
            self._written, engine.last_ping = socket.written, time.time()
        return bool(time.time() - engine.last_ping <= self._gate.limits.ping_seconds)

    def end(self) -> None:
        """End the connection in order, and by force if that takes long. The client may come again."""
        if self.ending or self._over:
            return
        self.ending = True
        self._stop_looking()
        self._timer = self._loop.call_later(_CLOSE_SECONDS, self.cut)
        assert self._engine is not None
        # A WebSocket has a close of its own.
        closing = self._loop.create_task(self._engine.close(wait=False, abort=self._engine.upgraded))
        closing.add_done_callback(self._end_queue)

    def _end_queue(self, closing: asyncio.Task[None]) -> None:
        """Behind all that there is, the library's task or the poll ends; where that is too much, time does it."""
        if not self._over and not self.full():
            self.put_nowait(None)

    def cut(self) -> None:
        """Nothing is sent any more."""
        if self._socket is not None:
            self._socket.cut()
        self.over()

    def over(self) -> None:
        """The connection is no more: nobody may wait for it."""
        if self._over:
            return
        self._over = self.ending = True
        self._stop_looking()
        while not self.empty():
            self.get_nowait()
        self.put_nowait(None)
        for listener in list(self.listeners):
            listener.gone()
        self.listeners.clear()


class _WebSocket(engineio.async_drivers.tornado.WebSocket):  # type: ignore[misc]  # the library has no types
    """The library's view of a WebSocket: what it sends has left when it returns, and what it gets is a packet."""

    async def __call__(self, environ: dict[str, Any]) -> None:
        engine, handler = self.handler.__self__, environ["tornado.handler"]
        engine.queue.opened(handler)
        handler.outgoing = engine.queue
        await super().__call__(environ)

    async def send(self, message: str | bytes) -> None:
        # Closed meanwhile = the library's task ends, whatever is raised.
        await self.tornado_handler.write_message(message, binary=isinstance(message, bytes))

    async def wait(self) -> str:
        message = await self.tornado_handler.unread.get()
        if message is None or not readable(message):
            raise OSError("closed, or no packet")
        assert isinstance(message, str)
        return message


class Engine(engineio.AsyncServer):  # type: ignore[misc]  # the library has no types
    """python-engineio's server with queues that are bounded, on a Tornado handler that is ours."""

    def __init__(self, gate: Gate, **options: Any) -> None:
        super().__init__(**options)
        self._gate = gate
        self._async: dict[str, Any] = {**self._async, "websocket": _WebSocket}

    def create_queue(self, *args: Any, **kwargs: Any) -> Outgoing:
        return Outgoing(self._gate)


class EngineHandler(WebSocketHandler):
    """`/socket.io/`: each request of a connection, and its WebSocket."""

    def initialize(self, engine: Engine, gate: Gate) -> None:
        self._engine = engine
        self._gate = gate
        self.name = f"socket.io {self.request.remote_ip}"
        self.unread: asyncio.Queue[str | bytes | None] = asyncio.Queue(_MOST_UNREAD)
        self.outgoing: Outgoing | None = None
        self._serving: asyncio.Task[None] | None = None
        self._left = False

    def prepare(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and not self.allows(origin):
            raise HTTPError(403, "origin %s", origin)
        if self.get_query_argument("j", None) is not None:
            raise HTTPError(400, "JSONP is not served")
        sid = self.get_query_argument("sid", None)
        if sid is None:
            if max(len(self._gate), len(self._engine.sockets)) >= self._gate.limits.connections:
                # No error to be logged: they come again and again.
                self.set_status(503)
                self.set_header("Retry-After", "1")
                self.finish("connection limit exceeded\n")
        elif sid not in self._engine.sockets:
            # Nor is this, as long as there are clients of an earlier life.
            self.set_status(400)
            self.finish("no session of this id\n")
        else:
            self.outgoing = self._engine.sockets[sid].queue
            if self.outgoing.has_socket and "Upgrade" in self.request.headers:
                raise HTTPError(400, "there is a WebSocket already")

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may connect."""
        trusted = self.settings.get("trusted_origins", [])
        same = urlsplit(origin).netloc.lower() == self.request.headers.get("Host", "").lower()
        return same or "*" in trusted or origin in trusted

    def check_origin(self, origin: str) -> bool:
        return self.allows(origin)

    def check_trusted_origin(self, origin: str) -> bool:
        return self.allows(origin)

    async def get(self, *args: Any, **kwargs: Any) -> None:
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            await super().get(*args, **kwargs)
        elif not self._stream_closed():
            await self._engine.handle_request(self)

    def _stream_closed(self) -> bool:
        """Whether the client has gone before its request was looked at, of which Tornado does not tell any more."""
        assert isinstance(self.request.connection, HTTP1Connection)
        gone = self.request.connection.stream.closed()
        if gone:
            self.on_close()
        return gone

    async def post(self) -> None:
        packets = self.request.body.decode(errors="replace").split("\x1e")
        if len(packets) > Payload.max_decode_packets or not all(map(readable, packets)):
            raise HTTPError(400, "no payload of packets")
        await self._engine.handle_request(self)

    async def options(self) -> None:
        await self._engine.handle_request(self)

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        if super().get_websocket_protocol() is None:
            return None
        # Pings are Engine.IO's business, and compression would be done for each client anew.
        params = _WebSocketParams(
            ping_interval=0, ping_timeout=0, max_message_size=self._gate.limits.message_bytes, compression_options=None
        )
        return WebSocketProtocol13(self, False, params)

    def open(self, *args: str, **kwargs: Any) -> None:
        self.set_nodelay(True)
        # Tornado tells of it only after the last message that came has been taken.
        assert self.ws_connection is not None
        assert self.ws_connection.stream is not None
        self.ws_connection.stream.set_close_callback(self.on_close)
        self._serving = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            await self._engine.handle_request(self)
        finally:
            # Where the library refuses a WebSocket, it leaves it open.
            self.close()

    async def on_message(self, message: str | bytes) -> None:
        # While there is no room Tornado reads no further, and so TCP stops the client.
        if not self._left:
            await self.unread.put(message)

    def on_close(self) -> None:
        """The WebSocket is closed, or the client has left while a request of it was served. May be called twice."""
        if self._left:
            return
        self._left = True
        while not self.unread.empty():
            self.unread.get_nowait()
        self.unread.put_nowait(None)
        if self.outgoing is not None:
            self.outgoing.closed(self)

    def on_finish(self) -> None:
        # The last answer to a poll has been written.
        if self.outgoing is not None and self.outgoing.ending and self.request.method == "GET":
            self.outgoing.over()
