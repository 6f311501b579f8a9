"""A WebRTC client, and a network between it and the server that loses what a test says."""

from __future__ import annotations

import asyncio
import json
import re
import select
import urllib.error
import urllib.request
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription

from tests.integration.processes import BOUND

Message = dict[str, Any]

#: How a datagram begins that is DTLS application data; what SCTP needs besides a client's data is shorter than a tick.
_DTLS_DATA, _SMALL_BYTES = 23, 120


def offered(address: str, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """What the server answers to an offer: status and JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        request = urllib.request.Request(f"{address}/webrtc/offer", data, headers or {})
        with urllib.request.urlopen(request, timeout=BOUND) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


class Relay(asyncio.DatagramProtocol):
    """Passes datagrams on between one client and the server, but for those that are to be lost."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._client: tuple[str, int] | None = None
        self._transport: asyncio.DatagramTransport
        #: lose all that the server sends and that is as long as data are, not the small ones that keep a connection
        self.losing = False
        self.lost = 0
        #: lose everything, in both ways
        self.dead = False

    @classmethod
    async def between(cls, server: tuple[str, int]) -> Relay:
        loop = asyncio.get_running_loop()
        _, relay = await loop.create_datagram_endpoint(lambda: cls(server), local_addr=("127.0.0.1", 0))
        return relay

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # it is one
        self._transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:  # type: ignore[override]  # IPv4
        if self.dead:
            return
        if address != self._server:
            self._client = address
            self._transport.sendto(data, self._server)
        elif self.losing and data[0] == _DTLS_DATA and len(data) > _SMALL_BYTES:
            self.lost += 1
        elif self._client is not None:
            self._transport.sendto(data, self._client)

    async def close(self) -> None:
        """Pass on what lies in the socket, where a goodbye comes last, and end."""
        sock = self._transport.get_extra_info("socket")
        async with asyncio.timeout(BOUND):
            while select.select([sock], [], [], 0)[0]:
                await asyncio.sleep(0)
        self._transport.close()


class Channel:
    """A data channel as a test reads it."""

    def __init__(self, channel: RTCDataChannel) -> None:
        self.channel = channel
        self.texts: asyncio.Queue[str | None] = asyncio.Queue()
        self.opened = asyncio.Event()
        channel.on("open", self.opened.set)
        channel.on("message", self.texts.put_nowait)
        channel.on("close", lambda: self.texts.put_nowait(None))

    def tell(self, **command: Any) -> None:
        self.channel.send(json.dumps(command))

    async def text(self) -> str | None:
        """The next message as it came; None = the channel is closed."""
        async with asyncio.timeout(BOUND):
            return await self.texts.get()

    async def next(self, *kinds: str) -> Message:
        """The next message of one of these types; others are passed over."""
        while (text := await self.text()) is not None:
            if (found := json.loads(text)) and isinstance(found, list):
                for message in found:
                    if message["T"] in kinds:
                        return message
        raise AssertionError(f"the channel was closed before any of {kinds}")

    async def closed(self) -> Message | None:
        """Wait until it is closed; what it was told of that."""
        told = None
        while (text := await self.text()) is not None:
            if isinstance(found := json.loads(text), dict):
                told = found["close"]
        return told


class Peer:
    """A client's connection, through a relay."""

    def __init__(self) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.relay: Relay

    def channel(self, label: str = "/stream", **options: Any) -> Channel:
        return Channel(self.connection.createDataChannel(label, **options))

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        """Take an answer, whose address becomes that of the relay."""
        found = re.search(r"^a=candidate:\S+ 1 udp \d+ (\S+) (\d+) typ host", sdp, re.MULTILINE)
        assert found is not None
        self.relay = await Relay.between((found[1], int(found[2])))
        sdp = sdp.replace(f"{found[1]} {found[2]} typ host", f"127.0.0.1 {self.relay.port} typ host")
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))

    async def connect(self, address: str, headers: dict[str, str] | None = None, **more: Any) -> tuple[int, Any]:
        """Offer and accept; gives what the server said."""
        # Its own addresses are left out: the two would find a way past the relay.
        sdp = re.sub(r"^a=candidate:.*\n", "", await self.offer(), flags=re.MULTILINE)
        body = {"type": "offer", "sdp": sdp, **more}
        status, answer = await asyncio.to_thread(offered, address, body, headers)
        if status == 200:
            await self.accept(answer["sdp"])
        return status, answer

    async def close(self) -> None:
        await self.connection.close()
        if hasattr(self, "relay"):
            await self.relay.close()

    async def __aenter__(self) -> Peer:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()
