"""The synchronous client, and that no way to end either of them leaves anything behind."""

import asyncio
import signal
import subprocess
import sys

import pytest

import marketfeed
from marketfeed.client import ClientError, CommandError, ConnectionFailed, ConnectionRefused, Position, Quote
from tests.integration.clients import HELLO, free_port, reply, seqs
from tests.integration.processes import BOUND, ROOT, fake, server, stream_of


def test_the_synchronous_client_iterates_and_may_stop_and_go_on() -> None:
    with fake([HELLO, ["expect"], reply(0), ["quotes", "A", 1, 5000]]) as server:
        with marketfeed.connect_sync(server.url) as feed:
            assert feed.subscribe(quotes=["A"]).seq == 0
            got: list[int] = []
            while len(got) < 5000:
                for message in feed:
                    assert isinstance(message, Quote)
                    got.append(message.seq)
                    if message.seq % 7 == 0 or message.seq == 5000:
                        break
            assert got == list(range(1, 5001))
            with pytest.raises(TimeoutError):
                feed.take(timeout=0.05)
        assert list(feed) == []
        with pytest.raises(ClientError):
            feed.subscribe(quotes=["A"])


def test_the_synchronous_client_raises_what_the_other_does() -> None:
    with pytest.raises(ConnectionFailed):
        marketfeed.connect_sync(f"ws://127.0.0.1:{free_port()}/stream")
    no = ["send", {"T": "error", "code": 400, "msg": "no"}]
    script = [HELLO, ["expect"], no, ["close", 3500, "go away"]]
    with fake(script) as server, marketfeed.connect_sync(server.url) as feed:
        with pytest.raises(CommandError, match="no"):
            feed.subscribe(quotes=["A"])
        with pytest.raises(ConnectionRefused):
            next(feed)


def test_the_synchronous_client_asks_for_all_that_the_other_does() -> None:
    with fake([HELLO, ["expect"], reply(0)]) as server, marketfeed.connect_sync(server.url) as feed:
        feed.subscribe(["A"], ["B"], max_hz=2, where="bid > 1", fields=["bp"], since=Position(3, 5), heartbeat=60)
        assert server.command()[1] == {
            "action": "subscribe",
            "quotes": ["A"],
            "trades": ["B"],
            "max_hz": 2,
            "where": "bid > 1",
            "fields": ["bp"],
            "since": {"seq": 3, "epoch": 5},
            "heartbeat": 60,
        }


def test_the_synchronous_client_works_inside_a_running_loop() -> None:
    async def main() -> None:
        script = [HELLO, ["expect"], reply(0), ["quotes", "A", 1, 3]]
        with fake(script) as server, marketfeed.connect_sync(server.url) as feed:
            feed.subscribe(quotes=["A"])
            assert seqs([next(feed) for _ in range(3)]) == [1, 2, 3]

    asyncio.run(main())


# ---- endings leave nothing behind

CLEAN = {
    "asyncio": """
import asyncio, sys, marketfeed
async def main():
    async with marketfeed.connect(sys.argv[1]) as feed:
        await feed.subscribe(quotes=["*"])
        async for message in feed:
            break
asyncio.run(main())
""",
    "uvloop": """
import asyncio, sys, uvloop, marketfeed
async def main():
    async with marketfeed.connect(sys.argv[1]) as feed:
        await feed.subscribe(quotes=["*"])
        async for message in feed:
            break
with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
    runner.run(main())
""",
    "closed at once": """
import asyncio, sys, marketfeed
async def main():
    async with marketfeed.connect(sys.argv[1]):
        pass
asyncio.run(main())
""",
    "an error inside": """
import asyncio, sys, marketfeed
async def main():
    async with marketfeed.connect(sys.argv[1]) as feed:
        await feed.subscribe(quotes=["*"])
        raise LookupError
try:
    asyncio.run(main())
except LookupError:
    pass
""",
    "cancelled while it connects": """
import asyncio, socket, marketfeed
async def main():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        opening = asyncio.create_task(marketfeed.connect(f"ws://127.0.0.1:{listening.getsockname()[1]}/stream").open())
        loop = asyncio.get_running_loop()
        listening.setblocking(False)
        connection, _ = await loop.sock_accept(listening)
        opening.cancel()
        await asyncio.wait([opening])
        connection.close()
asyncio.run(main())
""",
    "nobody there": """
import asyncio, marketfeed
async def main():
    try:
        await marketfeed.connect("ws://127.0.0.1:1/stream").open()
    except ConnectionError:
        pass
asyncio.run(main())
""",
    "synchronous": """
import sys, marketfeed
with marketfeed.connect_sync(sys.argv[1]) as feed:
    feed.subscribe(quotes=["*"])
    next(feed)
""",
    "synchronous and never closed": """
import sys, marketfeed
feed = marketfeed.connect_sync(sys.argv[1])
feed.subscribe(quotes=["*"])
next(feed)
""",
    "synchronous and forgotten": """
import sys, threading, marketfeed
feed = marketfeed.connect_sync(sys.argv[1])
feed.subscribe(quotes=["*"])
next(feed)
del feed
assert threading.active_count() == 1
""",
}


@pytest.mark.parametrize("case", CLEAN)
def test_whatever_way_it_ends_nothing_is_left_behind(case: str) -> None:
    with server("--feed", "sim?symbols=50&rate=20000") as address:
        script = subprocess.run(
            [sys.executable, "-W", "error", "-c", CLEAN[case], stream_of(address)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=BOUND,
            check=False,
        )
    assert (script.returncode, script.stderr) == (0, "")


def test_ctrl_c_interrupts_the_synchronous_client() -> None:
    code = """
import sys, marketfeed
with marketfeed.connect_sync(sys.argv[1]) as feed:
    feed.subscribe(quotes=["A"])
    try:
        print("waiting", flush=True)
        next(feed)
    except KeyboardInterrupt:
        print("interrupted", feed.state)
"""
    with (
        fake([HELLO, ["expect"], reply(0)]) as server,
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, server.url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as script,
    ):
        assert script.stdout is not None
        assert script.stdout.readline() == "waiting\n"
        script.send_signal(signal.SIGINT)
        out, err = script.communicate(timeout=BOUND)
    assert (out, err, script.returncode) == ("interrupted connected\n", "", 0)
