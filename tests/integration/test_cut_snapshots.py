"""A snapshot, or what a slow client catches up on, that is cut between its frames comes whole all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

import marketfeed
from marketfeed.client.messages import Quote
from tests.integration.inside import Inside
from tests.integration.javascript import needs_node
from tests.integration.jsclient import in_node
from tests.integration.processes import BOUND, Proxy, fake

#: A frame holds 2,048.
SYMBOLS = [f"S{n}" for n in range(5000)]
#: After so many bytes: of one frame a part, all of it, all of it and a part of the next, and so on.
CUTS = [20_000, 150_000, 250_000, 330_000, 400_000]
QUICK = {"stale_seconds": 5, "open_seconds": 20, "backoff_base": 0.05, "backoff_most": 0.1}


def through(work: Callable[[Inside, Proxy], Awaitable[None]]) -> None:
    """Do this with a proxy before a server whose ring holds few of the symbols."""

    async def main() -> None:
        async with (
            asyncio.timeout(2 * BOUND),
            Inside(ticks=1024, instruments=8192) as inside,
            Proxy(urlsplit(inside.address).port or 0) as proxy,
        ):
            await work(inside, proxy)

    asyncio.run(main())


def publish(inside: Inside, symbols: list[str]) -> None:
    for begin in range(0, len(symbols), 500):
        inside.publish(*symbols[begin : begin + 500])


async def until_quotes(feed: marketfeed.Feed, quotes: dict[str, Quote], enough: Callable[[], bool]) -> None:
    async with asyncio.timeout(BOUND):
        while not enough():
            message = await anext(feed)
            if isinstance(message, Quote):
                quotes[message.symbol] = message


@pytest.mark.parametrize("encoding", ["json", "binary"])
@pytest.mark.parametrize("options", [{}, {"max_hz": 20}], ids=["every tick", "throttled"])
def test_a_snapshot_that_is_cut_comes_whole(options: dict[str, Any], encoding: str) -> None:
    async def work(inside: Inside, proxy: Proxy) -> None:
        publish(inside, SYMBOLS)
        # The answers and greetings are some 500 bytes.
        proxy.cuts = list(CUTS)
        quotes: dict[str, Quote] = {}
        async with marketfeed.connect(proxy.url, encoding=encoding) as feed:
            await feed.subscribe(quotes=["*"], snapshot=True, **options)
            await until_quotes(feed, quotes, lambda: len(quotes) == len(SYMBOLS) and not proxy.cuts)
            assert proxy.connections == len(CUTS) + 1
            # And then it goes on where it was.
            inside.publish("S7")
            await until_quotes(feed, quotes, lambda: quotes["S7"].seq == len(SYMBOLS) + 1)

    through(work)


def test_what_a_throttled_client_catches_up_on_comes_whole_when_it_is_cut() -> None:
    async def work(inside: Inside, proxy: Proxy) -> None:
        quotes: dict[str, Quote] = {}
        async with marketfeed.connect(proxy.url) as feed:
            await feed.subscribe(quotes=["*"], max_hz=20)
            publish(inside, SYMBOLS)
            head = len(SYMBOLS)

            def whole() -> bool:
                return len(quotes) == len(SYMBOLS) and min(quote.seq for quote in quotes.values()) > head - len(SYMBOLS)

            await until_quotes(feed, quotes, whole)
            for cut in range(3):
                # It is behind; then all has changed, the last symbols first, which come last.
                ((connection, session),) = inside.gate._sessions.items()
                inside.hub.stalled(session)
                publish(inside, SYMBOLS[::-1])
                head += len(SYMBOLS)
                # Time goes on and the lane's pass ends without it.
                while (lane := session.subscribers[0].group.lane).cursor < head:
                    await asyncio.sleep(0.001)
                assert session.subscribers[0] in lane.behind
                proxy.cuts = [250_000]
                inside.gate.writable(connection)
                await until_quotes(feed, quotes, whole)
                assert not proxy.cuts
                assert proxy.connections == cut + 2

    through(work)


@needs_node
@pytest.mark.parametrize("transport", ["websocket", "sse", "longpoll"])
@pytest.mark.parametrize("options", [{}, {"max_hz": 20}], ids=["every tick", "throttled"])
def test_the_client_for_pages_gets_a_snapshot_whole(options: dict[str, Any], transport: str) -> None:
    async def work(inside: Inside, proxy: Proxy) -> None:
        publish(inside, SYMBOLS)
        proxy.cuts = CUTS[1:3]
        address = f"http://{urlsplit(proxy.url).netloc}/"
        async with in_node(address, transports=[transport], **QUICK) as client:
            await client.do("subscribe", id="all", request={"quotes": ["*"], "snapshot": True, **options})
            await client.has(len(SYMBOLS))
            assert sorted(client.seqs()) == list(range(1, len(SYMBOLS) + 1))
            assert [event for event in client.events if event["event"] in ("gap", "error")] == []
            assert proxy.connections > 2 or transport == "longpoll"
            assert client.errors == []

    through(work)


HELLO = ["send", {"T": "success", "msg": "connected", "epoch": 5}]


def answer(seq: int) -> list[Any]:
    return ["send", {"T": "subscription", "quotes": ["*"], "trades": [], "rules": [], "epoch": 5, "seq": seq}]


def beat(seq: int, kind: str = "heartbeat") -> list[Any]:
    return ["send", {"T": kind, "epoch": 5, "seq": seq, "t": "2024-01-01T00:00:00.000000+00:00"}]


@needs_node
@pytest.mark.parametrize("kind", ["heartbeat", "position"])
def test_the_client_for_pages_takes_no_place_in_the_midst_of_a_snapshot_for_one(kind: str) -> None:
    begun = [HELLO, ["expect"], answer(100), beat(0), ["send", {"T": "position", "epoch": 5, "seq": None}], ["cut"]]
    ended = [HELLO, ["expect"], answer(100), beat(100, kind), ["cut"]]
    later = [HELLO, ["expect"], answer(100)]

    async def main(url: str) -> None:
        async with asyncio.timeout(BOUND), in_node(url, transports=["websocket"], **QUICK) as client:
            await client.do("subscribe", id="all", request={"quotes": ["*"], "snapshot": True})
            for more in ({}, {"since": {"epoch": 5, "seq": 100}}):
                command = await asyncio.to_thread(server.command)
                assert {key: command[1].get(key) for key in ("snapshot", *more)} == {"snapshot": True, **more}
                assert ("since" in command[1]) == bool(more)
            _, command = await asyncio.to_thread(server.command)
            assert "snapshot" not in command
            assert command["since"] == {"epoch": 5, "seq": 100}

    with fake(begun, ended, later) as server:
        asyncio.run(main(server.url))
