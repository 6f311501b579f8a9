"""The letter of RFC 6455 and 7692 on real sockets: how a WebSocket begins, what ends it, and that it does end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import zlib
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application
from websockets.asyncio.client import connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from marketfeed.model import TickStore
from marketfeed.server.driver import Driver
from marketfeed.stream.hub import Hub
from marketfeed.transports import upgrade
from marketfeed.transports.base import Gate, Limits
from tests.integration.processes import BOUND, server, stream_of
from tests.unit.transports.frames import BINARY, PING, RSV1, TEXT, close, frame

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
GOOD = {
    "Host": "x",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}
SIM = "sim?symbols=20&rate=2000&seed=3"


class Peer:
    """A client that does only what a test tells it to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    @contextlib.asynccontextmanager
    async def at(cls, port: int, headers: dict[str, str] | None = None, path: str = "/stream") -> AsyncIterator[Peer]:
        """One that has sent its handshake, and has not read the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            lines = [f"{name}: {value}\r\n" for name, value in (GOOD if headers is None else headers).items()]
            writer.write(f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode())
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def answer(self) -> tuple[int, dict[str, str]]:
        """The HTTP answer: status, and headers by their name in lower case."""
        async with asyncio.timeout(BOUND):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        status, *lines = head.split("\r\n")
        return int(status.split()[1]), {k.lower(): v for k, _, v in (line.partition(": ") for line in lines if line)}

    async def frame(self) -> tuple[int, bytes]:
        """The next frame: its first octet, and its payload."""
        async with asyncio.timeout(BOUND):
            first, n = await self.reader.readexactly(2)
            if n == 126:
                [n] = struct.unpack("!H", await self.reader.readexactly(2))
            elif n == 127:
                [n] = struct.unpack("!Q", await self.reader.readexactly(8))
            return first, await self.reader.readexactly(n)

    async def closed_with(self) -> int:
        """The code of the close frame that comes sooner or later."""
        while True:
            first, payload = await self.frame()
            if first == 0x88:
                return struct.unpack("!H", payload[:2])[0]

    async def ended(self) -> bytes:
        """What is still to be read, until the server has ended the connection."""
        async with asyncio.timeout(BOUND):
            rest = b""
            with contextlib.suppress(ConnectionResetError):
                while data := await self.reader.read(65_536):
                    rest += data
            return rest


class TellingServer(HTTPServer):
    """Knows what it accepted. What it sends soon does not fit any more, whatever the kernel would take otherwise."""

    def initialize(self, *arguments, **options):
        super().initialize(*arguments, **options)
        self.streams = []

    def handle_stream(self, stream, address):
        self.streams.append(stream)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        super().handle_stream(stream, address)


@contextlib.asynccontextmanager
async def gate(**limits: object) -> AsyncIterator[tuple[Gate, int]]:
    """A gate with its hub on this loop, checked all the time, and the port that it listens on.

    In the end, when the clients have gone, no socket may be left.
    """
    loop = asyncio.get_running_loop()
    hub = Hub(TickStore.create(1024, 16))
    driver = Driver(hub, loop)
    opened = Gate(hub, driver.wake, driver.clock, "0", Limits(**limits))  # type: ignore[arg-type]
    served = TellingServer(Application(upgrade.routes(opened)))
    sockets = bind_sockets(0, "127.0.0.1")
    served.add_sockets(sockets)

    async def check() -> None:
        while True:
            await asyncio.sleep(0.01)
            opened.check()

    checking = asyncio.create_task(check())
    try:
        yield opened, sockets[0].getsockname()[1]
        async with asyncio.timeout(BOUND):
            while not all(stream.closed() for stream in served.streams):
                await asyncio.sleep(0.01)
    finally:
        checking.cancel()
        served.stop()
        driver.close()


async def emptied(opened: Gate) -> None:
    async with asyncio.timeout(BOUND):
        while len(opened):
            await asyncio.sleep(0.01)


def run(conversation) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(2 * BOUND):
            await conversation()

    asyncio.run(bounded())


# ---- how it begins ------------------------------------------------------------------------------------------------


def test_a_good_handshake_is_answered_as_the_rfc_says():
    async def conversation():
        async with gate() as (_, port), Peer.at(port) as peer:
            status, headers = await peer.answer()
            assert status == 101
            assert headers["upgrade"] == "websocket"
            assert headers["connection"] == "Upgrade"
            assert headers["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
            assert not headers.keys() & {"content-length", "sec-websocket-protocol", "sec-websocket-extensions"}
            first, payload = await peer.frame()
            assert (first, json.loads(payload)[0]["msg"]) == (0x81, "connected")

    run(conversation)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"Upgrade": None}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Sec-WebSocket-Version": None}, 426),
        ({"Sec-WebSocket-Version": "8"}, 426),
        ({"Sec-WebSocket-Version": "13, 8"}, 426),
        ({"Connection": "keep-alive"}, 400),
        ({"Connection": None}, 400),
        ({"Sec-WebSocket-Key": None}, 400),
        ({"Sec-WebSocket-Key": "c2hvcnQ="}, 400),
        ({"Sec-WebSocket-Extensions": "a; b=c d"}, 400),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Upgrade": "h2c, WebSocket"}, 101),
        ({"Connection": "UPGRADE"}, 101),
        ({"Origin": "http://x"}, 101),
    ],
)
def test_a_handshake_that_is_none_is_told_by_status(changed, status):
    async def conversation():
        headers = {name: value for name, value in (GOOD | changed).items() if value is not None}
        async with gate() as (opened, port), Peer.at(port, headers) as peer:
            told, answered = await peer.answer()
            assert told == status
            assert len(opened) == (status == 101)
            if status != 101:
                assert len(await peer.reader.readexactly(int(answered["content-length"]))) > 10
            if status == 426:
                assert answered["sec-websocket-version"] == "13"
                assert answered["upgrade"] == "websocket"

    run(conversation)


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/v2/no%0Athing", 404, b"no feed 'no\\nthing'\n"),
        ("/stream?encoding=%3Cb%3E", 400, b"no encoding '<b>'\n"),
    ],
)
def test_what_does_not_exist_is_named_and_can_forge_nothing(path, status, words):
    async def conversation():
        async with gate() as (_, port), Peer.at(port, path=path) as peer:
            told, headers = await peer.answer()
            assert (told, headers["content-type"]) == (status, "text/plain; charset=UTF-8")
            assert await peer.reader.readexactly(int(headers["content-length"])) == words

    run(conversation)


@pytest.mark.parametrize(
    ("offered", "path", "agreed", "first_octet"),
    [
        ("marketfeed.json", "/stream", "marketfeed.json", 0x81),
        ("marketfeed.msgpack", "/stream", "marketfeed.msgpack", 0x82),
        ("chat, marketfeed.msgpack, marketfeed.json", "/stream", "marketfeed.msgpack", 0x82),
        ("marketfeed.json", "/stream?encoding=msgpack", "marketfeed.json", 0x81),
        ("chat", "/stream", None, 0x81),
        ("json, marketfeed.morse, MARKETFEED.JSON", "/stream?encoding=msgpack", None, 0x82),
    ],
)
def test_the_first_subprotocol_that_is_known_is_agreed_on_and_else_none(offered, path, agreed, first_octet):
    async def conversation():
        async with gate() as (_, port), Peer.at(port, GOOD | {"Sec-WebSocket-Protocol": offered}, path) as peer:
            status, headers = await peer.answer()
            assert (status, headers.get("sec-websocket-protocol")) == (101, agreed)
            assert (await peer.frame())[0] == first_octet

    run(conversation)


def test_clients_that_do_not_wait_for_the_answer_are_no_error_and_leave_nothing(caplog):
    async def conversation():
        async with gate() as (opened, port):
            for _ in range(50):
                with socket.create_connection(("127.0.0.1", port)) as raw:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not closed
                    headers = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
                    raw.sendall(f"GET /stream HTTP/1.1\r\n{headers}\r\n".encode())
            async with Peer.at(port) as peer:
                assert (await peer.answer())[0] == 101
            await emptied(opened)

    run(conversation)
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


# ---- what ends it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        (frame(TEXT, b"{}", mask=None), 1002),
        (frame(TEXT, b"{}", rsv=RSV1), 1002),
        (frame(11), 1002),
        (close(1005), 1002),
        (close(2999), 1002),
        (frame(TEXT, b"\xff"), 1007),
        (frame(BINARY, b"a" * 1001), 1009),
    ],
)
def test_what_breaks_the_rules_is_told_its_code_also_when_much_more_follows_it(octets, code):
    async def conversation():
        async with gate(message_bytes=1000) as (opened, port), Peer.at(port) as peer:
            await peer.answer()
            # Closed with this unread, the kernel would take the close frame back.
            peer.writer.write(octets + frame(TEXT, b"{}") * 50_000)
            assert await peer.closed_with() == code
            assert await peer.ended() == b""
            await emptied(opened)

    run(conversation)


def test_a_client_that_closes_is_answered_and_the_server_ends_the_connection():
    async def conversation():
        for octets, answer in (
            (close(1000, b"bye"), b"\x88\x02\x03\xe8"),
            (close(4999), b"\x88\x02\x13\x87"),
            (frame(8), b"\x88\x00"),
        ):
            async with gate() as (opened, port), Peer.at(port) as peer:
                await peer.answer()
                await peer.frame()
                peer.writer.write(octets + frame(PING))
                assert await peer.ended() == answer
                await emptied(opened)

    run(conversation)


def test_a_ping_is_answered_with_its_data_and_between_fragments_too():
    async def conversation():
        async with gate() as (_, port), Peer.at(port) as peer:
            await peer.answer()
            await peer.frame()
            peer.writer.write(frame(TEXT, b'{"action":', fin=False) + frame(PING, b"Hello") + frame(0, b'"dance"}'))
            assert await peer.frame() == (0x8A, b"Hello")
            assert b"dance" in (await peer.frame())[1]

    run(conversation)


def test_who_pings_without_reading_is_owed_no_more_than_the_last_pong():
    async def conversation():
        async with gate() as (_, port):
            with socket.socket() as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                raw.connect(("127.0.0.1", port))
                headers = "".join(f"{name}: {value}\r\n" for name, value in GOOD.items())
                raw.sendall(f"GET /stream HTTP/1.1\r\n{headers}\r\n".encode())
                pings, last = 20_000, frame(PING, b"last")
                await asyncio.to_thread(raw.sendall, frame(PING, b"a" * 100) * pings + last)

                def read() -> bytearray:
                    raw.settimeout(BOUND)
                    got = bytearray()
                    while not got.endswith(b"\x8a\x04last"):
                        got += raw.recv(65_536)
                    return got

                assert (await asyncio.to_thread(read)).count(b"\x8a\x64") < pings

    run(conversation)


# ---- that it does end -----------------------------------------------------------------------------------------------


def test_a_peer_that_just_stops_is_pinged_told_and_cut_and_nobody_waits_for_it():
    async def conversation():
        limits = {"ping_seconds": 0.3, "close_seconds": 0.3}
        async with gate(**limits) as (opened, port), Peer.at(port) as silent, Peer.at(port) as alive:
            await silent.answer()
            await alive.answer()
            await silent.frame()
            await alive.frame()
            dead = asyncio.create_task(_death(silent))
            answered = 0
            while not dead.done():
                # One that answers pings stays, and is served all the time.
                alive.writer.write(frame(PING, b"%d" % answered))
                while (got := await alive.frame()) != (0x8A, b"%d" % answered):
                    assert got == (0x89, b"")
                answered += 1
            begun, told, gone = dead.result()
            assert told - begun >= 0.3
            assert gone - told >= 0.25
            assert len(opened) == 1
            assert answered > 10

    async def _death(peer: Peer) -> tuple[float, float, float]:
        """When it was pinged, told that it is over, and cut."""
        loop = asyncio.get_running_loop()
        assert await peer.frame() == (0x89, b"")
        begun = loop.time()
        assert await peer.closed_with() == 3002
        told = loop.time()
        assert await peer.ended() == b""
        return begun, told, loop.time()

    run(conversation)


def test_one_that_answers_pings_lives_on():
    async def conversation():
        async with gate(ping_seconds=0.05) as (opened, port), Peer.at(port) as peer:
            await peer.answer()
            await peer.frame()
            for _ in range(5):
                assert await peer.frame() == (0x89, b"")
                peer.writer.write(frame(10))
            assert len(opened) == 1

    run(conversation)


@pytest.mark.parametrize("how", ["never answers", "keeps on talking"])
def test_a_closing_handshake_is_completed_or_cut_in_time(how):
    async def conversation():
        async with gate(close_seconds=0.3) as (opened, port), Peer.at(port) as peer:
            await peer.answer()
            opened.close()
            assert await peer.closed_with() == 3000
            if how == "keeps on talking":
                peer.writer.write(frame(TEXT, b"{}") * 100)
            assert await peer.ended() == b""
            async with asyncio.timeout(BOUND):
                await opened.emptied()

    run(conversation)


def test_one_that_breaks_the_rules_and_then_stays_is_cut_in_time():
    async def conversation():
        async with gate(close_seconds=0.3) as (opened, port), Peer.at(port) as peer:
            await peer.answer()
            peer.writer.write(frame(3))
            assert await peer.closed_with() == 1002
            await emptied(opened)
            assert await peer.ended() == b""
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(go_on(peer), BOUND)

    async def go_on(peer: Peer) -> None:
        while True:
            peer.writer.write(frame(PING))
            await peer.writer.drain()
            await asyncio.sleep(0.01)

    run(conversation)


def test_when_the_server_closes_and_the_client_answers_all_is_over_at_once():
    async def conversation():
        async with gate(close_seconds=1000.0) as (opened, port), Peer.at(port) as peer:
            await peer.answer()
            opened.close()
            assert await peer.closed_with() == 3000
            peer.writer.write(close(3000))
            assert await peer.ended() == b""
            peer.writer.close()
            async with asyncio.timeout(BOUND):
                await opened.emptied()

    run(conversation)


# ---- compression ----------------------------------------------------------------------------------------------------


def offer(*parameters: str) -> dict[str, str]:
    return GOOD | {"Sec-WebSocket-Extensions": "; ".join(["permessage-deflate", *parameters])}


def test_nothing_is_compressed_unless_the_server_allows_it():
    async def conversation():
        async with gate() as (_, port), Peer.at(port, offer()) as peer:
            status, headers = await peer.answer()
            assert status == 101
            assert "sec-websocket-extensions" not in headers
            await peer.frame()
            peer.writer.write(frame(TEXT, b"\x00", rsv=RSV1))
            assert await peer.closed_with() == 1002

    run(conversation)


def test_a_bomb_ends_the_connection_with_1009():
    async def conversation():
        async with gate(compression=True) as (_, port), Peer.at(port, offer()) as peer:
            await peer.answer()
            packed = zlib.compressobj(9, zlib.DEFLATED, -15)
            bomb = packed.compress(bytes(10_000_000)) + packed.flush(zlib.Z_SYNC_FLUSH)
            peer.writer.write(frame(TEXT, bomb[:-4], rsv=RSV1))
            assert await peer.closed_with() == 1009

    run(conversation)


def test_clients_with_every_window_and_none_get_the_same_ticks_and_each_can_inflate_its_own():
    with server("--feed", SIM, "--compression", "deflate") as address:
        port = urlsplit(address).port

        async def ticks_of(parameters: list[str] | None) -> tuple[dict[int, dict], bool]:
            """By sequence number, and whether any frame was compressed."""
            bits = next((int(p.partition("=")[2]) for p in parameters or () if p.startswith("server_max")), 15)
            async with Peer.at(port, GOOD if parameters is None else offer(*parameters)) as peer:
                _, headers = await peer.answer()
                assert ("sec-websocket-extensions" in headers) == (parameters is not None)
                if bits < 15:
                    assert f"server_max_window_bits={bits}" in headers["sec-websocket-extensions"]
                command = json.dumps({"action": "subscribe", "quotes": ["*"], "trades": ["*"], "since": {"seq": 0}})
                peer.writer.write(frame(TEXT, command.encode()))
                seen: dict[int, dict] = {}
                compressed = False
                while len(seen) < 3000:
                    first, payload = await peer.frame()
                    if first & RSV1:
                        compressed = True
                        # A window as small as was agreed on, and nothing from the message before.
                        payload = zlib.decompressobj(-bits).decompress(payload + b"\x00\x00\xff\xff")
                    seen |= {m["seq"]: m for m in json.loads(payload) if m["T"] in "qt"}
                return seen, compressed

        async def conversation():
            offers = [
                None,
                [],
                [],
                ["client_max_window_bits"],
                *([f"server_max_window_bits={n}"] for n in range(9, 16)),
            ]
            plain, *others = await asyncio.gather(*(ticks_of(parameters) for parameters in offers))
            assert not plain[1]
            for seen, compressed in others:
                assert compressed
                common = seen.keys() & plain[0].keys()
                assert len(common) > 2000
                assert all(seen[seq] == plain[0][seq] for seq in common)

        run(conversation)


def test_a_client_of_a_library_compresses_and_is_understood():
    with server("--feed", SIM, "--compression", "deflate") as address:

        async def conversation():
            for extensions in (None, [ClientPerMessageDeflateFactory(server_max_window_bits=10)]):
                async with connect(stream_of(address), compression="deflate", extensions=extensions) as ws:
                    assert re.search("server_no_context_takeover", ws.response.headers["Sec-WebSocket-Extensions"])
                    names = [f"SYMBOL-{n}" for n in range(500)]
                    await ws.send(json.dumps({"action": "subscribe", "quotes": [*names, "SIM-*"]}))
                    kinds: set[str] = set()
                    while not {"subscription", "q"} <= kinds:
                        for message in json.loads(await ws.recv()):
                            kinds.add(message["T"])
                            if message["T"] == "subscription":
                                assert len(message["quotes"]) == 501

        run(conversation)
