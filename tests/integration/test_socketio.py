"""The server as Socket.IO's own client finds it, and as somebody finds it who knows the protocol and means no good."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.integration.clients import free_port
from tests.integration.inside import Inside
from tests.integration.javascript import JS, needs_node, node
from tests.integration.processes import BOUND, ROOT, TICKS_ONLY, Proxy, python, server, status

SIM = "sim?symbols=20&rate=2000&seed=3"
POLLING, WEBSOCKET = ["polling"], ["websocket"]


@contextlib.asynccontextmanager
async def client(address: str, namespace: str = "/", **options):
    async with node("socketio.mjs", address + namespace, json.dumps(options)) as script:
        yield script


def run(conversation, *arguments: str) -> None:
    with server(*TICKS_ONLY, "--feed", SIM, *arguments, transports=["socketio"]) as address:
        asyncio.run(asyncio.wait_for(conversation(address), 3 * BOUND))


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=BOUND) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def post(url: str, body: str) -> int:
    try:
        with urllib.request.urlopen(url, body.encode(), timeout=BOUND) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def opened(address: str) -> str:
    """A connection that polls; gives the address of its further requests."""
    code, text = get(f"{address}/socket.io/?EIO=4&transport=polling")
    assert code == 200
    return f"{address}/socket.io/?EIO=4&transport=polling&sid={json.loads(text[1:])['sid']}"


def websocket_of(address: str) -> str:
    return address.replace("http", "ws", 1) + "/socket.io/?EIO=4&transport=websocket"


async def ended(ws) -> None:
    async def read_on() -> None:
        while True:
            await ws.recv()

    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(read_on(), BOUND)


async def none_left(address: str) -> None:
    async with asyncio.timeout(BOUND):
        while (await asyncio.to_thread(status, address))["connections"]:
            await asyncio.sleep(0.05)


@needs_node
@pytest.mark.parametrize("transports", [POLLING, WEBSOCKET], ids=["polling", "websocket"])
def test_every_tick_comes_once_and_in_order(transports):
    async def conversation(address):
        async with client(address, transports=transports) as socket:
            assert (await socket.next("connect"))[1] == transports[0]
            welcome = (await socket.next("success"))[1]
            socket.tell(["subscribe", {"quotes": ["*"], "trades": ["*"], "since": {"seq": 0}}])
            state = (await socket.next("ack"))[1]
            assert (state["T"], state["epoch"], state["recovered"]) == ("subscription", welcome["epoch"], True)
            seqs = [tick["seq"] for tick in await socket.ticks(3000)]
            assert seqs == list(range(1, len(seqs) + 1))
            socket.tell("close")
            await none_left(address)

    run(conversation)


@needs_node
def test_a_client_that_polls_first_is_on_a_websocket_soon():
    async def conversation(address):
        async with client(address) as socket:
            # It may be on one before the namespace is connected.
            said = await socket.next("connect")
            assert said[1] == "websocket" or (await socket.next("upgrade"))[1] == "websocket"

    run(conversation)


def test_a_change_of_the_transport_loses_nothing_and_repeats_nothing():
    """Step by step, so that there are ticks before, while and after."""

    def seqs(packet):
        return [tick["seq"] for tick in json.loads(packet[2:])[1]] if packet.startswith('42["ticks"') else []

    async def conversation(address):
        further = await asyncio.to_thread(opened, address)

        async def polled():
            return (await asyncio.to_thread(get, further))[1].split("\x1e")

        await asyncio.to_thread(post, further, "40")
        await asyncio.to_thread(post, further, '42["subscribe",{"quotes":["*"],"trades":["*"],"since":{"seq":0}}]')
        seen = []
        while len(seen) < 1000:
            seen += [seq for packet in await polled() for seq in seqs(packet)]
        async with connect(websocket_of(address) + "&" + further.rpartition("&")[2]) as ws:
            poll = asyncio.create_task(polled())
            await ws.send("2probe")
            assert await ws.recv() == "3probe"
            packets = await poll
            while "6" not in packets:
                seen += [seq for packet in packets for seq in seqs(packet)]
                packets = await polled()
            seen += [seq for packet in packets for seq in seqs(packet)]
            await ws.send("5")
            before = len(seen)
            while len(seen) < before + 1000:
                seen += seqs(await ws.recv())
        assert seen == list(range(1, len(seen) + 1))

    run(conversation)


@needs_node
@pytest.mark.parametrize("transports", [POLLING, WEBSOCKET], ids=["polling", "websocket"])
def test_each_command_is_acknowledged_with_its_own_answer(transports):
    async def conversation(address):
        async with client(address, transports=transports) as socket:
            await socket.next("connect")
            socket.tell(["subscribe", {"quotes": ["SIM-0001"], "max_hz": 4}])
            socket.tell(["subscribe", {"quotes": ["A"], "colour": 1}])
            socket.tell(["subscribe", ["A"]])
            socket.tell(["subscribe"])
            socket.tell(["nonsense", {}])
            socket.tell(["auth", {"key": "any", "secret": "thing"}])
            socket.tell(["unsubscribe", {"quotes": ["SIM-0001"]}])
            answers = [(await socket.next("ack"))[1] for _ in range(7)]
            assert answers[0]["rules"] == [{"quotes": ["SIM-0001"], "trades": [], "max_hz": 4.0}]
            assert [(answer["T"], answer.get("code")) for answer in answers[1:5]] == [("error", 400)] * 4
            hints = ("colour", "object", "symbols", "nonsense")
            assert all(hint in answer["msg"] for hint, answer in zip(hints, answers[1:5], strict=True)), answers
            assert answers[5] == {"T": "success", "msg": "authenticated"}
            assert (answers[6]["T"], answers[6]["quotes"]) == ("subscription", [])

    run(conversation)


@needs_node
@pytest.mark.parametrize("transports", [POLLING, WEBSOCKET], ids=["polling", "websocket"])
def test_many_commands_at_once_are_all_answered(transports):
    async def conversation(address):
        async with client(address, transports=transports) as socket:
            for n in range(20):
                socket.tell(["subscribe", {"quotes": [f"SIM-{n:04}"], "max_hz": 1}])
            answers = [(await socket.next("ack"))[1] for _ in range(20)]
            assert [len(answer["quotes"]) for answer in answers] == list(range(1, 21))

    run(conversation)


@needs_node
def test_a_namespace_is_a_feed_and_one_that_is_none_is_refused():
    async def conversation(address):
        async with client(address, "/sim") as socket:
            await socket.next("connect")
            socket.tell(["subscribe", {"quotes": ["*"], "snapshot": True}])
            assert "f" not in (await socket.ticks(1))[0]
        async with client(address) as socket:
            await socket.next("connect")
            socket.tell(["subscribe", {"quotes": ["sim:*"], "snapshot": True}])
            assert (await socket.ticks(1))[0]["f"] == "sim"
        async with client(address, "/nothing") as socket:
            assert await socket.next("connect_error") == ["connect_error", "no feed 'nothing'", None, False]

    run(conversation)


@needs_node
def test_two_namespaces_of_one_connection_do_not_mix():
    script = "two_namespaces.mjs"

    async def conversation(address):
        async with node(script, address) as both:
            _, every, one = await both.next("seen")
            assert all("f" in tick for tick in every)
            assert not any("f" in tick for tick in one)
            for ticks in (every, one):
                seqs = [tick["seq"] for tick in ticks]
                assert seqs == list(range(1, len(seqs) + 1))

    run(conversation)


@needs_node
def test_credentials_are_part_of_the_handshake():
    async def conversation(address):
        for auth in ({"key": "one", "secret": "two"}, {"token": "lone"}):
            async with client(address, auth=auth) as socket:
                assert (await socket.next("success"))[1]["msg"] == "connected"
                assert (await socket.next("success"))[1]["msg"] == "authenticated"
                socket.tell(["subscribe", {"quotes": ["*"]}])
                assert (await socket.next("ack"))[1]["T"] == "subscription"
        async with client(address, extraHeaders={"Authorization": "Bearer lone"}) as socket:
            assert [(await socket.next("success"))[1]["msg"] for _ in range(2)] == ["connected", "authenticated"]
        async with client(address, auth={"token": "wrong"}) as socket:
            _, text, data, again = await socket.next("connect_error")
            assert (text, data["code"], again) == ("auth failed", 402, False)
        async with client(address, auth={"colour": "red"}) as socket:
            assert "colour" in (await socket.next("connect_error"))[1]
        async with client(address) as socket:
            await socket.next("connect")
            socket.tell(["subscribe", {"quotes": ["*"]}])
            assert (await socket.next("ack"))[1]["code"] == 401
            socket.tell(["auth", {"token": "lone"}])
            assert (await socket.next("ack"))[1]["msg"] == "authenticated"
            socket.tell(["auth", {"token": "lone"}])
            assert (await socket.next("ack"))[1]["code"] == 403
        async with client(address) as socket:
            await socket.next("connect")
            socket.tell(["auth", {"token": "wrong"}])
            assert await socket.next("disconnect") == ["disconnect", "io server disconnect", False]

    run(conversation, "--key", "one:two", "--key", "lone")


@needs_node
def test_a_client_that_never_authenticates_is_told_so_and_does_not_come_again():
    async def conversation():
        async with Inside(keys=("one:two",)) as inside, client(inside.address) as socket:
            await socket.next("success")
            inside.later(inside.gate.limits.auth_seconds + 1)
            assert (await socket.next("error"))[1]["code"] == 404
            assert await socket.next("disconnect") == ["disconnect", "io server disconnect", False]

    asyncio.run(asyncio.wait_for(conversation(), 2 * BOUND))


@needs_node
@pytest.mark.parametrize("transports", [POLLING, WEBSOCKET], ids=["polling", "websocket"])
def test_after_a_cut_a_client_goes_on_where_it_was(transports):
    async def conversation(address):
        async with Proxy(urlsplit(address).port) as proxy:
            through = proxy.url.replace("ws", "http", 1).removesuffix("/stream")
            async with node("socketio_resume.mjs", through, json.dumps({"transports": transports})) as socket:
                seqs = [tick["seq"] for tick in await socket.ticks(500)]
                resumed = 0
                while resumed < 3:
                    # One that polls has nothing open at times; and what is cut then may have been answered.
                    await proxy.busy()
                    proxy.cut()
                    kind, said = await socket.next("ticks", "resumed")
                    if kind == "ticks":
                        seqs += [tick["seq"] for tick in said]
                        continue
                    assert said["recovered"]
                    resumed += 1
                    seqs += [tick["seq"] for tick in await socket.ticks(500)]
                assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))

    run(conversation)


@needs_node
def test_a_gap_is_an_event():
    async def conversation(address):
        async with client(address) as socket:
            epoch = (await socket.next("success"))[1]["epoch"]
            socket.tell(["subscribe", {"quotes": ["*"], "since": {"epoch": epoch % 1000 + 1, "seq": 7}}])
            assert not (await socket.next("ack"))[1]["recovered"]
            gap = (await socket.next("gap"))[1]
            assert (gap["from"], gap["reason"]) == (8, "epoch")
            socket.tell(["subscribe", {"quotes": ["*"], "heartbeat": 0.1}])
            assert (await socket.next("heartbeat"))[1]["seq"] >= 1

    run(conversation)


@needs_node
@pytest.mark.parametrize("transports", [POLLING, WEBSOCKET], ids=["polling", "websocket"])
def test_a_server_that_goes_down_is_looked_for_again(transports):
    port = str(free_port())

    async def conversation():
        with server(*TICKS_ONLY, "--feed", SIM, at=port, transports=["socketio"]) as address:
            socket = await stack.enter_async_context(client(address, transports=transports))
            await socket.next("connect")
        _, reason, again = await socket.next("disconnect")
        assert (reason, again) in (("transport close", True), ("transport error", True))
        with server(*TICKS_ONLY, "--feed", SIM, at=port, transports=["socketio"]):
            await socket.next("connect")

    async def whole():
        nonlocal stack
        async with contextlib.AsyncExitStack() as stack:
            await conversation()

    stack: contextlib.AsyncExitStack
    asyncio.run(asyncio.wait_for(whole(), 2 * BOUND))


def test_a_websocket_that_does_not_pass_leaves_polling_as_it_was():
    async def conversation(address):
        further = await asyncio.to_thread(opened, address)
        upgrade = websocket_of(address) + "&" + further.rpartition("&")[2]
        async with connect(upgrade) as probe:
            await probe.send("2probe")
            assert await probe.recv() == "3probe"
            with pytest.raises(InvalidStatus):
                await connect(upgrade)
        assert await asyncio.to_thread(post, further, "40") == 200
        texts = ""
        async with asyncio.timeout(BOUND):
            while '"msg":"connected"' not in texts:
                texts += (await asyncio.to_thread(get, further))[1]
        assert '40{"sid":' in texts

    run(conversation)


@pytest.mark.parametrize(
    "message",
    ["", "x", "4", "49", "0", "6", b"4x", "42", "42{}", "42[1]", "4{}", "42" + "[" * 20_000, "40[1]", "451-[]", "44"],
    ids=lambda message: repr(message)[:10],
)
def test_what_is_not_a_packet_ends_the_connection_and_nothing_else(message):
    async def conversation(address):
        async with connect(websocket_of(address)) as other, connect(websocket_of(address)) as ws:
            await ws.send("40")
            await ws.send(message)
            await ended(ws)
            await other.send("40")
            assert (await other.recv()).startswith("0{")
            assert (await other.recv()).startswith("40{")

    run(conversation)


@pytest.mark.parametrize("body", ["", "x", "9", "40\x1ex", "\x1e".join(["40"] * 65), "d=40", "b4aa"])
def test_a_body_that_is_no_payload_is_refused(body):
    async def conversation(address):
        further = await asyncio.to_thread(opened, address)
        assert await asyncio.to_thread(post, further, body) == 400
        assert await asyncio.to_thread(post, further, "40") == 200

    run(conversation)


def test_requests_that_are_not_this_protocol_are_refused():
    async def conversation(address):
        for query in ("", "?EIO=3&transport=polling", "?EIO=4&transport=smoke", "?EIO=4&transport=polling&sid=none",
                      "?EIO=4&transport=polling&j=0"):  # fmt: skip
            code, _ = await asyncio.to_thread(get, f"{address}/socket.io/{query}")
            assert code == 400, query
        for query in ("&j=0", "&sid=none"):
            with pytest.raises(InvalidStatus):
                await connect(websocket_of(address) + query)

    run(conversation)


def test_a_connection_over_which_nobody_says_anything_is_ended():
    async def conversation():
        async with Inside(auth_seconds=0.5) as inside:
            further = await asyncio.to_thread(opened, inside.address)
            async with connect(websocket_of(inside.address)) as ws:
                await ended(ws)
            async with asyncio.timeout(BOUND):
                while (await asyncio.to_thread(post, further, "3")) == 200:
                    await asyncio.sleep(0.1)

    asyncio.run(asyncio.wait_for(conversation(), 2 * BOUND))


def test_a_client_that_leaves_in_the_middle_of_a_poll_is_gone_at_once():
    async def conversation(address):
        further = await asyncio.to_thread(opened, address)
        await asyncio.to_thread(post, further, "40")
        assert (await asyncio.to_thread(status, address))["connections"] == 1
        parts = urlsplit(further)
        # The first answers are there at once; then it waits, and then it leaves.
        for _ in range(3):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            writer.write(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(1), 0.5)
            writer.transport.abort()
        await none_left(address)

    run(conversation)


def test_one_that_does_not_read_is_not_queued_for_and_is_cut_in_the_end():
    async def conversation(address):
        async with connect(websocket_of(address), max_queue=1, compression=None) as slow:
            await slow.send("40")
            await slow.send('42["subscribe",{"quotes":["*"],"trades":["*"]}]')
            # It is there, and what it asked for is on its way, before it reads nothing more.
            while "ticks" not in str(await slow.recv()):
                pass
            slow.transport.pause_reading()
            await none_left(address)
            told = await asyncio.to_thread(status, address)
            # What the kernel holds and one frame more, and that is not all that there was.
            assert told["delivered"]["stalls"]
            assert told["delivered"]["ticks"] < told["seq"] - 10_000
            slow.transport.abort()

    run(conversation, "--feed", "fast=sim?symbols=50&rate=50000&seed=1", "--write-timeout", "1")


@pytest.mark.parametrize("flood", ['42["subscribe",{"quotes":["A"]}]', '421["unsubscribe",{}]', "40/x,", "5", "40"])
def test_one_that_asks_on_without_reading_is_stopped(flood):
    async def conversation(address):
        async with connect(websocket_of(address), max_queue=1, compression=None) as ws:
            await ws.send("40")
            ws.transport.pause_reading()
            with contextlib.suppress(TimeoutError, ConnectionClosed):
                async with asyncio.timeout(3):
                    while True:
                        await ws.send(flood)
                        await asyncio.sleep(0)  # without it the timeout would not be looked at
            ws.transport.abort()
        assert (await asyncio.to_thread(status, address))["feeds"]["sim"]["state"] == "running"
        await none_left(address)

    run(conversation)


@needs_node
def test_when_the_server_is_full_a_client_tries_again():
    async def conversation(address):
        async with connect(websocket_of(address)) as first:
            await first.send("40")
            async with client(address) as socket:
                assert (await socket.next("connect_error"))[3]
                await first.close()
                await socket.next("connect")
            assert (await asyncio.to_thread(get, f"{address}/socket.io/?EIO=4&transport=polling"))[0] in (200, 503)

    run(conversation, "--max-connections", "1")


def test_pages_of_other_origins_are_kept_out_unless_they_are_named():
    async def conversation(address):
        url = f"{address}/socket.io/?EIO=4&transport=polling"

        def answer(origin):
            request = urllib.request.Request(url, headers={"Origin": origin})
            try:
                with urllib.request.urlopen(request, timeout=BOUND) as told:
                    return told.status, told.headers["Access-Control-Allow-Origin"]
            except urllib.error.HTTPError as refused:
                with refused:
                    return refused.code, None

        assert await asyncio.to_thread(answer, "https://desk.example") == (200, "https://desk.example")
        assert (await asyncio.to_thread(answer, address))[0] == 200
        assert await asyncio.to_thread(answer, "https://elsewhere.example") == (403, None)
        with pytest.raises(InvalidStatus):
            await connect(websocket_of(address), origin="https://elsewhere.example")

    run(conversation, "--origin", "https://desk.example")


@needs_node
def test_the_example_of_the_docs_logs_quotes(tmp_path):
    document = (ROOT / "docs" / "transports.md").read_text()
    script = re.search(r"```mjs\n(.*?)```", document, re.DOTALL)[1]
    with server(*TICKS_ONLY, "--feed", SIM, "--key", "alice:secret", transports=["socketio"]) as address:
        process = subprocess.Popen(
            ["node", "--input-type=module", "-e", script.replace("http://127.0.0.1:8000", address)],
            cwd=JS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            lines = [process.stdout.readline() for _ in range(50)]
        finally:
            process.kill()
            _, errors = process.communicate(timeout=BOUND)
    assert not errors
    assert all(re.fullmatch(r"SIM-000\d [\d.]+ [\d.]+\n", line) for line in lines), lines


def test_without_the_package_the_server_runs_and_says_what_to_install():
    code = "import sys; sys.modules['socketio'] = None; from marketfeed.cli import main; main()"
    with python("-c", code, "serve", "--port", "0", "--feed", SIM, stderr=subprocess.DEVNULL) as running:
        address = running.stdout.readline().split()[-1]
        answer = get(f"{address}/socket.io/?EIO=4&transport=polling")
        assert answer == (501, "not installed on this server: pip install 'marketfeed[socketio]'\n")
        assert status(address)["feeds"]["sim"]["state"] == "running"
