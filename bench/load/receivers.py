"""Clients of one server over one transport, a process of its own: ``python -m bench.load.receivers``.

It takes its :class:`Order` as JSON on standard input. One line of JSON on standard output is the result, or
``{"error": ...}``.

A transport joins :data:`RECEIVERS` with a function that opens one client of it: it subscribes to what the order says,
gives every byte that comes to ``take``, and returns what closes it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlencode

from bench.load.client import latency
from bench.load.process import cpu_ns, memory_bytes, raise_file_limit, waited_ns
from bench.load.pump import UPDATE, Clock
from bench.load.wire import TEXT, frame, upgrade

_HOST = "127.0.0.1"
_CONNECT_S = 30.0


@dataclass(frozen=True)
class Order:
    """What the clients are to do."""

    transport: str
    port: int
    server_pid: int
    subscribers: int
    #: a `subscribe` command
    subscribe: dict[str, Any]
    warmup_s: float
    seconds: float


class Meter:
    """What has come to all clients."""

    def __init__(self) -> None:
        self.updates = self.reads = self.bytes = self.closed = 0
        #: ns, and how many updates each sample stands for
        self.latency = array("q")
        self.weight = array("q")
        self.sampling = False
        self._clock = Clock()

    def sample(self, data: bytes, updates: int) -> None:
        """One read's latency: that of its first update, the oldest in it, which stands for all of them."""
        at = data.find(UPDATE) + len(UPDATE)
        end = data.find(b'"', at)
        if end > 0:
            self.latency.append(time.time_ns() - self._clock.ns(data[at:end]))
            self.weight.append(updates)


class Flow:
    """What comes to one client, in whatever pieces; counts without parsing."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._tail = b""

    def take(self, data: bytes) -> None:
        """Some bytes have come."""
        meter = self._meter
        meter.reads += 1
        meter.bytes += len(data)
        data = self._tail + data
        updates = data.count(UPDATE)
        self._tail = data[1 - len(UPDATE) :]
        if updates:
            meter.updates += updates
            if meter.sampling:
                meter.sample(data, updates)


Take = Callable[[bytes], None]
#: May have to be waited for.
Close = Callable[[], Awaitable[None] | None]
#: (order, take, what to call when the server has closed) -> what closes it
Open = Callable[[Order, Take, Callable[[], None]], Awaitable[Close]]


class _Socket(asyncio.Protocol):
    """A TCP connection. ``answer`` is asked after each read what to send, if anything."""

    def __init__(self, first: bytes, answer: Callable[[bytes], bytes], take: Take, lost: Callable[[], None]) -> None:
        self._first = first
        self._answer = answer
        self._take = take
        self._lost = lost
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's is none by its class.
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        self._take(data)
        reply = self._answer(data)
        if reply:
            self.transport.write(reply)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closing:
            self._lost()

    def close(self) -> None:
        self.closing = True
        self.transport.abort()


async def _connect(
    order: Order, first: bytes, answer: Callable[[bytes], bytes], take: Take, lost: Callable[[], None]
) -> Close:
    loop = asyncio.get_running_loop()
    _, protocol = await loop.create_connection(lambda: _Socket(first, answer, take, lost), _HOST, order.port)
    return protocol.close


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {_HOST}\r\n\r\n".encode()


async def websocket(order: Order, take: Take, lost: Callable[[], None]) -> Close:
    """`/v2/sim`."""
    request, _ = upgrade(_HOST, "/v2/sim")
    command = frame(TEXT, json.dumps({"action": "subscribe", **order.subscribe}).encode())
    replies = iter((command,))
    # The command goes out when the handshake's answer is there.
    return await _connect(order, request, lambda data: next(replies, b""), take, lost)


async def sse(order: Order, take: Take, lost: Callable[[], None]) -> Close:
    """`/sse`."""
    query = urlencode({"feed": "sim", "subscribe": json.dumps(order.subscribe)})
    return await _connect(order, _get(f"/sse?{query}"), lambda data: b"", take, lost)


class Answers:
    """Finds where HTTP answers end, and asks for the next one."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._data = b""
        self._left = -1
        self._cursor = 0

    def ask(self) -> bytes:
        """The next request."""
        return _get(f"{self._path}?cursor={self._cursor}")

    def fed(self, data: bytes) -> bytes:
        """Some bytes of an answer have come: the next request, if it was its end."""
        self._data += data
        if self._left < 0:
            head, end, self._data = self._data.partition(b"\r\n\r\n")
            if not end:
                self._data = head
                return b""
            self._left = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(self._data) < self._left:
            return b""
        self._cursor = int(self._data[len(b'{"cursor":') :].split(b",", 1)[0])
        self._data, self._left = b"", -1
        return self.ask()


async def longpoll(order: Order, take: Take, lost: Callable[[], None]) -> Close:
    """`/poll`: asks again as soon as an answer is there."""
    body = json.dumps({"feed": "sim", "commands": [{"action": "subscribe", **order.subscribe}]}).encode()
    reader, writer = await asyncio.open_connection(_HOST, order.port)
    writer.write(b"POST /poll HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    session = json.loads(await reader.readexactly(size))["session"]
    writer.close()
    answers = Answers(f"/poll/{session}")
    return await _connect(order, answers.ask(), answers.fed, take, lost)


_SOCKET_IO = "/socket.io/?EIO=4&transport="


async def socketio(order: Order, take: Take, lost: Callable[[], None]) -> Close:
    """`/socket.io/`, namespace `/sim`, on a WebSocket."""
    request, _ = upgrade(_HOST, _SOCKET_IO + "websocket")
    command = frame(TEXT, b"42/sim," + json.dumps(["subscribe", order.subscribe]).encode())
    replies = iter((frame(TEXT, b"40/sim,"), command))
    # Nothing is said unasked before the namespace is there: the second read is its answer.
    return await _connect(order, request, lambda data: next(replies, b""), take, lost)


class Polls:
    """Asks again as soon as an answer of Engine.IO is there."""

    def __init__(self, path: str) -> None:
        self.request = _get(path)
        self._data = b""

    def fed(self, data: bytes) -> bytes:
        """Some bytes of an answer have come: the next request, if it was its end."""
        self._data += data
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end or len(body) < int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]):
            return b""
        self._data = b""
        return self.request


async def socketio_polling(order: Order, take: Take, lost: Callable[[], None]) -> Close:
    """The same without a WebSocket."""
    reader, writer = await asyncio.open_connection(_HOST, order.port)

    async def answer(request: bytes) -> bytes:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        return await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))

    opened = await answer(_get(_SOCKET_IO + "polling"))
    path = f"{_SOCKET_IO}polling&sid={json.loads(opened[1:])['sid']}"
    subscribe = "42/sim," + json.dumps(["subscribe", order.subscribe])
    for packet in ("40/sim,", subscribe):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(packet)}\r\n\r\n"
        await answer(head.encode() + packet.encode())
    writer.close()
    polls = Polls(path)
    return await _connect(order, polls.request, polls.fed, take, lost)


def _webrtc(reliable: bool) -> Open:
    async def webrtc(order: Order, take: Take, lost: Callable[[], None]) -> Close:
        """By aiortc. Every tick needs a reliable channel; the other gives the latest of each window."""
        from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

        peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        channel = peer.createDataChannel("/v2/sim")
        ticks = channel if reliable else peer.createDataChannel("/v2/sim", ordered=False, maxRetransmits=0)
        opened = asyncio.Event()
        ticks.on("open", opened.set)
        ticks.on("message", lambda text: take(text.encode()))
        await peer.setLocalDescription(await peer.createOffer())
        body = json.dumps({"type": "offer", "sdp": peer.localDescription.sdp}).encode()
        reader, writer = await asyncio.open_connection(_HOST, order.port)
        head = f"POST /webrtc/offer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + body)
        answer = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
        writer.close()
        await peer.setRemoteDescription(RTCSessionDescription(**answer))
        await opened.wait()
        channel.on("close", lost)
        often = {} if reliable else {"max_hz": 200}
        channel.send(json.dumps({"action": "subscribe", **often, **order.subscribe}))

        async def close() -> None:
            channel.remove_listener("close", lost)
            await peer.close()

        return close

    return webrtc


RECEIVERS: Mapping[str, Open] = {
    "websocket": websocket,
    "sse": sse,
    "longpoll": longpoll,
    "socket.io": socketio,
    "socket.io polling": socketio_polling,
    "webrtc": _webrtc(reliable=True),
    "webrtc unreliable": _webrtc(reliable=False),
}


async def measure(order: Order) -> dict[str, Any]:
    """Open all clients, warm up, and measure one window."""
    meter = Meter()

    def lost() -> None:
        meter.closed += 1

    closers: list[Close] = []
    try:
        async with asyncio.timeout(_CONNECT_S):
            while len(closers) < order.subscribers:
                closers.append(await RECEIVERS[order.transport](order, Flow(meter).take, lost))
        await asyncio.sleep(order.warmup_s)
        meter.sampling = True
        updates, reads, size = meter.updates, meter.reads, meter.bytes
        waited = waited_ns(order.server_pid)
        server, own, wall = cpu_ns(order.server_pid), time.process_time_ns(), time.monotonic_ns()
        await asyncio.sleep(order.seconds)
        server, own, wall = cpu_ns(order.server_pid) - server, time.process_time_ns() - own, time.monotonic_ns() - wall
        updates, reads, size = meter.updates - updates, meter.reads - reads, meter.bytes - size
        if meter.closed:
            return {"error": f"the server closed {meter.closed} connections"}
        if not updates:
            return {"error": f"no update came in {order.seconds:g} s"}
        return {
            "delivered": updates / wall * 1e9,
            "reads": reads / wall * 1e9,
            "cpu_us": server / 1000 / updates,
            "server_cpu": server / wall,
            "client_cpu": own / wall,
            "waited": (waited_ns(order.server_pid) - waited) / wall,
            "bytes": size / updates,
            "memory": memory_bytes(order.server_pid),
            "latency_ms": latency(meter.latency, meter.weight),
        }
    finally:
        for close in closers:
            closing = close()
            if closing is not None:
                await closing


def main() -> None:
    """Carry out one order."""
    order = Order(**json.load(sys.stdin))
    raise_file_limit()
    try:
        import uvloop
    except ModuleNotFoundError:
        factory = None
    else:
        factory = uvloop.new_event_loop
    try:
        with asyncio.Runner(loop_factory=factory) as runner:
            result = runner.run(measure(order))
    except (OSError, TimeoutError) as error:
        result = {"error": f"{error}" or type(error).__name__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
