"""The client library over real sockets, against a server that does as it is told."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

import marketfeed
from marketfeed.client import (
    BadMessage,
    ClientError,
    CommandError,
    ConnectionFailed,
    ConnectionRefused,
    Heartbeat,
    Quote,
    State,
    StateChange,
    Trade,
)
from tests.integration.clients import HELLO, free_port, quickly, reply, run, seqs, until
from tests.integration.processes import Proxy, fake

# ---- what a user does


def test_messages_come_typed_and_in_order_and_what_is_unknown_is_passed_over() -> None:
    async def main() -> None:
        news = [
            "send",
            {"T": "weather", "rain": 1},
            {"T": "t", "S": "A", "p": 1, "s": 2, "t": "2024-01-01T00:00:00Z", "seq": 4},
        ]
        with fake([HELLO, ["expect"], reply(0), ["quotes", "A", 1, 3], news]) as server:
            async with quickly(server.url) as feed:
                told = await feed.subscribe(quotes=["A"], trades=["A"])
                assert (told.quotes, told.seq, told.epoch) == (["A"], 0, 5)
                messages = await until(feed, 4)
            assert [type(message) for message in messages] == [Quote, Quote, Quote, Trade]
            assert seqs(messages) == [1, 2, 3, 4]
            assert messages[1] == Quote("A", 2.0, 1.0, 3.0, 1.0, "2024-01-01T00:00:00Z", 2)

    run(main)


def test_an_error_is_raised_where_it_was_caused_and_the_feed_goes_on() -> None:
    async def main() -> None:
        no = ["send", {"T": "error", "code": 405, "msg": "symbol limit exceeded"}]
        with fake([HELLO, ["expect"], reply(0), ["expect"], no, ["quotes", "A", 1, 1]]) as server:
            async with quickly(server.url) as feed:
                await feed.subscribe(quotes=["A"])
                with pytest.raises(CommandError, match="symbol limit exceeded") as info:
                    await feed.subscribe(quotes=["B"])
                assert info.value.code == 405
                assert seqs(await until(feed, 1)) == [1]

    run(main)


def test_a_closed_feed_ends_its_iteration_and_takes_no_commands() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0)]) as server:
            feed = quickly(server.url)
            with pytest.raises(ClientError, match="not open"):
                await feed.take()
            async with feed:
                await feed.subscribe(quotes=["A"])
                waiting = asyncio.create_task(feed.take())
                await asyncio.sleep(0)
            assert await waiting == []
            assert [message async for message in feed] == []
            assert feed.state is State.CLOSED
            with pytest.raises(ClientError):
                await feed.subscribe(quotes=["A"])
            with pytest.raises(ClientError, match="once"):
                await feed.open()
            await feed.close()

    run(main)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/stream", "127.0.0.1:8000", "ws:///stream", ""])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="looks like ws://"):
        marketfeed.connect(url)


# ---- a slow consumer


def test_a_slow_consumer_makes_the_reading_wait_and_loses_nothing() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0), ["quotes", "A", 1, 200_000]]) as server:
            async with quickly(server.url, buffer=1000) as feed:
                await feed.subscribe(quotes=["A"])
                got: list[int] = []
                most = 0
                while len(got) < 200_000:
                    messages = await feed.take()
                    most = max(most, len(messages))
                    got += seqs(messages)
            assert got == list(range(1, 200_001))
            # Full is looked at after each frame; those of this server have 100 messages.
            assert most < 1000 + 100

    run(main)


def test_a_command_is_answered_while_nobody_takes_the_messages() -> None:
    async def main() -> None:
        flood = ["quotes", "A", 1, 30_000]
        with fake([HELLO, ["expect"], reply(0), flood, ["expect"], reply(7)]) as server:
            async with quickly(server.url, buffer=100) as feed:
                await feed.subscribe(quotes=["A"])
                assert (await feed.subscribe(quotes=["B"])).seq == 7
                assert seqs(await until(feed, 30_000)) == list(range(1, 30_001))

    run(main)


def test_a_consumer_that_never_waits_does_not_hold_up_the_loop() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0), ["quotes", "A", 1, 20_000]]) as server:
            async with quickly(server.url) as feed:
                await feed.subscribe(quotes=["A"])
                turns = 0

                async def other() -> None:
                    nonlocal turns
                    while True:
                        turns += 1
                        await asyncio.sleep(0)

                task = asyncio.create_task(other())
                await until(feed, 20_000)
                task.cancel()
            assert turns >= 20_000 // 256

    run(main)


# ---- cuts


@pytest.mark.parametrize("end", [["cut"], ["close", 1000, ""], ["close", 1001, "away"], ["close", 3000, "shutdown"]])
def test_after_a_cut_it_connects_again_and_goes_on_behind_the_last_tick(end: list[Any]) -> None:
    async def main() -> None:
        states: list[StateChange] = []
        first = [HELLO, ["expect"], reply(10), ["quotes", "A", 11, 13], ["expect"], end]
        second = [HELLO, ["expect"], reply(13, recovered=True), ["quotes", "A", 14, 15]]
        with fake(first, second) as server:
            async with quickly(server.url, on_state=states.append) as feed:
                await feed.subscribe(quotes=["A"], max_hz=4)
                assert seqs(await until(feed, 13)) == [11, 12, 13]
                # Asked for when the connection is about to end, answered by the next one.
                other = asyncio.create_task(feed.unsubscribe(quotes=["Z"]))
                assert seqs(await until(feed, 15)) == [14, 15]
                assert feed.reconnects == 1
                assert feed.state is State.CONNECTED
                other.cancel()
            assert [change.state for change in states] == [
                State.CONNECTING,
                State.CONNECTED,
                State.WAITING,
                State.CONNECTING,
                State.CONNECTED,
                State.CLOSED,
            ]
            assert states[2].reason
            assert server.command() == (0, {"action": "subscribe", "quotes": ["A"], "max_hz": 4})
            assert server.command() == (0, {"action": "unsubscribe", "quotes": ["Z"]})
            since = {"seq": 13, "epoch": 5}
            assert server.command() == (1, {"action": "subscribe", "quotes": ["A"], "max_hz": 4, "since": since})

    run(main)


@pytest.mark.parametrize("code", [3500, 3999, 1008])
def test_a_close_code_that_says_do_not_come_back_is_raised(code: int) -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0), ["quotes", "A", 1, 2], ["close", code, "go away"]]) as server:
            async with quickly(server.url) as feed:
                await feed.subscribe(quotes=["A"])
                assert seqs(await until(feed, 2)) == [1, 2]
                with pytest.raises(ConnectionRefused, match="go away") as info:
                    await until(feed, 3)
                assert info.value.code == code
                with pytest.raises(ConnectionRefused):
                    await feed.take()
                with pytest.raises(ConnectionRefused):
                    await feed.subscribe(quotes=["B"])

    run(main)


def test_a_command_that_is_waiting_when_the_end_comes_raises_it() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], ["close", 3500, "go away"]]) as server:
            async with quickly(server.url) as feed:
                with pytest.raises(ConnectionRefused, match="go away"):
                    await feed.subscribe(quotes=["A"])

    run(main)


def test_without_reconnecting_a_cut_is_raised() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0), ["quotes", "A", 1, 1], ["cut"]]) as server:
            async with quickly(server.url, reconnect=False) as feed:
                await feed.subscribe(quotes=["A"])
                with pytest.raises(ConnectionError, match="ended"):
                    await until(feed, 2)

    run(main)


def test_a_server_that_says_nothing_any_more_is_given_up() -> None:
    async def main() -> None:
        states: list[StateChange] = []
        first = [HELLO, ["expect"], reply(0), ["quotes", "A", 1, 1], ["hang"]]
        second = [HELLO, ["expect"], reply(1), ["quotes", "A", 2, 2]]
        with fake(first, second) as server:
            async with quickly(server.url, ping_interval=0.2, on_state=states.append) as feed:
                await feed.subscribe(quotes=["A"])
                assert seqs(await until(feed, 2)) == [1, 2]
            assert any("nothing was heard" in change.reason for change in states)

    run(main)


def test_a_server_that_is_quiet_but_answers_pings_is_kept() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0)]) as server:
            async with quickly(server.url, ping_interval=0.05) as feed:
                await feed.subscribe(quotes=["A"])
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(1.0):  # the time is what is tested: twenty silent intervals
                        await feed.take()
                assert feed.state is State.CONNECTED
                assert feed.reconnects == 0

    run(main)


def test_a_server_whose_heartbeat_is_overdue_is_given_up_though_it_answers_pings() -> None:
    async def main() -> None:
        states: list[StateChange] = []
        alive = ["send", {"T": "heartbeat", "epoch": 5, "seq": 40, "t": "2024-01-01T00:00:00.000000+00:00"}]
        first = [HELLO, ["expect"], reply(0, heartbeat=0.1), ["quotes", "A", 1, 1], alive]
        second = [HELLO, ["expect"], reply(40), ["quotes", "A", 41, 41]]
        with fake(first, second) as server:
            async with quickly(server.url, ping_interval=0.02, on_state=states.append) as feed:
                assert (await feed.subscribe(quotes=["A"], where="bid > 0", heartbeat=0.1)).heartbeat == 0.1
                messages = await until(feed, 41)
                assert [type(message) for message in messages] == [Quote, Heartbeat, Quote]
                assert feed.reconnects == 1
            assert [change.reason for change in states if change.state is State.WAITING] == [
                "no heartbeat was heard for 0.25 s"
            ]
            assert server.command() == (
                0,
                {"action": "subscribe", "quotes": ["A"], "where": "bid > 0", "heartbeat": 0.1},
            )
            since = {"seq": 40, "epoch": 5}
            assert server.command() == (
                1,
                {"action": "subscribe", "quotes": ["A"], "where": "bid > 0", "heartbeat": 0.1, "since": since},
            )

    run(main)


def test_a_server_that_gives_no_heartbeats_is_not_given_up_for_it() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0)]) as server:
            async with quickly(server.url) as feed:
                assert (await feed.subscribe(quotes=["A"], heartbeat=0.01)).heartbeat is None
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):  # the time is what is tested: twenty times what would be overdue
                        await feed.take()
                assert feed.reconnects == 0

    run(main)


def test_a_consumer_that_takes_nothing_for_a_while_does_not_make_heartbeats_overdue() -> None:
    async def main() -> None:
        with fake([HELLO, ["expect"], reply(0, heartbeat=0.1), ["quotes", "A", 1, 20_000]]) as server:
            async with quickly(server.url, buffer=100) as feed:
                await feed.subscribe(quotes=["A"], heartbeat=0.1)
                await asyncio.sleep(1.0)  # the time is what is tested: four times what would be overdue
                assert seqs(await until(feed, 20_000)) == list(range(1, 20_001))
                assert feed.reconnects == 0

    run(main)


def test_what_is_not_the_protocol_is_raised() -> None:
    async def main() -> None:
        with fake([HELLO, ["raw", "<html>"]]) as server:
            async with quickly(server.url) as feed:
                with pytest.raises(BadMessage, match="<html>"):
                    await feed.take()

    run(main)


# ---- the first connection


@contextlib.contextmanager
def silent() -> Iterator[str]:
    """Listens, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"ws://127.0.0.1:{listening.getsockname()[1]}/stream"


def test_a_first_connection_that_fails_is_raised_at_once() -> None:
    async def main() -> None:
        with pytest.raises(ConnectionFailed, match=r"cannot connect to ws://.*: Connection refused"):
            await quickly(f"ws://127.0.0.1:{free_port()}/stream").open()
        with fake([["http", 503]]) as server, pytest.raises(ConnectionFailed, match="503"):
            await quickly(server.url).open()
        with fake([["http", 404]]) as server, pytest.raises(ConnectionRefused, match="404"):
            await quickly(server.url).open()
        with fake([["cut"]]) as server, pytest.raises(ConnectionFailed, match="at once"):
            await quickly(server.url).open()
        with fake([["close", 3500, "no"]]) as server, pytest.raises(ConnectionRefused, match="3500"):
            await quickly(server.url).open()

    run(main)


def test_a_server_that_does_not_greet_is_given_up() -> None:
    async def main() -> None:
        with fake([]) as server, pytest.raises(ConnectionFailed, match="did not greet"):
            await quickly(server.url, open_timeout=0.2).open()
        with silent() as url, pytest.raises(ConnectionFailed, match=r"(?i)timeout"):
            await quickly(url, open_timeout=0.2).open()

    run(main)


def test_a_server_that_is_not_there_yet_may_be_waited_for() -> None:
    async def main() -> None:
        port = free_port()
        tried = asyncio.Event()

        def look(change: StateChange) -> None:
            if change.state is State.WAITING:
                tried.set()

        with fake([HELLO, ["expect"], reply(0)]) as server:
            opening = asyncio.create_task(
                quickly(f"ws://127.0.0.1:{port}/stream", wait_for_server=True, on_state=look).open()
            )
            await tried.wait()
            async with Proxy(int(server.url.split(":")[2].split("/")[0]), at=port):
                feed = await opening
                assert (await feed.subscribe(quotes=["A"])).seq == 0
                await feed.close()

    run(main)


def test_a_server_that_is_away_for_a_while_is_found_again() -> None:
    async def main() -> None:
        first = [HELLO, ["expect"], reply(0), ["quotes", "A", 1, 1], ["cut"]]
        away: list[list[Any]] = [["http", 503]]
        last = [HELLO, ["expect"], reply(1), ["quotes", "A", 2, 2]]
        with fake(first, away, away, [["cut"]], last) as server:
            async with quickly(server.url) as feed:
                await feed.subscribe(quotes=["A"])
                assert seqs(await until(feed, 2)) == [1, 2]
                assert feed.reconnects == 1

    run(main)
