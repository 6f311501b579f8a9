"""Tornado answers a client's ping by itself, and we send frames past Tornado: neither may land inside the other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
from urllib.parse import urlsplit

from tests.integration.inside import Inside
from tests.integration.processes import BOUND
from tests.unit.transports.frames import PING, PONG, TEXT, frame

HANDSHAKE = (
    "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Client:
    """One that reads only when it is told to, from a socket that is soon full."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        parts = urlsplit(address)
        self.socket.connect((parts.hostname, parts.port))
        self.socket.setblocking(False)
        self.socket.send(HANDSHAKE.encode())
        self.came = b""
        self.frames: list[tuple[int, bytes]] = []

    def read(self) -> None:
        """What is there now."""
        with contextlib.suppress(BlockingIOError):
            while data := self.socket.recv(65536):
                self.came += data
        if self.came.startswith(b"HTTP"):
            head, end, rest = self.came.partition(b"\r\n\r\n")
            if not end:
                return
            assert b" 101 " in head, head
            self.came = rest
        while len(self.came) >= 2:
            first, length = self.came[0], self.came[1]
            assert first in (0x80 | TEXT, 0x80 | PONG), f"no frame begins with {self.came[:20]!r}"
            at = 2
            if length == 126:
                (length,), at = struct.unpack("!H", self.came[2:4]), 4
            if len(self.came) < at + length:
                return
            self.frames.append((first & 0xF, self.came[at : at + length]))
            self.came = self.came[at + length :]

    async def read_until(self, enough) -> None:
        async with asyncio.timeout(BOUND):
            while not enough(self):
                self.read()
                await asyncio.sleep(0.001)

    def said(self, word: str) -> bool:
        return any(word.encode() in payload for opcode, payload in self.frames if opcode == TEXT)

    def seqs(self) -> list[int]:
        packets = [json.loads(payload[2:]) for _, payload in self.frames if payload.startswith(b'42["ticks"')]
        return [tick["seq"] for packet in packets for tick in packet[1]]

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)


def with_a_client(conversation) -> None:
    async def whole():
        async with Inside() as inside:
            client = Client(inside.address)
            try:
                await client.send(frame(TEXT, b"40"))
                await client.read_until(lambda client: client.said("connected"))
                inside.publish("AAPL")
                await client.send(frame(TEXT, b'421["subscribe",{"quotes":["AAPL"]}]'))
                await client.read_until(lambda client: client.said("431["))
                (link,) = inside.gate._sessions
                stream = link.outgoing._socket._stream
                await conversation(inside, client, stream)
            finally:
                client.socket.close()

    asyncio.run(asyncio.wait_for(whole(), 2 * BOUND))


async def fill(client: Client, stream, size: int) -> int:
    """Have pongs of that size fill the socket. Returns how much of the last one is still in Tornado's buffer."""
    pings = b"".join(frame(PING, b"%0*d" % (size, n)) for n in range(50))
    async with asyncio.timeout(BOUND):
        while not stream.writing():
            await client.send(pings)
            await asyncio.sleep(0)
    return len(stream._write_buffer)


def test_a_frame_never_lands_inside_a_pong_of_which_the_socket_took_a_part():
    async def conversation(inside, client, stream):
        parts = 0
        attempts = itertools.cycle(itertools.product(range(125, 115, -1), (16384, 32768, 65536)))
        # Whether the kernel cuts one is its own business: as a rule it does.
        while parts < 5:
            size, room = next(attempts)
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
            left = await fill(client, stream, size)
            parts += left < size + 2
            # There is room again, and a tick, before Tornado knows of either: the hub has its turn first.
            client.read()
            head = inside.publish("AAPL")
            await client.read_until(lambda client, head=head: client.seqs()[-1:] == [head])
            await client.read_until(lambda _: not stream.writing())
        pongs = [payload for opcode, payload in client.frames if opcode == PONG]
        assert all(payload.isdigit() for payload in pongs)
        assert client.seqs() == list(range(2, inside.store.ring.head + 1))

    with_a_client(conversation)


def test_what_waits_behind_a_pong_is_sent_when_that_has_left():
    async def conversation(inside, client, stream):
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
        await fill(client, stream, 125)
        # The answer to this waits at the library, and what the hub has to give behind it.
        await client.send(frame(TEXT, b'422["subscribe",{"quotes":["MSFT"],"snapshot":true}]'))
        for _ in range(20):
            inside.publish("AAPL", "MSFT")
            await asyncio.sleep(0)
        last = {inside.store.ring.head - 1, inside.store.ring.head}  # one of each symbol
        await client.read_until(lambda client: client.said("432[") and last <= set(client.seqs()))
        await fill(client, stream, 125)
        head = inside.publish("AAPL")
        await asyncio.sleep(0)
        await client.read_until(lambda client: client.seqs()[-1:] == [head])

    with_a_client(conversation)
