"""The server as a WebSocket client finds it: real processes, real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
from urllib.parse import urlsplit

import msgpack
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.processes import BOUND, ROOT, TICKS_ONLY, certificate, server, status, stream_of

SIM = "sim?symbols=20&rate=500&seed=3"


async def tell(ws, **command) -> None:
    await ws.send(json.dumps(command))


async def next_of(ws, *kinds: str) -> dict:
    """The next message of one of these types; ticks of others are passed over."""
    async with asyncio.timeout(BOUND):
        while True:
            for message in json.loads(await ws.recv()):
                if message["T"] in kinds:
                    return message


async def ended(ws) -> int:
    """The close code."""

    async def read_on() -> None:
        while True:
            await ws.recv()

    with pytest.raises(ConnectionClosed) as closed:
        await asyncio.wait_for(read_on(), BOUND)
    return closed.value.rcvd.code


def run(conversation, *arguments: str) -> None:
    with server("--feed", SIM, *arguments) as address:
        asyncio.run(asyncio.wait_for(conversation(stream_of(address)), 2 * BOUND))


def test_a_client_is_welcomed_and_told_what_it_receives_and_gets_it():
    async def conversation(url):
        async with connect(url) as ws:
            welcome = await next_of(ws, "success")
            assert welcome["msg"] == "connected"
            await tell(ws, action="subscribe", quotes=["SIM-0000"], trades=["*"])
            state = await next_of(ws, "subscription")
            assert (state["quotes"], state["trades"], state["bars"]) == (["SIM-0000"], ["*"], [])
            assert state["epoch"] == welcome["epoch"]
            quote = await next_of(ws, "q")
            assert quote["S"] == "SIM-0000"
            assert quote["f"] == "sim"
            assert 0 < quote["bp"] < quote["ap"]
            assert quote["seq"] > state["seq"]
            assert (await next_of(ws, "t"))["p"] > 0

    run(conversation)


def test_whatever_a_client_sends_it_is_told_what_is_wrong_and_keeps_its_connection():
    bad = {
        "{": "invalid JSON",
        "[]": "Expected `object`",
        "null": "Expected `object`",
        '{"action":"dance"}': "dance",
        '{"quotes":["A"]}': "action",
        '{"action":"subscribe"}': "names no symbols",
        '{"action":"subscribe","quotes":"A"}': "quotes",
        '{"action":"subscribe","quotes":[1]}': "quotes",
        '{"action":"subscribe","quotes":[""]}': "bytes",
        '{"action":"subscribe","quotes":["A B"]}': "blanks",
        '{"action":"subscribe","quotes":["' + "A" * 100 + '"]}': "bytes",
        '{"action":"subscribe","quotes":["\\ud800"]}': "JSON",
        '{"action":"subscribe","quotes":["A"],"max_hz":0}': "max_hz",
        '{"action":"subscribe","quotes":["A"],"max_hz":"4"}': "max_hz",
        '{"action":"subscribe","quotes":["A"],"colour":1}': "colour",
        '{"action":"subscribe","quotes":["A"],"dailyBars":["A"]}': "not served",
        '{"action":"subscribe","quotes":["A"],"since":"yesterday"}': "RFC 3339",
        '{"action":"subscribe","quotes":["A"],"since":"2024-13-01T00:00:00Z"}': "RFC 3339",
        '{"action":"subscribe","quotes":["A"],"since":{"seq":5}}': "epoch",
        '{"action":"subscribe","quotes":["A"],"since":{"seq":-1}}': "seq",
        '{"action":"subscribe","quotes":["A"],"since":"2024-01-01T00:00:00Z","snapshot":true}': "exclude",
        "[" * 5000: "",
    }

    async def conversation(url):
        async with connect(url) as ws:
            await next_of(ws, "success")
            for text, hint in bad.items():
                await ws.send(text)
                error = await next_of(ws, "error")
                assert error["code"] == 400, text
                assert hint in error["msg"], (text, error)
            await ws.send(b"\xc1")
            assert "msgpack" in (await next_of(ws, "error"))["msg"]
            await tell(ws, action="subscribe", quotes=["*"])
            assert (await next_of(ws, "q"))["T"] == "q"

    run(conversation)


def test_a_message_that_is_too_long_ends_the_connection_with_1009():
    async def conversation(url):
        async with connect(url) as ws:
            await tell(ws, action="subscribe", quotes=["A" * 70_000])
            assert await ended(ws) == 1009

    run(conversation)


def test_a_feed_or_encoding_that_does_not_exist_is_refused_at_the_handshake():
    async def conversation(url):
        for address, wanted in ((url.replace("/stream", "/v2/nothing"), 404), (url + "?encoding=morse", 400)):
            with pytest.raises(InvalidStatus) as refused:
                await connect(address)
            assert refused.value.response.status_code == wanted

    run(conversation)


def test_the_stream_of_one_feed_has_plain_symbols_and_no_f():
    async def conversation(url):
        async with connect(url.replace("/stream", "/v2/sim")) as ws:
            await tell(ws, action="subscribe", quotes=["*"])
            assert "f" not in await next_of(ws, "q")

    run(conversation)


@pytest.mark.parametrize(
    "how",
    [
        {"additional_headers": {"Content-Type": "application/msgpack"}},
        {"subprotocols": ["marketfeed.msgpack"]},
        {"subprotocols": ["unknown", "marketfeed.msgpack", "marketfeed.json"]},
        {"query": "?encoding=msgpack"},
    ],
    ids=["header", "subprotocol", "first known subprotocol", "query"],
)
def test_msgpack_is_spoken_when_it_is_asked_for(how):
    async def conversation(url):
        async with connect(url + how.pop("query", ""), **how) as ws:
            welcome = msgpack.unpackb(await ws.recv())
            assert welcome[0]["msg"] == "connected"
            await ws.send(msgpack.packb({"action": "subscribe", "quotes": ["*"], "trades": ["*"]}))
            assert msgpack.unpackb(await ws.recv())[0]["T"] == "subscription"
            seen = {}
            async with asyncio.timeout(BOUND):
                while len(seen) < 2:
                    for message in msgpack.unpackb(await ws.recv()):
                        seen[message["T"]] = message
            assert isinstance(seen["q"]["t"], msgpack.Timestamp)
            assert set(seen["q"]) == {"T", "S", "bp", "bs", "ap", "as", "t", "seq", "f"}
            assert set(seen["t"]) == {"T", "S", "p", "s", "t", "seq", "f"}

    run(conversation)


def test_where_there_are_keys_only_they_open():
    async def conversation(url):
        async with connect(url) as ws:
            await tell(ws, action="subscribe", quotes=["*"])
            assert (await next_of(ws, "error"))["code"] == 401
            await tell(ws, action="auth", key="one", secret="two")
            assert (await next_of(ws, "success"))["msg"] == "authenticated"
            await tell(ws, action="auth", key="one", secret="two")
            assert (await next_of(ws, "error"))["code"] == 403
            await tell(ws, action="subscribe", quotes=["*"])
            await next_of(ws, "q")
        for wrong in ({"key": "one", "secret": "three"}, {"token": "one"}, {}, {"key": "", "secret": ""}):
            async with connect(url) as ws:
                await tell(ws, action="auth", **wrong)
                assert (await next_of(ws, "error"))["code"] == 402
                assert await ended(ws) == 3500
        for headers in (
            {"APCA-API-KEY-ID": "one", "APCA-API-SECRET-KEY": "two"},
            {"Authorization": "Bearer lone-token"},
            {"Authorization": "Basic b25lOnR3bw=="},
        ):
            async with connect(url, additional_headers=headers) as ws:
                await tell(ws, action="subscribe", quotes=["*"])
                await next_of(ws, "q")

    run(conversation, "--key", "one:two", "--key", "lone-token")


def test_without_keys_auth_is_accepted_and_not_required():
    async def conversation(url):
        async with connect(url) as ws:
            await next_of(ws, "success")
            await tell(ws, action="auth", key="any", secret="thing")
            assert (await next_of(ws, "success"))["msg"] == "authenticated"

    run(conversation)


def test_one_connection_too_many_is_told_so_and_asked_to_come_again():
    async def conversation(url):
        async with connect(url) as first, connect(url):
            async with connect(url) as third:
                assert (await next_of(third, "error"))["code"] == 406
                assert await ended(third) == 3003
            await tell(first, action="subscribe", quotes=["*"])
            await next_of(first, "q")

    run(conversation, "--max-connections", "2")


def test_one_symbol_too_many_is_refused_and_nothing_of_the_command_is_done():
    async def conversation(url):
        async with connect(url) as ws:
            await tell(ws, action="subscribe", quotes=["A", "B"])
            await next_of(ws, "subscription")
            await tell(ws, action="subscribe", quotes=["B", "C", "D"])
            assert (await next_of(ws, "error"))["code"] == 405
            await tell(ws, action="subscribe", trades=["B"])
            state = await next_of(ws, "subscription")
            assert (state["quotes"], state["trades"]) == (["A", "B"], ["B"])

    run(conversation, "--max-symbols", "3")


def test_pages_of_other_origins_are_kept_out_unless_they_are_named():
    async def conversation(url):
        async with connect(url, origin="https://desk.example") as ws:
            await next_of(ws, "success")
        with pytest.raises(InvalidStatus) as refused:
            await connect(url, origin="https://elsewhere.example")
        assert refused.value.response.status_code == 403

    run(conversation, "--origin", "https://desk.example")


def test_a_server_that_goes_down_says_so_and_comes_to_its_end():
    process = subprocess.Popen(
        [sys.executable, "-m", "marketfeed", "serve", "--port", "0", "--feed", SIM],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        url = stream_of(process.stdout.readline().split()[-1])

        async def conversation():
            async with connect(url) as ws:
                await tell(ws, action="subscribe", quotes=["*"])
                await next_of(ws, "q")
                process.terminate()
                assert await ended(ws) == 3000

        asyncio.run(conversation())
        assert process.wait(BOUND) == 0
    finally:
        process.kill()
        process.communicate()


def test_the_status_counts_what_was_delivered():
    with server("--feed", SIM) as address:

        async def conversation():
            async with connect(stream_of(address)) as ws:
                await tell(ws, action="subscribe", quotes=["*"])
                await next_of(ws, "q")
                return await asyncio.to_thread(status, address)

        told = asyncio.run(conversation())
        assert told["connections"] == 1
        assert told["delivered"]["ticks"] >= 1
        assert told["feeds"]["sim"]["ticks"] >= told["delivered"]["ticks"]
        assert told["feeds"]["sim"]["state"] == "running"
        assert told["seq"] >= told["feeds"]["sim"]["ticks"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--feed", "nothing"], "there are: replay, sim"),
        (["--feed", "sim?colour=red"], "it has: symbols, rate, seed"),
        (["--feed", "sim?rate=0"], "rate=0"),
        (["--feed", "replay:not-there.csv"], "not-there.csv"),
        (["--feed", "sim", "--feed", "sim"], "two feeds are named 'sim'"),
        (["--ring-ticks", "1000000"], "power of two"),
        (["--port", "70000"], "0 to 65,535"),
        (["--host", "203.0.113.1"], "cannot listen on 203.0.113.1"),
        (["--config", "not-there.toml"], "not-there.toml"),
        (["--certfile", "not-there.pem"], "not-there.pem"),
        (["--log-level", "loud"], "log_level"),
        (["--key", ":x"], "KEY:SECRET"),
        (["--webrtc-host", "here"], "webrtc_host"),
    ],
)
def test_a_server_that_cannot_start_says_why_in_one_line_and_exits_with_an_error(arguments, hint):
    # As users start it, without our warnings: Tornado leaves a socket that cannot listen to the collector.
    done = subprocess.run(
        [sys.executable, "-m", "marketfeed", "serve", "--port", "0", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=BOUND, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert hint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_configuration_file_says_the_same_as_the_command_line(tmp_path):
    path = tmp_path / "marketfeed.toml"
    path.write_text('[server]\nmax_symbols = 1\n\n[[feeds]]\ntype = "sim"\nname = "toy"\nsymbols = 5\nrate = 100\n')
    with server("--config", str(path)) as address:
        assert status(address)["instruments"] == 5
        assert list(status(address)["feeds"]) == ["toy"]


def test_over_tls_every_tick_arrives(tmp_path):
    made, key = certificate(tmp_path)
    with server(*TICKS_ONLY, "--feed", SIM, "--certfile", str(made), "--keyfile", str(key)) as address:

        async def conversation():
            context = ssl.create_default_context(cafile=made)
            async with connect(stream_of(address).replace("https", "wss"), ssl=context) as ws:
                await tell(ws, action="subscribe", quotes=["*"], trades=["*"], since={"seq": 0})
                seen = []
                async with asyncio.timeout(BOUND):
                    while len(seen) < 1000:
                        seen += [m["seq"] for m in json.loads(await ws.recv()) if m["T"] in "qt"]
                assert seen == list(range(1, len(seen) + 1))
            assert ws.close_code == 1000
            async with connect(stream_of(address).replace("https", "wss"), ssl=context) as ws:
                ws.transport.write(b"\x81\x00")
                assert await ended(ws) == 1002

        asyncio.run(conversation())


def test_a_client_that_cuts_the_connection_leaves_nothing_behind():
    with server("--feed", SIM) as address:

        async def conversation():
            sockets = []
            for _ in range(20):
                ws = await connect(stream_of(address))
                await tell(ws, action="subscribe", quotes=["*"])
                await next_of(ws, "q")
                sockets.append(ws)
            for ws in sockets:
                ws.transport.abort()
            async with asyncio.timeout(BOUND):
                while (await asyncio.to_thread(status, address))["connections"]:
                    await asyncio.sleep(0.05)

        asyncio.run(conversation())


def test_connections_that_only_cost_descriptors_do_not_keep_others_out():
    """Half-sent requests and heads that never end (Slowloris) are closed in time, and bodies are bounded."""
    with server("--feed", SIM) as address:
        port = urlsplit(address).port
        with contextlib.ExitStack() as stack:
            slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(50)]
            for each in slow:
                each.settimeout(BOUND)
                each.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
            dribbling = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=BOUND))
            dribbling.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n")
            slow.append(dribbling)
            large = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            large.settimeout(BOUND)
            large.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n")
            assert large.recv(100).startswith(b"HTTP/1.1 400")
            assert all(each.recv(1) == b"" for each in slow)
