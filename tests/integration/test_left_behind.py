"""Whoever has gone, in whatever way, leaves no object and no task in the server."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from marketfeed.transports.engineio import EngineHandler, Outgoing
from marketfeed.transports.socketio import SocketIOLink
from marketfeed.transports.webrtc import Peer as ServerPeer
from marketfeed.transports.webrtc import WebRtcLink
from tests.integration import rtc
from tests.integration.inside import Inside
from tests.integration.processes import BOUND
from tests.integration.test_socketio import get, opened, post, websocket_of


def alive(*types: type) -> list[str]:
    """The type of every instance that there is; to keep the instances would keep them alive."""
    gc.collect()
    return [type(each).__name__ for each in gc.get_objects() if issubclass(type(each), types)]


@asynccontextmanager
async def nothing_left(*types: type) -> AsyncIterator[Inside]:
    """A server that is as it was before, soon after those who came have left."""
    async with Inside(auth_seconds=0.5, ping_seconds=1.0) as server:
        # One that comes and goes, for what the server makes at the first.
        await asyncio.to_thread(get, f"{server.address}/api/status")
        tasks = len(asyncio.all_tasks())
        yield server
        for _ in range(round(BOUND / 0.1)):
            left = [*alive(*types), *(str(task) for task in asyncio.all_tasks())][: 20 + tasks]
            if len(left) <= tasks and not len(server.gate):
                break
            await asyncio.sleep(0.1)
        assert len(left) <= tasks, left


async def cut_websocket(address: str) -> None:
    async with connect(websocket_of(address)) as ws:
        await ws.send("40")
        await ws.send('42["subscribe",{"quotes":["*"]}]')
        ws.transport.abort()


async def closed_websocket(address: str) -> None:
    async with connect(websocket_of(address)) as ws:
        await ws.send("40/sim,")
        await ws.send("1")
        await ws.wait_closed()


async def left_namespace(address: str) -> None:
    """The connection stays, and is ended since nobody speaks over it."""
    async with connect(websocket_of(address)) as ws:
        await ws.send("40")
        await ws.send("41")
        await asyncio.wait_for(ws.wait_closed(), BOUND)


async def refused_namespace(address: str) -> None:
    async with connect(websocket_of(address)) as ws:
        await ws.send("40/nothing,")
        await asyncio.wait_for(ws.wait_closed(), BOUND)


async def closed_polling(address: str) -> None:
    further = await asyncio.to_thread(opened, address)
    await asyncio.to_thread(post, further, "40")
    await asyncio.to_thread(post, further, "1")


async def silent_polling(address: str) -> None:
    await asyncio.to_thread(opened, address)


async def failed_upgrade(address: str) -> None:
    further = await asyncio.to_thread(opened, address)
    upgrade = websocket_of(address) + "&" + further.rpartition("&")[2]
    async with connect(upgrade) as ws:
        with pytest.raises(InvalidStatus):
            await connect(upgrade)
        await ws.send("nonsense")
        await ws.wait_closed()


@pytest.mark.parametrize(
    "come_and_go",
    [
        cut_websocket,
        closed_websocket,
        left_namespace,
        refused_namespace,
        closed_polling,
        silent_polling,
        failed_upgrade,
    ],
    ids=lambda function: function.__name__,
)
def test_of_socket_io(come_and_go: Callable) -> None:
    async def conversation() -> None:
        async with nothing_left(Outgoing, EngineHandler, SocketIOLink) as server:
            await asyncio.gather(*(come_and_go(server.address) for _ in range(3)))

    asyncio.run(asyncio.wait_for(conversation(), 3 * BOUND))


async def closed_peer(address: str) -> None:
    async with rtc.Peer() as peer:
        control, ticks = peer.channel(), peer.channel(ordered=False, maxRetransmits=0)
        await peer.connect(address)
        await control.next("success")
        await ticks.opened.wait()


async def closed_channels(address: str) -> None:
    """The connection stays, and is ended since there is no session on it."""
    async with rtc.Peer() as peer:
        control = peer.channel()
        await peer.connect(address)
        await control.next("success")
        control.channel.close()
        await control.closed()
        async with asyncio.timeout(BOUND):
            while peer.connection.connectionState != "closed":
                await asyncio.sleep(0.05)


async def only_offered(address: str) -> None:
    async with rtc.Peer() as peer:
        peer.channel()
        body = {"type": "offer", "sdp": await peer.offer()}
    assert (await asyncio.to_thread(rtc.offered, address, body))[0] == 200


async def never_connected(address: str) -> None:
    """Its packets are lost, so that it is given up before it was there."""
    async with rtc.Peer() as peer:
        peer.channel()
        body = {"type": "offer", "sdp": await peer.offer()}
        _, answer = await asyncio.to_thread(rtc.offered, address, body)
        await peer.accept(answer["sdp"])
        peer.relay.dead = True


@pytest.mark.parametrize(
    "come_and_go",
    [closed_peer, closed_channels, only_offered, never_connected],
    ids=lambda function: function.__name__,
)
def test_of_webrtc(come_and_go: Callable) -> None:
    async def conversation() -> None:
        async with nothing_left(ServerPeer, WebRtcLink) as server:
            await asyncio.gather(*(come_and_go(server.address) for _ in range(3)))

    asyncio.run(asyncio.wait_for(conversation(), 3 * BOUND))
