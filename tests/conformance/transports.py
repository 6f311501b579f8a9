"""The transports as their clients use them: one adapter each, for the conformance suite.

To join it, write a class like those below and put it into :data:`TRANSPORTS`::

    class MyClient(Client):
        NAME = "mine"
        async def connect(self, commands): ...   # speak to self.address, with self.feed and self.credentials
        async def next(self): ...                # the next array of messages, and the transport's own place in it
        async def resume(self): ...              # come again after a cut as this transport's clients do
        def cut(self): ...                       # break the connection without a word
        async def gone(self): ...                # wait until it is closed
        def pause(self): ...                     # read nothing any more
        def unpause(self): ...

and, where commands can follow later, ``COMMANDS = True`` and ``async def command(self, **command)``. ``connect`` raises
:class:`Refused` where the transport itself turns a client away; what it is told in an `error` message, and by which
code the stream ends, :class:`Client` sees to.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlencode, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.processes import BOUND
from tests.integration.rtc import Peer

Message = dict[str, Any]
Command = dict[str, Any]


class Refused(Exception):
    """The client is not served; `code` is that of the `error` message."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Ended(Exception):
    """The server ended the stream; `code` is the close code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Client:
    """One client of one transport.

    Args:
        address: the server's, `http://...`.
        commands: `subscribe` commands, without `action`.
        feed: only that one's instruments.
        credentials: (key, secret).
    """

    NAME: ClassVar[str]
    #: whether commands can follow when the stream is there
    COMMANDS: ClassVar[bool] = False
    #: what a server has to load for it
    NEEDS: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, address: str, commands: list[Command], feed: str | None, credentials: tuple[str, str] | None
    ) -> None:
        self.address = address
        self.commands = commands
        self.feed = feed
        self.credentials = credentials
        #: everything received
        self.messages: list[Message] = []
        #: where it is, as any client can tell: the last tick, gap, or begin of a stream
        self.position: Message = {}
        self._waiting: list[tuple[list[Message], Any]] = []
        #: the transport's own place, of what was received last
        self.place: Any = None

    async def start(self, commands: list[Command]) -> None:
        """Connect and subscribe; done when every command has been answered.

        Raises:
            Refused: a command, or the client, was refused.
        """
        self._waiting = []
        async with asyncio.timeout(BOUND):
            await self.connect(commands)
            left = len(commands)
            while left:
                messages, place = await self.next()
                for message in messages:
                    if message["T"] == "error":
                        raise Refused(message["code"])
                    left -= message["T"] == "subscription"
                self._waiting.append((messages, place))

    async def receive(self) -> list[Message]:
        """The next array of messages.

        Raises:
            Ended: there is none any more.
        """
        async with asyncio.timeout(BOUND):
            messages, place = self._waiting.pop(0) if self._waiting else await self.next()
        self.place = place or self.place
        for message in messages:
            if "epoch" in message and message["T"] != "gap":
                self.position = {"epoch": message["epoch"], "seq": message.get("seq", 0)}
            elif message["T"] in ("q", "t"):
                self.position["seq"] = message["seq"]
        self.messages += messages
        return messages

    async def until(self, seq: int) -> list[Message]:
        """Everything up to the tick with this number."""
        begin = len(self.messages)
        while not any(message.get("seq", 0) >= seq for message in ticks(self.messages[begin:])):
            await self.receive()
        return self.messages[begin:]

    async def forever(self) -> None:
        """Everything until :class:`Ended`."""
        while True:
            await self.receive()

    def again(self) -> list[Command]:
        """Its commands, from where it is now."""
        return [
            {**{key: value for key, value in command.items() if key != "snapshot"}, "since": self.position}
            for command in self.commands
        ]

    def headers(self) -> dict[str, str]:
        if self.credentials is None:
            return {}
        key, secret = self.credentials
        return {"APCA-API-KEY-ID": key, "APCA-API-SECRET-KEY": secret}

    async def connect(self, commands: list[Command]) -> None:
        raise NotImplementedError

    async def next(self) -> tuple[list[Message], Any]:
        raise NotImplementedError

    async def resume(self) -> None:
        raise NotImplementedError

    async def command(self, **command: Any) -> None:
        raise NotImplementedError

    def cut(self) -> None:
        raise NotImplementedError

    async def gone(self) -> None:
        """After :meth:`cut`: wait until nothing is open any more."""
        raise NotImplementedError

    def pause(self) -> None:
        raise NotImplementedError

    def unpause(self) -> None:
        raise NotImplementedError


def ticks(messages: list[Message]) -> list[Message]:
    """Only the ticks."""
    return [message for message in messages if message["T"] in ("q", "t")]


def seqs_of(messages: list[Message]) -> list[int]:
    """The ticks' sequence numbers."""
    return [message["seq"] for message in ticks(messages)]


class WebSocketClient(Client):
    NAME = "websocket"
    COMMANDS = True

    async def connect(self, commands: list[Command]) -> None:
        path = "/stream" if self.feed is None else f"/v2/{self.feed}"
        url = self.address.replace("http", "ws", 1) + path
        self.ws: ClientConnection = await connect(
            url, additional_headers=self.headers(), max_size=None, max_queue=1, proxy=None
        )
        # One that is turned away at once may find it closed already; why, it reads next.
        with contextlib.suppress(ConnectionClosed):
            for command in commands:
                await self.command(action="subscribe", **command)

    async def next(self) -> tuple[list[Message], Any]:
        try:
            return json.loads(await self.ws.recv()), None
        except ConnectionClosed as closed:
            raise Ended(closed.rcvd.code if closed.rcvd else 1006) from None

    async def resume(self) -> None:
        await self.gone()
        await self.start(self.again())

    async def command(self, **command: Any) -> None:
        # A server that turns a client away may be faster than its first command; why it did is still to be read.
        with contextlib.suppress(ConnectionClosed):
            await self.ws.send(json.dumps(command))

    def cut(self) -> None:
        self.ws.transport.abort()

    async def gone(self) -> None:
        await self.ws.wait_closed()

    def pause(self) -> None:
        self.ws.transport.pause_reading()

    def unpause(self) -> None:
        self.ws.transport.resume_reading()


class Http:
    """One HTTP connection, that can be cut and need not be read."""

    def __init__(self, address: str, tls: ssl.SSLContext | None = None) -> None:
        self._where = urlsplit(address)
        self._tls = tls
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def request(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> None:
        """Send one; on a connection of its own where there is none yet."""
        if not hasattr(self, "writer") or self.writer.transport.is_closing() or self.reader.at_eof():
            await self.gone()
            self.reader, self.writer = await asyncio.open_connection(
                self._where.hostname, self._where.port, ssl=self._tls
            )
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self._where.netloc}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer."""
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers

    async def answer(self) -> tuple[int, Any]:
        """Status and JSON of a whole answer."""
        status, headers = await self.head()
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return status, json.loads(body) if body else None

    def cut(self) -> None:
        if hasattr(self, "writer"):
            self.writer.transport.abort()

    async def gone(self) -> None:
        if hasattr(self, "writer"):
            self.cut()
            with contextlib.suppress(ConnectionError):
                await self.writer.wait_closed()


def _since_of(since: Any) -> str:
    """As it stands in a query: a time as it is."""
    if isinstance(since, str):
        return since
    return f"{since['epoch']}:{since['seq']}" if since.get("epoch") else str(since["seq"])


class SseClient(Client):
    """As a browser's EventSource: it sends the id that it has seen last."""

    NAME = "sse"

    async def connect(self, commands: list[Command]) -> None:
        self.http = getattr(self, "http", None) or Http(self.address)
        query = [("subscribe", json.dumps(command)) for command in commands]
        if len(commands) == 1:
            query = [
                (key, ",".join(value) if isinstance(value, list) else json.dumps(value).strip('"'))
                for key, value in commands[0].items()
                if key != "since"
            ]
            if "since" in commands[0]:
                query.append(("since", _since_of(commands[0]["since"])))
        if self.feed is not None:
            query.append(("feed", self.feed))
        headers = self.headers()
        if self.place:
            headers["Last-Event-ID"] = self.place
        await self.http.request("GET", f"/sse?{urlencode(query)}", headers)
        status, told = await self.http.head()
        if status != 200:
            raise Refused(json.loads(await self.http.reader.readexactly(int(told["content-length"])))["code"])

    async def next(self) -> tuple[list[Message], Any]:
        while True:
            try:
                event = (await self.http.reader.readuntil(b"\n\n")).decode()
            except (asyncio.IncompleteReadError, ConnectionError):
                raise Ended(1006) from None
            except asyncio.LimitOverrunError:
                self.http.reader._limit *= 2  # type: ignore[attr-defined]  # asyncio sets it once only
                continue
            fields = dict(line.split(": ", 1) for line in event.splitlines() if line and not line.startswith(":"))
            if fields.get("event") == "close":
                raise Ended(json.loads(fields["data"])["code"])
            if "data" in fields or "id" in fields:
                return json.loads(fields.get("data", "[]")), fields.get("id")

    async def resume(self) -> None:
        await self.gone()
        await self.start(self.commands)

    def cut(self) -> None:
        self.http.cut()

    async def gone(self) -> None:
        await self.http.gone()

    def pause(self) -> None:
        self.http.writer.transport.pause_reading()  # type: ignore[attr-defined]  # every socket's transport has it

    def unpause(self) -> None:
        self.http.writer.transport.resume_reading()  # type: ignore[attr-defined]  # as above


class PollClient(Client):
    """Asks again where an answer was lost, and opens anew where the session is gone."""

    NAME = "longpoll"
    COMMANDS = True

    async def connect(self, commands: list[Command]) -> None:
        self.http, self.other = Http(self.address), Http(self.address)
        body = {"feed": self.feed, "commands": [{"action": "subscribe", **command} for command in commands]}
        headers = {}
        if self.credentials is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(':'.join(self.credentials).encode()).decode()}"
        await self.http.request("POST", "/poll", headers, json.dumps(body).encode())
        status, opened = await self.http.answer()
        if status != 200:
            raise Refused(opened["code"])
        self.path, self.cursor = f"/poll/{opened['session']}", opened["cursor"]

    async def ask(self) -> None:
        await self.http.request("GET", f"{self.path}?cursor={self.cursor}", {})

    async def next(self) -> tuple[list[Message], Any]:
        try:
            await self.ask()
            status, answer = await self.http.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Ended(1006) from None
        if status == 404:
            raise Ended(1006)
        assert status == 200, answer
        self.cursor = answer["cursor"]
        if "close" in answer and not answer["messages"]:
            self.end(answer)
        if "close" in answer:
            self.next = lambda: self.end(answer)  # type: ignore[method-assign]  # the messages first
        return answer["messages"], answer.get("position")

    def end(self, answer: Message) -> NoReturn:
        raise Ended(answer["close"]["code"])

    async def resume(self) -> None:
        await self.ask()
        status, answer = await self.http.answer()
        if status == 404:
            await self.gone()
            await self.start(self.again())
        else:
            self.cursor = answer["cursor"]
            self._waiting.append((answer["messages"], answer.get("position")))

    async def command(self, **command: Any) -> None:
        await self.other.request("POST", self.path, {}, json.dumps(command).encode())
        assert (await self.other.answer())[0] == 204

    def cut(self) -> None:
        """With an answer on its way, which is lost."""
        if hasattr(self, "path") and not self.http.writer.transport.is_closing():
            self.http.writer.write(f"GET {self.path}?cursor={self.cursor} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.http.cut()
        self.other.cut()

    async def gone(self) -> None:
        await self.http.gone()
        await self.other.gone()

    def pause(self) -> None:
        """A client that is slow does not ask."""

    def unpause(self) -> None:
        """It asks again."""


class SocketIOClient(Client):
    """The protocol as it is on the wire, so that its connection can be cut, and left unread.

    The real client, in JavaScript, is in tests/integration/test_socketio.py.
    """

    COMMANDS = True
    NEEDS = ("socketio",)

    async def connect(self, commands: list[Command]) -> None:
        self.prefix = "" if self.feed is None else f"/{self.feed},"
        self.asked = 0
        await self.open()
        key, secret = self.credentials or ("", "")
        await self.write(f"40{self.prefix}" + (json.dumps({"key": key, "secret": secret}) if self.credentials else ""))
        for command in commands:
            await self.command(action="subscribe", **command)

    async def command(self, **command: Any) -> None:
        event = command.pop("action")
        self.asked += 1
        await self.write(f"42{self.prefix}{self.asked}{json.dumps([event, command])}")

    def messages_of(self, packet: str) -> list[Message]:
        """What an Engine.IO packet says."""
        kind, rest = packet[:2], packet[2:].removeprefix(self.prefix)
        if kind == "44":
            raise Refused(json.loads(rest)["data"]["code"])
        if kind == "43":
            return json.loads(rest.lstrip("0123456789"))
        if kind == "42":
            event, message = json.loads(rest)
            if event == "close":
                raise Ended(message["code"])
            return message if event == "ticks" else [message]
        assert kind[0] in "01246", packet
        return []

    async def resume(self) -> None:
        await self.gone()
        await self.start(self.again())

    async def open(self) -> None:
        raise NotImplementedError

    async def write(self, packet: str) -> None:
        raise NotImplementedError


class SocketIOWebSocket(SocketIOClient):
    NAME = "socket.io"

    async def open(self) -> None:
        url = self.address.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"
        try:
            self.ws: ClientConnection = await connect(url, max_size=None, max_queue=1, proxy=None)
        except InvalidStatus as refused:
            raise Refused(406 if refused.response.status_code == 503 else 0) from None

    async def write(self, packet: str) -> None:
        await self.ws.send(packet)

    async def next(self) -> tuple[list[Message], Any]:
        while True:
            try:
                packet = str(await self.ws.recv())
            except ConnectionClosed as closed:
                raise Ended(closed.rcvd.code if closed.rcvd else 1006) from None
            if packet == "2":
                await self.write("3")
            elif messages := self.messages_of(packet):
                return messages, None

    def cut(self) -> None:
        if hasattr(self, "ws"):
            self.ws.transport.abort()

    async def gone(self) -> None:
        if hasattr(self, "ws"):
            await self.ws.wait_closed()

    def pause(self) -> None:
        self.ws.transport.pause_reading()

    def unpause(self) -> None:
        self.ws.transport.resume_reading()


class SocketIOPolling(SocketIOClient):
    NAME = "socket.io polling"

    async def open(self) -> None:
        self.http, self.other = Http(self.address), Http(self.address)
        self.packets: list[str] = []
        self.path = "/socket.io/?EIO=4&transport=polling"
        status, body = await self.ask()
        if status == 503:
            raise Refused(406)
        self.path += f"&sid={json.loads(body[1:])['sid']}"

    async def ask(self) -> tuple[int, str]:
        await self.http.request("GET", self.path, {})
        status, headers = await self.http.head()
        body = await self.http.reader.readexactly(int(headers.get("content-length", 0)))
        return status, body.decode()

    async def write(self, packet: str) -> None:
        await self.other.request("POST", self.path, {}, packet.encode())
        status, headers = await self.other.head()
        await self.other.reader.readexactly(int(headers.get("content-length", 0)))
        assert status == 200

    async def next(self) -> tuple[list[Message], Any]:
        while True:
            while self.packets:
                packet = self.packets.pop(0)
                if packet == "1":
                    raise Ended(1006)
                if packet == "2":
                    await self.write("3")
                elif messages := self.messages_of(packet):
                    return messages, None
            try:
                status, body = await self.ask()
            except (asyncio.IncompleteReadError, ConnectionError):
                raise Ended(1006) from None
            if status != 200:
                raise Ended(1006)
            self.packets = body.split("\x1e")

    def cut(self) -> None:
        """With an answer on its way, as mostly."""
        if hasattr(self, "http"):
            if not self.http.writer.transport.is_closing():
                self.http.writer.write(f"GET {self.path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            self.http.cut()
            self.other.cut()

    async def gone(self) -> None:
        if hasattr(self, "http"):
            await self.http.gone()
            await self.other.gone()

    def pause(self) -> None:
        """A client that is slow does not ask."""

    def unpause(self) -> None:
        """It asks again."""


class WebRtcClient(Client):
    """A reliable channel, from aiortc. What an unreliable one does is in tests/integration/test_webrtc.py."""

    NAME = "webrtc"
    COMMANDS = True
    NEEDS = ("webrtc",)

    async def connect(self, commands: list[Command]) -> None:
        self.peer, self.closing = Peer(), None
        self.channel = self.peer.channel("/stream" if self.feed is None else f"/v2/{self.feed}")
        status, answer = await self.peer.connect(self.address, self.headers())
        if status != 200:
            raise Refused(answer["code"])
        await self.channel.opened.wait()
        for command in commands:
            await self.command(action="subscribe", **command)

    async def next(self) -> tuple[list[Message], Any]:
        text = await self.channel.text()
        found = {"close": {"code": 1006}} if text is None else json.loads(text)
        if isinstance(found, dict):
            raise Ended(found["close"]["code"])
        return found, None

    async def resume(self) -> None:
        await self.gone()
        await self.start(self.again())

    async def command(self, **command: Any) -> None:
        self.channel.tell(**command)

    def cut(self) -> None:
        """As when a page is left: what goes without a word is found out after half a minute."""
        if hasattr(self, "peer") and self.closing is None:
            self.closing = asyncio.create_task(self.peer.close())

    async def gone(self) -> None:
        if hasattr(self, "peer"):
            self.cut()
            assert self.closing is not None
            await self.closing

    def pause(self) -> None:
        """Nothing passes, so that nothing is acknowledged."""
        self.peer.relay.dead = True

    def unpause(self) -> None:
        self.peer.relay.dead = False


#: Every transport that the suite runs over.
TRANSPORTS: list[type[Client]] = [
    WebSocketClient,
    SseClient,
    PollClient,
    SocketIOWebSocket,
    SocketIOPolling,
    WebRtcClient,
]
