"""Conditions, fields and heartbeats with the client library against the server."""

import contextlib
import math
import random
import time

import pytest

import marketfeed
from marketfeed.client import CommandError, Gap, Heartbeat, Position, Quote, Trade
from tests.integration.clients import quickly, run, seqs, until
from tests.integration.processes import TICKS_ONLY, Proxy, server, stream_of

CONDITION = "spread_bps < 5 and (bid_size >= 500 or ask_size > 800)"


def holds(quote: Quote) -> bool:
    """What CONDITION says."""
    near = 10_000 * (quote.ask - quote.bid) < 5 * (quote.bid + quote.ask) / 2
    return near and (quote.bid_size >= 500 or quote.ask_size > 800)


def test_a_condition_gives_just_the_ticks_for_which_it_holds() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url) as everything, marketfeed.connect(url) as some:
            await everything.subscribe(quotes=["*"], since=Position(0))
            told = await some.subscribe(quotes=["*"], where=CONDITION, since=Position(0))
            (rule,) = told.rules
            assert rule.where is not None
            assert told.recovered is True
            quotes = [message for message in await until(everything, 20_000) if isinstance(message, Quote)]
            expected = [quote for quote in quotes if holds(quote)]
            assert 0.05 * len(quotes) < len(expected) < 0.95 * len(quotes)
            got = await until(some, expected[-1].seq)
            assert got == expected

    with server("--feed", "sim?symbols=50&rate=20000&seed=5") as address:
        run(lambda: main(stream_of(address)))


def test_a_condition_that_is_none_is_an_error_that_points_at_it_and_the_feed_goes_on() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url) as feed:
            with pytest.raises(CommandError, match=r"where: unknown column 'foo' at character 6: bid > →foo \(400\)"):
                await feed.subscribe(quotes=["*"], where="bid > foo")
            with pytest.raises(CommandError, match="400"):
                await feed.subscribe(quotes=["*"], fields=["volume"])
            with pytest.raises(CommandError, match="400"):
                await feed.subscribe(quotes=["*"], heartbeat=0.01)
            await feed.subscribe(quotes=["*"])
            assert seqs(await feed.take())
            assert feed.reconnects == 0

    with server("--feed", "sim?symbols=5&rate=1000") as address:
        run(lambda: main(stream_of(address)))


def test_fields_leave_the_others_out() -> None:
    async def main(url: str) -> None:
        async with marketfeed.connect(url) as whole, marketfeed.connect(url) as some:
            await whole.subscribe(quotes=["*"], trades=["*"], since=Position(0))
            told = await some.subscribe(quotes=["*"], trades=["*"], fields=["t", "bp", "s"], since=Position(0))
            (rule,) = told.rules
            assert rule.fields == ["bp", "s", "t"]
            expected = await until(whole, 2000)
            got = await until(some, 2000)
            assert seqs(got) == seqs(expected) == list(range(1, 2001))
            for mine, theirs in zip(got, expected, strict=True):
                assert isinstance(mine, Quote | Trade)
                assert isinstance(theirs, type(mine))
                assert (mine.symbol, mine.feed, mine.t) == (theirs.symbol, theirs.feed, theirs.t)
                if isinstance(mine, Quote):
                    assert mine.bid == theirs.bid
                    assert all(map(math.isnan, (mine.bid_size, mine.ask, mine.ask_size)))
                else:
                    assert mine.size == theirs.size
                    assert math.isnan(mine.price)
        async with marketfeed.connect(url) as bare:
            await bare.subscribe(quotes=["*"], fields=[])
            quote = await anext(bare)
            assert isinstance(quote, Quote)
            assert (bool(quote.symbol), quote.seq > 2000, quote.time, quote.t) == (True, True, "", 0)
            assert all(map(math.isnan, (quote.bid, quote.bid_size, quote.ask, quote.ask_size)))

    with server(*TICKS_ONLY, "--feed", "sim?symbols=20&rate=10000&seed=3") as address:
        run(lambda: main(stream_of(address)))


def test_cuts_of_filtered_streams_lose_and_repeat_nothing() -> None:
    """Three parts with different options on one connection that is cut off again and again."""
    rng = random.Random(7)

    async def main(address: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Proxy(int(address.split(":")[2])))
            steady = await stack.enter_async_context(marketfeed.connect(stream_of(address)))
            feed = await stack.enter_async_context(quickly(proxy.url))
            await steady.subscribe(quotes=["*"], trades=["*"], since=Position(0))
            await feed.subscribe(quotes=["SIM-*"], where=CONDITION, since=Position(0), heartbeat=0.1)
            await feed.subscribe(quotes=["SIM-0007"], fields=["bp"], since=Position(0))
            await feed.subscribe(trades=["*"], where="size > 1e300", since=Position(0))
            filtered: list[int] = []
            exact: list[int] = []
            cuts, after, heartbeats = 0, 0, 0
            while feed.reconnects < 12 or after > 0:
                messages = await feed.take()
                for message in messages:
                    assert not isinstance(message, Gap | Trade)
                    if isinstance(message, Heartbeat):
                        heartbeats += 1
                    else:
                        (exact if message.symbol == "SIM-0007" else filtered).append(message.seq)
                after -= len(messages)
                if cuts == feed.reconnects and after <= 0 and cuts < 12:
                    proxy.cut()
                    cuts += 1
                    after = rng.randrange(1000)
            end = min(filtered[-1], exact[-1])
            quotes = [m for m in await until(steady, end + 5000) if isinstance(m, Quote) and m.seq <= end]
            for got, expected in (
                (filtered, [m.seq for m in quotes if m.symbol != "SIM-0007" and holds(m)]),
                (exact, [m.seq for m in quotes if m.symbol == "SIM-0007"]),
            ):
                assert [seq for seq in got if seq <= end] == expected
                assert len(expected) > 50

    with server("--feed", "sim?symbols=50&rate=20000&seed=5") as address:
        run(lambda: main(address))


def test_a_quiet_subscription_with_heartbeats_is_resumed_without_a_gap_and_one_without_is_not() -> None:
    """Nothing ever comes of this condition; meanwhile the ring, of 1.6 s, goes round."""

    async def main(address: str) -> None:
        async with contextlib.AsyncExitStack() as stack:
            proxy = await stack.enter_async_context(Proxy(int(address.split(":")[2])))
            beating = await stack.enter_async_context(quickly(proxy.url))
            silent = await stack.enter_async_context(quickly(proxy.url))
            told = await beating.subscribe(quotes=["*"], where="bid < 0", heartbeat=0.1)
            start = (await silent.subscribe(quotes=["*"], where="bid < 0")).seq
            assert told.heartbeat == 0.1
            assert start is not None
            assert told.seq is not None
            head = told.seq
            while head < start + 100_000:
                heartbeat = await anext(beating)
                assert isinstance(heartbeat, Heartbeat)
                assert (heartbeat.epoch, heartbeat.seq >= head) == (told.epoch, True)
                head = heartbeat.seq
            proxy.cut()
            gap = await anext(silent)
            assert isinstance(gap, Gap)
            assert (gap.first, gap.reason) == (start + 1, "lapped")
            assert gap.last is not None
            while head < gap.last + 100_000:
                heartbeat = await anext(beating)
                assert isinstance(heartbeat, Heartbeat)
                assert heartbeat.seq >= head
                head = heartbeat.seq
            assert (beating.reconnects, silent.reconnects) == (1, 1)

    with server("--feed", "sim?symbols=20&rate=40000", "--ring-ticks", "65536") as address:
        run(lambda: main(address))


def test_a_loop_that_is_held_up_does_not_make_heartbeats_overdue() -> None:
    def hold_up() -> None:
        time.sleep(0.6)  # the time is what is tested: more than twice what would be overdue

    async def main(url: str) -> None:
        async with quickly(url) as feed:
            await feed.subscribe(quotes=["*"], where="bid < 0", heartbeat=0.1)
            for _ in range(5):
                assert isinstance(await anext(feed), Heartbeat)
                hold_up()
            await feed.unsubscribe(quotes=["*"])
            assert feed.reconnects == 0

    with server("--feed", "sim?symbols=5&rate=1000") as address:
        run(lambda: main(stream_of(address)))
